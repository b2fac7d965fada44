"""A freeze: how long it takes against the encoder's forward pass alone, and what memory it needs beside the replay.

    python -m benchmarks.freeze                                          # Rainbow, 50,000 steps of Atari
    python -m benchmarks.freeze --agent curl --steps 100000              # CURL, DeepMind Control (3 GB of images)

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
from seer_rl.training.config import ReplayConfig, SeerConfig
from seer_rl.training.presets import configure
from seer_rl.training.rehearsal import most_held
from seer_rl.training.run import Run


def forget() -> None:
    """Let what this process held at most be counted from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def main(
    agent: Literal["rainbow", "curl"] = "rainbow",
    steps: int = 50_000,
    copies: int = 4,
    threads: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Print the table.

    Args:
        agent: Whose encoder.
        steps: In the replay.
        copies: K, of an agent that augments.
        threads: CPU threads.
        precision: Of the encoder's products.
        device: Of the encoder; auto: cuda where there is one.
    """
    env = "atari/alien" if agent == "rainbow" else "dmc/cartpole-swingup"
    config = replace(
        configure(env, agent),
        steps=2 * steps,
        seer=SeerConfig(steps),
        precision=precision,
        threads=threads,
        compile=False,
        device=device,
    )
    process.prepare(config)
    run = Run(replace(config, replay=ReplayConfig(capacity=steps)))
    space, actions = run.eval_env.observation_space, run.eval_env.action_space
    frames = np.random.default_rng(0).integers(0, 256, (64, *(space.shape or ())), dtype=np.uint8)
    run.replay.begin(frames[:1])
    for i in range(steps - 1):
        run.replay.add([actions.sample()], [0.0], [False], [i % 500 == 499], frames[i % 64][None])
        if i % 500 == 499:
            run.replay.begin(frames[:1])
    run.close()

    chunk = torch.from_numpy(frames[:CHUNK]).to(run.device)
    images = torch.cat([keyed(view)[ONLY] for view in views(run.agent, chunk, run.costs.copies, current=False)])
    with torch.no_grad():
        forward = machine.seconds(lambda: run.agent.lower(images), run.device) / CHUNK
    bytes_before, before = run.replay.bytes_per_step, psutil.Process().memory_info().rss
    forget()
    begun = time.perf_counter()
    freeze(run.agent, run.replay, copies=copies)
    seconds, most = time.perf_counter() - begun, most_held(os.getpid())
    table = Table(title=f"Freeze of {agent}, {steps:,} steps, {run.costs.copies} copies, {precision}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in {
        "seconds": f"{seconds:.2f}",
        "steps/s": f"{steps / seconds:,.0f}",
        "the encoder's forward pass alone, steps/s": f"{1 / forward:,.0f}",
        "share of it": f"{forward * steps / seconds:.0%}",
        "bytes per step": f"{bytes_before:,} -> {run.replay.bytes_per_step:,}",
        "process before": f"{before / 1e6:,.0f} MB",
        "most in the freeze": f"{most / 1e6:,.0f} MB ({(most - before) / 1e6:+.0f} MB)",
        "process after": f"{psutil.Process().memory_info().rss / 1e6:,.0f} MB",
    }.items():
        table.add_row(name, value)
    console = Console(width=100)
    console.print(table)
    console.print(machine.name(run.device), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(main)
