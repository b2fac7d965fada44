"""SEER in other libraries, beside each library alone: steps per second, bytes of a transition, peak memory, return.

    python -m benchmarks.libraries                                  # all of them, one seed
    python -m benchmarks.libraries sb3 sb3_sac --seeds 1 2 3

Each library trains its own agent with its own loop, for --steps steps. SEER freezes halfway and stores uint8 embeddings. Every
run has a process of its own, and the two sides of a seed follow each other.
"""

import multiprocessing
import statistics
import sys

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.libraries.measure import Outcome, measure

PROGRAMS = {  # library: environment, steps
    "sb3": ("atari/pong", 20_000),
    "sb3_sac": ("dmc/cartpole-swingup", 4_000),
    "torchrl": ("atari/pong", 20_000),
    "tianshou": ("atari/pong", 20_000),
}


def outcome(library: str, env: str, steps: int, freeze: int | None, seed: int, threads: int) -> Outcome:
    """Train once, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(library, env, steps, freeze, seed, threads, theirs))
    process.start()
    theirs.close()
    try:
        found: Outcome = ours.recv()
    except EOFError:
        sys.exit(f"{library} failed; what it said is above")
    process.join()
    return found


def main(
    libraries: tyro.conf.Positional[tuple[str, ...]] = tuple(PROGRAMS),
    /,
    seeds: tuple[int, ...] = (1,),
    steps: int | None = None,
    threads: int = 2,
) -> None:
    """Print a table.

    Args:
        libraries: Which.
        seeds: Of each.
        steps: Of each run, instead of its own number.
        threads: CPU threads.
    """
    console = Console(width=128)
    table = Table(title="mean over seeds (smallest to largest)")
    for heading in (
        "library",
        "environment, steps",
        "",
        "steps/s on images",
        "steps/s after the middle",
        "bytes",
        "peak MB",
        "return",
    ):
        table.add_column(heading, justify="left" if len(table.columns) < 3 else "right")
    for library in libraries:
        env, own = PROGRAMS[library]
        length = steps or own
        sides: dict[str, list[Outcome]] = {"alone": [], "SEER": []}
        for seed in seeds:
            for side, found in sides.items():
                found.append(outcome(library, env, length, length // 2 if side == "SEER" else None, seed, threads))
                console.print(library, side, found[-1], highlight=False)
        for side, found in sides.items():
            table.add_row(
                library,
                f"{env}, {length:,}",
                side,
                spread([one.images for one in found], 1),
                spread([one.after for one in found], 1),
                f"{found[0].transition:,.0f}",
                spread([one.peak / 1e6 for one in found], 0),
                spread([one.score for one in found], 1),
            )
    console.print(table)
    console.print(f"{machine.name(torch.device('cpu'))}, {threads} threads", highlight=False, soft_wrap=True)


def spread(values: list[float], digits: int) -> str:
    """Write the mean of several numbers, and how far they lie apart."""
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


if __name__ == "__main__":
    tyro.cli(main)
