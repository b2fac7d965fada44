"""Many runs: environments x agents x settings x seeds, several at a time, in one table. Called again, it goes on."""

import math
import os
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import psutil
import tyro
from rich.live import Live
from rich.table import Table

from seer_rl import checkpoint, files, memory, rundir, train, worker
from seer_rl.bounds import MOST
from seer_rl.cli import Ended, interruptible, mistakes, parse, read
from seer_rl.config import TrainConfig, check, name_of, size_or
from seer_rl.console import duration, size
from seer_rl.terminal import Screen, complain, quoted

KEYS = {"envs": list, "agents": list, "seeds": list, "settings": str, "arms": dict}
OWN = ("--seed", "--run-dir", "--label", "--help", "-h")  # what a sweep says itself
MOST_RUNS = 10_000  # of a plan
LINE_EVERY = 60.0  # seconds between lines about all runs where the output is no terminal
BUSY_FOR = 5.0  # seconds until a run is tried again in which another process trains: another sweep's, or an orphan's

HELP = """Train every combination of environments, agents, arms and seeds; called again, go on with what is unfinished.

  seer sweep --envs atari/alien atari/qbert --seeds 1 2 3 --settings="--preset paper" \\
             --arms "SEER=" "baseline=--seer.freeze-step None" --output runs/alien-qbert --jobs 2
  seer sweep plan.toml

where plan.toml says the same, and may have several grids, which take from the top what they do not say themselves:

  seeds = [1, 2, 3]
  arms = {SEER = "", baseline = "--seer.freeze-step None"}   # names, and settings as after `seer train ENV`
  [[grid]]
  envs = ["atari/alien", "atari/qbert"]
  settings = "--preset paper"
  [[grid]]
  envs = ["dmc/cartpole-swingup"]
  agents = ["curl", "drqv2"]
  settings = "--steps 20000"
"""


@dataclass(frozen=True)
class Options:
    """What a sweep is asked for."""

    plan: tyro.conf.Positional[Path | None] = None
    """TOML file with the grid; or give it by --envs and so on."""
    envs: tuple[str, ...] = ()
    """Environments."""
    agents: tuple[str, ...] = ()
    """Agents; by default each environment's own."""
    seeds: tuple[int, ...] = (0,)
    """Seeds."""
    settings: str = ""
    """Settings of every run, as after `seer train ENV`."""
    arms: tuple[str, ...] = ()
    """NAME=SETTINGS of each arm that is compared."""
    output: Path | None = None
    """Directory of the runs. None: runs/NAME of the plan, or runs/sweep."""
    jobs: int | None = None
    """Runs at a time on this machine. None: one per core (or as many as have --threads cores each)."""
    memory: Annotated[int | None, size_or("none")] = None
    """Bytes for all runs at a time together: each gets its share as --memory-limit."""
    ray: str | None = None
    """Address of a Ray cluster to run on (auto: this machine's; local: a new one). All nodes must see --output."""


class Process(Protocol):
    """A run that goes on somewhere."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...


def configs(grid: Mapping[str, Any], output: Path) -> dict[Path, TrainConfig]:
    """Settings of every run of a plan, by run directory. Raises ValueError or Mistake for what is no plan."""
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
                raise ValueError(f"{key} of a plan must be a {KEYS[key].__name__}, not {value!r}")
        for key in ("envs", "seeds"):
            if not one.get(key):
                raise ValueError(f"a plan needs {key}, a list with at least one")
        asked += math.prod(len(one[key]) or 1 for key in ("envs", "agents", "arms", "seeds"))
        if asked > MOST_RUNS:
            raise ValueError(f"the plan has {asked:,} runs or more, a sweep at most {MOST_RUNS:,}: make several plans of it")
        for env in one["envs"]:
            for agent in one["agents"] or [None]:
                for arm, changes in (one["arms"] or {"": ""}).items():
                    if not isinstance(changes, str):
                        raise ValueError(f"the settings of the arm {arm!r} must be a text, not {changes!r}")
                    config = _config(str(env), agent, str(arm), f"{one['settings']} {changes}")
                    for seed in one["seeds"]:
                        if type(seed) is not int or not 0 <= seed <= MOST:
                            raise ValueError(f"a seed must be a whole number from 0 to {MOST:.0e}, not {seed!r}")
                        name = (str(env).replace("/", "-"), name_of(config.agent), str(arm), str(seed))
                        run_dir = output / "__".join(filter(None, name))
                        if run_dir in found:
                            raise ValueError(f"the plan has {run_dir.name} twice")
                        found[run_dir] = replace(config, seed=seed, run_dir=run_dir)
    return found


def _config(env: str, agent: Any, arm: str, settings: str) -> TrainConfig:
    """Settings of an arm's runs, but for seed and directory."""
    if not re.fullmatch(r"[\w.+-]*", arm):
        raise ValueError(f"an arm cannot be called {arm!r}: use letters, digits, dot, plus and dash")
    try:
        words = [env, *shlex.split(settings)]
    except ValueError as error:
        raise ValueError(f"the settings {settings.strip()!r} cannot be read: {error}") from error
    for word in words:
        if (flag := word.partition("=")[0].replace("_", "-")) in OWN and (flag != "--label" or arm):
            raise ValueError(f"{flag} cannot be among the settings of a sweep, which gives every run its own")
    config = parse([*words, *(["--agent", str(agent)] if agent else [])])
    check(config)
    return replace(config, label=arm or config.label)


class State:
    """A run of the sweep, as the table shows it."""

    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        self.run_dir, self.config = run_dir, config
        self.process: Process | None = None
        self.resumed_at: int | None = None  # newest checkpoint when it was last begun
        self.not_before = 0.0  # monotonic time of the next try
        self.is_done = rundir.ended_at(run_dir) == config.steps
        self.failure = ""

    @property
    def waits(self) -> bool:
        return not (self.process or self.is_done or self.failure)

    def words(self) -> str:
        if self.is_done:
            return "done"
        if self.failure:
            return "failed"
        return "running" if self.process else "waiting"


def prepare(runs: Mapping[Path, TrainConfig]) -> list[State]:
    """Write the settings of runs that are not begun yet.

    Raises ValueError where settings cannot work (each is tried once, whatever the seed) or a directory holds others.
    """
    tried = set()
    for run_dir, config in runs.items():
        if (run_dir / checkpoint.CONFIG).exists():
            before = checkpoint.load_config(run_dir)
            if replace(before, run_dir=run_dir) != config:
                differing = [
                    name for name in vars(config) if getattr(before, name) != getattr(config, name) and name != "run_dir"
                ]
                raise ValueError(f"{run_dir} was begun with other settings ({', '.join(differing)}): name another --output")
        elif run_dir.exists():
            raise ValueError(f"{run_dir} exists, and is no run: name another --output, or remove it")
        else:
            rundir.require_place(run_dir)
            if (alike := replace(config, seed=0, run_dir=None, label="")) not in tried:
                tried.add(alike)
                train.Run(replace(alike, run_dir=run_dir)).close()
    for run_dir, config in runs.items():
        run_dir.mkdir(parents=True, exist_ok=True)
        if not (run_dir / checkpoint.CONFIG).exists():
            checkpoint.save_config(run_dir, config)
    states = [State(run_dir, config) for run_dir, config in runs.items()]
    for state in states:
        if state.is_done:  # it may have been killed while it removed its checkpoints
            checkpoint.tidy(state.run_dir, keep=int(state.config.keep_last))
    return states


def settle(runs: dict[Path, TrainConfig], share: int | None, jobs: int, say: Callable[[str], None]) -> dict[Path, TrainConfig]:
    """The runs with `share` bytes, or what their settings say, as memory limit; replays that are "auto" get a size.

    Raises ValueError, with the arithmetic, if a run cannot keep to its limit.
    """
    settled: dict[TrainConfig, TrainConfig] = {}  # seeds of the same settings need the same
    result = {}
    for run_dir, asked in runs.items():
        automatic = asked.replay.memory == "auto"
        limit = share or asked.memory_limit or (psutil.virtual_memory().available // jobs if automatic else None)
        config = replace(asked, memory_limit=limit)
        begun = checkpoint.load_config(run_dir) if (run_dir / checkpoint.CONFIG).exists() else None
        if begun and automatic:  # as it was settled then: what is free differs from day to day
            config = replace(config, memory_limit=begun.memory_limit, replay=replace(config.replay, memory=begun.replay.memory))
        elif not begun and limit is not None:
            alike = replace(config, seed=0, run_dir=None)
            if alike not in settled:
                say(f"how much memory {run_dir.name} takes:")
                settled[alike] = memory.settle(alike, say)
            config = replace(settled[alike], seed=config.seed, run_dir=run_dir)
        result[run_dir] = config
    return result


def run(states: list[State], start: Callable[[State], Process], jobs: int, show: Callable[[list[State]], None]) -> bool:
    """Bring every run to its end, `jobs` at a time. Returns False if Ctrl-C or SIGTERM stopped it (with checkpoints)."""
    with interruptible() as asked:
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
                    state.process = start(state)
                except OSError as error:
                    state.failure = str(error)
            show(states)
            time.sleep(0.5)
    show(states)
    return not asked


def _ended(state: State, code: int, stopping: bool) -> None:
    """What the end of a run's process means for the run."""
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
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Local:
    """Begins runs on this machine, each on cores of its own where there are enough."""

    def __init__(self, jobs: int, threads: int) -> None:
        free, each = cores(), len(cores()) // jobs
        self._slots: list[tuple[list[int] | None, Process | None]] = [
            (free[i * each : (i + 1) * each] if each >= threads else None, None) for i in range(jobs)
        ]

    def __call__(self, state: State) -> Process:
        i = next(i for i, (_, process) in enumerate(self._slots) if process is None or process.poll() is not None)
        own = self._slots[i][0]
        process = worker.start(state.run_dir, own)
        self._slots[i] = own, process
        return process


class Board:
    """One table of all runs: live in a terminal, else a line for every run that ends and one a minute for those that go on."""

    def __init__(self, console: Screen) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._said: dict[Path, str] = {}
        self._last_line = -math.inf

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, states: list[State]) -> None:
        if self._live:
            self._live.update(board(states))
        due = time.monotonic() - self._last_line > LINE_EVERY
        for state in states:
            words = state.words()
            if words != self._said.get(state.run_dir, "waiting") or (due and words == "running" and not self._live):
                facts = "  ".join(value for value in row(state)[1:] if value)
                self.console.say(f"{state.run_dir.name}  {facts}")
                self._last_line = time.monotonic()
            self._said[state.run_dir] = words


def row(state: State) -> list[str]:
    """A run's line of the table."""
    status = worker.read_status(state.run_dir)
    words = state.words()
    going = words == "running" and status.speed > 0
    return [
        state.run_dir.name,
        words,
        f"{status.step:,} of {state.config.steps:,}" if status.step else "",
        f"{status.speed:.0f} steps/s" if going else "",
        "" if status.score is None else f"return {status.score:,.1f}",
        f"replay {size(status.replay_bytes)}" if status.replay_bytes else "",
        f"memory {size(status.process_bytes)}" if going and status.process_bytes else "",
        f"{duration((state.config.steps - status.step) / status.speed)} left" if going else "",
        state.failure or (status.doing if words == "running" else ""),
    ]


def board(states: list[State]) -> Table:
    """All runs, those that go on first where there are more than fit."""
    order = {"running": 0, "failed": 1, "waiting": 2, "done": 3}
    shown = sorted(states, key=lambda state: order[state.words()])[:40]
    counts = ", ".join(f"{sum(s.words() == words for s in states)} {words}" for words in order)
    table = Table(title=f"{len(states)} runs: {counts}", title_justify="left", show_header=False)
    for state in shown:
        table.add_row(*row(state))
    return table


def command(arguments: list[str]) -> None:
    """`seer sweep`."""
    options: Options = read(Options, "sweep", arguments, description=HELP)
    console = Screen()
    say = console.say
    with mistakes():
        grid, output = plan(options)
        runs = configs(grid, output)
        threads = max(config.threads for config in runs.values())
        jobs = max(1, len(cores()) // threads) if options.jobs is None else options.jobs
        if jobs < 1:
            raise ValueError(f"--jobs must be at least 1, not {jobs}")
        if options.memory is not None and options.memory < jobs:
            raise ValueError(f"--memory {options.memory} is no memory for {jobs} runs at a time")
        states = prepare(settle(runs, options.memory and options.memory // jobs, jobs, say))
        begin: Callable[[State], Process] = Local(min(jobs, len(states)), threads)
        if options.ray:
            from seer_rl import cluster

            on_cluster = cluster.Cluster(options.ray, threads)
            begin, jobs = on_cluster, options.jobs or on_cluster.jobs
    again = f"seer sweep {shlex.join(arguments)}"
    done = sum(state.is_done for state in states)
    say(f"{output}: {len(states)} runs, {done} done before, {min(jobs, len(states))} at a time")
    with Board(console) as show:
        finished = run(states, begin, jobs, show)
    if not finished:
        raise Ended(f"stopped, {sum(s.is_done for s in states)} of {len(states)} runs done: go on with: {again}", 130)
    if failed := [state for state in states if state.failure]:
        for state in failed:
            complain(f"{state.run_dir}: {state.failure}")
        raise Ended(f"{len(failed)} of {len(states)} runs failed; to try them again: {again}", 1)
    say(f"all {len(states)} runs done; look at them with: seer report {quoted(output)}")


def plan(options: Options) -> tuple[dict[str, Any], Path]:
    """The grid that the options name, and where its runs go. Raises ValueError."""
    if not options.plan:
        arms = dict(arm.partition("=")[::2] for arm in options.arms)
        grid = {"envs": list(options.envs), "agents": list(options.agents), "seeds": list(options.seeds)}
        return grid | {"settings": options.settings, "arms": arms}, options.output or Path("runs/sweep")
    if options.envs or options.agents or options.settings or options.arms:
        raise ValueError("give a plan or --envs, --agents, --settings and --arms, not both")
    try:
        grid = tomllib.loads(files.read(options.plan).decode())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{options.plan} cannot be read as a plan: {error}") from error
    return grid, options.output or Path("runs") / options.plan.stem
