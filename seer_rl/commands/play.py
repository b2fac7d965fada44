"""`seer play`: film the agent."""

import contextlib
from pathlib import Path
from typing import Annotated

import torch
import tyro

from seer_rl import envs
from seer_rl.bounds import MOST
from seer_rl.commands.console import tell
from seer_rl.commands.errors import mistakes
from seer_rl.commands.film import filming
from seer_rl.text import scores
from seer_rl.training import build, checkpoint
from seer_rl.training.arguments import Mistake, read
from seer_rl.training.play import evaluate


def command(arguments: list[str]) -> None:
    """Film the agent of a run."""

    def settings(
        run: tyro.conf.Positional[Path],
        video: Annotated[Path, tyro.conf.arg(metavar="OUT.mp4")],
        episodes: int = 1,
        seed: int = 0,
    ) -> tuple[Path, Path, int, int]:
        """Film the agent playing whole games.

        Args:
            run: Run directory.
            video: File to write.
            episodes: Games.
            seed: Of the games.
        """
        return run, video, episodes, seed

    run, video, episodes, seed = read(settings, "play", arguments)
    if episodes < 1 or not 0 <= seed <= MOST:
        raise Mistake(f"--episodes must be at least 1, and --seed from 0 to {MOST:.0e}")
    with mistakes():
        agent, env = build.trained(run, checkpoint.load_config(run), render_mode="rgb_array")
    with contextlib.closing(env), filming(video, env.metadata["render_fps"]) as take:
        results = evaluate(agent, envs.Filmed(env, take), episodes, seed, torch.device("cpu"))
    tell(f"{video}: {episodes} game{'s' if episodes > 1 else ''}, {scores(results)}")
