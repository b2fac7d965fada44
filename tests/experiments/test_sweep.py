"""Sweeps: what a plan means, what is refused, and that a sweep that was killed goes on to the same results."""

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from seer_rl.commands.board import board
from seer_rl.commands.console import Screen
from seer_rl.commands.main import main
from seer_rl.commands.sweep import planned, read_plan
from seer_rl.experiments import sweep, worker
from seer_rl.training import checkpoint
from seer_rl.training.arguments import Mistake
from seer_rl.training.config import TrainConfig
from seer_rl.training.logger import METRICS

SETTINGS = (
    "--steps 160 --agent.hidden 16 --agent.learning-starts 40 --agent.batch-size 8 --no-compile --replay.capacity 200"
    " --eval.every 160 --eval.episodes 1 --checkpoint-every 40"
)
PLAN = f"""
seeds = [1]
arms = {{SEER = "--seer.freeze-step 100", never = ""}}
settings = "{SETTINGS}"
[[grid]]
envs = ["atari/asterix"]
[[grid]]
envs = ["atari/qbert"]
arms = {{}}
seeds = [3]
"""
NAMES = {"atari-asterix__rainbow__SEER__1", "atari-asterix__rainbow__never__1", "atari-qbert__rainbow__3"}
TWO = PLAN[: PLAN.rindex("[[grid]]")]  # both arms on one game
ONE = TWO.replace(', never = ""', "")


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seer_rl", "sweep", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*arguments: str) -> str:
    process = begin(*arguments)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def result(run_dir: Path) -> tuple[bytes, bytes]:
    return (run_dir / METRICS).read_bytes(), (run_dir / checkpoint.AGENT).read_bytes()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def straight(plan: Path) -> Path:
    """A sweep that nothing disturbed."""
    output = plan.parent / "straight"
    said = finish(str(plan), "--output", str(output), "--jobs", "2")
    assert "all 3 runs done" in said
    return output


def test_plan(tmp_path: Path) -> None:
    grid = {"envs": ["atari/pong"], "agents": ["rainbow", "dqn"], "seeds": [0, 7], "settings": "--steps 5000"}
    found = sweep.configs(grid | {"arms": {"a": "--steps 6000", "b": ""}}, tmp_path)
    assert len(found) == 8
    config = found[tmp_path / "atari-pong__dqn__a__7"]
    assert (config.env, config.seed, config.steps, config.label) == ("atari/pong", 7, 6000, "a")
    assert found[tmp_path / "atari-pong__rainbow__b__0"].steps == 5000


def test_flags_say_the_same_as_a_plan() -> None:
    assert planned(("atari/pong",), (), (1,), "--steps 9", ("a=--steps 8", "b=")) == {
        "envs": ["atari/pong"], "agents": [], "seeds": [1], "settings": "--steps 9", "arms": {"a": "--steps 8", "b": ""},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs envs"),
        ("envs = 3", "must be a list"),
        ("env = ['atari/pong']", "has no 'env'"),
        ("envs = ['atari/pnog']", "did you mean pong"),
        ("envs = ['atari/pong']\nsettings = '--stepz 3'", "stepz"),
        ("envs = ['atari/pong']\nsettings = '--steps 0'", "at least 1"),
        ("envs = ['atari/pong']\nseeds = ['x']", "seed"),
        ("envs = ['atari/pong']\nseeds = [1, 1]", "twice"),
        ("envs = ['atari/pong']\nseeds = []", "a plan needs seeds"),
        ("seeds = [1, 2]\n[[grid]]\nenvs = ['atari/pong']\n[[grid]]\nenvs = ['atari/pong']", "twice"),
        ("envs = ['atari/pong']\narms = {a = 3}", "must be text"),
        ("envs = ['--help']", "--help cannot be among"),
        ('envs = ["atari/po\\u000ang"]', "there is no environment"),
        (f"envs = {['atari/pong'] * 100}\nseeds = {list(range(1000))}", "100,000 runs or more"),
        ("envs = ['atari/pong']\nagents = ['curl', 'ppo']", "ppo"),
        ("envs = ['atari/pong']\narms = {'a/b' = ''}", "cannot be called"),
        ("envs = ['atari/pong']\narms = {a = '--steps'}", "--steps"),
        ("envs = ['atari/pong']\nsettings = \"--label 'x\"", "cannot be read: No closing quotation"),
        ("envs = ['atari/pong']\nsettings = '--seer.freeze-step 9 --seer.layers 7'", "there is no 7"),
        ("grid = 3", "[[grid]]"),
        ("envs = [", "cannot be read"),
    ],
)
def test_refusals(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text(text)
    assert main(["sweep", str(tmp_path / "plan.toml"), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_jobs_and_both(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(plan), "--jobs", "-1"]) == 2
    assert main(["sweep", str(plan), "--envs", "atari/pong"]) == 2
    assert main(["sweep", str(plan.parent / "none.toml")]) == 2
    for arms in (["a=", "a=--steps 9"], ["a"]):
        assert main(["sweep", "--envs", "atari/pong", "--arms", *arms]) == 2
    said = capsys.readouterr().err.splitlines()
    words = ("at least 1", "not both", "cannot be read", "has a twice", "write a=SETTINGS")
    assert [word in line for word, line in zip(words, said, strict=True)] == [True] * 5


def test_finished_runs_are_not_repeated(plan: Path, straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert {path.name for path in straight.iterdir()} == NAMES
    assert {worker.read_status(path).step for path in straight.iterdir()} == {160}
    assert "3 done before" in finish(str(plan), "--output", str(straight))
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


def test_other_settings_are_refused(plan: Path, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.with_name("other.toml").write_text(PLAN.replace("--steps 160", "--steps 200"))
    assert main(["sweep", str(plan.with_name("other.toml")), "--output", str(straight)]) == 2
    assert "begun with other settings (steps)" in capsys.readouterr().err
    (plan.parent / "taken" / "atari-qbert__rainbow__3").mkdir(parents=True)
    assert main(["sweep", str(plan), "--output", str(plan.parent / "taken")]) == 2
    assert "is no run" in capsys.readouterr().err


def test_what_a_resume_may_change_a_sweep_may_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and evaluations; and the share of the memory that a run may take, as long as it may take what it did."""
    monkeypatch.setattr("seer_rl.training.rehearsal.settle", lambda config, *_: config)

    def begun(settings: str, memory: int | None, jobs: int) -> dict[Path, TrainConfig]:
        plan = {"envs": ["atari/qbert"], "seeds": [1], "settings": f"{SETTINGS} {settings}"}
        sweep.prepare(sweep.settle(sweep.configs(plan, tmp_path), memory and memory // jobs, jobs, print))
        return {path: checkpoint.load_config(path) for path in tmp_path.iterdir()}

    (first,) = begun("", 4_000_000_000, 4).values()
    assert first.memory_limit == 1_000_000_000
    (second,) = begun("--checkpoint-every 80 --eval.every 80", 4_000_000_000, 2).values()
    assert (second.memory_limit, second.checkpoint_every, second.eval.every) == (1_000_000_000, 80, 80)
    (third,) = begun("", None, 1).values()
    assert third == first
    with pytest.raises(ValueError, match=r"was begun with a limit of 1 GB, and may now take 500 MB of memory: allow more"):
        begun("", 4_000_000_000, 8)
    with pytest.raises(ValueError, match=r"was begun with other settings \(agent\.hidden\)"):
        begun("--agent.hidden 8", None, 1)
    assert checkpoint.load_config(next(tmp_path.iterdir())) == first


def test_memory_is_shared_by_the_runs_at_a_time(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three runs on 64 cores are three at a time, whatever --jobs allows."""

    def settle(runs: object, share: int, jobs: int, say: object) -> None:
        raise ValueError(f"{share} for each of {jobs}")

    monkeypatch.setattr(sweep, "settle", settle)
    for cores, jobs, said in (
        (64, [], "3000000000 for each of 3"),
        (2, [], "4500000000 for each of 2"),
        (2, ["--jobs", "9"], "3"),
    ):
        monkeypatch.setattr(sweep, "cores", lambda cores=cores: list(range(cores)))
        assert main(["sweep", str(plan), "--memory", "9GB", *jobs]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_the_middle(how: signal.Signals, straight: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(TWO)
    process = begin(str(plan), "--output", str(tmp_path / "out"), "--jobs", "2")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("out/*/checkpoints/*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(how)
    said, _ = process.communicate()
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    until = time.monotonic() + 30
    while (
        left := [p for p in psutil.process_iter() if str(tmp_path / "out") in " ".join(line(p))]
    ) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
    assert any(checkpoint.newest(path) is not None for path in (tmp_path / "out").iterdir())  # they stopped, and had not ended
    if how == signal.SIGTERM:
        assert f"go on with: seer sweep {shlex.quote(str(plan))}" in said
    assert "all 2 runs done" in finish(str(plan), "--output", str(tmp_path / "out"), "--jobs", "2")
    for path in (tmp_path / "out").iterdir():
        assert result(path) == result(straight / path.name), path


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_whose_process_is_killed_goes_on(how: signal.Signals, straight: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(ONE)
    process = begin(str(plan), "--output", str(tmp_path / "out"), "--jobs", "1")
    until = time.monotonic() + 120
    while not (checkpoints := list(tmp_path.glob("out/*/checkpoints/*.json"))) and time.monotonic() < until:
        time.sleep(0.05)
    run_dir = checkpoints[0].parent.parent
    workers = [p for p in children(process.pid) if str(run_dir) in Path(f"/proc/{p}/cmdline").read_text("utf-8")]
    os.kill(workers[0], how)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert result(run_dir) == result(straight / run_dir.name)


def test_two_sweeps_share_their_runs(straight: Path, tmp_path: Path) -> None:
    """Each waits for what the other has begun, and neither calls it a failure."""
    plan = tmp_path / "plan.toml"
    plan.write_text(TWO)
    both = [begin(str(plan), "--output", str(tmp_path / "out"), "--jobs", "1")]
    while not list(tmp_path.glob("out/*/metrics.csv")):  # the first has begun its first run
        time.sleep(0.05)
        assert both[0].poll() is None
    both.append(begin(str(plan), "--output", str(tmp_path / "out"), "--jobs", "1"))
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert "all 2 runs done" in said
    for path in (tmp_path / "out").iterdir():
        assert result(path) == result(straight / path.name), path


def line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'envs = ["atari/qbert"]\nsettings = "{SETTINGS}"\narms = {{bad = "--agent.learning-rate 1e15", good = ""}}'
    )
    process = begin(str(plan), "--output", str(tmp_path / "out"))
    said, _ = process.communicate()
    assert process.returncode == 1
    assert "is nan at step" in said or "is inf at step" in said or "is no number any more at step" in said
    assert "1 of 2 runs failed" in said
    assert (tmp_path / "out/atari-qbert__rainbow__good__0" / checkpoint.AGENT).exists()
    assert "Traceback" not in said


BROKEN = """
from seer_rl.agents.dqn import DQN, DQNConfig
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings(DQNConfig):
    "Of an agent whose fourth update fails: a trial before the run makes fewer."

class Broken(DQN):
    name = "broken"
    Config = Settings

    def update(self, batch):
        if self.updates == 3:
            raise KeyError("no fourth")
        return super().update(batch)
"""


def test_a_failure_of_the_users_own_code_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    process = begin("--envs", "atari/qbert", "--agents", "broken:Broken", f"--settings={SETTINGS}")
    said, _ = process.communicate()
    assert process.returncode == 1
    assert "KeyError: 'no fourth' (broken.py, line 15)" in said
    assert "to try them again: SEER_CODE=broken:Broken seer sweep" in said


def test_an_error_of_ours_ends_a_worker_with_its_traceback(tmp_path: Path) -> None:
    """With code 1, though a thread waits for its parent: if it looked as if it had been killed, it would be begun again."""
    (tmp_path / "run").mkdir()
    fault = "import seer_rl.commands.worker as w; w.drive = lambda *_: 1 / 0; w.sys.exit(w.main(w.Path('run'), ''))"
    checkpoint.save_config(tmp_path / "run", TrainConfig("atari/qbert"))
    command = [sys.executable, "-c", fault]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait() == 1
        assert process.stderr is not None
        assert b"ZeroDivisionError" in process.stderr.read()


def test_board(plan: Path, tmp_path: Path) -> None:
    states = sweep.prepare(sweep.configs(read_plan(plan), tmp_path))
    states[0].failure = "the loss is nan"
    for state in states[1:]:
        state.is_done = True
        (state.run_dir / worker.STATUS).write_text('{"step": 160, "steps": 160, "score": 2.0}')
    console = Screen(record=True, width=200, file=io.StringIO())
    console.print(board(states))
    text = console.export_text()
    assert "3 runs: 0 running, 1 failed, 0 waiting, 2 done" in text
    assert text.count("160 of 160") == text.count("return 2.00") == 2
    assert "the loss is nan" in text


def test_status_of_no_run(tmp_path: Path) -> None:
    assert worker.read_status(tmp_path) == worker.Status()
    (tmp_path / worker.STATUS).write_text("{")
    assert worker.read_status(tmp_path) == worker.Status()
    assert worker.last_words(tmp_path) == "it said nothing"


def test_settings_are_those_of_train() -> None:
    with pytest.raises(Mistake, match="preset"):
        sweep.configs({"envs": ["atari/pong"], "settings": "--preset papr"}, Path("x"))
