"""`seer play`: film the agent."""

from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.bounds import Count, Steps

FPS = 30  # pictures a second of a film, where the environment says nothing of it


def play(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    /,
    video: Annotated[Path, tyro.conf.arg(metavar="OUT.mp4")],
    episodes: Count = 1,
    seed: Steps = 0,
) -> None:
    """Film a run's agent as it plays whole games.

    Args:
        run: Directory of the run.
        video: Film to write.
        episodes: Number of games.
        seed: Seed of the games. The same seed gives the same film.
    """
    import contextlib

    import torch

    from seer_rl import envs
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.film import filming
    from seer_rl.commands.streams import tell
    from seer_rl.text import scores
    from seer_rl.training import build, checkpoint
    from seer_rl.training.play import evaluate

    with mistakes():
        agent, env = build.trained(run, checkpoint.load_config(run), render_mode="rgb_array")
    with contextlib.closing(env), filming(video, env.metadata.get("render_fps", FPS)) as take:
        results = evaluate(agent, envs.Filmed(env, take), episodes, seed, torch.device("cpu"))
    tell(f"{video}: {episodes} game{'s' if episodes > 1 else ''}, {scores(results)}")
