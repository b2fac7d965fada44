"""What a reader of a report came for, in a few sentences and pictures: which settings did best, by how much, at what cost."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from seer_rl.experiments import stats
from seer_rl.experiments.results import NEVER, Groups, Result, finished, together
from seer_rl.experiments.stats import Array, Estimate
from seer_rl.text import score

FEW = 3  # seeds: with fewer, an interval says nothing
Estimates = dict[str, dict[str, Estimate]]  # by settings and name of the aggregate
Better = dict[tuple[str, str], Estimate]  # that a run of the first settings scores more than one of the second


def reference(arms: dict[str, list[Result]]) -> str | None:
    """Return the settings that others are compared with: the first whose runs were never frozen. None where there are none."""
    never = (label for label, runs in arms.items() if runs and all(run.frozen == NEVER for run in runs))
    return next(never, None)


def improvements(scores: dict[str, Array]) -> Better:
    """Estimate for every two settings that a run of one scores more than one of the other.

    scores: [runs, tasks] by settings.
    """
    found: Better = {}
    for one, other in itertools.combinations(scores, 2):
        better = stats.improvement(scores[one], scores[other])
        found[one, other] = better
        found[other, one] = Estimate(1 - better.point, 1 - better.high, 1 - better.low)
    return found


def across(suite: str, estimates: Estimates, better: Better, members: dict[str, list[list[Result]]]) -> str:
    """Say which settings did best over several tasks, and what that cost. members: their runs, a list for each task."""
    iqm = {label: each["IQM"] for label, each in estimates.items()}
    best = max(iqm, key=lambda label: iqm[label].point)
    base = reference({label: list(itertools.chain(*runs)) for label, runs in members.items()})
    seeds, tasks = {label: min(map(len, runs)) for label, runs in members.items()}, len(members[best])
    said = f"On {tasks} tasks of {suite}, with {_seeds(seeds[best])} each, {best} did best: "
    said += f"an interquartile mean of {iqm[best].words()}"
    if base is None or len(iqm) == 1:
        return f"{said}."
    other = base if base != best else max((x for x in iqm if x != best), key=lambda label: iqm[label].point)
    cost, its = (
        float(np.mean([run.at("flops", run.step) for runs in members[label] for run in runs[: seeds[label]]]))
        for label in (best, other)
    )
    chance = _chance(better[best, other], min(seeds[best], seeds[other]))
    return f"{said}, against {iqm[other].words()} of {other}{_cost(cost, its)}.{chance}"


def alone(env: str, arms: dict[str, list[Result]]) -> str | None:
    """Say which settings did best in one environment; None where no run has ended."""
    runs = {label: ended for label, all_runs in arms.items() if (ended := finished(all_runs))}
    if not runs:
        return None
    scores = {label: np.array([[run.returns[-1]] for run in ended]) for label, ended in runs.items()}
    best = max(scores, key=lambda label: float(scores[label].mean()))
    seeds = len(scores[best])
    said = f"On {env}, {best} ended with {score(scores[best].mean())} points ({_seeds(seeds)})"
    base = reference(runs)
    if base is None or len(runs) == 1:
        return f"{said}."
    other = base if base != best else max((x for x in scores if x != best), key=lambda label: float(scores[label].mean()))
    cost, its = (float(np.mean([run.at("flops", run.step) for run in runs[label]])) for label in (best, other))
    said += f", {other} with {score(scores[other].mean())} ({_seeds(len(scores[other]))}){_cost(cost, its)}."
    return said + _chance(stats.improvement(scores[best], scores[other]), min(seeds, len(scores[other])))


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def _cost(cost: float, other: float) -> str:
    return f", with {cost / other:.2f} times as many operations" if cost > 0 and other > 0 else ""


def _chance(better: Estimate, seeds: int) -> str:
    if seeds < FEW:
        return " So few seeds may differ by chance."
    return "" if better.low > 0.5 else " That may be chance: a run of one is not surely better than a run of the other."


def points(estimates: Estimates, colours: dict[str, int]) -> list[dict[str, Any]]:
    """Lay out aggregates with their intervals: for each, a row for each settings, places in percent of the width."""
    panels = []
    for name in next(iter(estimates.values())):
        each = {label: estimate[name] for label, estimate in estimates.items()}
        low, high = min(0.0, *(one.low for one in each.values())), max(one.high for one in each.values())
        rows = []
        for label, one in each.items():
            x, x1, x2 = (f"{3 + 94 * (value - low) / ((high - low) or 1):.2f}%" for value in (one.point, one.low, one.high))
            words = {"label": label, "words": one.words(), "point": f"{one.point:,.3f}"}
            rows.append(words | {"colour": colours[label] % 6, "x": x, "x1": x1, "x2": x2})
        panels.append({"name": name, "rows": rows, "low": f"{low:,.2f}", "high": f"{high:,.2f}"})
    return panels


def matrix(names: Sequence[str], better: Better, seeds: int) -> list[list[dict[str, Any]]]:
    """Lay out probabilities that a run of a row's settings scores more than one of a column's on the same task.

    seeds: the fewest that any of the settings have.
    """
    empty = {"point": "", "interval": "", "sure": False}
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for pair, p in better.items():
        sure = seeds >= FEW and (p.low > 0.5 or p.high < 0.5)
        cells[pair] = {"point": f"{p.point:.2f}", "interval": f"{p.low:.2f} to {p.high:.2f}", "sure": sure}
    return [[cells.get((row, column), empty) for column in names] for row in names]


def beginnings(groups: Groups) -> str:
    """Say which settings share the beginnings of their runs: those of one seed are one training. Empty: none."""
    labels = dict.fromkeys(label for arms in groups.values() for label in arms)
    every = {label: [run for arms in groups.values() for run in arms.get(label, [])] for label in labels}
    base = reference(every) or next(iter(every))
    shared: dict[str, list[int]] = {}
    for arms in groups.values():
        for label, runs in arms.items():
            for run, its in itertools.product(runs, arms.get(base, [])):
                if label != base and run.config.seed == its.config.seed and (until := together(run, its)):
                    shared.setdefault(label, []).append(until)
    return "; ".join(f"{label} until step {_range(until)}" for label, until in shared.items()) + (
        f", the same training as {base}" if shared else ""
    )


def _range(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
