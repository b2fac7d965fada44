"""`seer resume`: go on with a run that was stopped or killed."""

from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.bounds import Within


def resume(run: Annotated[Path, tyro.conf.arg(metavar="RUN")], /, steps: Annotated[int | None, Within(1)] = None) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint, exactly as if nothing had happened.

    Args:
        run: Directory of the run.
        steps: Agent steps of the whole run; ask for more than it has to train longer. None: as many as its settings say.
            A run that has ended can go on if it kept its last checkpoint (--keep-last).
    """
    from seer_rl.commands.console import Screen
    from seer_rl.commands.display import Display
    from seer_rl.commands.drive import drive
    from seer_rl.commands.errors import mistakes
    from seer_rl.training import checkpoint, loop
    from seer_rl.training.process import prepare

    console = Screen()
    with mistakes():
        prepare(checkpoint.load_config(run))
        going_on = loop.resume(run, lambda text: console.say(f"note: {text}"), steps)
    drive(going_on, console, Display(console))
