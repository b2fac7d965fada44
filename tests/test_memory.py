"""The memory that was promised before a run, against what the run then took."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from seer_rl import memory
from seer_rl.__main__ import main
from seer_rl.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.rainbow import RainbowConfig

CONFIG = TrainConfig(
    "atari/qbert",
    steps=3300,
    seer=SeerConfig(freeze_step=3100),
    replay=ReplayConfig(memory=20_000_000),
    eval=EvalConfig(episodes=1),
    agent=RainbowConfig(learning_starts=2900),
)
SETTINGS = "--steps 3300 --seer.freeze-step 3100 --agent.learning-starts 2900 --eval.episodes 1 --replay.memory 20MB"
MEASURED = """
import os, sys
from seer_rl.__main__ import main
from seer_rl.envs.apart import Apart
from seer_rl.memory import most_held

def close(env, close=Apart.close):
    held.append(most_held(env.pid))
    close(env)

held, Apart.close = [], close
code = main(sys.argv[1:])
print("most held:", most_held(os.getpid()) + sum(held))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def rest() -> int:
    """Bytes beside the replay, as the rehearsal found them."""
    return memory.beside_replay(CONFIG)


def test_a_run_keeps_to_what_was_printed_at_its_start(tmp_path: Path) -> None:
    """Over everything: a replay that fills and wraps, updates, the freeze, evaluations, the picture."""
    command = [sys.executable, "-c", MEASURED, "train", "atari/qbert", *SETTINGS.split(), "--memory-limit", "700MB"]
    done = subprocess.run([*command, "--run-dir", "run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"memory: at most (\d+) MB \(replay 20 MB, everything else \d+ MB\) of 700 MB", done.stdout)
    assert printed, done.stdout
    held = re.search(r"most held: (\d+)", done.stdout)
    assert held
    assert int(held[1]) / 1e6 == pytest.approx(int(printed[1]), rel=0.05)


def test_an_automatic_freeze_can_be_rehearsed(rest: int) -> None:
    """With every signal measured and a grid made: two more encoders and embeddings of 256 observations take some."""
    auto = replace(CONFIG, seer=SeerConfig("auto", earliest=0, latest=3100, dtype="uint4"))
    assert rest - 20e6 < memory.beside_replay(auto) < rest + 120e6


def test_what_cannot_fit_is_refused_with_the_arithmetic(rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "beside_replay", lambda _: rest)
    said: list[str] = []
    exact = replace(CONFIG, memory_limit=rest + 20_000_000)
    assert memory.settle(exact, said.append) == exact
    assert said[0].startswith("memory: at most")
    with pytest.raises(ValueError, match=r"replay 20 MB, everything else .*, more than .*: --replay\.memory 19000000 fits"):
        memory.settle(replace(exact, memory_limit=rest + 19_000_000), said.append)
    with pytest.raises(ValueError, match="even without a replay it does not fit"):
        memory.settle(replace(exact, memory_limit=100_000_000), said.append)


def test_an_automatic_replay_is_the_largest_that_fits_but_no_larger_than_the_run(
    rest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "beside_replay", lambda _: rest)
    automatic = replace(CONFIG, replay=ReplayConfig(memory="auto"))
    found = memory.settle(replace(automatic, memory_limit=rest + 12_345_678), print)
    assert found.replay.memory == 12_345_678
    every_step = memory.replay_bytes(replace(CONFIG, replay=ReplayConfig()))
    assert memory.settle(replace(automatic, memory_limit=10**10), print).replay.memory == every_step
    monkeypatch.setattr(memory, "available", lambda: rest + 7_000_000)
    assert memory.settle(automatic, print).replay.memory == 7_000_000


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "expected"),
    [
        ("0::/", "cgroup2", {}, None),
        ("0::/", "cgroup2", {"memory.max": "max", "memory.current": "5"}, None),
        ("0::/", "cgroup2", {"memory.max": "1000000", "memory.current": "400000"}, 600_000),
        (
            "0::/",
            "cgroup2",
            {"memory.max": "1000000", "memory.current": "400000", "memory.stat": "anon 1\ninactive_file 7"},
            600_007,
        ),
        ("0::/", "cgroup2", {"memory.max": "max", "memory.high": "900000", "memory.current": "400000"}, 500_000),
        ("0::/a/b", "cgroup2", {"a/memory.max": "500", "a/memory.current": "100", "a/b/memory.max": "max"}, 400),
        (
            "0::/a/b",
            "cgroup2",
            {"a/memory.max": "9000", "a/memory.current": "100", "a/b/memory.max": "300", "a/b/memory.current": "299"},
            1,
        ),
        ("0::/a", "cgroup2", {"a/memory.max": "100", "a/memory.current": "300"}, 0),
        ("0::/../..", "cgroup2", {"memory.max": "800", "memory.current": "100"}, 700),
        ("5:cpu,memory:/x\n0::/", "cgroup", {"x/memory.limit_in_bytes": "900", "x/memory.usage_in_bytes": "100"}, 800),
        ("5:memory:/x", "cgroup", {"x/memory.limit_in_bytes": str(2**63 - 4096), "x/memory.usage_in_bytes": "100"}, None),
        ("5:cpu:/x", "cgroup", {"x/memory.limit_in_bytes": "900", "x/memory.usage_in_bytes": "100"}, None),
        ("nonsense", "cgroup2", {"memory.max": "nonsense"}, None),
    ],
)
def test_what_control_groups_leave(
    cgroup: str, mountinfo: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    """Both versions, nested, with no limit, mounted elsewhere than usual."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    options = "rw,memory" if mountinfo == "cgroup" else "rw"
    (tmp_path / "proc/self/mountinfo").write_text(
        f"24 1 0:5 / /proc rw - proc proc rw\n30 23 0:26 / /odd/place rw,nosuid shared:4 - {mountinfo} none {options}\n"
    )
    for name, text in files.items():
        path = tmp_path / "odd/place" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    free = psutil.virtual_memory().available
    found = memory.available(tmp_path)
    assert found == expected if expected is not None else found == pytest.approx(free, rel=0.2)


def test_without_a_limit_nothing_is_rehearsed_and_mistakes_are_found_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.settle(CONFIG, pytest.fail) is CONFIG
    assert main(["train", "atari/sequest", "--memory-limit", "1GB"]) == 2
    assert "did you mean seaquest" in capsys.readouterr().err
    assert main(["train", "atari/alien", "--memory-limit", "much"]) == 2
    assert "'much' is not a size" in capsys.readouterr().err
