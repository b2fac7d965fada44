"""What a run will take of the machine's memory: found out before it begins, by a rehearsal.

A process of its own does once what the run will do: builds everything, updates on images, freezes, updates on embeddings,
writes a checkpoint, draws the picture; with a replay that is just large enough. The most that it ever held, less that replay,
is what the run needs beside its replay.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from seer_rl import build, checkpoint, plots, train
from seer_rl.config import ReplayConfig, TrainConfig, check, from_toml, to_toml
from seer_rl.console import size
from seer_rl.converge import Watch
from seer_rl.envs.apart import EnvironmentFailed
from seer_rl.logger import Logger


def settle(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The settings of a run that keeps to its --memory-limit; `say` hears the arithmetic.

    --replay.memory auto becomes the largest replay that fits, into the limit or else into what memory is free. Raises
    ValueError, with the arithmetic, for a run that could take more than its limit.
    """
    automatic = config.replay.memory == "auto"
    if config.memory_limit is None and not automatic:
        return config
    check(config)
    limit = config.memory_limit or available()
    every_step = replay_bytes(replace(config, replay=replace(config.replay, memory=None)))
    rest = beside_replay(config)
    if automatic:
        config = replace(config, replay=replace(config.replay, memory=max(1, min(every_step, limit - rest))))
    replay = replay_bytes(config)
    parts = f"replay {size(replay)}, everything else {size(rest)}"
    if rest + replay > limit:
        hint = f"--replay.memory {limit - rest} fits" if limit > rest else "even without a replay it does not fit"
        raise ValueError(f"the run could take {size(rest + replay)} ({parts}), more than {size(limit)}: {hint}")
    say(f"memory: at most {size(rest + replay)} ({parts}) of {size(limit)}")
    return config


def available(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what the machine has free, and what each of its control groups has left.

    root: where /proc and /sys lie.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in every control group that this process is in and that has a limit, of either version."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text("utf-8").splitlines()
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
        groups = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    except (OSError, ValueError):
        return  # no Linux
    for line in mounts:
        front, _, back = line.partition(" - ")
        kind, options = back.split()[0], back.split()[-1]
        top, place = front.split()[3:5]
        if kind == "cgroup2":
            path, limits, used, cache = groups.get(""), ("memory.max", "memory.high"), "memory.current", "inactive_file"
        elif kind == "cgroup" and "memory" in options.split(","):
            found = [path for names, path in groups.items() if "memory" in names.split(",")]
            path, limits = next(iter(found), None), ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
            used, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        if path is None:
            continue
        mounted = root / place.lstrip("/")
        inside = Path(os.path.normpath("/" + os.path.relpath(path, top))).relative_to("/")  # above the mount nothing is seen
        for group in (mounted / inside, *(mounted / above for above in inside.parents)):
            given = [limit for name in limits if (limit := _number(group / name)) is not None]
            taken = _number(group / used)
            if given and taken is not None:
                yield min(given) - taken + _reclaimable(group, cache)


def _number(path: Path) -> int | None:
    """The number in a file of a control group; None where there is none, or it is "max"."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _reclaimable(group: Path, name: str) -> int:
    """Bytes of files that the system keeps in memory for the group, and gives up when it needs them."""
    try:
        lines = (group / "memory.stat").read_text("utf-8").splitlines()
        return int(dict(line.split() for line in lines)[name])
    except (OSError, ValueError, KeyError):
        return 0


def replay_bytes(config: TrainConfig) -> int:
    """What the run's replay can take."""
    if isinstance(config.replay.memory, int):
        return config.replay.memory
    with contextlib.closing(build.make_env(config, training=True)) as env:
        return build.make_replay(config, env, build.make_agent(config, env, seed=0), seed=0).memory


def beside_replay(config: TrainConfig) -> int:
    """Bytes that the run takes beside its replay, by a rehearsal. Raises ValueError with its last words if that fails."""
    settings = to_toml(replace(config, replay=replace(config.replay, memory=None), memory_limit=None, run_dir=None))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "seer_rl.memory", settings],
        stdin=subprocess.PIPE,  # it stops when this ends, however we do
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # this very package, wherever it was found
    ) as process:
        assert process.stdout
        assert process.stderr
        said = process.stderr.read()  # a few lines: it prints nothing else before its end
        found = process.stdout.read()
    if process.returncode < 0:
        why = " (the system's memory, or that of its control group, was full)" if process.returncode == -signal.SIGKILL else ""
        raise ValueError(
            f"the rehearsal of the run's memory was ended by {signal.Signals(-process.returncode).name}{why}: "
            "ask for less, or train without --memory-limit"
        )
    if process.returncode:
        raise ValueError((said.strip().splitlines() or ["the rehearsal of the run's memory failed"])[-1].removeprefix("seer: "))
    return int(found)


def rehearse(config: TrainConfig, directory: Path) -> int:
    """Do once what the run will do; return the bytes held beside the replay when most were."""
    agent, frozen = config.agent, config.seer.freeze_step is not None
    batch = max(agent.batch_size, config.seer.batch_size or 0)
    small = ReplayConfig(capacity=8 * batch + agent.n_step + 8, priority_exponent=config.replay.priority_exponent)
    seer = replace(config.seer, freeze_step=0 if frozen else None, earliest=None, latest=None)
    run = train.Run(replace(config, steps=10**6, replay=small, seer=seer, run_dir=directory / "run"))
    (directory / "run").mkdir()
    with Logger(directory / "run") as logger:
        run.env = build.start_env(config)
        obs = run.env.reset(seed=0)
        run.eval_env.reset(seed=0)
        run.replay.start(obs)
        for _ in range(batch + agent.n_step + 8):
            run.replay.add(run.eval_env.action_space.sample(), 0.0, False, False, obs)
        sides: tuple[bool, ...] = (False, True) if frozen else (False,)
        if config.seer.freeze_step == "auto":
            Watch(run.agent).measure(run.agent, run.replay, 0)
        for side in sides:
            if side:
                run._freeze(logger)
            run._compile(logger, lambda _: None)
            for _ in range(4):
                run._step(logger)
                run._update()
        run._measure()
        run._log(logger)
        logger.log(0, {"eval/random_return": 0.0, "eval/return": 0.0})
        run._save(logger, lambda _: None)
        checkpoint.save_agent(run.run_dir, run.agent, config)
    checkpoint.save_config(run.run_dir, config)
    with contextlib.suppress(ImportError):
        plots.curves([run.run_dir], run.run_dir / "curves.png")
    held = sum(most_held(process.pid) for process in run.processes())
    run.close()
    return held - run.replay.nbytes


def most_held(pid: int) -> int:
    """Most bytes that a process ever held at once."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))
        return int(found[1]) * 1024 if found else 0
    return int(psutil.Process(pid).memory_info().rss)


def main() -> None:
    """The rehearsal's own process: prints the number of bytes."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what its parent does is what counts
        signal.signal(name, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as directory:

        def stop_with_parent() -> None:
            sys.stdin.buffer.read()
            shutil.rmtree(directory, ignore_errors=True)
            os._exit(1)

        threading.Thread(target=stop_with_parent, daemon=True).start()
        try:
            held = rehearse(from_toml(sys.argv[1]), Path(directory))
        except (ValueError, ImportError, MemoryError, OSError, train.Fault, EnvironmentFailed) as error:
            print(f"seer: {error}", file=sys.stderr)
            held = None
    print(held, flush=True)
    os._exit(held is None)  # a thread waits for the end of stdin


if __name__ == "__main__":
    main()
