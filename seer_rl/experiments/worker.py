"""Starts the process of one run of a sweep, and reads what it says of itself in the run directory."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seer_rl import child
from seer_rl.training import files
from seer_rl.training.files import Folder

STATUS, LOG = "status.json", "log.txt"
BUSY = 75  # exit code where another process trains in the run directory


@dataclass(frozen=True)
class Status:
    """Holds how far a run is, for a table of several."""

    step: int = 0
    steps: int = 1
    speed: float = 0.0  # agent steps per second of the present phase
    score: float | None = None  # of the newest evaluation
    replay_bytes: int = 0
    process_bytes: int = 0
    doing: str = ""


def read_status(run_dir: Path) -> Status:
    """Read what a run last said of itself. Returns the defaults where it never did, or where the file is damaged."""
    try:
        status = Status(**json.loads(files.read(run_dir / STATUS)))
        numbers = (status.step, status.steps, status.speed, status.score or 0.0, status.replay_bytes, status.process_bytes)
        if all(isinstance(n, int | float) and abs(n) < 1e18 for n in numbers) and isinstance(status.doing, str):
            return status
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return Status()


class Worker(subprocess.Popen[bytes]):
    """Stands for the process of a run on this machine, as a `Process`."""

    def poll(self) -> int | None:
        """Return the exit code; None while the process goes on."""
        code = super().poll()
        if code is not None and self.stdin:
            self.stdin.close()
        return code


def start(run_dir: Path, cores: list[int] | None = None) -> Worker:
    """Begin or go on with the run whose settings are in `run_dir`, in a process of its own. What it prints goes to its log.

    It ends with 0 when the run has, with 128 + a signal's number when it was stopped, with `BUSY` where another process trains
    in the directory, and else with 1 or 2. cores: the only ones it may use.
    """
    command, variables = child.python("seer_rl.commands.worker", str(run_dir), ",".join(map(str, cores or [])))
    with Folder(run_dir) as folder, folder.append(LOG) as log:
        return Worker(
            command,
            stdin=subprocess.PIPE,  # it stops when this ends, however we do
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: we tell it
            env=variables,
        )


def last_words(run_dir: Path) -> str:
    """Return the last line of a run's log, or words that say that there is none."""
    try:
        lines = files.read(run_dir / LOG).decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("seer: ") if lines else "it said nothing"


class Process(Protocol):
    """Stands for a run that goes on somewhere, and that can be asked to stop."""

    def poll(self) -> int | None:
        """Return its exit code (negative: killed by that signal), or None while it goes on."""

    def terminate(self) -> None:
        """Ask it to stop with a checkpoint."""
