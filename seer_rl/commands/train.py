"""`seer train`: train an agent, freeze it, and go on cheaper."""

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display
from seer_rl.commands.drive import drive
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import curves
from seer_rl.training import rehearsal
from seer_rl.training.arguments import parse
from seer_rl.training.process import prepare
from seer_rl.training.run import Run


def command(arguments: list[str]) -> None:
    """Train an agent."""
    config = parse(arguments, trusting=True)
    console = Screen()
    with mistakes():
        config = rehearsal.settle(config, console.say, curves.picture)  # first: it computes in another process
        prepare(config)
        run = Run(config)
    drive(run, console, Display(console))
