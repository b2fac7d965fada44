"""The process of one run of a sweep: go on with the run, write its status beside it, and stop when whoever began it is gone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from seer_rl import files, rundir, train
from seer_rl.cli import Ended, Mistake, drive
from seer_rl.console import Display
from seer_rl.files import Folder
from seer_rl.terminal import Screen, undisturbed
from seer_rl.train import Run

STATUS, LOG = "status.json", "log.txt"
EVERY = 1.0  # seconds between two writings of the status
BUSY = 75  # exit code where another process trains in the run directory


@dataclass(frozen=True)
class Status:
    """Where a run is, for whoever shows several."""

    step: int = 0
    steps: int = 1
    speed: float = 0.0  # agent steps per second of the present phase
    score: float | None = None  # of the newest evaluation
    replay_bytes: int = 0
    process_bytes: int = 0
    doing: str = ""


def read_status(run_dir: Path) -> Status:
    """What a run last said of itself; of one that never did, nothing."""
    try:
        status = Status(**json.loads(files.read(run_dir / STATUS)))
        numbers = (status.step, status.steps, status.speed, status.score or 0.0, status.replay_bytes, status.process_bytes)
        if all(isinstance(n, int | float) and abs(n) < 1e18 for n in numbers) and isinstance(status.doing, str):
            return status
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return Status()


class Reporter(Display):
    """Shows a run in the log, and writes its status."""

    last = 0.0

    def __call__(self, run: Run) -> None:
        super().__call__(run)
        if time.monotonic() - self.last > EVERY or run.step == run.config.steps:
            self.last, phase = time.monotonic(), run.phases[-1]
            speed = phase.steps_per_second
            score = sum(run.evaluations[-1][1]) / len(run.evaluations[-1][1]) if run.evaluations else None
            status = Status(run.step, run.config.steps, speed if speed == speed else 0.0, score, phase.replay_bytes,
                            phase.process_bytes, run.doing)  # fmt: skip
            with contextlib.suppress(OSError):  # a full disk is for the run to tell of
                files.write_atomically(run.run_dir / STATUS, json.dumps(asdict(status)).encode(), durable=False)


class Worker(subprocess.Popen[bytes]):
    """The process, from outside."""

    def poll(self) -> int | None:
        code = super().poll()
        if code is not None and self.stdin:
            self.stdin.close()
        return code


def start(run_dir: Path, cores: list[int] | None = None) -> Worker:
    """Begin or go on with the run whose settings are in `run_dir`, in a process of its own; what it says goes to its log.

    It ends with 0 when the run has, with 128 + a signal's number when it was stopped, with `BUSY` where another process trains
    in the directory, and else with 1 or 2. cores: the only ones it may use.
    """
    with Folder(run_dir) as folder, folder.append(LOG) as log:
        return Worker(
            [sys.executable, "-P", "-m", "seer_rl.worker", str(run_dir), ",".join(map(str, cores or []))],
            stdin=subprocess.PIPE,  # it stops when this ends, however we do
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: we tell it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # this very package, wherever it was found
        )


def last_words(run_dir: Path) -> str:
    """What a run said at its end, if it said anything."""
    try:
        lines = files.read(run_dir / LOG).decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("seer: ") if lines else "it said nothing"


def main(run_dir: Path, cores: str) -> int:
    """The worker's own process."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    console = Screen(width=120)

    def stop_with_parent() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        run = train.resume(run_dir, lambda text: console.say(f"note: {text}"))
        threading.Thread(target=stop_with_parent, daemon=True).start()
        drive(run, console, Reporter(console))
    except rundir.Busy:
        return BUSY
    except train.Done:
        return 0
    except Ended as end:
        console.say(f"seer: {end.args[0]}")
        return int(end.args[1])
    except (Mistake, ValueError, ImportError, MemoryError, OSError) as mistake:
        console.say(f"seer: {mistake}")
        return 2
    return 0


if __name__ == "__main__":
    undisturbed()
    code = main(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(code)  # a thread waits for the end of stdin
