"""The replay by itself: samples per second of images and of embeddings, bytes per step, and its share of an update.

    python -m benchmarks.replay

Images: stacks of 4 Atari frames, 20-step returns, batch 32. Embeddings: of the same replay, batches of 32 and 512. Then the
dtypes that embeddings are stored in, batches of 512 drawn in turn, of Atari's size and of DeepMind Control's (4 copies of 100).
One thread, as in training.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl.replay.codec import DTYPES, Dtype
from seer_rl.replay.observation import ONLY, Obs, keyed
from seer_rl.replay.replay import Replay
from seer_rl.training.config import TrainConfig
from seer_rl.training.process import prepare

FEATURES = 576


def build(steps: int, exponent: float) -> Replay:
    """A full replay of noise in episodes of 500 steps."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
    replay = Replay((4, 84, 84), (), "u1", capacity=steps, stack=4, n_step=20, priority_exponent=exponent)
    replay.begin(frames[:1])
    for i in range(steps):
        end = i % 500 == 499
        replay.add([i % 18], [0.1], [end], [False], frames[i % 64][None])
        if end:
            replay.begin(frames[:1])
    return replay


def features(obs: Obs, current: bool) -> tuple[Obs, Obs]:
    """Stands for an encoder: as many numbers as its embedding has."""
    z = keyed(obs)[ONLY].flatten(1)[:, :FEATURES].float()
    return z, z[:, None]


def dtypes(steps: int, numbers: int, copies: int, n_step: int, batch: int = 512, repeats: int = 400) -> dict[Dtype, float]:
    """Median seconds of a sample by how embeddings are stored: `copies` of `numbers` of each observation."""
    replays, frame = {}, np.zeros((1, 84, 84), np.uint8)

    def noise(obs: Obs, current: bool) -> tuple[Obs, Obs]:
        return torch.randn(len(obs), numbers), torch.randn(len(obs), copies, numbers)

    for kind in DTYPES:
        replay = Replay((1, 84, 84), (1,), "f4", capacity=steps, n_step=n_step)
        replay.begin(frame[None])
        for _ in range(steps - 1):
            replay.add([np.zeros(1, np.float32)], [0.1], [False], [False], frame[None])
        replay.rewrite(noise, copies, steps, kind)
        replays[kind] = replay
    times: dict[Dtype, list[float]] = {kind: [] for kind in DTYPES}
    for _ in range(repeats):
        for kind, replay in replays.items():
            begun = time.perf_counter()
            replay.sample(batch)
            times[kind].append(time.perf_counter() - begun)
    return {kind: statistics.median(each) for kind, each in times.items()}


def main(steps: int = 20_000) -> None:
    """Print the tables.

    Args:
        steps: In the replay.
    """
    prepare(TrainConfig("atari/alien"))
    table = Table(title=f"Replay of {steps:,} steps, stacks of 4, 20-step returns")
    for column in ("", "batch", "sampling", "ms a batch", "samples/s", "bytes per step", "GB/s delivered"):
        table.add_column(column, justify="left" if not column else "right")

    def measure(name: str, replay: Replay, batch: int) -> None:
        work: Callable[[], object] = lambda: replay.sample(batch)  # noqa: E731
        seconds = machine.seconds(work, repeats=60)
        sample = replay.sample(batch)
        rate = (sample.obs.nbytes + sample.next_obs.nbytes) / seconds / 1e9
        kind = "prioritized" if replay.exponent else "uniform"
        table.add_row(
            name,
            str(batch),
            kind,
            f"{1e3 * seconds:.3f}",
            f"{batch / seconds:,.0f}",
            f"{replay.bytes_per_step:,}",
            f"{rate:.2f}",
        )

    for exponent in (0.0, 0.5):
        replay = build(steps, exponent)
        measure("images", replay, 32)
        begun = time.perf_counter()
        replay.rewrite(features)
        seconds = time.perf_counter() - begun
        measure("embeddings", replay, 32)
        measure("embeddings", replay, 512)
    console = Console(width=110)
    console.print(table)
    table = Table(title=f"Microseconds of a sample of 512 embeddings, {steps:,} steps")
    for column in ("", *DTYPES):
        table.add_column(column, justify="right" if column else "left")
    for name, numbers, copies, n_step in (("576 numbers, 20-step returns", 576, 1, 20), ("4 copies of 100, 1 step", 100, 4, 1)):
        table.add_row(name, *(f"{1e6 * each:.0f}" for each in dtypes(steps, numbers, copies, n_step).values()))
    console.print(table)
    console.print(machine.name(), highlight=False, soft_wrap=True)
    console.print(f"copying {machine.bandwidth() / 1e9:.1f} GB/s; rewriting without an encoder {steps / seconds:,.0f} steps/s")


if __name__ == "__main__":
    tyro.cli(main)
