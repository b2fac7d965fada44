"""`seer train`: train an agent, freeze it, and go on cheaper."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seer_rl.training.config import TrainConfig


def train(config: "TrainConfig") -> None:
    """Train an agent with settings that `arguments.parse` has read. seer_rl/training/config.py explains them."""
    from seer_rl.commands.console import Screen
    from seer_rl.commands.display import Display
    from seer_rl.commands.drive import drive
    from seer_rl.commands.errors import mistakes
    from seer_rl.experiments import curves
    from seer_rl.training import rehearsal
    from seer_rl.training.config import has_random_features
    from seer_rl.training.process import prepare
    from seer_rl.training.run import Run

    console = Screen()
    with mistakes():
        config = rehearsal.settle(config, console.say, curves.picture)  # first: it computes in another process
        prepare(config)
        run = Run(config)
    if has_random_features(config):
        console.say("note: the freeze comes before the first update: the encoder stays as it was drawn")
    drive(run, console, Display(console))
