"""A sweep on a Ray cluster of two nodes, of which one dies."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seer_rl.commands.main import main
from seer_rl.experiments import worker
from seer_rl.training import checkpoint, rundir
from seer_rl.training.logger import METRICS
from tests.experiments.test_sweep import SETTINGS

LONGER = f"{SETTINGS} --seer.freeze-step 200 --steps 1600 --eval.every 1600"  # one may begin much later than the other
PLAN = f"""
envs = ["atari/qbert"]
seeds = [1, 2]
settings = "{LONGER}"
"""

# Ray's own cluster for tests: several nodes on one machine, each with its own daemon. It kills a node when told to.
NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(json.dumps({"address": cluster.address, "nodes": [node.node_id for node in nodes]}), flush=True)
for line in sys.stdin:
    cluster.remove_node(next(n for n in nodes if n.node_id == line.strip()), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


def test_runs_of_a_dead_node_finish_on_the_other(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    nodes = subprocess.Popen(
        [sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert nodes.stdin
    assert nodes.stdout
    try:
        cluster = json.loads(nodes.stdout.readline())
        output = tmp_path / "out"
        arguments = ["sweep", str(tmp_path / "plan.toml"), "--output", str(output), "--ray", cluster["address"]]
        sweep = subprocess.Popen(
            [sys.executable, "-m", "seer_rl", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        until = time.monotonic() + 180
        while len({path.parent for path in output.glob("*/checkpoints/*.json")}) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        nodes.stdin.write(cluster["nodes"][0] + "\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "removed"
        said, _ = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, said
    finally:
        nodes.stdin.close()
        nodes.stdout.close()
        nodes.wait(60)
    assert "all 2 runs done" in said
    run_dirs = sorted(output.iterdir())
    begun = [(run_dir / worker.LOG).read_text("utf-8").count("going on from step") for run_dir in run_dirs]
    assert sorted(begun) == [0, 1]  # one of them was on the dead node, and went on from its checkpoint
    for run_dir in run_dirs:
        assert rundir.ended_at(run_dir) == checkpoint.load_config(run_dir).steps
    straight = tmp_path / "straight"
    moved = run_dirs[begun.index(1)]
    seed = moved.name[-1]
    command = f"{sys.executable} -m seer_rl train atari/qbert {LONGER} --seed {seed} --run-dir {straight}".split()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert (moved / METRICS).read_bytes() == (straight / METRICS).read_bytes()


def test_unreachable_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    assert main(["sweep", str(tmp_path / "plan.toml"), "--output", str(tmp_path / "out"), "--ray", "127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "no Ray cluster answers at '127.0.0.1:1'" in said
    assert said.count("\n") == 1
