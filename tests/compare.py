"""Train with fixed seeds by two commits, and compare what they write: metrics byte by byte, weights number by number.

    python -m tests.compare OLD [NEW]

NEW is the working tree where it is left out. Every setting below is trained, then resumed from its last checkpoint and trained
longer. What a commit gave is kept in --keep, so that the older one is trained once. Weights whose names have changed are
compared under the new names, and the map is printed.
"""

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import tyro
from safetensors import torch

from seer_rl.training.weights import renamed

HERE = Path(__file__).parents[1]
ATARI = "--agent.learning-starts 60 --agent.batch-size 8 --steps 260 --seer.freeze-step 200"
SMALL = "--env.size 24 --env.fast-render --agent.hidden 16 --agent.learning-starts 40 --agent.batch-size 12"
CONTROL = f"dmc/reacher-easy {SMALL} --steps 150 --seer.freeze-step 100"
SETTINGS = {  # name: settings of the first part, and steps after the second
    "rainbow": (f"atari/qbert {ATARI}", 300),
    "rainbow, frozen at the end": (f"atari/alien {ATARI} --seer.freeze-step 259", 300),
    "rainbow, prioritized, uint4": (f"atari/qbert {ATARI} --replay.memory 2MB --replay.priority-exponent 0.5"
                                    " --seer.dtype uint4", 300),
    "rainbow, one layer, random steps": (f"atari/qbert {ATARI} --seer.layers 1 --agent.random-steps 80", 300),
    "rainbow, automatic": ("atari/qbert --agent.batch-size 8 --agent.learning-starts 60 --steps 2600 --seer.freeze auto"
                           " --seer.latest 2500 --agent.update-every 4", 2650),
    "rainbow, never": (f"atari/krull {ATARI} --seer.freeze-step None", 300),
    "dqn": (f"atari/qbert {ATARI} --agent dqn --agent.target-every 20", 300),
    "sac": (f"{CONTROL} --agent sac", 200),
    "sac, two layers": (f"{CONTROL} --agent sac --seer.layers 2", 200),
    "rad": (f"{CONTROL} --agent rad --agent.crop 20 --seer.copies 2", 200),
    "curl": (f"{CONTROL} --agent curl --agent.crop 20 --seer.copies 2", 200),
    "curl, prioritized, bfloat16": (f"{CONTROL} --agent curl --agent.crop 20 --seer.copies 2 --precision bfloat16"
                                    " --replay.priority-exponent 0.5 --seer.dtype float16 --replay.memory 300kB", 200),
    "drqv2": (f"{CONTROL} --agent drqv2 --agent.shift 2", 200),
    "drqv2, one layer": (f"{CONTROL} --agent drqv2 --agent.shift 2 --seer.layers 1", 200),
}  # fmt: skip
ALWAYS = "--no-compile --threads 1 --eval.episodes 1 --eval.every 100 --keep-last"
KEEP = HERE / ".compare"  # not in a directory that others can write to: its code is run
SEER = "import sys; from seer_rl.__main__ import main; sys.exit(main())"


def trained(source: Path, name: str, runs: Path) -> Path:
    """Train the setting called `name` by the code in `source`, and return its run directory."""
    settings, longer = SETTINGS[name]
    made_by = hashlib.sha256(f"{settings} {longer} {ALWAYS} {version('torch')} {version('numpy')}".encode()).hexdigest()[:8]
    run_dir = runs / f"{name.replace(', ', '-').replace(' ', '-')}-{made_by}"
    if run_dir.exists():
        return run_dir  # kept from before
    part = run_dir.with_name(f"{run_dir.name}.part")  # what was interrupted is not taken for whole
    shutil.rmtree(part, ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
    for command in (["train", *shlex.split(f"{settings} {ALWAYS}"), "--run-dir", str(part)],
                    ["resume", str(part), "--steps", str(longer)]):  # fmt: skip
        call = [sys.executable, "-c", SEER, *command]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}, by {source}: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    return part.rename(run_dir)


def metrics(run_dir: Path, but: tuple[str, ...]) -> list[str]:
    """Lines of a run's metrics, without those that are named in `but`."""
    return [line for line in (run_dir / "metrics.csv").read_text().splitlines() if line.split(",")[1] not in but]


def differences(old: Path, new: Path, but: tuple[str, ...]) -> list[str]:
    """What differs between two runs, in words. Weights are compared by the names that they have today."""
    a, b = metrics(old, but), metrics(new, but)
    found = [f"metrics: {x} | {y}" for x, y in zip(a, b, strict=False) if x != y][:3]
    found += [f"metrics: {len(a)} lines | {len(b)} lines"] * (len(a) != len(b))
    weights, others = (torch.load_file(run / "agent.safetensors") for run in (old, new))
    if weights.keys() != others.keys():
        for name in sorted(weights):
            print(f"  {name} -> {next(iter(renamed({name: weights[name]})))}")
        weights = renamed(weights)
    found += [f"weights: {name} is only on one side" for name in sorted(weights.keys() ^ others.keys())]
    common = sorted(weights.keys() & others.keys())
    return found + [f"weights: {name}" for name in common if weights[name].numpy().tobytes() != others[name].numpy().tobytes()]


def working_tree(directory: Path) -> tuple[Path, Path]:
    """Copy the package as it is, since it may be edited meanwhile; give the copy, and where its runs go."""
    shutil.copytree(HERE / "seer_rl", directory / "source" / "seer_rl")
    return directory / "source", directory / "runs"


def kept(commit: str, keep: Path) -> tuple[Path, Path]:
    """Unpack a commit, unless that was done before; give its directory, and where its runs are."""
    found = subprocess.run(["git", "rev-parse", commit], cwd=HERE, check=True, capture_output=True, text=True)
    source = keep / found.stdout.strip() / "source"
    if not source.exists():
        packed = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, capture_output=True).stdout
        part = source.with_name("part")
        shutil.rmtree(part, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(part, filter="data")
        part.rename(source)
    return source, source.with_name("runs")


def main(
    old: tyro.conf.Positional[str],
    new: tyro.conf.Positional[str] = "",
    but: tuple[str, ...] = (),
    only: str = "",
    keep: Path = KEEP,
) -> None:
    """Compare two commits. but: metrics that may differ. only: settings whose name begins so. keep: what commits gave."""
    differing, chosen = 0, [name for name in SETTINGS if name.startswith(only)]
    with tempfile.TemporaryDirectory(prefix="seer-compare-") as directory:
        sides = [kept(commit, keep) if commit else working_tree(Path(directory)) for commit in (old, new)]
        for name in chosen:
            a, b = (trained(source, name, runs) for source, runs in sides)
            said = differences(a, b, but)
            differing += bool(said)
            print(f"{name}: {'; '.join(said) or 'the same'}", flush=True)
    sys.exit(f"{differing} of {len(chosen)} differ" if differing else 0)


if __name__ == "__main__":
    tyro.cli(main)
