"""A replay by size: adding, sampling, and a freeze against the encoder's forward pass alone, with the memory that it needs.

    python -m benchmarks.freeze                                          # Rainbow, 50,000 steps of Atari
    python -m benchmarks.freeze --agent curl --steps 100000              # CURL, DeepMind Control (3 GB of images)
    python -m benchmarks.freeze --num-envs 8 --steps 10000 100000 1000000  # what does not depend on the size (7 GB of images)

Observations are noise: no operation depends on what they show.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl.replay.convert import CHUNK
from seer_rl.replay.observation import ONLY, keyed
from seer_rl.seer import freeze, views
from seer_rl.training import process
from seer_rl.training.config import ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.presets import configure
from seer_rl.training.rehearsal import most_held
from seer_rl.training.run import Run

EPISODE, BATCH = 500, 32


def forget() -> None:
    """Let what this process held at most be counted from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(config: TrainConfig, steps: int, copies: int) -> dict[str, str]:
    """Fill a replay, freeze it, and say what that took."""
    run = Run(replace(config, steps=2 * steps, seer=SeerConfig(steps, copies=copies), replay=ReplayConfig(capacity=steps)))
    run.close()
    replay, lanes, space = run.replay, run.num_envs, run.eval_env.observation_space
    frames = np.random.default_rng(0).integers(0, 256, (64, *(space.shape or ())), dtype=np.uint8)
    actions, zeros, flags = np.array([run.eval_env.action_space.sample()] * lanes), [0.0] * lanes, [False] * lanes
    replay.begin(frames[:lanes])
    begun = time.perf_counter()
    for i in range(steps // lanes - 1):
        cut = i % EPISODE == EPISODE - 1
        replay.add(actions, zeros, flags, [cut] * lanes, frames[i % 56 : i % 56 + lanes])
        if cut:
            replay.begin(frames[:lanes])
    adding = (time.perf_counter() - begun) / steps

    chunk = torch.from_numpy(frames[:CHUNK]).to(run.device)
    images = torch.cat([keyed(view)[ONLY] for view in views(run.agent, chunk, run.costs.copies, current=False)])
    with torch.no_grad():
        forward = machine.seconds(lambda: run.agent.lower(images), run.device) / CHUNK
    sampling = machine.seconds(lambda: replay.sample(BATCH), repeats=101)
    bytes_before, before = replay.bytes_per_step, psutil.Process().memory_info().rss
    forget()
    begun = time.perf_counter()
    freeze(run.agent, replay, copies=copies)
    seconds, most = time.perf_counter() - begun, most_held(os.getpid())
    afterwards = machine.seconds(lambda: replay.sample(BATCH), repeats=101)
    return {
        "adding images, microseconds a step": f"{1e6 * adding:.0f}",
        f"sampling {BATCH} images, ms": f"{1e3 * sampling:.3f}",
        f"sampling {BATCH} embeddings, ms": f"{1e3 * afterwards:.3f}",
        "freezing, seconds": f"{seconds:.2f}",
        "freezing, steps/s": f"{steps / seconds:,.0f}",
        "the encoder's forward pass alone, steps/s": f"{1 / forward:,.0f}",
        "share of it": f"{forward * steps / seconds:.0%}",
        "bytes per step": f"{bytes_before:,} -> {replay.bytes_per_step:,}",
        "process before": f"{before / 1e6:,.0f} MB",
        "most in the freeze": f"{(most - before) / 1e6:+.0f} MB",
        "process after": f"{psutil.Process().memory_info().rss / 1e6:,.0f} MB",
    }


def main(
    agent: Literal["rainbow", "curl"] = "rainbow",
    steps: tuple[int, ...] = (50_000,),
    num_envs: int = 1,
    copies: int = 4,
    threads: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Print the table.

    Args:
        agent: Whose encoder.
        steps: In the replay; a column for each.
        num_envs: Lanes of the replay.
        copies: K, of an agent that augments.
        threads: CPU threads.
        precision: Of the encoder's products.
        device: Of the encoder; auto: cuda where there is one.
    """
    config = configure("atari/alien" if agent == "rainbow" else "dmc/cartpole-swingup", agent)
    config = replace(
        config,
        environment=replace(config.environment, num_envs=num_envs),
        precision=precision,
        threads=threads,
        compile=False,
        device=device,
    )
    process.prepare(config)
    columns = [measured(config, size, copies) for size in steps]
    table = Table("", *(f"{size:,} steps" for size in steps), title=f"{agent}, lanes: {num_envs}, {precision}")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    console = Console(width=120)
    console.print(table)
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    console.print(machine.name(where), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(main)
