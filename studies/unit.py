"""One unit of a study whose arms share their beginning: a game and a seed, both arms, in one sitting on one machine.

    python -m studies.unit studies/table1.toml atari/private_eye 1 --output runs/table1

The arm `never` runs from the beginning; at the step at which another arm freezes, that one goes on from its checkpoint, beside
it (`studies.shared`). Called again after a stop, it goes on with both. Ctrl-C stops both with a checkpoint.
"""

import sys
import time
from pathlib import Path

import tyro

from seer_rl.commands.sweep import read_plan
from seer_rl.experiments import worker
from seer_rl.experiments.sweep import configs, prepare
from studies.shared import TRUNK, begun, branch, leaves


def main(
    plan_file: tyro.conf.Positional[Path], env: tyro.conf.Positional[str], seed: tyro.conf.Positional[int], output: Path
) -> int:
    """Run a game and a seed of a plan, all arms.

    Args:
        plan_file: Of `seer sweep`, with the arm `never`.
        env: Environment of the plan.
        seed: Seed of the plan.
        output: Directory of the runs.

    Raises ValueError where the plan has no such runs, or their directories hold runs with other settings.
    """
    runs = {d: c for d, c in configs(read_plan(plan_file), output).items() if c.env == env and c.seed == seed}
    trunk = next((run_dir for run_dir, config in runs.items() if config.label == TRUNK), None)
    if trunk is None:
        raise ValueError(f"{plan_file} has no run of {env} with seed {seed} in an arm {TRUNK!r}")
    prepare(runs)
    processes, failed = {trunk: worker.start(trunk)}, dict[Path, int]()
    try:
        while len(processes) < len(runs) or any(process.poll() is None for process in processes.values()):
            for run_dir, config in runs.items():
                step = None if run_dir in processes else leaves(trunk, config)
                if step is not None and (begun(run_dir) or branch(trunk, run_dir, config, step)):
                    processes[run_dir] = worker.start(run_dir)
                    print(f"{run_dir.name}: from step {step:,}", flush=True)
            if processes[trunk].poll() is not None and len(processes) < len(runs):
                sys.exit(f"{trunk} ended before the other arms could begin: {worker.last_words(trunk)}")
            _tell(processes, failed)
            time.sleep(5)
    except KeyboardInterrupt:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
    _tell(processes, failed)
    return max(failed.values(), default=0)


def _tell(processes: dict[Path, worker.Worker], failed: dict[Path, int]) -> None:
    """Say of every process that has ended with another code than 0 why it did, once. failed: codes of those that were told."""
    for run_dir, process in processes.items():
        if (code := abs(process.poll() or 0)) and run_dir not in failed:
            failed[run_dir] = code
            print(f"{run_dir}: {worker.last_words(run_dir)}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
