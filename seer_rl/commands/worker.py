"""Runs in the process of one run of a sweep: goes on with it, writes its status, and stops when whoever began it is gone."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display
from seer_rl.commands.drive import drive
from seer_rl.commands.errors import Ended, answered
from seer_rl.commands.streams import undisturbed
from seer_rl.experiments.worker import BUSY, STATUS, Status
from seer_rl.text import refusal
from seer_rl.training import checkpoint, files, loop, rundir
from seer_rl.training.arguments import Mistake
from seer_rl.training.events import Done, Event, Metrics
from seer_rl.training.process import prepare
from seer_rl.training.run import Run

EVERY = 1.0  # seconds between two writings of the status


class Reporter(Display):
    """Shows a run in its log, and writes its status beside it."""

    last = 0.0

    def __call__(self, run: Run, event: Event | Metrics) -> None:
        """Show the event, and write the status now and then."""
        super().__call__(run, event)
        if time.monotonic() - self.last > EVERY or (event is Event.STEPPED and run.ends):
            self.last, phase = time.monotonic(), run.account.phase
            speed = phase.steps_per_second
            score = sum(run.evaluations[-1][1]) / len(run.evaluations[-1][1]) if run.evaluations else None
            status = Status(run.step, run.config.steps, speed if speed == speed else 0.0, score, phase.replay_bytes,
                            phase.process_bytes, self.doing)  # fmt: skip
            with contextlib.suppress(OSError):  # a full disk is for the run to tell of
                files.write_atomically(run.run_dir / STATUS, json.dumps(asdict(status)).encode(), durable=False)


def main(run_dir: Path, cores: str) -> int:
    """Go on with the run in `run_dir`, and return the exit code of this process: see `experiments.worker.start`.

    cores: numbers of the only cores to use, with commas between; empty for all.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    console = Screen(width=120)

    def stop_with_parent() -> None:
        while os.read(0, 4096):  # not by sys.stdin, whose lock would be held where this process ends by an error of ours
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        prepare(checkpoint.load_config(run_dir))
        run = loop.resume(run_dir, lambda text: console.say(f"note: {text}"))
        threading.Thread(target=stop_with_parent, daemon=True).start()
        drive(run, console, Reporter(console))
    except rundir.Busy:
        return BUSY
    except Done:
        return 0
    except Ended as end:
        console.say(f"seer: {end.args[0]}")
        return int(end.args[1])
    except OSError as error:
        console.say(f"seer: {refusal(error)}")
        return 2
    except (Mistake, ValueError, ImportError, MemoryError) as mistake:
        console.say(f"seer: {mistake}")
        return 2
    except Exception as error:
        return answered(error)
    return 0


if __name__ == "__main__":
    undisturbed()
    code = main(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(code)  # a thread waits for the end of stdin
