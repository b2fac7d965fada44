"""`seer plot`: draw runs into one picture."""

from pathlib import Path

import tyro

from seer_rl.commands.console import tell
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import curves
from seer_rl.training.arguments import read
from seer_rl.training.files import writable


def command(arguments: list[str]) -> None:
    """Draw runs into one picture."""

    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("curves.png")
    ) -> tuple[tuple[Path, ...], Path]:
        """Draw return over steps and over FLOPs, memory and speed of runs into one picture.

        Args:
            runs: Run directories.
            output: Picture to write, PNG or PDF.
        """
        return runs, output

    runs, output = read(settings, "plot", arguments)
    with mistakes():
        if not runs:
            raise ValueError("name at least one run directory")
        curves.draw(runs, writable(output, *curves.KINDS))
    tell(output)
