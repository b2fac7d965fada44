"""`seer resume`: go on with a run that was stopped or killed."""

from pathlib import Path

import tyro

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display
from seer_rl.commands.drive import drive
from seer_rl.commands.errors import mistakes
from seer_rl.training import checkpoint, loop
from seer_rl.training.arguments import read
from seer_rl.training.process import prepare


def command(arguments: list[str]) -> None:
    """Go on with a run."""

    def settings(run: tyro.conf.Positional[Path], steps: int | None = None) -> tuple[Path, int | None]:
        """Go on with a run that was stopped or killed, from its newest checkpoint, exactly as if nothing had happened.

        Args:
            run: Run directory.
            steps: Agent steps of the whole run, more than it has, to train longer. A run that has ended must have kept its
                last checkpoint (--keep-last). None: as many as its settings say.
        """
        return run, steps

    (run_dir, steps), console = read(settings, "resume", arguments), Screen()
    with mistakes():
        prepare(checkpoint.load_config(run_dir))
        run = loop.resume(run_dir, lambda text: console.say(f"note: {text}"), steps)
    drive(run, console, Display(console))
