"""One run of another library, timed."""

import importlib
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    images: float  # steps per second in the quarter before the middle
    after: float  # and in the last quarter
    transition: float  # bytes that the buffer holds for a step at the end
    peak: int  # bytes that the process held at most
    score: float  # mean of the games that ended in the second half


def measure(library: str, env: str, steps: int, freeze: int | None, seed: int, threads: int, answer: Connection) -> None:
    """Train once, in this process."""
    torch.set_num_threads(threads)
    marks = {steps // 4: 0.0, steps // 2: 0.0, steps * 3 // 4: 0.0, steps: 0.0}

    def tick(step: int) -> None:
        if step in marks:
            marks[step] = time.perf_counter()

    scores, transition = importlib.import_module(f"benchmarks.libraries.{library}").train(env, steps, freeze, seed, tick)
    one, two, three, four = marks.values()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    peak = 1024 * int(status["VmHWM"].split()[0])
    late = scores[len(scores) // 2 :]
    score = statistics.fmean(late) if late else float("nan")
    answer.send(Outcome(steps / 4 / (two - one), steps / 4 / (four - three), transition, peak, score))
