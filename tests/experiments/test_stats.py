"""Statistics against enumeration, brute force and rliable itself."""

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from rliable import library, metrics

from seer_rl.experiments import stats

RNG = np.random.default_rng(3)


def test_normalised_scores() -> None:
    assert stats.normalised("atari/alien", 227.8) == 0
    assert stats.normalised("atari/BankHeist", 753.1) == pytest.approx(1)
    assert stats.normalised("atari/bank_heist", 14.2 + 0.5 * 738.9) == pytest.approx(0.5)
    assert stats.normalised("dmc/walker-walk", 500) == 0.5
    assert stats.normalised("atari/adventure", 3) is None


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    scores = RNG.normal(size=(6, 4))
    assert stats.iqm(scores) == pytest.approx(np.sort(scores.ravel())[6:18].mean())
    for shape in ((3, 1), (1, 1), (5, 2), (7, 3), (4, 4)):
        scores = RNG.normal(size=(*shape, 6))
        assert stats.iqm(scores) == pytest.approx([metrics.aggregate_iqm(scores[..., i]) for i in range(6)])
        assert stats.average(scores) == pytest.approx([scores[..., i].mean() for i in range(6)])


def test_the_interval_of_a_mean_is_that_of_all_resamples() -> None:
    """Five runs of one task have 3,125 equally likely resamples: the percentiles of their means, by enumeration."""
    scores = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    means = [np.mean(resample) for resample in itertools.product(scores, repeat=5)]
    mean = stats.mean(scores.tolist())
    assert mean.point == pytest.approx(scores.mean())
    assert mean.low == pytest.approx(np.percentile(means, 2.5), abs=0.35)
    assert mean.high == pytest.approx(np.percentile(means, 97.5), abs=0.35)
    assert stats.Estimate(1234.56, 0.04, 2e3).words(1) == "1,234.6 [0.0, 2,000.0]"


def test_tasks_are_resampled_by_themselves() -> None:
    """Three runs of two tasks: 27 x 27 equally likely resamples. Resampling whole runs would give the interval [0, 9] here."""
    scores = np.array([[0.0, 9.0], [3.0, 3.0], [9.0, 0.0]])
    columns = [[np.mean(resample) for resample in itertools.product(column, repeat=3)] for column in scores.T]
    means = [(a + b) / 2 for a, b in itertools.product(*columns)]
    estimate = stats.aggregates(scores)["mean"]
    assert estimate.point == pytest.approx(4.0)
    assert estimate.low == pytest.approx(np.percentile(means, 2.5), abs=0.3)
    assert estimate.high == pytest.approx(np.percentile(means, 97.5), abs=0.3)


def test_aggregates_are_rliables() -> None:
    scores = RNG.lognormal(size=(5, 8))
    found = stats.aggregates(scores)
    functions = {"IQM": metrics.aggregate_iqm, "median": metrics.aggregate_median, "mean": metrics.aggregate_mean,
                 "optimality gap": metrics.aggregate_optimality_gap}  # fmt: skip
    for name, function in functions.items():
        np.random.seed(0)  # noqa: NPY002
        points, ends = library.get_interval_estimates({"a": scores}, lambda x, f=function: np.array([f(x)]), reps=stats.REPEATS)
        assert found[name].point == pytest.approx(float(points["a"][0]))
        assert (found[name].low, found[name].high) == pytest.approx(tuple(ends["a"][:, 0]))


def test_rliables_published_example() -> None:
    """Two score matrices whose aggregates its authors give: 1.5 and 2 throughout, and an improvement in a third of pairs."""
    x, y = np.array([[1.0, 2], [2, 2], [1, 1], [2, 1]]), np.array([[1.0, 1], [2, 2], [3, 3]])
    for scores, expected in ((x, 1.5), (y, 2.0)):
        found = stats.aggregates(scores)
        assert [found[name].point for name in ("IQM", "median", "mean")] == [expected] * 3
        assert found["optimality gap"].point == 0
    assert stats.improvement(x, y).point == pytest.approx(1 / 3)


def test_improvement_counts_pairs() -> None:
    x, y = RNG.integers(0, 4, (4, 3)).astype(float), RNG.integers(0, 4, (5, 3)).astype(float)
    wins = [np.mean([(a > b) + 0.5 * (a == b) for a in x[:, t] for b in y[:, t]]) for t in range(3)]
    estimate = stats.improvement(x, y)
    assert estimate.point == pytest.approx(np.mean(wins))
    assert 0 <= estimate.low <= estimate.point <= estimate.high <= 1


def test_improvement_is_rliables() -> None:
    x, y = RNG.integers(0, 4, (4, 3)).astype(float), RNG.integers(0, 4, (5, 3)).astype(float)
    np.random.seed(0)  # noqa: NPY002
    points, ends = library.get_interval_estimates(
        {"": [x, y]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=stats.REPEATS
    )
    found = stats.improvement(x, y)
    assert found.point == pytest.approx(float(points[""][0]))
    assert (found.low, found.high) == pytest.approx(tuple(ends[""][:, 0]))


def test_intervals_repeat_and_leave_numpys_generator_alone() -> None:
    scores = RNG.normal(size=(3, 2, 4))
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first = stats.curve(scores, stats.iqm)
    assert np.random.random() == expected  # noqa: NPY002
    for a, b in zip(first, stats.curve(scores, stats.iqm), strict=True):
        assert a.shape == (4,)
        assert (a == b).all()


@pytest.mark.parametrize("function", [stats.aggregates, lambda scores: stats.curve(scores, stats.iqm)])
def test_what_is_missing_is_named(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rliable"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rliable", None)  # as Python notes a package that is not there
    with pytest.raises(ImportError, match=r"statistics need the extra \[report\]"):
        function(RNG.normal(size=(3, 2)))
