"""`seer eval`: play whole games and print their scores."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from seer_rl.bounds import Count, Steps


def eval(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    /,
    episodes: Count = 10,
    seed: Steps = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Play whole games with a run's agent, without noise, clipping or life loss, and print their scores.

    Args:
        run: Directory of the run.
        episodes: Number of games.
        seed: Seed of the games. The same seed gives the same scores.
        device: Where the network computes. auto takes a GPU if there is one.
    """
    import numpy as np

    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.text import score, scores
    from seer_rl.training import build, checkpoint
    from seer_rl.training.play import evaluate

    with mistakes():
        there = build.choose_device(device)
        agent, env = build.trained(run, checkpoint.load_config(run))
    results = evaluate(agent.to(there), env, episodes, seed, there)
    env.close()
    middle, each = score(np.median(results)), " ".join(f"{r:g}" for r in results)
    tell(f"{scores(results)} over {episodes} games (median {middle}): {each}")
