"""Kill runs at random instants, resume them, and compare their end with that of a run that was left alone.

    python -m tests.torture --minutes 10

A run here is short, but passes everything: filling, images, checkpoints, evaluations, the freeze, embeddings. Each attempt is
a process of its own that is killed (SIGKILL) after a random time, or while it freezes, evaluates, writes a checkpoint or
removes the last ones; or the environment's process is killed, and then its own. Every resume must succeed, and every run must
end exactly as the undisturbed one: the same weights, the same metrics, to the last bit, and no checkpoint left.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from seer_rl.agents.curl import CURLConfig
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.envs.dmc import ControlConfig
from seer_rl.training import checkpoint, loop
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Done, Event, Metrics
from seer_rl.training.run import Run

RUNS = {
    "rainbow": TrainConfig(
        "atari/qbert",
        steps=500,
        seer=SeerConfig(freeze_step=300),
        replay=ReplayConfig(memory=2_000_000, priority_exponent=0.5),
        eval=EvalConfig(every=200, episodes=1),
        agent=RainbowConfig(learning_starts=60, batch_size=8),
        checkpoint_every=30,
    ),
    "curl": TrainConfig(
        "dmc/reacher-easy",
        steps=300,
        environment=ControlConfig(size=24, fast_render=True),
        seer=SeerConfig(freeze_step=180, copies=2),
        replay=ReplayConfig(memory=250_000),
        eval=EvalConfig(every=150, episodes=1),
        agent=CURLConfig(crop=20, hidden=32, learning_starts=40, batch_size=12),
        checkpoint_every=30,
    ),
}


# What a run is killed at: at any instant, while it does something, or, with its environment, between two steps.
AIMS = (None, None, None, Event.SAVING, Event.SAVING, Event.FREEZING, Event.EVALUATING, Event.TIDYING, Event.STEPPED)


def attempt(config: TrainConfig, run_dir: Path, log: Path, aim: Event | None = None, seed: int = 0) -> int:
    """Begin or resume the run in a new process; gives its id. It kills itself while it does `aim`, sooner or later."""
    if pid := os.fork():
        return pid
    code, rng = 1, random.Random(seed)

    def show(run: Run, event: Event | Metrics) -> None:
        if aim is event is Event.STEPPED and run.env and rng.random() < 0.005:
            os.kill(run.env.pids[0], signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif aim is event and rng.random() < (0.3 if aim is Event.SAVING else 0.9):
            threading.Timer(rng.uniform(0, 0.03), os.kill, (os.getpid(), signal.SIGKILL)).start()

    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            begun = (run_dir / checkpoint.CONFIG).exists()
            again = begun or run_dir.exists()  # killed between the directory and its first file: there is no run in it yet
            if begun:
                run = loop.resume(run_dir, lambda text: print(text))
            else:
                run = Run(replace(config, run_dir=run_dir), again=again)
            loop.train(run, show)
            code = 0
        except ValueError as error:
            code = 0 if "has ended" in str(error) else 1  # killed after the last step, before the process ended
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            file.flush()
            os._exit(code)


def ended(run_dir: Path) -> tuple[bytes, bytes]:
    """What a run came to."""
    return (run_dir / checkpoint.AGENT).read_bytes(), (run_dir / "metrics.csv").read_bytes()


def torture(minutes: float, seed: int, say: bool = True) -> Counter[str]:
    """Kill and resume for so long. Raises AssertionError at the first run that does not end as it should."""
    torch.set_num_threads(1)
    rng, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as directory:
        expected, durations, log = {}, {}, Path(directory) / "log"
        for name, config in RUNS.items():
            begun = time.monotonic()
            _, status = os.waitpid(attempt(config, Path(directory) / name, log), 0)
            assert status == 0, log.read_text("utf-8")
            durations[name], expected[name] = time.monotonic() - begun, ended(Path(directory) / name)
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            name = rng.choice(list(RUNS))
            run_dir = Path(directory) / f"{name}{counts['runs']}"
            while True:
                late = time.monotonic() > until  # the last run may end
                aim = None if late else rng.choice(AIMS)
                pid = attempt(RUNS[name], run_dir, log, aim, rng.randrange(10**9))
                if not aim and not late:
                    time.sleep(durations[name] * rng.random() ** 2)  # mostly early, but not always before a checkpoint
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if os.WIFSIGNALED(status):
                    counts[f"kills {aim.name.lower() if aim else 'anywhere'}"] += 1
                    continue
                assert status == 0, f"a resume failed:\n{log.read_text('utf-8')}"
                break
            assert ended(run_dir) == expected[name], f"{name} ended otherwise after being killed"
            with contextlib.suppress(Done):
                loop.resume(run_dir, print)  # tidies up what a kill in the removal left
            assert not (run_dir / checkpoint.CHECKPOINTS).exists(), f"{name} left checkpoints behind"
            counts["runs"] += 1
            if say:
                print(f"{dict(counts)}", flush=True)
    return counts


def main(minutes: float = 1.0, seed: int = 0) -> None:
    """Kill runs at random instants and compare their end with that of a run left alone.

    Args:
        minutes: How long.
        seed: Of the instants.
    """
    counts = torture(minutes, seed)
    kills = sum(n for what, n in counts.items() if what.startswith("kills"))
    print(f"{kills} kills in {counts['runs']} runs: every resume succeeded, every run ended exactly as left alone")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
