"""What a run will take of the machine's memory: found out before it begins, by a rehearsal.

A process of its own does once what the run will do: builds everything, updates on images, freezes, updates on embeddings,
writes a checkpoint, draws the picture; with a replay that is just large enough. The most that it ever held, less that replay,
is what the run needs beside its replay. The rehearsal itself keeps to the limit: it is a fork, so that what is loaded is in
memory once, and it is ended where it takes more.
"""

import contextlib
import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from seer_rl.convergence import ConvergenceMonitor
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.replay.codec import LEAST
from seer_rl.text import size
from seer_rl.training import build, checkpoint
from seer_rl.training.config import ReplayConfig, TrainConfig, agent_called, check, name_of
from seer_rl.training.events import Event, Fault
from seer_rl.training.logger import Logger
from seer_rl.training.process import prepare
from seer_rl.training.run import Run
from seer_rl.training.saver import Saver

LOOK_EVERY = 0.02  # seconds between two looks at what a rehearsal holds
FAILURES = (ValueError, ImportError, MemoryError, OSError, Fault, EnvironmentFailed)  # that say what to do


@dataclass(frozen=True)
class Needs:
    """What a run takes, in bytes."""

    replay: int  # its replay; where the settings say "auto", one that holds every step
    beside: int  # everything else
    most: int  # of what the rehearsal and the process that waited for it may have held together


def nothing(run_dir: Path) -> None:
    """Leave the run directory as it is."""


def settle(config: TrainConfig, say: Callable[[str], None], finish: Callable[[Path], None] = nothing) -> TrainConfig:
    """Return the settings of a run that keeps to its --memory-limit; `say` hears the arithmetic.

    finish: what will be done with the run directory at the end of the run, in its process: drawing its picture takes memory.

    --replay.memory auto becomes the largest replay that fits, into the limit or else into what memory is free. Raises
    ValueError, with the arithmetic, for a run that could take more than its limit.
    """
    automatic = config.replay.memory == "auto"
    if config.memory_limit is None and not automatic:
        return config
    check(config)
    limit = config.memory_limit or available()
    needs = rehearsed(config, limit, finish)
    replay = max(1, min(needs.replay, limit - needs.beside)) if automatic else needs.replay
    if needs.beside + replay > limit:
        parts = f"replay {size(replay)}, everything else {size(needs.beside)}"
        left = limit - needs.beside
        hint = f"--replay.memory {left} fits" if left > 0 else "even without a replay it does not fit"
        raise ValueError(f"the run could take {size(needs.beside + replay)} ({parts}), more than {size(limit)}: {hint}")
    if config.memory_limit is not None and needs.most > limit:
        raise ValueError(f"the run took {size(needs.most)} when it was rehearsed, more than {size(limit)}: allow that much")
    most = _rounded_up(max(needs.beside + replay, needs.most))
    say(f"memory: at most {size(most)} (replay {size(replay)}, everything else {size(most - replay)}) of {size(limit)}")
    return replace(config, replay=replace(config.replay, memory=replay)) if automatic else config


def _rounded_up(n: int) -> int:
    """Round up to three digits, bytes: a promise is not rounded down where it is shown."""
    last: int = 10 ** max(0, len(str(n)) - 3)
    return -(-n // last) * last


def available(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take: what the machine has free, and what its control groups have left.

    root: where /proc and /sys lie.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Give the bytes left in every control group, of either version, that this process is in and that has a limit."""
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
    """Return the number in a file of a control group; None where there is none, or it is "max"."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _reclaimable(group: Path, name: str) -> int:
    """Return the bytes of files that the system keeps in memory for the group, and gives up when it needs them."""
    try:
        lines = (group / "memory.stat").read_text("utf-8").splitlines()
        return int(dict(line.split() for line in lines)[name])
    except (OSError, ValueError, KeyError):
        return 0


# ---- the rehearsal ---------------------------------------------------------------------------------------------------


def rehearsed(config: TrainConfig, limit: int, finish: Callable[[Path], None] = nothing) -> Needs:
    """Find out what a run with these settings takes. The rehearsal takes at most `limit` bytes, together with this process.

    Raises ValueError, in a sentence, where it would take more, or fails. However this process ends, the rehearsal ends with
    it, and what it has written is removed. To be called before this process computes anything: PyTorch's threads do not
    survive a fork.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="seer-rl-", ignore_cleanup_errors=True) as directory, ours:
        process = context.Process(target=_perform, args=(config, Path(directory), finish, theirs, ours))  # type: ignore[attr-defined]
        gc.freeze()  # or the other's garbage collector writes to what is shared, and so copies it
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
                process.start()
        finally:
            gc.unfreeze()
        theirs.close()
        try:
            most, scale = 0, Scale()
            while not wait([process.sentinel], LOOK_EVERY):
                held = scale.held([os.getpid(), *family(process.pid)], exactly_above=limit)
                most = max(most, held)
                if held > limit:
                    compiles = config.compile and agent_called(name_of(config.agent)).compiled
                    less = "--no-compile takes less" if compiles else "ask for smaller networks or batches"
                    raise ValueError(
                        f"the run takes more than {size(limit)}, however small its replay (its rehearsal was ended at "
                        f"{size(held)}): {less}, or allow more"
                    )
            process.join()
            answer = _answer(ours)
        finally:
            process.kill()
            process.join()
            with contextlib.suppress(ProcessLookupError):  # its environment's process, and a compiler's
                os.killpg(process.pid, signal.SIGKILL)
    if isinstance(answer, Needs):
        return replace(answer, most=max(most, answer.most))
    if answer is None:
        code = process.exitcode
        why = f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        full = ", as the system does where its memory, or that of a control group, is full" if code == -signal.SIGKILL else ""
        answer = f"was ended {why}{full}, when it held {size(most)}: ask for less, or train without --memory-limit"
        raise ValueError(f"the rehearsal of the run's memory {answer}")
    raise ValueError(answer)


def _answer(pipe: Connection) -> Needs | str | None:
    """Return what the rehearsal sent; None if it could not."""
    try:
        answer: Needs | str = pipe.recv()
        return answer
    except (EOFError, OSError):
        return None


def _perform(
    config: TrainConfig, directory: Path, finish: Callable[[Path], None], answers: Connection, parents: Connection
) -> None:
    """Be the rehearsal's process: send what is needed, or a sentence that says why nobody knows."""
    parents.close()
    os.setsid()  # signals of the terminal are for the parent; and what we start can be ended with us
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (1, 2):
        os.dup2(nowhere, handle)
    tempfile.tempdir = os.environ["TMPDIR"] = str(directory)  # for everybody who writes files beside ours

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            answers.recv()  # nothing ever comes, but the end
        shutil.rmtree(directory, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    answer: Needs | str
    try:
        answer = rehearse(config, directory, finish)
    except FAILURES as error:
        answer = str(error)
    except Exception as error:  # of many kinds, by PyTorch
        first = str(error).strip().partition("\n")[0]
        answer = f"the rehearsal of the run's memory failed: {type(error).__name__}: {first}"
    answers.send(answer)


def rehearse(config: TrainConfig, directory: Path, finish: Callable[[Path], None] = nothing) -> Needs:
    """Do once what the run will do; return what was held beside the replay when most was."""
    prepare(config)
    given = config.replay.memory
    with contextlib.closing(build.make_env(config, training=True)) as env:
        built = build.make_agent(config, env, seed=0)
        least = ReplayConfig(priority_exponent=config.replay.priority_exponent)
        every = replace(config, replay=least if given == "auto" else config.replay)
        whole = given if isinstance(given, int) else build.make_replay(every, env, built, seed=0).memory
        short = replace(config, replay=least, steps=max(_batch(config), LEAST) + 8)
        small = replace(least, memory=build.make_replay(short, env, built, seed=0).memory)
        del built
    stored = -(-max(_batch(config), LEAST) // config.environment.num_envs) + config.agent.n_step + 8
    with dry_run(replace(config, replay=small), directory / "run", stored) as run:
        with Logger(run.run_dir) as logger:
            if config.seer.freeze_step == "auto":
                ConvergenceMonitor(run.agent).measure(run.agent, run.replay, 0)
            for frozen in (False, True) if config.seer.freeze_step is not None else (False,):
                if frozen:
                    run.freeze()
                if run.compiles:
                    run.compile()
                for _ in range(4):
                    run.advance()
                    run.update()
            run.measure()
            logger.log(0, {**run.metrics(), "eval/random_return": 0.0, "eval/return": 0.0})
            logger.log(0, run.account.clock(), clock=True)
            Saver(run, logger)(run, Event.SAVING)
            checkpoint.save_agent(run.run_dir, run.agent, config)
        checkpoint.save_config(run.run_dir, config)
        with contextlib.suppress(ImportError):
            finish(run.run_dir)
        held = sum(most_held(pid) for pid in run.pids())
    # Together with the parent, whose looks may have missed the moment at which most was held.
    return Needs(whole, held - run.replay.nbytes, held + private(os.getppid()))


@contextlib.contextmanager
def dry_run(config: TrainConfig, run_dir: Path, stored: int) -> Iterator[Run]:
    """Give a run that is ready to learn, to find out what a step or a freeze of it takes; nothing happens by itself.

    run_dir: a directory that will be made. stored: random steps of each environment in the replay. The run has the networks,
    the environments and the replay that `config` says, and is past what happens at the start of a run.
    """
    seer = replace(config.seer, freeze_step=None if config.seer.freeze_step is None else LEAST, earliest=None, latest=None)
    run = Run(
        replace(config, steps=10**9 * config.environment.num_envs, seer=seer, memory_limit=None, run_dir=run_dir)
    )  # no setting lies beyond
    run_dir.mkdir()
    with contextlib.closing(run):
        run.begin()
        run.eval_env.reset(seed=0)
        held, count = run.replay.observation, run.num_envs
        obs = {key: x.numpy() for key, x in held.items()} if isinstance(held, dict) else held.numpy()
        for _ in range(stored):
            actions = [run.eval_env.action_space.sample() for _ in range(count)]
            run.replay.add(actions, [0.0] * count, [False] * count, [False] * count, obs)
        run.step = 10**6 * count
        yield run


def _batch(config: TrainConfig) -> int:
    return max(config.agent.batch_size, config.seer.batch_size or 0)


# ---- what processes hold ---------------------------------------------------------------------------------------------


def most_held(pid: int) -> int:
    """Return the most bytes that a process ever held at once."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
        return int(found[1]) * 1024 if found else 0
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)


class Scale:
    """Weighs processes again and again. It asks what they share, which is slow, only when they have changed much."""

    AGAIN = 8 << 20  # bytes of a change

    def __init__(self) -> None:
        self._resident = self._shared = 0  # when it was last asked for

    def held(self, pids: Iterable[int], exactly_above: int) -> int:
        """Return the bytes that the processes hold together; exactly, where that is more than `exactly_above`."""
        pids = list(pids)
        resident = sum(map(_resident, pids))
        if abs(resident - self._resident) > self.AGAIN or resident - self._shared > exactly_above:
            self._resident, self._shared = resident, resident - sum(map(proportional, pids))
        return resident - self._shared


def proportional(pid: int) -> int:
    """Return the bytes that a process holds, with its part of what several hold together; 0 once it is gone."""
    return _mapped(pid, "Pss")


def private(pid: int) -> int:
    """Return the bytes that a process holds and no other; 0 once it is gone."""
    return _mapped(pid, "Private_Clean", "Private_Dirty")


def _mapped(pid: int, *kinds: str) -> int:
    """Return the bytes of these kinds that a process holds; where the system does not tell them apart, of all kinds."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
        return sum(int(n) * 1024 for kind in kinds for n in re.findall(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE))
    except OSError:
        return _resident(pid)


def _resident(pid: int) -> int:
    """Return the bytes that a process holds, with all of what several hold together; 0 once it is gone."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def family(pid: int) -> Iterator[int]:
    """Give the numbers of a process, of those that it has begun, of those that they have begun, and so on."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # gone in between
            for child in (thread / "children").read_text("utf-8").split():
                yield from family(int(child))
