"""Damage any file of a run, then call any command on the run: nothing may crash, hang, change without a word, or reach outside.

    python -m tests.damage --cases 1000 --seed 0

One case is a run (stopped half-way or ended), one of its files, something that befalls it (cut, flipped, emptied, removed,
replaced by a directory, a link, a pipe, or the same file of another run) and a command. After each:

- the command has returned with 0, or with an exit code and one sentence; there was no traceback and it took no minute;
- it came to what it comes to with the undamaged run, or said that something is wrong (of pictures and pages, which hold no
  numbers to compare, only that they were made, or something was said);
- no file outside the run directory has changed, but the one that it was asked to write.
"""

import contextlib
import dataclasses
import functools
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tyro

from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.commands.main import main as seer
from seer_rl.envs import atari
from seer_rl.training import checkpoint, loop
from seer_rl.training.config import AnalysisConfig, EvalConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Event, Metrics
from seer_rl.training.run import Run, Stopped
from tests.seer import SHORT_GAME

CONFIG = TrainConfig(
    "atari/asterix",
    steps=60,
    seer=SeerConfig(freeze_step="auto", earliest=0, latest=40),
    eval=EvalConfig(every=30, episodes=1),
    analysis=AnalysisConfig(every=20),
    agent=RainbowConfig(hidden=8, atoms=11, learning_starts=8, batch_size=4, n_step=3),
    checkpoint_every=15,
)
STOPS = {"filling": 5, "images": 35, "embeddings": 50, "ended": None}  # the step at which a run was stopped
DAMAGES = ("cut", "flipped", "emptied", "removed", "directory", "link", "outside", "pipe", "another's")
COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": ("resume", "RUN"),
    "eval": ("eval", "RUN", "--episodes", "1"),
    "plot": ("plot", "RUN", "--output", "OUT.png"),
    "report": ("report", "RUN", "--no-film", "--output", "OUT.html"),
    "export": ("export", "RUN", "OUT.safetensors"),
    "similarity": ("analyze", "similarity", "RUN", "--lag", "20", "--output", "OUT.png"),
    "signals": ("analyze", "signals", "RUN", "--output", "OUT.png"),
    "table": ("paper", "table1", "--runs", "RUN", "--output", "OUT.md"),
    "again": ("train", "atari/asterix", "--run-dir", "RUN"),
}
SECONDS = 60  # after which a command counts as hanging


class Wrong(BaseException):
    """A case that did not go as it must, in a sentence. No Exception, which commands may take for one of a file's making."""


def make_runs(directory: Path) -> dict[str, Path]:
    """Train the undamaged runs, and for each another of the same settings but the seed."""
    for seed in (0, 1):
        for name, stop in STOPS.items():

            def show(run: Run, event: Event | Metrics, stop: int | None = stop) -> None:
                run.stopping = stop is not None and run.step >= stop

            run_dir = directory / f"{name}{seed}"
            with contextlib.suppress(Stopped):
                loop.train(Run(dataclasses.replace(CONFIG, seed=seed, run_dir=run_dir)), show)
    return {name: directory / f"{name}0" for name in STOPS}


def harm(run_dir: Path, path: Path, how: str, outside: Path, rng: random.Random) -> None:
    """Let `how` befall the file `path` of a run."""
    data = bytearray(path.read_bytes())
    if how == "flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if how in ("cut", "flipped", "emptied"):
        keep = {"cut": rng.randrange(max(1, len(data))), "emptied": 0}.get(how, len(data))
        path.write_bytes(data[:keep])
        return
    path.unlink()
    if how == "directory":
        path.mkdir()
        (path / "inside").write_text("mine")
    elif how == "link":  # to where its contents are
        (outside / "moved").write_bytes(data)
        path.symlink_to(outside / "moved")
    elif how == "outside":  # to something that is not it
        path.symlink_to(rng.choice([outside / "letter", outside, outside / "nowhere", Path("/dev/zero"), path]))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "another's":
        theirs = run_dir.parent.parent / "runs" / f"{run_dir.name.removesuffix('0')}1"
        same = theirs / path.relative_to(run_dir)
        if not same.exists():  # a blob, named by what is in it
            kind = path.suffix if list(theirs.rglob(f"*{path.suffix}")) else ".toml"  # any other file, where there is none
            same = sorted(theirs.rglob(f"*{kind}"))[0]
        shutil.copyfile(same, path)


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every name below a directory, with what is in the files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(directory.rglob("*"))
    }


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Wrong(f"it did not return in {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def call(command: tuple[str, ...], run_dir: Path, out: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    arguments = [str(run_dir) if word == "RUN" else str(out / word) if word.startswith("OUT.") else word for word in command]
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), alarm():
        try:
            code = seer(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue(), errors.getvalue()


def result(command: str, run_dir: Path, out: Path, said: str) -> dict[str, Any]:
    """What a command came to, as far as it is the same whenever it is called on the same run."""
    if command == "resume":
        return {name: (run_dir / name).read_bytes() for name in (checkpoint.AGENT, "metrics.csv")}
    if command == "eval":
        return {"scores": said.splitlines()[-1]}
    files = sorted(out.iterdir()) if command in ("export", "table", "similarity") else []
    return {path.name: path.read_bytes() for path in files if path.suffix in (".safetensors", ".md", ".csv")}


def case(runs: dict[str, Path], expected: Callable[[str, str], Any], directory: Path, seed: int) -> str:
    """Damage a copy of a run and call a command. Returns what came of it; raises Wrong."""
    rng = random.Random(seed)
    name, how = rng.choice(list(runs)), rng.choice(DAMAGES)
    command = rng.choice(["resume"] * 6 + list(COMMANDS))
    run_dir, outside, out = (directory / part for part in (runs[name].name, "outside", "out"))
    for path in (outside, out):
        path.mkdir()
    (outside / "letter").write_text("mine")
    shutil.copytree(runs[name], run_dir)
    paths = sorted(path for path in run_dir.rglob("*") if path.is_file())
    weights = [3 if path.parent == run_dir else 1 for path in paths]
    path = rng.choices(paths, weights)[0]
    what = f"case {seed}: {path.relative_to(run_dir)} {how}, {name} run, {command}"
    harm(run_dir, path, how, outside, rng)
    before = contents(outside)
    try:
        code, said, errors = call(COMMANDS[command], run_dir, out)
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None
    except BaseException:
        raise Wrong(f"{what}:\n{traceback.format_exc()}") from None
    told = "note:" in said + errors or "left out" in said + errors
    if "Traceback" in said + errors:
        raise Wrong(f"{what}: a traceback\n{said}{errors}")
    if code not in (0, 1, 2) or (code and not any(line.startswith("seer: ") for line in errors.splitlines())):
        raise Wrong(f"{what}: exit code {code} without a sentence\n{said}{errors}")
    if contents(outside) != before:
        raise Wrong(f"{what}: something outside has changed")
    if {path.name for path in directory.iterdir()} != {run_dir.name, "outside", "out"}:
        raise Wrong(f"{what}: there is something new beside the run: {sorted(directory.iterdir())}")
    if code == 0 and not told and result(command, run_dir, out, said) != expected(name, command):
        raise Wrong(f"{what}: it came to something else without a word\n{said}{errors}")
    return "refused" if code else "told" if told else "the same"


def undamaged(source: Path, command: str, directory: Path) -> dict[str, Any] | None:
    """What a command comes to on an undamaged run; None where it refuses."""
    run_dir, out = directory / "copy", directory / "out"
    shutil.copytree(source, run_dir)
    out.mkdir()
    code, said, errors = call(COMMANDS[command], run_dir, out)
    if "Traceback" in errors or code not in (0, 1, 2):  # such as 143: somebody stopped it
        raise Wrong(f"{command} on the undamaged {source.name} run ended with code {code}: {errors}")
    came_to = result(command, run_dir, out, said) if code == 0 else None
    shutil.rmtree(run_dir)
    shutil.rmtree(out)
    return came_to


def check(cases: int, seed: int, say: bool = True) -> tuple[Counter[str], list[str]]:
    """Try so many cases; returns how they went, and what went wrong."""
    counts, wrong = Counter[str](), []
    with tempfile.TemporaryDirectory() as base:
        torch.set_num_threads(1)
        (Path(base) / "runs").mkdir()
        runs = make_runs(Path(base) / "runs")
        expected = functools.cache(lambda name, command: undamaged(runs[name], command, Path(base)))
        begun = time.monotonic()
        for i in range(cases):
            directory = Path(base) / "case"
            directory.mkdir()
            try:
                counts[case(runs, expected, directory, seed * 1_000_000 + i)] += 1
            except Wrong as error:
                counts["wrong"] += 1
                wrong.append(str(error))
                if say:
                    print(error, flush=True)
            shutil.rmtree(directory)
            if say and (i + 1) % 50 == 0:
                print(f"{i + 1} of {cases}, {time.monotonic() - begun:.0f} s: {dict(counts)}", flush=True)
    return counts, wrong


def main(cases: int = 50, seed: int = 0) -> int:
    """Damage runs and call commands on them.

    Args:
        cases: How many.
        seed: Of the cases.
    """
    atari.MAX_FRAMES = SHORT_GAME  # as in the tests: a case is not about how long a game is
    counts, wrong = check(cases, seed)
    print(f"{cases} cases: {dict(counts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
