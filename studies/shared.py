"""Give the runs of a study the beginning that they share, so that it is computed once. Beside the sweep:

    seer sweep studies/beyond.toml --jobs 2 &
    python -m studies.shared studies/beyond.toml studies/spend.toml

Runs of one environment and seed are the same, bit for bit, until one of them freezes its encoder. The plans' arm `never` says
when: its recorded signals are what an automatic freeze reads. Its checkpoint of that moment becomes the first one of every
other arm, which goes on from there; time and operations so far go with it. An arm that was begun already is left alone.
"""

import os
import sys
import time
from pathlib import Path

import tyro

from seer_rl.commands.sweep import read_plan
from seer_rl.convergence import converged
from seer_rl.experiments.inspect import recorded
from seer_rl.experiments.sweep import configs
from seer_rl.training import checkpoint, rundir
from seer_rl.training.arguments import Mistake
from seer_rl.training.config import TrainConfig
from seer_rl.training.logger import METRICS

TRUNK = "never"  # the arm that the others branch off


def leaves(trunk: Path, config: TrainConfig) -> int | None:
    """The step at which a run with these settings and the one in `trunk` part; None if that is not known yet."""
    planned = config.seer.freeze_step
    if planned != "auto":
        return config.steps if planned is None else planned
    try:
        history = recorded(trunk)
    except ValueError:
        return None  # nothing measured yet
    earliest, latest = config.seer.between(config.steps)
    return next((one.step for i, one in enumerate(history) if converged(history[: i + 1], earliest, latest)), None)


def branch(trunk: Path, run_dir: Path, config: TrainConfig, step: int) -> bool:
    """Begin the run of `config` with the checkpoint of `step` in `trunk`. Returns whether there is one."""
    source, target = trunk / checkpoint.CHECKPOINTS, run_dir / checkpoint.CHECKPOINTS
    manifest = source / f"{step:012d}.json"
    try:
        blobs = checkpoint.listed(manifest)
        if blobs is None:
            return False
        target.mkdir(parents=True, exist_ok=True)
        checkpoint.save_config(run_dir, config)  # first: whatever stops this, the sweep finds a run that has not begun
        for name in [*blobs, manifest.name]:  # the manifest last: with it the checkpoint is there
            (target / name).unlink(missing_ok=True)
            os.link(source / name, target / name)
    except FileNotFoundError:  # the trunk has forgotten it in the meantime
        return False
    return True


def begun(run_dir: Path) -> bool:
    """Tell whether a run has begun: one that has ended has no checkpoint any more, and one that branched off no metrics yet."""
    return (run_dir / METRICS).exists() or checkpoint.newest(run_dir) is not None


def main(plans: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("runs")) -> None:
    """Wait for the beginnings, and hand them out.

    Args:
        plans: Of `seer sweep`, all with the same settings until the freeze; one of them has the arm `never`.
        output: Where the directories of the plans' runs are.
    """
    runs = {d: c for path in plans for d, c in configs(read_plan(path), output / path.stem).items()}
    trunks = {(c.env, c.seed): d for d, c in runs.items() if c.label == TRUNK}
    if not trunks:
        raise ValueError(f"none of the plans has an arm {TRUNK!r}: name the one that has, too")
    waiting = {d: c for d, c in runs.items() if (c.env, c.seed) in trunks and c.label != TRUNK}
    while waiting:
        for run_dir, config in list(waiting.items()):
            trunk = trunks[config.env, config.seed]
            if begun(run_dir):
                del waiting[run_dir]
            elif (step := leaves(trunk, config)) is not None:
                if branch(trunk, run_dir, config, step):
                    print(f"{run_dir.name}: from step {step:,}", flush=True)
                    del waiting[run_dir]
                elif (checkpoint.newest(trunk) or 0) > step or rundir.ended_at(trunk) is not None:
                    print(f"{run_dir.name}: begins by itself, {trunk.name} is past step {step:,}", flush=True)
                    del waiting[run_dir]
        time.sleep(20)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (ValueError, OSError, Mistake) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
