"""The memory that was promised before a run, against what the run then took."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import memory as benchmark
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.commands.main import main
from seer_rl.training import loop, rehearsal
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig, to_toml
from seer_rl.training.events import Event, Metrics
from seer_rl.training.rehearsal import Needs
from seer_rl.training.run import Run, Stopped

CONFIG = TrainConfig(
    "atari/qbert",
    steps=3300,
    seer=SeerConfig(freeze_step=3100),
    replay=ReplayConfig(memory=20_000_000),
    eval=EvalConfig(episodes=1),
    agent=RainbowConfig(learning_starts=2900),
)
SHORT = "atari/qbert --agent dqn --no-compile --steps 400 --seer.freeze-step 300 --agent.learning-starts 150"
SHORT += " --checkpoint-every 200 --eval.episodes 1 --replay.memory 3MB"
REHEARSE = """
import sys
from seer_rl.training.config import from_toml
from seer_rl.training.rehearsal import rehearsed
needs = rehearsed(from_toml(sys.argv[1]), int(sys.argv[2]))
print(needs.replay, needs.beside, needs.most)
"""


def rehearsed(config: TrainConfig, limit: int = 10**10) -> Needs:
    """In a process of its own, which has computed nothing, like that of the command."""
    done = subprocess.run([sys.executable, "-c", REHEARSE, to_toml(config), str(limit)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return Needs(*map(int, done.stdout.split()))


@pytest.fixture(scope="module")
def needs() -> Needs:
    """What the run takes, as its rehearsal found it."""
    return rehearsed(CONFIG)


def test_a_run_never_takes_more_than_it_promised(tmp_path: Path) -> None:
    """From the rehearsal over a replay that wraps, a stop, a resume and the freeze to the picture, all processes together."""
    shares, kept = [], 0
    for attempt in range(3):  # a page that another test's process shares counts for more once that has ended: not our doing
        promise, begun, resumed = benchmark.measure(SHORT.split(), 2e9, tmp_path / f"run{attempt}")
        shares.append(max(begun.rehearsing, begun.training, resumed.training) / promise)
        kept += 0.8 < shares[-1] < 1.005  # the promise is rounded
        if kept == 2:
            return
    pytest.fail(f"the run took {shares} of what was promised")


def test_a_rehearsal_keeps_to_the_limit(tmp_path: Path) -> None:
    refused = benchmark.watched(
        ["train", *SHORT.split(), "--memory-limit", "300MB", "--run-dir", str(tmp_path / "run")], tmp_path / "run"
    )
    assert refused.code == 2
    assert re.fullmatch(
        r"seer: the run takes more than 300 MB, however small its replay \(its rehearsal was ended at 3[0-2]\d MB\): "
        r"ask for smaller networks or batches, or allow more\n",
        refused.said,
    )
    assert refused.rehearsing < 330e6  # what it takes between two looks
    assert not refused.training


def test_a_rehearsal_that_the_system_ends_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "seer_rl",
        "train",
        *SHORT.split(),
        "--memory-limit",
        "2GB",
        "--run-dir",
        str(tmp_path / "r"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            if others := list(rehearsal.family(process.pid))[1:]:
                os.kill(others[0], signal.SIGKILL)
                break
            time.sleep(0.05)
        _, error = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(
        rb"seer: the rehearsal of the run's memory was ended by SIGKILL, as the system does where its memory, or that of a "
        rb"control group, is full, when it held \d+ [kM]?B: ask for less, or train without --memory-limit\n",
        error,
    )


def test_a_resumed_run_keeps_no_second_copy_of_its_weights(tmp_path: Path) -> None:
    run = Run(replace(CONFIG, run_dir=tmp_path / "run"))

    def stop(run: Run, event: Event | Metrics) -> None:
        run.stopping = run.step >= 20

    with pytest.raises(Stopped):
        loop.train(run, stop)
    resumed = loop.resume(tmp_path / "run", pytest.fail)
    assert resumed.step == 20
    assert resumed.resumed
    assert set(resumed.resumed.state) == {"env", "written"}
    resumed.close()


def test_an_automatic_freeze_can_be_rehearsed(needs: Needs) -> None:
    """With every signal measured and a grid made: two more encoders and embeddings of 256 observations take some."""
    auto = rehearsed(replace(CONFIG, seer=SeerConfig("auto", earliest=0, latest=3100, dtype="uint4")))
    assert needs.beside - 20e6 < auto.beside < needs.beside + 120e6


def test_the_rehearsal_finds_how_large_the_replay_can_be(needs: Needs) -> None:
    assert needs.replay == 20_000_000
    assert needs.most > needs.beside / 2
    whole = Run(replace(CONFIG, replay=ReplayConfig()))
    assert rehearsed(replace(CONFIG, replay=ReplayConfig(memory="auto"))).replay == whole.replay.memory
    whole.close()


def test_what_cannot_fit_is_refused_with_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearsed", lambda *_: Needs(20_000_000, 500_000_000, 510_000_000))
    said: list[str] = []
    exact = replace(CONFIG, memory_limit=520_000_000)
    assert rehearsal.settle(exact, said.append) == exact
    assert said == ["memory: at most 520 MB (replay 20 MB, everything else 500 MB) of 520 MB"]
    with pytest.raises(
        ValueError, match=r"replay 20 MB, everything else 500 MB.*, more than 519 MB: --replay\.memory 19000000 fits"
    ):
        rehearsal.settle(replace(exact, memory_limit=519_000_000), said.append)
    with pytest.raises(ValueError, match="even without a replay it does not fit"):
        rehearsal.settle(replace(exact, memory_limit=100_000_000), said.append)


def test_what_the_rehearsal_itself_took_is_in_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearsed", lambda *_: Needs(20_000_000, 500_000_000, 900_000_000))
    said: list[str] = []
    rehearsal.settle(replace(CONFIG, memory_limit=1_000_000_000), said.append)
    assert said == ["memory: at most 900 MB (replay 20 MB, everything else 880 MB) of 1 GB"]
    with pytest.raises(ValueError, match="the run took 900 MB when it was rehearsed, more than 800 MB: allow that much"):
        rehearsal.settle(replace(CONFIG, memory_limit=800_000_000), said.append)


def test_an_automatic_replay_is_the_largest_that_fits_but_no_larger_than_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearsed", lambda *_: Needs(40_000_000, 500_000_000, 510_000_000))
    automatic = replace(CONFIG, replay=ReplayConfig(memory="auto"))
    assert rehearsal.settle(replace(automatic, memory_limit=512_345_678), print).replay.memory == 12_345_678
    assert rehearsal.settle(replace(automatic, memory_limit=10**10), print).replay.memory == 40_000_000
    monkeypatch.setattr(rehearsal, "available", lambda: 507_000_000)
    assert rehearsal.settle(automatic, print).replay.memory == 7_000_000


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
    found = rehearsal.available(tmp_path)
    assert found == expected if expected is not None else found == pytest.approx(free, rel=0.2)


def test_without_a_limit_nothing_is_rehearsed_and_mistakes_are_found_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert rehearsal.settle(CONFIG, pytest.fail) is CONFIG
    assert main(["train", "atari/sequest", "--memory-limit", "20GB"]) == 2
    assert "did you mean seaquest" in capsys.readouterr().err
    assert main(["train", "atari/alien", "--memory-limit", "much"]) == 2
    assert "'much' is not a size" in capsys.readouterr().err
