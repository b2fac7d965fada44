"""Statistics of runs: normalised scores, and rliable's aggregates with stratified bootstrap intervals (Agarwal et al., 2021).

Scores are arrays [runs, tasks], or [runs, tasks, points] where a run was measured several times. Intervals are 95% percentile
intervals over runs, each task resampled by itself. The bootstrap's random numbers are always the same ones.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_rl.envs import plain

Array = NDArray[np.float64]
REPEATS = 2000  # of the bootstrap

# Scores of a random player and of a professional human tester, with up to 30 no-ops at the start (Wang et al., 2016, appendix).
ATARI_SCORES = {
    "alien": (227.8, 7127.7), "amidar": (5.8, 1719.5), "assault": (222.4, 742.0), "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7), "atlantis": (12850.0, 29028.1), "bankheist": (14.2, 753.1), "battlezone": (2360.0, 37187.5),
    "beamrider": (363.9, 16926.5), "berzerk": (123.7, 2630.4), "bowling": (23.1, 160.7), "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5), "centipede": (2090.9, 12017.0), "choppercommand": (811.0, 7387.8),
    "crazyclimber": (10780.5, 35829.4), "defender": (2874.5, 18688.9), "demonattack": (152.1, 1971.0),
    "doubledunk": (-18.6, -16.4), "enduro": (0.0, 860.5), "fishingderby": (-91.7, -38.7), "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7), "gopher": (257.6, 2412.5), "gravitar": (173.0, 3351.4), "hero": (1027.0, 30826.4),
    "icehockey": (-11.2, 0.9), "jamesbond": (29.0, 302.8), "kangaroo": (52.0, 3035.0), "krull": (1598.0, 2665.5),
    "kungfumaster": (258.5, 22736.3), "montezumarevenge": (0.0, 4753.3), "mspacman": (307.3, 6951.6),
    "namethisgame": (2292.3, 8049.0), "phoenix": (761.4, 7242.6), "pitfall": (-229.4, 6463.7), "pong": (-20.7, 14.6),
    "privateeye": (24.9, 69571.3), "qbert": (163.9, 13455.0), "riverraid": (1338.5, 17118.0), "roadrunner": (11.5, 7845.0),
    "robotank": (2.2, 11.9), "seaquest": (68.4, 42054.7), "skiing": (-17098.1, -4336.9), "solaris": (1236.3, 12326.7),
    "spaceinvaders": (148.0, 1668.7), "stargunner": (664.0, 10250.0), "surround": (-10.0, 6.5), "tennis": (-23.8, -8.3),
    "timepilot": (3568.0, 5229.2), "tutankham": (11.4, 167.6), "upndown": (533.4, 11693.2), "venture": (0.0, 1187.5),
    "videopinball": (16256.9, 17667.9), "wizardofwor": (563.5, 4756.5), "yarsrevenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% interval."""

    point: float
    low: float
    high: float


def normalised(env: str, score: float) -> float | None:
    """0 for a random player and 1 for a human on Atari, score / 1000 on DeepMind Control; None where no scale is known."""
    if env.startswith("dmc/"):
        return score / 1000
    scores = ATARI_SCORES.get(plain(env))
    return (score - scores[0]) / (scores[1] - scores[0]) if scores else None


def iqm(scores: Array) -> float:
    """Interquartile mean over runs and tasks."""
    from rliable import metrics

    return float(metrics.aggregate_iqm(scores))


def aggregates(scores: Array) -> dict[str, Estimate]:
    """IQM, median, mean and optimality gap of normalised scores [runs, tasks]."""
    from rliable import metrics

    functions = [metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_mean, metrics.aggregate_optimality_gap]
    points, low, high = intervals([scores], lambda x: np.array([function(x) for function in functions]))
    names = ("IQM", "median", "mean", "optimality gap")
    return {name: Estimate(*map(float, e)) for name, *e in zip(names, points, low, high, strict=True)}


def improvement(scores: Array, other: Array) -> Estimate:
    """Probability that a run of `scores` is better than one of `other` on the same task, averaged over tasks."""
    from rliable import metrics

    point, low, high = intervals([scores, other], lambda x, y: np.array([metrics.probability_of_improvement(x, y)]))
    return Estimate(float(point[0]), float(low[0]), float(high[0]))


def curve(scores: Array, statistic: Callable[[Array], float] = np.mean) -> tuple[Array, Array, Array]:
    """A statistic of every point of scores [runs, tasks, points], and both ends of its interval: [points] each."""
    each = range(scores.shape[2])
    return intervals([scores], lambda x: np.array([statistic(x[..., i]) for i in each]))


def intervals(scores: list[Array], function: Callable[..., Array]) -> tuple[Array, Array, Array]:
    """function(*scores), and both ends of the interval of each of its numbers. Several scores are resampled independently.

    Raises ImportError without the extra [report].
    """
    try:
        from rliable import library
    except ImportError as error:
        raise ImportError("statistics need the extra [report]: pip install 'seer-rl[report]'") from error
    data: Any = {"": scores[0] if len(scores) == 1 else scores}
    with _same_random_numbers():
        points, ends = library.get_interval_estimates(data, function, reps=REPEATS)
    return points[""], ends[""][0], ends[""][1]


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """rliable draws from NumPy's global generator: seed it, and leave it as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
