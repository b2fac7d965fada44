"""An update of CURL (or RAD, SAC, DrQ-v2) before and after the freeze, and what a new observation costs.

    python -m benchmarks.sac                                  # CURL on cartpole-swingup's sizes, batch 128, one thread
    python -m benchmarks.sac --threads 2 --precision bfloat16

Observations are noise: no operation depends on what they show. The two sides take turns, so that whatever slows the machine
otherwise slows both.
"""

import statistics
import time
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl import train
from seer_rl.config import SeerConfig
from seer_rl.presets import configure
from seer_rl.seer import freeze

ROUNDS = 12


def main(
    agent: Literal["curl", "rad", "sac", "drqv2"] = "curl",
    env: str = "dmc/cartpole-swingup",
    batch_size: int = 128,
    precision: Literal["float32", "bfloat16"] = "float32",
    threads: int = 1,
    copies: int = 4,
    steps: int = 600,
) -> None:
    """Print the table.

    Args:
        agent: Whose update.
        env: Whose observations and actions.
        batch_size: Transitions per update, on both sides.
        precision: Of the encoder's products.
        threads: CPU threads.
        copies: K.
        steps: In the replay.
    """
    config = configure(env, agent)
    config = replace(
        config,
        steps=10_000,
        agent=replace(config.agent, batch_size=batch_size, learning_starts=0),
        seer=SeerConfig(freeze_step=5_000, copies=copies),
        precision=precision,
        threads=threads,
    )
    console = Console()
    runs = [train.Run(config) for _ in range(2)]
    rng = np.random.default_rng(0)
    shape = runs[0].eval_env.observation_space.shape or ()
    frames = rng.integers(0, 256, (64, *shape), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (64, *(runs[0].eval_env.action_space.shape or ()))).astype(np.float32)
    for run in runs:
        run.replay.start(frames[0])
        for i in range(steps):
            run.replay.add(actions[i % 64], 0.0, False, False, frames[i % 64])
    begun = time.perf_counter()
    freeze(runs[1].agent, runs[1].replay, copies=copies)
    freezing = time.perf_counter() - begun
    runs[1].frozen = True

    times: list[dict[str, list[float]]] = [{}, {}]

    def timed(side: int, what: str, work: object) -> None:
        begun = time.perf_counter()
        work()  # type: ignore[operator]
        times[side].setdefault(what, []).append(time.perf_counter() - begun)

    for turn in range(ROUNDS):
        for side, run in enumerate(runs):
            for i in range(2 if side == 0 else 20):
                timed(side, "sample", lambda run=run: setattr(run, "batch", run.replay.sample(batch_size)))
                timed(side, "update", lambda run=run: run.agent.update(run.batch))
                timed(side, "store", lambda run=run, i=i: run.replay.add(actions[i], 0.0, False, False, frames[i]))
                timed(side, "act", lambda run=run: run.agent.act(run.replay.observation))
        if turn == 0:
            times = [{}, {}]  # the first turn warms up

    table = Table(title=f"{agent}, batch {batch_size}, {precision}: milliseconds, median (tenth to ninetieth percentile)")
    for column in ("", "on images", "on embeddings", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for what in ("update", "sample", "store", "act"):
        cells, medians = [], []
        for side in (0, 1):
            values = [1e3 * t for t in times[side][what]]
            if what == "update" and agent != "drqv2":  # of two updates, one is also the actor's
                values = [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)]
            tenths = statistics.quantiles(values, n=10)
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:.2f} ({tenths[0]:.2f} to {tenths[-1]:.2f})")
        table.add_row(what, *cells, f"{medians[0] / medians[1]:.1f}x")
    costs = runs[0].costs
    operations = [costs.update(frozen)[1] for frozen in (False, True)]
    table.add_row("operations of an update", *(f"{n / 1e9:.2f}G" for n in operations), f"{operations[0] / operations[1]:.1f}x")
    table.add_row("bytes per step", *(f"{run.replay.bytes_per_step:,}" for run in runs), "")
    console.print(table)
    rates = {str(dtype).removeprefix("torch."): machine.matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    ceilings = ", ".join(f"{name} products {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    console.print(f"{machine.name()}", highlight=False)
    console.print(f"ceilings: {ceilings}, copying {machine.bandwidth() / 1e9:.1f} GB/s", highlight=False)
    console.print(f"frozen: {runs[1].replay.size} steps, {copies} copies each, in {freezing:.2f} s", highlight=False)


if __name__ == "__main__":
    tyro.cli(main)
