"""`seer sweep`: many runs in one table."""

import math
import shlex
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.live import Live
from rich.table import Table

from seer_rl.commands.console import Screen, complain
from seer_rl.commands.drive import interruptible
from seer_rl.commands.errors import Ended, mistakes
from seer_rl.experiments import worker
from seer_rl.experiments.sweep import Local, State, configs, cores, prepare, run, settle
from seer_rl.experiments.worker import Process
from seer_rl.text import duration, quoted, size
from seer_rl.training import files
from seer_rl.training.arguments import read
from seer_rl.training.config import size_or

LINE_EVERY = 60.0  # seconds between lines about all runs where the output is no terminal


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


def command(arguments: list[str]) -> None:
    """`seer sweep`."""
    options: Options = read(Options, "sweep", arguments, description=HELP)
    console = Screen()
    say = console.say
    with mistakes():
        grid, output = plan(options)
        runs = configs(grid, output, trusting=options.plan is None)
        threads = max(config.threads for config in runs.values())
        jobs = max(1, len(cores()) // threads) if options.jobs is None else options.jobs
        if jobs < 1:
            raise ValueError(f"--jobs must be at least 1, not {jobs}")
        if options.memory is not None and options.memory < jobs:
            raise ValueError(f"--memory {options.memory} is no memory for {jobs} runs at a time")
        states = prepare(settle(runs, options.memory and options.memory // jobs, jobs, say))
        begin: Callable[[Path], Process] = Local(min(jobs, len(states)), threads)
        if options.ray:
            from seer_rl.experiments import cluster

            on_cluster = cluster.Cluster(options.ray, threads)
            begin, jobs = on_cluster, options.jobs or on_cluster.jobs
    again = f"seer sweep {shlex.join(arguments)}"
    done = sum(state.is_done for state in states)
    say(f"{output}: {len(states)} runs, {done} done before, {min(jobs, len(states))} at a time")
    with Board(console) as show, interruptible() as asked:
        finished = run(states, begin, jobs, show, asked)
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
