"""One unit of a study whose arms share their beginning: a game and a seed, both arms, in one sitting on one machine.

    python -m studies.unit studies/table1.toml atari/private_eye 1 --output runs/table1

The arm `never` runs from the beginning; at the step at which another arm freezes, that one goes on from its checkpoint, beside
it (`studies.shared`). Called again after a stop, it goes on with both.
"""

import sys
import time
from pathlib import Path

import tyro

from seer_rl.commands.sweep import read_plan
from seer_rl.experiments import worker
from seer_rl.experiments.sweep import configs
from seer_rl.training import checkpoint
from studies.shared import TRUNK, branch, leaves


def main(
    plan_file: tyro.conf.Positional[Path], env: tyro.conf.Positional[str], seed: tyro.conf.Positional[int], output: Path
) -> int:
    """Run a game and a seed of a plan, all arms.

    Args:
        plan_file: Of `seer sweep`, with the arm `never`.
        env: Environment of the plan.
        seed: Seed of the plan.
        output: Directory of the runs.
    """
    runs = {d: c for d, c in configs(read_plan(plan_file), output).items() if c.env == env and c.seed == seed}
    trunk = next(run_dir for run_dir, config in runs.items() if config.label == TRUNK)
    if not (trunk / checkpoint.CONFIG).exists():
        trunk.mkdir(parents=True)
        checkpoint.save_config(trunk, runs[trunk])
    processes = {trunk: worker.start(trunk)}
    try:
        while len(processes) < len(runs) or any(process.poll() is None for process in processes.values()):
            for run_dir, config in runs.items():
                begun = (run_dir / checkpoint.CONFIG).exists()
                step = None if run_dir in processes else leaves(trunk, config)
                if step is not None and (begun or branch(trunk, run_dir, config, step)):
                    processes[run_dir] = worker.start(run_dir)
                    print(f"{run_dir.name}: from step {step:,}", flush=True)
            if processes[trunk].poll() is not None and len(processes) < len(runs):
                sys.exit(f"{trunk} ended before the other arms could begin: {worker.last_words(trunk)}")
            time.sleep(5)
    except KeyboardInterrupt:
        for process in processes.values():
            process.terminate()
    return max(abs(process.wait()) for process in processes.values())


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
