"""`seer plot`: draw runs into one picture."""

from pathlib import Path
from typing import Annotated

import tyro


def plot(
    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")], /, output: Path = Path("curves.png")
) -> None:
    """Draw runs of one environment into one picture: return over steps and over FLOPs, memory and speed.

    Args:
        runs: Directories of the runs.
        output: Picture to write, PNG or PDF.
    """
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.experiments import curves
    from seer_rl.training.files import writable

    with mistakes():
        if not runs:
            raise ValueError("name at least one run directory")
        curves.draw(runs, writable(output, *curves.KINDS))
    tell(output)
