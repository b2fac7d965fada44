"""A unit of a study: its arms share their beginning, in real runs; and what is refused before any begins."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seer_rl.training import checkpoint
from seer_rl.training.logger import METRICS
from studies.shared import begun
from studies.unit import main

PLAN = """envs = ["atari/qbert"]
seeds = [1]
settings = "--agent.learning-starts 60 --agent.batch-size 8 --no-compile --threads 1 --eval.episodes 1 --eval.every 50 \
--checkpoint-every 100 --keep 100"
arms = { never = "--seer.freeze-step None --steps 9000", SEER = "--seer.freeze-step 100 --steps 9100" }
"""
LIMIT = 300  # seconds


def rows(run_dir: Path) -> list[list[str]]:
    """Return what a run's metrics say so far: step, name and value."""
    if not (run_dir / METRICS).exists():
        return []
    return list(csv.reader((run_dir / METRICS).read_text("utf-8").splitlines()))[1:]


def test_arms_share_their_beginning_and_stop_together(tmp_path: Path) -> None:
    """SEER begins with the other's checkpoint of step 100, and Ctrl-C stops both with a checkpoint."""
    plan, output = tmp_path / "plan.toml", tmp_path / "runs"
    plan.write_text(PLAN)
    command = [sys.executable, "-m", "studies.unit", str(plan), "atari/qbert", "1", "--output", str(output)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "atari-qbert__rainbow__SEER__1: from step 100\n"
            never, seer = (output / f"atari-qbert__rainbow__{arm}__1" for arm in ("never", "SEER"))
            since = time.monotonic()
            while not any(int(step) >= 200 for step, _, _ in rows(seer)):
                assert process.poll() is None
                assert time.monotonic() - since < LIMIT
                time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 128 + signal.SIGTERM
        finally:
            process.kill()
    shared = [[row for row in rows(run_dir) if int(row[0]) < 100] for run_dir in (never, seer)]
    assert shared[0] == shared[1]
    assert shared[0]
    assert all(checkpoint.newest(run_dir) is not None for run_dir in (never, seer))
    assert ["100", "seer/freeze_step", "100"] in [[step, name, str(int(float(value)))] for step, name, value in rows(seer)]
    ended, planned = tmp_path / "ended", tmp_path / "planned"
    for run_dir in (ended, planned):  # as a run that has ended, without checkpoints; and as one that only has its settings
        shutil.copytree(seer, run_dir, ignore=shutil.ignore_patterns("checkpoints"))
    (planned / METRICS).unlink()
    assert [begun(run_dir) for run_dir in (seer, ended, planned)] == [True, True, False]
    plan.write_text(PLAN.replace("--steps 9100", "--steps 9200"))
    with pytest.raises(ValueError, match=r"SEER__1 was begun with other settings \(steps\)"):
        main(plan, "atari/qbert", 1, output)


@pytest.mark.parametrize(("env", "seed"), [("atari/qbert", 2), ("atari/Qbert", 1)])
def test_what_is_not_in_the_plan(env: str, seed: int, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    with pytest.raises(ValueError, match=rf"plan\.toml has no run of {env} with seed {seed} in an arm 'never'"):
        main(plan, env, seed, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
