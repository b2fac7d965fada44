"""What runs left behind: read from their directories, compared along steps, FLOPs, time or memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seer_rl import checkpoint
from seer_rl.config import TrainConfig, flat, name_of
from seer_rl.logger import METRICS, read

Array = NDArray[np.float64]
Axis = Literal["steps", "flops", "seconds", "bytes"]


@dataclass(frozen=True)
class Result:
    """A run, finished or not: its settings and its metrics as (step, value) pairs."""

    run_dir: Path
    config: TrainConfig
    metrics: dict[str, list[tuple[int, float]]]

    @property
    def agent(self) -> str:
        return name_of(self.config.agent)

    @cached_property
    def freeze_step(self) -> int | None:
        """T_f, once it is reached."""
        return int(self.metrics["seer/freeze_step"][0][1]) if "seer/freeze_step" in self.metrics else None

    @property
    def label(self) -> str:
        """What its settings are called."""
        planned, donor = self.config.seer.freeze_step, self.config.transfer.source
        if donor and not self.config.label:
            return f"{'encoder' if self.config.transfer.only == 'encoder' else 'network'} of {donor.name}"
        if self.config.label or planned is None:
            return self.config.label or "never frozen"
        return "SEER, frozen when converged" if planned == "auto" else f"SEER, frozen at {planned:,}"

    @cached_property
    def step(self) -> int:
        """The latest that is known of."""
        return max((series[-1][0] for series in self.metrics.values()), default=0)

    @property
    def has_ended(self) -> bool:
        return bool(len(self.steps)) and int(self.steps[-1]) == self.config.steps

    @cached_property
    def steps(self) -> Array:
        """Of its evaluations, [evaluations]."""
        return np.array([step for step, _ in self.metrics.get("eval/return", [])], float)

    @cached_property
    def returns(self) -> Array:
        """Mean score of each evaluation, [evaluations]."""
        return np.array([value for _, value in self.metrics.get("eval/return", [])], float)

    def along(self, axis: Axis, steps: Array) -> Array:
        """Where the run was on `axis` at `steps`: operations (the paper's count), seconds of training, most bytes of replay."""
        if axis == "steps":
            return steps
        names = {"flops": "compute/flops", "seconds": "charts/seconds", "bytes": "replay/bytes"}
        series = sorted(({0: 0.0} | dict(self.metrics.get(names[axis], []))).items())
        known, values = (np.array(column, float) for column in zip(*series, strict=True))
        if axis == "bytes":
            values = np.maximum.accumulate(values)
        there: Array = np.interp(steps, known, values)
        return there

    def score_at(self, axis: Axis, x: float) -> float | None:
        """Return at `x` of `axis`, linear between evaluations; None before the first and after the last."""
        if not len(self.steps):
            return None
        xs = self.along(axis, self.steps)
        return float(np.interp(x, xs, self.returns)) if xs[0] <= x <= xs[-1] else None

    def speeds(self) -> tuple[float | None, float | None]:
        """Agent steps per second at the end of the phase on images, and of that on embeddings."""
        trained = {step for name, series in self.metrics.items() if name.startswith("losses/") for step, _ in series}
        freeze = self.freeze_step if self.freeze_step is not None else float("inf")
        speeds = [(step, value) for step, value in self.metrics.get("charts/SPS", []) if step in trained]
        before = [value for step, value in speeds if step <= freeze]
        after = [value for step, value in speeds if step > freeze]
        return (before[-1] if before else None), (after[-1] if after else None)


def find(paths: Iterable[Path], say: Callable[[str], None]) -> list[Result]:
    """The runs at or below `paths`; those that cannot be read are named through `say` and left out.

    Raises ValueError where there are none.
    """
    run_dirs: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path} is no directory of runs")
        found = sorted(_run_dirs(path, say))
        if not found:
            raise ValueError(f"{path} holds no runs: those have a {checkpoint.CONFIG}")
        run_dirs |= dict.fromkeys(found)
    results = []
    for run_dir in run_dirs:
        try:
            config = checkpoint.load_config(run_dir)
            metrics = read(run_dir) if (run_dir / METRICS).exists() else {}  # of a sweep, and not begun yet
            results.append(Result(run_dir, config, metrics))
        except ValueError as error:
            say(f"left out: {error}")
    if not results:
        raise ValueError("none of the runs could be read")
    return results


def _run_dirs(path: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Run directories at or below `path`, each once, those behind links too. What cannot be listed is named through `say`."""
    seen: set[str] = set()
    for directory, inner, names in os.walk(path, onerror=lambda error: say(f"left out: {error}"), followlinks=True):
        if (real := os.path.realpath(directory)) in seen:  # a second way here, or a link to a directory above
            inner.clear()
            continue
        seen.add(real)
        if checkpoint.CONFIG in names:
            yield Path(directory)


def group(results: Iterable[Result]) -> dict[str, dict[str, list[Result]]]:
    """Runs by environment, and in it by what their settings are called; with the agent's name where there are several."""
    results = list(results)
    agents: dict[str, set[str]] = {}
    for result in results:
        agents.setdefault(result.config.env, set()).add(result.agent)
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        env = result.config.env
        label = f"{result.agent}, {result.label}" if len(agents[env]) > 1 else result.label
        groups.setdefault(env, {}).setdefault(label, []).append(result)
    return groups


def scores_at(runs: Iterable[Result], axis: Axis, x: float) -> list[float]:
    """Returns at `x` of the runs that have come that far."""
    return [score for run in runs if (score := run.score_at(axis, x)) is not None]


def differing(results: Iterable[Result]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings that all runs share, and for each run those in which they differ, by their names on the command line."""
    found = [flat(result.config) for result in results]
    names = list(dict.fromkeys(name for settings in found for name in settings))
    same = {n: found[0].get(n) for n in names if all(settings.get(n) == found[0].get(n) for settings in found)}
    return same, [{n: settings.get(n) for n in names if n not in same and n != "run_dir"} for settings in found]
