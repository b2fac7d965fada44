"""`seer train`: train an agent, freeze it, and go on cheaper."""

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display
from seer_rl.commands.drive import drive
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import curves
from seer_rl.training import loop, rehearsal
from seer_rl.training.arguments import parse


def command(arguments: list[str]) -> None:
    """Train an agent."""
    config = parse(arguments, trusting=True)
    console = Screen()
    with mistakes():
        run = loop.Run(rehearsal.settle(config, console.say, curves.picture))
    drive(run, console, Display(console))
