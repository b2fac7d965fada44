"""`seer sweep`: many runs in one table."""

import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from seer_rl.bounds import Within
from seer_rl.training.sizes import size_or


def sweep(
    plan: Annotated[Path | None, tyro.conf.arg(metavar="[PLAN.toml]")] = None,
    /,
    envs: tuple[str, ...] = (),
    agents: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    settings: str = "",
    arms: tuple[str, ...] = (),
    output: Path | None = None,
    jobs: Annotated[int | None, Within(1)] = None,
    memory: Annotated[int | None, size_or("none")] = None,
    ray: str | None = None,
) -> None:
    """Train every combination of environments, agents, arms and seeds; called again, go on with what is unfinished.

      seer sweep --envs atari/alien atari/qbert --seeds 1 2 3 --settings="--preset paper" \\
                 --arms "SEER=" "baseline=--seer.freeze-step None" --output runs/alien-qbert --jobs 2
      seer sweep plan.toml

    where plan.toml says the same. It may have several grids, which take from the top what they do not say themselves:

      seeds = [1, 2, 3]
      arms = {SEER = "", baseline = "--seer.freeze-step None"}   # names, and settings as after `seer train ENV`
      [[grid]]
      envs = ["atari/alien", "atari/qbert"]
      settings = "--preset paper"
      [[grid]]
      envs = ["dmc/cartpole-swingup"]
      agents = ["curl", "drqv2"]
      settings = "--steps 20000"

    Args:
        plan: TOML file with the plan. None: --envs and the options after it are the plan.
        envs: Environments.
        agents: Agents. Without any: each environment's own.
        seeds: Seeds.
        settings: Settings of every run, as after `seer train ENV`.
        arms: What is compared, each arm as NAME=SETTINGS.
        output: Directory for the runs. None: runs/NAME of the plan, or runs/sweep.
        jobs: Runs at a time on this machine. None: as many as the cores allow, with --threads cores each.
        memory: Bytes for all runs at a time together. Each gets an equal share as its --memory-limit.
        ray: Address of a Ray cluster to run on, all of whose nodes see --output. auto: this machine's; local: a new one.
    """
    from seer_rl import outside
    from seer_rl.commands.board import Board
    from seer_rl.commands.console import Screen
    from seer_rl.commands.drive import interruptible
    from seer_rl.commands.errors import Ended, mistakes
    from seer_rl.commands.streams import complain
    from seer_rl.experiments.sweep import Local, configs, cores, prepare, run, settle
    from seer_rl.experiments.worker import Process
    from seer_rl.text import quoted

    console = Screen()
    say = console.say
    with mistakes():
        if plan and (envs or agents or seeds != (0,) or settings or arms):
            raise ValueError("give a plan or --envs, --agents, --seeds, --settings and --arms, not both")
        grid = read_plan(plan) if plan else planned(envs, agents, seeds, settings, arms)
        output = output or Path("runs") / (plan.stem if plan else "sweep")
        runs = configs(grid, output, trusting=plan is None)
        threads = max(config.threads for config in runs.values())
        here = min(jobs or max(1, len(cores()) // threads), len(runs))
        begin: Callable[[Path], Process] = Local(here, threads)
        at_a_time = here
        if ray:
            from seer_rl.experiments import cluster

            begin = on_cluster = cluster.Cluster(ray, threads)
            at_a_time = min(jobs or on_cluster.jobs, len(runs))
        if memory is not None and memory < at_a_time:
            raise ValueError(f"--memory {memory} is no memory for {at_a_time} runs at a time")
        states = prepare(settle(runs, memory and memory // at_a_time, here, say))
    again = outside.again(shlex.join(["seer", *sys.argv[1:]]))
    done = sum(state.is_done for state in states)
    say(f"{output}: {len(states)} runs, {done} done before, {at_a_time} at a time")
    with Board(console) as show, interruptible() as asked:
        finished = run(states, begin, at_a_time, show, asked)
    if not finished:
        raise Ended(
            f"stopped, {sum(s.is_done for s in states)} of {len(states)} runs done: go on with: {again}", 128 + asked[0]
        )
    if failed := [state for state in states if state.failure]:
        for state in failed:
            complain(f"{state.run_dir}: {state.failure}")
        raise Ended(f"{len(failed)} of {len(states)} runs failed; to try them again: {again}", 1)
    say(f"all {len(states)} runs done; look at them with: seer report {quoted(output)}")


def planned(
    envs: tuple[str, ...], agents: tuple[str, ...], seeds: tuple[int, ...], settings: str, arms: tuple[str, ...]
) -> dict[str, Any]:
    """Return the plan that the options of `seer sweep` name. Raises ValueError for arms without settings, or two of a name."""
    names = [arm.partition("=")[0] for arm in arms]
    for arm, name in zip(arms, names, strict=True):
        if "=" not in arm:
            raise ValueError(f"--arms {arm} says no settings: write {arm}=SETTINGS, or {arm}= for none")
        if names.count(name) > 1:
            raise ValueError(f"--arms has {name} twice: give each arm a name of its own")
    grid = {"envs": list(envs), "agents": list(agents), "seeds": list(seeds), "settings": settings}
    return grid | {"arms": dict(arm.partition("=")[::2] for arm in arms)}


def read_plan(path: Path) -> dict[str, Any]:
    """Return the plan in a TOML file. Raises ValueError where it cannot be read."""
    from seer_rl.training import files

    try:
        return tomllib.loads(files.read(path).decode())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a plan: {error}") from error
