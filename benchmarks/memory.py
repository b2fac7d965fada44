"""What a run under --memory-limit takes of the machine, from its first moment to its last, against what it promised.

    python -m benchmarks.memory [AGENT ...]

Every agent is first asked what it needs. Then it is trained under a limit that is 12 % above: rehearsal, compiler, a replay
that fills and wraps, updates, checkpoints, a stop after the first of them, a resume, the freeze, evaluation, the picture.
Meanwhile the proportional set sizes of all its processes are summed, as often as that can be done.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.table import Table

from benchmarks import machine
from seer_rl import child
from seer_rl.commands.console import Screen
from seer_rl.training import checkpoint
from seer_rl.training.rehearsal import family, proportional

MARGIN = 1.12  # of the limit over what the agent said it needs; two rehearsals differ by up to 10 %
LOOK_EVERY = 0.03  # seconds between two looks
SETTINGS = "--steps 700 --seer.freeze-step 500 --checkpoint-every 300 --eval.episodes 1"
ATARI = f"atari/qbert {SETTINGS} --agent.learning-starts 200 --replay.memory 3MB"
CONTROL = f"dmc/cartpole-balance {SETTINGS} --agent.learning-starts 280 --agent.update-every 4 --replay.memory 8MB"
AGENTS = {
    "rainbow": f"{ATARI} --replay.priority-exponent 0.5",
    "dqn": ATARI,
    "sac": CONTROL,
    "curl": CONTROL,
    "drqv2": CONTROL,
}
ASK = "import sys; from seer_rl.experiments import curves; from seer_rl.training import arguments, rehearsal; "
ASK += "rehearsal.settle(arguments.parse(sys.argv[1:]), print, curves.picture)"


@dataclass(frozen=True)
class Watched:
    """What a command said, how it ended, and the most bytes that its processes held."""

    said: str
    code: int
    rehearsing: int  # as long as there was no run
    training: int


def watched(command: list[str], run_dir: Path, stop: bool = False) -> Watched:
    """Call seer, and look at its processes. stop: end it by a signal after the run's first checkpoint."""
    most = [0, 0]
    arguments, variables = child.python("seer_rl", *command)
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=variables) as process:
            while process.poll() is None:
                held = sum(map(proportional, family(process.pid)))
                begun = (run_dir / checkpoint.CONFIG).exists()
                most[begun] = max(most[begun], held)
                if stop and checkpoint.newest(run_dir) is not None:
                    process.send_signal(signal.SIGTERM)
                    stop = False
                time.sleep(LOOK_EVERY)
        log.seek(0)
        return Watched(log.read().decode(errors="replace"), process.returncode, *most)


def promised(said: str) -> float:
    """Bytes that a run takes at most, by its own words."""
    found = re.search(r"memory: at most ([\d.]+) (MB|GB) ", said)
    if not found:
        raise ValueError(f"there is no promise in {said!r}")
    return float(found[1]) * {"MB": 1e6, "GB": 1e9}[found[2]]


def measure(settings: list[str], limit: float, run_dir: Path) -> tuple[float, Watched, Watched]:
    """The promise, and what the run then took up to its first checkpoint, and from there to its end.

    settings: as after `seer train`. Raises ValueError where the run does not end well.
    """
    begun = watched(["train", *settings, "--memory-limit", f"{limit:.0f}", "--run-dir", str(run_dir)], run_dir, stop=True)
    resumed = watched(["resume", str(run_dir)], run_dir)
    if (begun.code, resumed.code) != (128 + signal.SIGTERM, 0):
        raise ValueError(f"the run did not end well: {begun.said}\n{resumed.said}")
    return promised(begun.said), begun, resumed


def main(agents: tyro.conf.Positional[tuple[Literal["rainbow", "dqn", "sac", "curl", "drqv2"], ...]] = ()) -> None:
    """Print a line for each agent; without any, for all."""
    table = Table(title="Megabytes: promised, and at most held", title_justify="left")
    for column in ("agent", "promised", "rehearsing", "training", "resumed", "most / promised"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for agent in agents or AGENTS:
        settings = [*AGENTS[agent].split(), "--agent", agent]
        asked = subprocess.run([sys.executable, "-c", ASK, *settings, "--memory-limit", "8GB"], capture_output=True, check=True)
        with tempfile.TemporaryDirectory() as directory:
            limit = MARGIN * promised(asked.stdout.decode())
            promise, begun, resumed = measure(settings, limit, Path(directory) / "run")
        held = [begun.rehearsing, begun.training, resumed.training]
        table.add_row(agent, *(f"{n / 1e6:.0f}" for n in (promise, *held)), f"{max(held) / promise:.3f}")
    screen = Screen(width=100)
    screen.print(table)
    screen.say(machine.name())


if __name__ == "__main__":
    tyro.cli(main)
