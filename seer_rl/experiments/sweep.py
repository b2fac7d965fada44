"""Trains many runs, several at a time: environments x agents x settings x seeds. Called again, it goes on."""

import math
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seer_rl.bounds import MOST
from seer_rl.experiments import curves, worker
from seer_rl.experiments.worker import Process
from seer_rl.text import size
from seer_rl.training import checkpoint, rehearsal, rundir
from seer_rl.training.arguments import parse
from seer_rl.training.config import MAY_CHANGE, TrainConfig, check, flat, name_of
from seer_rl.training.run import Run

KEYS = {"envs": list, "agents": list, "seeds": list, "settings": str, "arms": dict}
WORDS = {list: "a list", str: "text", dict: "a table"}
OWN = ("--seed", "--run-dir", "--label", "--help", "-h")  # what a sweep says itself
MOST_RUNS = 10_000  # of a plan
BUSY_FOR = 5.0  # seconds until a run is tried again in which another process trains: another sweep's, or an orphan's


def configs(grid: Mapping[str, Any], output: Path, trusting: bool = False) -> dict[Path, TrainConfig]:
    """Return the settings of every run of a plan, by run directory. Raises ValueError or Mistake for what is no plan.

    trusting: the plan's words are the user's own, and not a file's.
    """
    top = {key: value for key, value in grid.items() if key != "grid"}
    grids = grid.get("grid", [{}])
    if not isinstance(grids, list) or not grids or not all(isinstance(one, dict) for one in grids):
        raise ValueError("write every grid of a plan as [[grid]], and at least one")
    found: dict[Path, TrainConfig] = {}
    asked = 0
    for one in ({"agents": [], "seeds": [0], "settings": "", "arms": {}} | top | grid for grid in grids):
        for key, value in one.items():
            if key not in KEYS:
                raise ValueError(f"a plan has no {key!r}: it has {', '.join(KEYS)} and [[grid]]")
            if not isinstance(value, KEYS[key]):
                raise ValueError(f"{key} of a plan must be {WORDS[KEYS[key]]}, not {value!r}")
        for key in ("envs", "seeds"):
            if not one.get(key):
                raise ValueError(f"a plan needs {key}, at least one: --{key} on the command line, or {key} = [...] in its file")
        asked += math.prod(len(one[key]) or 1 for key in ("envs", "agents", "arms", "seeds"))
        if asked > MOST_RUNS:
            raise ValueError(f"the plan has {asked:,} runs or more, a sweep at most {MOST_RUNS:,}: make several plans of it")
        for env in one["envs"]:
            for agent in one["agents"] or [None]:
                for arm, changes in (one["arms"] or {"": ""}).items():
                    if not isinstance(changes, str):
                        raise ValueError(f"the settings of the arm {arm!r} must be text, not {changes!r}")
                    config = _config(str(env), agent, str(arm), f"{one['settings']} {changes}", trusting)
                    for seed in one["seeds"]:
                        if type(seed) is not int or not 0 <= seed <= MOST:
                            raise ValueError(f"a seed must be a whole number from 0 to {MOST:.0e}, not {seed!r}")
                        name = (str(env).replace("/", "-"), name_of(config.agent), str(arm), str(seed))
                        run_dir = output / "__".join(filter(None, name))
                        if run_dir in found:
                            raise ValueError(f"the plan has {run_dir.name} twice")
                        found[run_dir] = replace(config, seed=seed, run_dir=run_dir)
    return found


def _config(env: str, agent: Any, arm: str, settings: str, trusting: bool) -> TrainConfig:
    """Return the settings of an arm's runs, but for seed and directory. Raises ValueError or Mistake."""
    if not re.fullmatch(r"[\w.+-]*", arm):
        raise ValueError(f"an arm cannot be called {arm!r}: use letters, digits, dot, plus and dash")
    try:
        words = [env, *shlex.split(settings)]
    except ValueError as error:
        raise ValueError(f"the settings {settings.strip()!r} cannot be read: {error}") from error
    for word in words:
        if (flag := word.partition("=")[0].replace("_", "-")) in OWN and (flag != "--label" or arm):
            raise ValueError(f"{flag} cannot be among the settings of a sweep, which gives every run its own")
    config = parse([*words, *(["--agent", str(agent)] if agent else [])], trusting)
    check(config)
    return replace(config, label=arm or config.label)


class State:
    """Holds how it stands with a run of the sweep."""

    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        self.run_dir, self.config = run_dir, config
        self.process: Process | None = None
        self.resumed_at: int | None = None  # newest checkpoint when it was last begun
        self.not_before = 0.0  # monotonic time of the next try
        self.is_done = rundir.ended_at(run_dir) == config.steps
        self.failure = ""

    @property
    def waits(self) -> bool:
        """Tell whether the run is still to be begun, or gone on with."""
        return not (self.process or self.is_done or self.failure)

    def words(self) -> str:
        """Say how it stands: done, failed, running or waiting."""
        if self.is_done:
            return "done"
        if self.failure:
            return "failed"
        return "running" if self.process else "waiting"


def prepare(runs: Mapping[Path, TrainConfig]) -> list[State]:
    """Write the settings of runs that have not ended yet, and return how it stands with each run.

    Raises ValueError where settings cannot work (each is tried once, whatever the seed), or a directory holds a run with
    others that a resume could not change.
    """
    tried = set()
    for run_dir, config in runs.items():
        if (run_dir / checkpoint.CONFIG).exists():
            before, now = flat(checkpoint.load_config(run_dir)), flat(config)
            differing = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
            if kept := sorted(set(differing) - MAY_CHANGE):
                raise ValueError(f"{run_dir} was begun with other settings ({', '.join(kept)}): name another --output")
        elif run_dir.exists():
            raise ValueError(f"{run_dir} exists, and is no run: name another --output, or remove it")
        else:
            rundir.require_place(run_dir)
            if (alike := replace(config, seed=0, run_dir=None, label="")) not in tried:
                tried.add(alike)
                Run(replace(alike, run_dir=run_dir)).close()
    for run_dir, config in runs.items():
        run_dir.mkdir(parents=True, exist_ok=True)
        begun = (run_dir / checkpoint.CONFIG).exists()
        if not begun or (rundir.ended_at(run_dir) is None and checkpoint.load_config(run_dir) != config):
            checkpoint.save_config(run_dir, config)
    states = [State(run_dir, config) for run_dir, config in runs.items()]
    for state in states:
        if state.is_done:  # it may have been killed while it removed its checkpoints
            checkpoint.tidy(state.run_dir, keep=int(state.config.keep_last))
    return states


def settle(runs: dict[Path, TrainConfig], share: int | None, jobs: int, say: Callable[[str], None]) -> dict[Path, TrainConfig]:
    """Return the runs with a memory limit of `share` bytes, or of what their settings say; replays that are "auto" get a size.

    jobs: runs at a time, between which free memory is shared. Raises ValueError, with the arithmetic, if a run
    cannot keep to its limit.
    """
    settled: dict[TrainConfig, TrainConfig] = {}  # seeds of the same settings need the same
    result = {}
    for run_dir, asked in runs.items():
        automatic = asked.replay.memory == "auto"
        given = share or asked.memory_limit
        limit = given or (rehearsal.available() // jobs if automatic else None)
        config = replace(asked, memory_limit=limit)
        begun = checkpoint.load_config(run_dir) if (run_dir / checkpoint.CONFIG).exists() else None
        if begun:  # it keeps what was settled then: what is free, and the cores, differ from day to day
            held = begun.memory_limit
            if given is not None and (held is None or held > given) and rundir.ended_at(run_dir) is None:
                what = f"with a limit of {size(held)}" if held else "without a limit"
                raise ValueError(
                    f"{run_dir} was begun {what}, and may now take {size(given)} of memory: allow more, or fewer --jobs, "
                    "or name another --output"
                )
            memory = begun.replay.memory if automatic else config.replay.memory
            config = replace(config, memory_limit=held, replay=replace(config.replay, memory=memory))
        elif limit is not None:
            alike = replace(config, seed=0, run_dir=None)
            if alike not in settled:
                say(f"how much memory {run_dir.name} takes:")
                settled[alike] = rehearsal.settle(alike, say, curves.picture)
            config = replace(settled[alike], seed=config.seed, run_dir=run_dir)
        result[run_dir] = config
    return result


def run(
    states: list[State],
    start: Callable[[Path], Process],
    jobs: int,
    show: Callable[[list[State]], None],
    asked: Sequence[int] = (),
) -> bool:
    """Bring every run to its end, `jobs` at a time. Returns False if it was stopped, with checkpoints.

    start: begins or goes on with the run in a directory. asked: not empty once it shall stop.
    """
    told = False
    while any(state.process or (state.waits and not asked) for state in states):
        for state in states:
            if state.process and (code := state.process.poll()) is not None:
                _ended(state, code, bool(asked))
        if asked and not told:
            told = True
            for state in states:
                if state.process:
                    state.process.terminate()
        free = 0 if asked else jobs - sum(state.process is not None for state in states)
        for state in [s for s in states if s.waits and time.monotonic() >= s.not_before][: max(free, 0)]:
            state.resumed_at = checkpoint.newest(state.run_dir)
            try:
                state.process = start(state.run_dir)
            except OSError as error:
                state.failure = str(error)
        show(states)
        time.sleep(0.5)
    show(states)
    return not asked


def _ended(state: State, code: int, stopping: bool) -> None:
    """Note what the end of a run's process means for the run. stopping: the sweep was asked to stop."""
    state.process = None
    if code == 0:
        state.is_done = True
    elif stopping:
        pass
    elif code == worker.BUSY:  # who trains in it brings it to its end
        state.not_before = time.monotonic() + BUSY_FOR
    elif (code < 0 or code > 128) and checkpoint.newest(state.run_dir) != state.resumed_at:
        pass  # killed or stopped from outside, but further than the last time: it goes on
    else:
        state.failure = f"killed by signal {-code}" if code < 0 else worker.last_words(state.run_dir)


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Local:
    """Begins runs on this machine, each on cores of its own where there are enough."""

    def __init__(self, jobs: int, threads: int) -> None:
        free, each = cores(), len(cores()) // jobs
        self._slots: list[tuple[list[int] | None, Process | None]] = [
            (free[i * each : (i + 1) * each] if each >= threads else None, None) for i in range(jobs)
        ]

    def __call__(self, run_dir: Path) -> Process:
        """Begin or go on with the run in a directory."""
        i = next(i for i, (_, process) in enumerate(self._slots) if process is None or process.poll() is not None)
        own = self._slots[i][0]
        process = worker.start(run_dir, own)
        self._slots[i] = own, process
        return process
