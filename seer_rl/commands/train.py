"""`seer train`: train an agent, freeze it, and go on cheaper."""

import os

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display
from seer_rl.commands.drive import drive
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import curves
from seer_rl.training import build, loop, rehearsal
from seer_rl.training.arguments import parse


def command(arguments: list[str]) -> None:
    config = parse(arguments)
    if ":" in config.agent.encoder:
        os.environ[build.CODE] = config.agent.encoder  # named by the user, for this process and those it starts
    console = Screen()
    with mistakes():
        run = loop.Run(rehearsal.settle(config, console.say, curves.picture))
    drive(run, console, Display(console))
