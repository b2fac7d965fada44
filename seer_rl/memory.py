"""What a run will take of the machine's memory: found out before it begins, by a rehearsal.

A process of its own does once what the run will do: builds everything, updates on images, freezes, updates on embeddings,
writes a checkpoint, draws the picture; with a replay that is just large enough. The most that it ever held, less that replay,
is what the run needs beside its replay.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from seer_rl import build, checkpoint, plots, train
from seer_rl.config import ReplayConfig, TrainConfig, check, from_toml, to_toml
from seer_rl.console import size
from seer_rl.converge import Watch
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
    limit = config.memory_limit or psutil.virtual_memory().available
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


def replay_bytes(config: TrainConfig) -> int:
    """What the run's replay can take."""
    if isinstance(config.replay.memory, int):
        return config.replay.memory
    with contextlib.closing(build.make_env(config, training=True)) as env:
        return build.make_replay(config, env, build.make_agent(config, env, seed=0), seed=0).memory


def beside_replay(config: TrainConfig) -> int:
    """Bytes that the run takes beside its replay, by a rehearsal. Raises ValueError with its last words if that fails."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / checkpoint.CONFIG
        path.write_text(to_toml(replace(config, replay=replace(config.replay, memory=None), memory_limit=None, run_dir=None)))
        command = [sys.executable, "-P", "-m", "seer_rl.memory", str(path)]
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # this very package, wherever it was found
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | paths)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["the rehearsal failed"])[-1].partition(": ")[2])
    return int(done.stdout)


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
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(found[1]) * 1024 if found else 0
    return int(psutil.Process(pid).memory_info().rss)


def main() -> None:
    """The rehearsal's own process: prints the number of bytes."""
    with tempfile.TemporaryDirectory() as directory:
        print(rehearse(from_toml(Path(sys.argv[1]).read_text()), Path(directory)))


if __name__ == "__main__":
    main()
