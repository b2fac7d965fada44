"""Computes statistics of runs: rliable's, with stratified bootstrap intervals (Agarwal et al., 2021), on normalised scores.

Scores are arrays [runs, tasks], or [runs, tasks, points] where a run was measured several times. Intervals are 95% percentile
intervals over runs, each task resampled by itself. The bootstrap's random numbers are always the same ones.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_rl import envs
from seer_rl.text import install

Array = NDArray[np.float64]
REPEATS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Estimate:
    """Holds a statistic and its 95% interval."""

    point: float
    low: float
    high: float

    def words(self, digits: int = 3) -> str:
        """Write it as 0.321 [0.250, 0.410]."""
        return f"{self.point:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


def normalised(env: str, score: float) -> float | None:
    """Return a score on the scale of its environment's family; None where no scale is known."""
    scale = envs.scale(env)
    return scale.normalised(score) if scale else None


def iqm(scores: Array) -> Array:
    """Compute the interquartile mean over runs and tasks, [...] of scores [runs, tasks, ...].

    A quarter of the scores, rounded down, is left out at either end. rliable's own function gives the same numbers, but takes
    20 times longer for the few scores of a resample, of which an interval needs thousands.
    """
    ordered = np.sort(scores.reshape(-1, *scores.shape[2:]), axis=0)
    cut = len(ordered) // 4
    middle: Array = ordered[cut : len(ordered) - cut].mean(axis=0)
    return middle


def average(scores: Array) -> Array:
    """Compute the mean over runs and tasks, [...] of scores [runs, tasks, ...]."""
    found: Array = scores.mean(axis=(0, 1))
    return found


def aggregates(scores: Array) -> dict[str, Estimate]:
    """Estimate IQM, median, mean and optimality gap of normalised scores [runs, tasks], by name. Needs the extra [report]."""
    metrics = _rliable("metrics")
    functions = [iqm, metrics.aggregate_median, metrics.aggregate_mean, metrics.aggregate_optimality_gap]
    points, low, high = intervals([scores], lambda x: np.array([function(x) for function in functions]))
    names = ("IQM", "median", "mean", "optimality gap")
    return {name: Estimate(*map(float, e)) for name, *e in zip(names, points, low, high, strict=True)}


def improvement(scores: Array, other: Array) -> Estimate:
    """Estimate the probability that a run of `scores` is better than one of `other` on the same task, averaged over tasks.

    Both are [runs, tasks]; a tie counts as half. rliable's own function gives the same numbers, but takes a test of
    significance for every task of every resample.
    """
    point, low, high = intervals([scores, other], lambda x, y: np.array([(1 + np.sign(x[:, None] - y).mean()) / 2]))
    return Estimate(float(point[0]), float(low[0]), float(high[0]))


def curve(scores: Array, statistic: Callable[[Array], Array] = average) -> tuple[Array, Array, Array]:
    """Estimate a statistic of every point of scores [runs, tasks, points]: it and both ends of its interval, [points] each.

    statistic: maps [runs, tasks, points] to [points].
    """
    return intervals([scores], statistic)


def mean(scores: Sequence[float]) -> Estimate:
    """Estimate the mean of the scores [runs] of one task."""
    return Estimate(*(float(number[0]) for number in curve(np.array(scores, float)[:, None, None])))


def interquartile(scores: Array) -> Estimate:
    """Estimate the interquartile mean of scores [runs, tasks]."""
    return Estimate(*(float(number[0]) for number in curve(scores[..., None], iqm)))


def intervals(scores: list[Array], function: Callable[..., Array]) -> tuple[Array, Array, Array]:
    """Return function(*scores) [n], and both ends of the interval of each of its numbers: [n] each.

    Several arrays of scores are resampled independently. Where each has one run there is nothing to resample, and both ends are
    the number itself. Raises ImportError without the extra [report].
    """
    if all(len(one) == 1 for one in scores):
        found = np.asarray(function(*scores), float)
        return found, found, found
    library = _rliable("library")
    data: Any = {"": scores[0] if len(scores) == 1 else scores}
    with _same_random_numbers():
        points, ends = library.get_interval_estimates(data, function, reps=REPEATS)
    return points[""], ends[""][0], ends[""][1]


def _rliable(module: str) -> Any:
    """Import a module of rliable. Raises ImportError, in a sentence, without the extra [report]."""
    try:
        return importlib.import_module(f"rliable.{module}")
    except ImportError as error:
        raise ImportError(f"statistics need the extra [report]: {install('report')}") from error


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Seed NumPy's global generator, from which rliable draws, and leave it as it was before."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
