"""`seer eval`: play whole games and print their scores."""

from pathlib import Path

import numpy as np
import tyro

from seer_rl.bounds import MOST
from seer_rl.commands.errors import mistakes
from seer_rl.text import scores
from seer_rl.training import build, checkpoint
from seer_rl.training.arguments import Mistake, read
from seer_rl.training.play import evaluate


def command(arguments: list[str]) -> None:
    """Play whole games of a run's agent and print their scores."""

    def settings(
        run: tyro.conf.Positional[Path], episodes: int = 10, seed: int = 0, device: str = "auto"
    ) -> tuple[Path, int, int, str]:
        """Play whole games without noise, clipping or life loss, and print their scores.

        Args:
            run: Run directory.
            episodes: Games.
            seed: Of the games.
            device: auto, cpu or cuda.
        """
        return run, episodes, seed, device

    run, episodes, seed, device_name = read(settings, "eval", arguments)
    if episodes < 1 or not 0 <= seed <= MOST:
        raise Mistake(f"--episodes must be at least 1, and --seed from 0 to {MOST:.0e}")
    with mistakes():
        device = build.choose_device(device_name)
    with mistakes():
        agent, env = build.trained(run, checkpoint.load_config(run))
    results = evaluate(agent.to(device), env, episodes, seed, device)
    env.close()
    print(f"{scores(results)} over {episodes} games (median {np.median(results):,.1f}): {' '.join(f'{r:g}' for r in results)}")
