"""Reads what runs left in their directories, and compares it along steps, FLOPs, time or memory."""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seer_rl import envs
from seer_rl.training import checkpoint, logger, rundir
from seer_rl.training.config import TrainConfig, flat, name_of

Array = NDArray[np.float64]
Axis = Literal["steps", "flops", "seconds", "bytes"]
SHOWN = ("eval/return", "eval/random_return", "compute/flops", "charts/seconds", "charts/SPS", "charts/process_bytes",
         "replay/bytes", "seer/freeze_step")  # fmt: skip
Groups = dict[str, dict[str, list["Result"]]]  # runs by environment and settings
NEVER, CONVERGED = "never", "when converged"  # of when an encoder was frozen; else a step
LARGEST = float(np.finfo(np.float32).max)  # of what is shown
# Settings that change how a run goes, not what it is.
HOW = {"run_dir", "label", "seed", "env", "device", "threads", "compile", "memory_limit", "checkpoint_every", "keep",
       "keep_last", "log"}  # fmt: skip
# Settings that arms are told apart by in other words (`Result.traits`, `Result.label`), or that change no training.
TOLD = {"agent.name", "agent.n_step", "replay.priority_exponent", "seer.dtype", "seer.freeze_step", "transfer.source",
        "eval.every", "eval.episodes", "analysis.every"}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Holds a run, finished or not: its settings, and its metrics as (step, value) pairs."""

    run_dir: Path
    config: TrainConfig
    metrics: dict[str, list[tuple[int, float]]]

    @property
    def agent(self) -> str:
        """Return the name of its agent."""
        return name_of(self.config.agent)

    @cached_property
    def freeze_step(self) -> int | None:
        """Return T_f in agent steps, once it is reached; None before."""
        return int(self.metrics["seer/freeze_step"][0][1]) if "seer/freeze_step" in self.metrics else None

    @property
    def frozen(self) -> str:
        """Say whether and when its encoder was frozen: "never", "when converged" or "at 50,000".

        Once it was frozen, or the run has ended, this is what happened; until then, it is what the settings plan.
        """
        planned, steps = self.config.seer.freeze_step, self.config.steps
        hopeless = planned is None or (planned == "auto" and self.config.seer.between(steps)[0] >= steps)
        if self.freeze_step is None and (hopeless or self.has_ended):
            return NEVER
        step = planned if self.freeze_step is None else self.freeze_step
        return CONVERGED if planned == "auto" else f"at {step:,}"

    @property
    def traits(self) -> dict[str, str]:
        """Return what tells arms apart, whatever they are called, each as a few words."""
        config, never = self.config, self.frozen == NEVER
        return {
            "frozen": "never frozen" if never else f"frozen {self.frozen}",
            "stored": "images" if never else config.seer.dtype,
            "priority": f"priority {config.replay.priority_exponent:g}",
            "n_step": f"{config.agent.n_step}-step returns",
        }

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings that tell arms apart beside their traits, by name, each as "name value"."""
        passed = ("seer.",) if self.frozen == NEVER else ()
        named = {n: v for n, v in flat(self.config).items() if n not in HOW | TOLD and not n.startswith(passed)}
        return {name: f"{name} {value}" for name, value in named.items()}

    @property
    def label(self) -> str:
        """Return what its settings are called."""
        donor = self.config.transfer.source
        if self.config.label:
            return self.config.label
        if donor:
            return f"{'encoder' if self.config.transfer.only == 'encoder' else 'network'} of {donor.name}"
        frozen = self.traits["frozen"]
        return frozen if self.frozen == NEVER else f"SEER, {frozen}"

    @cached_property
    def step(self) -> int:
        """Return the latest agent step that its metrics tell of."""
        return max((series[-1][0] for series in self.metrics.values()), default=0)

    @property
    def has_ended(self) -> bool:
        """Tell whether it was evaluated at its last step."""
        return bool(len(self.steps)) and int(self.steps[-1]) == self.config.steps

    def series(self, metric: str) -> tuple[Array, Array]:
        """Give the steps and the values of a metric, [values] each, as they are shown: bytes in MB, speeds of training only.

        How fast a replay fills before there are updates is another question.
        """
        points, scale = self.metrics.get(metric, []), 1e-6 if metric == "replay/bytes" else 1.0
        if metric == "charts/SPS":
            trained = {step for name, losses in self.metrics.items() if name.startswith("losses/") for step, _ in losses}
            points = [(step, value) for step, value in points if step in trained]
        return np.array([step for step, _ in points], float), np.array([scale * value for _, value in points], float)

    @cached_property
    def steps(self) -> Array:
        """Return the agent steps [evaluations] of its evaluations."""
        return self.series("eval/return")[0]

    @cached_property
    def returns(self) -> Array:
        """Return the mean score of each evaluation, [evaluations]."""
        return self.series("eval/return")[1]

    def along(self, axis: Axis, steps: Array) -> Array:
        """Return where the run was on `axis` at `steps` [n]: [n], float64.

        flops: operations, the paper's count. seconds: of training. bytes: the most that the replay had taken until then.
        """
        if axis == "steps":
            return steps
        names = {"flops": "compute/flops", "seconds": "charts/seconds", "bytes": "replay/bytes"}
        series = sorted(({0: 0.0} | dict(self.metrics.get(names[axis], []))).items())
        known, values = (np.array(column, float) for column in zip(*series, strict=True))
        if axis == "bytes":
            values = np.maximum.accumulate(values)
        there: Array = np.interp(steps, known, values)
        return there

    def at(self, axis: Axis, step: float) -> float:
        """Return where the run was on `axis` at one step, as `along`."""
        return float(self.along(axis, np.array([float(step)]))[0])

    def score_at(self, axis: Axis, x: float) -> float | None:
        """Return the score at `x` of `axis`, linear between evaluations; None before the first and after the last."""
        if not len(self.steps):
            return None
        xs = self.along(axis, self.steps)
        return float(np.interp(x, xs, self.returns)) if xs[0] <= x <= xs[-1] else None

    def speeds(self) -> tuple[float | None, float | None]:
        """Return agent steps per second at the end of the phase on images, and of that on embeddings; None without it."""
        freeze = self.freeze_step if self.freeze_step is not None else float("inf")
        steps, values = self.series("charts/SPS")
        before, after = values[steps <= freeze], values[steps > freeze]
        return (float(before[-1]) if len(before) else None), (float(after[-1]) if len(after) else None)


def read(run_dir: Path) -> Result:
    """Read a run. Raises ValueError, in a sentence, where a file of it is damaged or holds numbers that cannot be."""
    config = checkpoint.load_config(run_dir)
    begun = os.path.lexists(run_dir / logger.METRICS)  # of a sweep there are runs that have not
    metrics = logger.read(run_dir) if begun else {}
    rundir.require_result(run_dir, logger.METRICS, config.steps)
    for name in SHOWN:
        for step, value in metrics.get(name, []):
            if not abs(value) <= LARGEST:  # nor is NaN
                raise ValueError(f"{run_dir / logger.METRICS} cannot be meant: {name} is {value:g} at step {step:,}")
    return Result(run_dir, config, {name: list(dict(series).items()) for name, series in metrics.items()})


def find(paths: Iterable[Path], say: Callable[[str], None]) -> list[Result]:
    """Read the runs at or below `paths`. Those that cannot be read are named through `say` and left out.

    Raises ValueError where there are none.
    """
    run_dirs: dict[str, Path] = {}  # each once, whatever links lead to it
    for path in paths:
        if not os.path.isdir(path):
            raise ValueError(f"{path} is no directory of runs")
        found = _run_dirs(path, say)
        if not found:
            raise ValueError(f"{path} holds no runs: those have a {checkpoint.CONFIG}")
        for run_dir in found:
            run_dirs.setdefault(os.path.realpath(run_dir), run_dir)
    results = []
    for run_dir in run_dirs.values():
        try:
            results.append(read(run_dir))
        except ValueError as error:
            say(f"left out: {error}")
    if not results:
        raise ValueError("none of the runs could be read")
    return results


def once(results: Sequence[Result], say: Callable[[str], None]) -> list[Result]:
    """Leave out runs that have an arm (`group`) and a seed together with another run, which came farther; say so.

    A copy of a run is no second measurement, and one that was trained twice is none either.
    """
    farthest: dict[tuple[str, str, int], Result] = {}
    arms = ((env, label, run) for env, arms in group(results).items() for label, runs in arms.items() for run in runs)
    for env, label, run in arms:
        known = farthest.setdefault((env, label, run.config.seed), run)
        if known is not run:
            best, other = (run, known) if run.step > known.step else (known, run)
            say(f"left out: {other.run_dir} has the settings and the seed of {best.run_dir}")
            farthest[env, label, run.config.seed] = best
    kept = {id(run) for run in farthest.values()}
    return [run for run in results if id(run) in kept]


def _run_dirs(top: Path, say: Callable[[str], None]) -> list[Path]:
    """List every directory with settings at or below `top`, and every link there to one.

    Other links are not followed, for they may lead round in a circle or out into the whole disk. They are said, and so is what
    cannot be read.
    """
    found: dict[str, Path] = {}
    linked: list[Path] = []
    pending = [top]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(here) as scanned:
                entries = list(scanned)
        except OSError as error:
            say(f"left out: {here} cannot be read ({error.strerror})")
            continue
        for entry in entries:
            path = here / entry.name
            if entry.name == checkpoint.CONFIG:
                found[os.path.realpath(here)] = here
            elif entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_symlink() and os.path.lexists(path / checkpoint.CONFIG):
                linked.append(path)
            elif entry.is_symlink() and os.path.isdir(path):
                say(f"left out: {path} is a link to a directory that is no run: name that one, if runs lie in it")
            elif entry.is_symlink() and not os.path.exists(path) and not entry.name.startswith("."):
                say(f"left out: {path} is a link to nothing that can be reached")
    for path in sorted(linked):
        found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def finished(runs: Iterable[Result]) -> list[Result]:
    """Return the runs that have ended, by seed."""
    return sorted((run for run in runs if run.has_ended), key=lambda run: run.config.seed)


def together(one: Result, other: Result) -> int:
    """Return the latest agent step up to which two runs were the same training, number for number; 0 where they never were.

    Losses and scores of training games are compared as far as both go; they repeat only where everything before them did.
    """
    until: list[int] = []
    for name in one.metrics.keys() | other.metrics.keys():
        if name.startswith("losses/") or name == "charts/episodic_return":
            a, b = (run.metrics.get(name, []) for run in (one, other))
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
            if a and b:
                until.append(min(one.step, other.step) if same == min(len(a), len(b)) else a[same - 1][0] if same else 0)
    return min(until, default=0)


def group(results: Iterable[Result]) -> Groups:
    """Group runs by environment, and in it by what their settings are called; with the agent's name where there are several.

    Where runs of one environment are called the same but differ in their `traits`, or in other `settings`, every run's name
    says those, too: an arm never holds runs of several kinds. An environment is called as the first of its runs spells it.
    """
    results = list(results)
    names: dict[str, str] = {}
    agents: dict[str, set[str]] = {}
    called: dict[tuple[str, ...], list[dict[str, str]]] = {}  # the traits of an environment's runs of one name
    alike: dict[tuple[str, ...], list[dict[str, str]]] = {}  # the settings of those that have the same traits
    for result in results:
        env = names.setdefault(envs.canonical(result.config.env), result.config.env)
        agents.setdefault(env, set()).add(result.agent)
        called.setdefault((env, result.label), []).append(result.traits)
        alike.setdefault((env, result.agent, result.label, *result.traits.values()), []).append(result.settings)
    telling = _telling(called.values())
    telling_too = _telling(alike.values())
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        env = names[envs.canonical(result.config.env)]
        words = [result.agent] if len(agents[env]) > 1 else []
        words += [result.label, *(result.traits[trait] for trait in telling if result.traits[trait] not in result.label)]
        words += [result.settings[name] for name in telling_too if name in result.settings]
        groups.setdefault(env, {}).setdefault(", ".join(words), []).append(result)
    return groups


def _telling(groups: Iterable[list[dict[str, str]]]) -> list[str]:
    """Return the names under which some group's dictionaries differ, in their order."""
    groups = list(groups)
    names = dict.fromkeys(name for group in groups for one in group for name in one)
    return [name for name in names if any(len({one.get(name) for one in group}) > 1 for group in groups)]


def scores_at(runs: Iterable[Result], axis: Axis, x: float) -> list[float]:
    """Return the scores at `x` of `axis` of the runs that have come that far."""
    return [score for run in runs if (score := run.score_at(axis, x)) is not None]


def common(lines: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Give the steps [points] at which all of the lines, (steps, values) each, have a value, and those [lines, points]."""
    steps = functools.reduce(np.intersect1d, (steps for steps, _ in lines))
    return steps, np.array([values[np.isin(its, steps)] for its, values in lines])


def mean_along(runs: Iterable[Result], axis: Axis, steps: Array) -> Array:
    """Return where runs were on `axis` at `steps` [n], on average: [n]."""
    mean: Array = np.mean([run.along(axis, steps) for run in runs], axis=0)
    return mean


def random_return(runs: Iterable[Result]) -> float | None:
    """Return the mean score of the random players of `runs`; None where none has played."""
    found = [value for run in runs for _, value in run.metrics.get("eval/random_return", [])]
    return float(np.mean(found)) if found else None


def differing(results: Iterable[Result]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the settings that all runs share, and for each run those in which they differ, by dotted name."""
    found = [flat(result.config) for result in results]
    names = list(dict.fromkeys(name for settings in found for name in settings))
    same = {n: found[0].get(n) for n in names if all(settings.get(n) == found[0].get(n) for settings in found)}
    return same, [{n: settings.get(n) for n in names if n not in same and n != "run_dir"} for settings in found]
