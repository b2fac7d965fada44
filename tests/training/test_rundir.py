"""Run directories that somebody else prepared, edited or damaged: nothing outside is touched, nothing finished is lost."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seer_rl.agents.curl import CURLConfig
from seer_rl.agents.dqn import DQNConfig
from seer_rl.agents.drqv2 import DrQv2Config
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import SACConfig
from seer_rl.commands.main import main
from seer_rl.envs.dmc import ControlConfig
from seer_rl.envs.vector import VectorEnv
from seer_rl.text import refusal
from seer_rl.training import build, checkpoint, loop, rundir, weights
from seer_rl.training import run as run_module
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig, to_toml
from seer_rl.training.events import Done, Event, Fault, Metrics
from seer_rl.training.files import Folder
from seer_rl.training.play import evaluate
from seer_rl.training.run import Run, Stopped
from tests import damage
from tests.replay.saved import held

SHORT = TrainConfig(
    "atari/asterix",
    steps=120,
    seer=SeerConfig(freeze_step=80),
    eval=EvalConfig(every=60, episodes=1),
    agent=RainbowConfig(hidden=16, learning_starts=20, batch_size=8),
    checkpoint_every=30,
)


def stop_at(step: int) -> Callable[[Run, Event | Metrics], None]:
    def show(run: Run, event: Event | Metrics) -> None:
        run.stopping = run.step >= step

    return show


def stopped_run(config: TrainConfig, run_dir: Path, step: int) -> None:
    with pytest.raises(Stopped):
        loop.train(Run(dataclasses.replace(config, run_dir=run_dir)), stop_at(step))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 30 and 40, not frozen yet."""
    run_dir = tmp_path_factory.mktemp("rundir") / "stopped"
    stopped_run(SHORT, run_dir, 40)
    return run_dir


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("rundir") / "ended"
    loop.train(Run(dataclasses.replace(SHORT, run_dir=run_dir)))
    return run_dir


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture
def done(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "run"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("seer: ")
    assert error.count("\n") == 1
    return error


# ---- what lies in it is anyone's -----------------------------------------------------------------------------------


def test_a_link_in_place_of_checkpoints_is_not_followed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "letter.txt").write_text("mine")
    before = contents(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert main(["resume", str(run)]) == 2
    assert "checkpoints is a link" in sentence(capsys)
    assert contents(tmp_path / "elsewhere") == before


def test_only_what_is_ours_is_removed(run: Path) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "notes.json").write_text("{}")
    (checkpoints / "7.json").write_text("{}")
    (checkpoints / "readme").write_text("mine")
    for name in (".snapshot", ".ipynb_checkpoints", "0" * 64, "000000000091.json"):  # a directory is no file of ours
        (checkpoints / name).mkdir()
        (checkpoints / name / "inside").write_text("mine")
    os.mkfifo(checkpoints / ("1" * 64))
    (checkpoints / ("2" * 64)).symlink_to(checkpoints / "readme")
    foreign = {path for path in checkpoints.rglob("*") if not path.name.endswith("40.json")} & {
        *checkpoints.rglob("inside"), checkpoints / "notes.json", checkpoints / "7.json", checkpoints / "readme",
        checkpoints / ("1" * 64), checkpoints / ("2" * 64),
    }  # fmt: skip
    resumed = loop.resume(run, lambda _: None)
    assert resumed.step == 40
    loop.train(resumed)
    assert {path for path in checkpoints.rglob("*") if not path.is_dir() or path.is_symlink()} == foreign
    assert rundir.ended_at(run) == 120


@pytest.mark.parametrize("name", [".lock", "metrics.csv", "clock.csv", "config.toml", "agent.safetensors", "curves.png"])
@pytest.mark.parametrize("kind", ["link", "dangling", "second name"])
def test_nothing_is_written_through_another_name(
    name: str, kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is replaced leaves what the link pointed at alone; one that is written in place is refused."""
    victim = tmp_path / "victim"
    if (run / name).exists():
        shutil.move(run / name, victim)
    elif kind != "dangling":
        victim.write_text("mine")
    if kind == "dangling" and name == "config.toml":
        return  # then there is no run
    if kind == "dangling":
        victim.unlink(missing_ok=True)
    before = victim.read_bytes() if victim.exists() else None
    if kind == "second name":
        (run / name).hardlink_to(victim)
    else:
        (run / name).symlink_to(victim)
    code = main(["resume", str(run)])
    assert (victim.read_bytes() if victim.exists() else None) == before
    assert code == (2 if name in (".lock", "metrics.csv", "clock.csv") else 0)
    if code:
        assert ("is a link" if kind != "second name" else "second name") in sentence(capsys)


def test_a_run_directory_may_be_reached_by_links_and_its_blobs_have_other_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for blob in (run / "checkpoints").iterdir():
        (tmp_path / "kept" / blob.name).hardlink_to(blob)
    before = contents(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path)
    assert main(["resume", str(tmp_path / "link" / "run")]) == 0
    assert contents(tmp_path / "kept") == before


@pytest.mark.parametrize("blob", ["../../secret", "/etc/hostname", ".", ""])
def test_a_manifest_reads_nothing_outside(blob: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("mine")
    for manifest in (run / "checkpoints").glob("*.json"):
        body = json.loads(manifest.read_bytes().partition(b"\n")[2])
        body["blobs"]["replay/0"] = blob
        text = json.dumps(body).encode()
        manifest.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert main(["resume", str(run)]) == 2
    assert "every checkpoint of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.csv", "clock.csv", ".lock", "ended.json", "agent.safetensors", "manifest", "blob"]
)
@pytest.mark.parametrize("command", ["resume", "eval", "plot"])
def test_a_pipe_is_not_waited_for(command: str, name: str, run: Path, tmp_path: Path) -> None:
    manifest = max((run / "checkpoints").glob("*.json"))
    places = {"manifest": manifest, "blob": next(p for p in manifest.parent.iterdir() if len(p.name) == 64)}
    path = places.get(name, run / name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    more = ["--output", str(tmp_path / "picture.png")] if command == "plot" else []
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    try:
        assert main([command, str(run), *more]) in (0, 2)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


# ---- what was finished or saved is never lost -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["clock missing", "clock torn", "metrics torn", "steps raised", "steps lowered", "record torn"]
)
def test_a_finished_run_is_not_begun_again(damage: str, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if damage == "clock missing":
        (done / "clock.csv").unlink()
    elif damage.endswith("torn"):
        name = {"clock": "clock.csv", "metrics": "metrics.csv", "record": "ended.json"}[damage.split()[0]]
        (done / name).write_bytes((done / name).read_bytes()[:-5])
    else:
        text = (done / "config.toml").read_text("utf-8")
        (done / "config.toml").write_text(text.replace("steps = 120", f"steps = {200 if damage == 'steps raised' else 100}"))
    before = contents(done)
    assert main(["resume", str(done)]) == 2
    words = {"steps raised": "kept no checkpoint", "steps lowered": "ended at step 120, beyond step 100"}
    assert words.get(damage, "has ended, at step 120") in sentence(capsys)
    after = contents(done)
    after.pop(".lock", None)
    assert after == before


def test_a_run_of_version_0_1_0_has_ended_too(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (done / "ended.json").unlink()
    (done / "clock.csv").unlink()
    assert main(["resume", str(done)]) == 2
    assert "has ended, at step 120" in sentence(capsys)


def test_results_are_moved_aside_where_a_run_must_begin_again(done: Path) -> None:
    for name in ("ended.json", "clock.csv"):
        (done / name).unlink()
    (done / "metrics.csv").write_bytes(b"\0" + (done / "metrics.csv").read_bytes())
    before = contents(done)
    said: list[str] = []
    for _ in range(2):
        again = loop.resume(done, said.append)
        again.close()
    assert said.count(f"what {done} held before is now in {done / 'earlier-1'}") == 1  # the second time there was nothing
    assert (done / "earlier-1" / "agent.safetensors").read_bytes() == before["agent.safetensors"]
    assert (done / "earlier-1" / "metrics.csv").read_bytes() == before["metrics.csv"]
    assert not (done / "earlier-2").exists()


def test_what_a_kill_in_the_final_removal_left_is_tidied_up(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record of the end is there, and so is some of the checkpoints, the newest list gone."""
    (run / checkpoint.AGENT).touch()
    rundir.write_ended(run, 120)
    for manifest in (run / "checkpoints").glob("*.json"):
        manifest.unlink()
    assert main(["resume", str(run)]) == 2
    assert "has ended, at step 120" in sentence(capsys)
    assert not (run / "checkpoints").exists()
    assert not (run / ".lock").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"agent": {"hidden": 32}}, "agent.hidden is 32, but the checkpoint of step 40 was made with 16"),
        ({"agent": {"n_step": 3}}, "agent.n_step is 3"),
        ({"agent": {"batch_size": 9}}, "agent.batch_size is 9"),
        ({"env": "atari/pong"}, "env is atari/pong, but the checkpoint of step 40 was made with atari/asterix"),
        ({"replay": {"capacity": 70}}, "replay.capacity is 70"),
        ({"replay": {"priority_exponent": 0.5}}, "replay.priority_exponent is 0.5"),
        ({"seed": 1}, "seed is 1"),
        ({"steps": 110}, "steps is 110, but the checkpoint of step 40 was made with 120"),
        ({"seer": {"freeze_step": 30}}, "seer.freeze_step is 30, but the checkpoint is of step 40"),
        ({"precision": "bfloat16"}, "precision is bfloat16"),
        ({"seer": {"freeze_step": 40}}, ""),
        ({"seer": {"freeze_step": 90, "dtype": "uint8"}}, ""),
        ({"seer": {"freeze_step": None}}, ""),
        ({"seer": {"freeze_step": 60, "layers": 1}}, ""),
        ({"agent": {"learning_rate": 1e-3}, "label": "faster", "eval": {"episodes": 2}, "checkpoint_every": 7}, ""),
        ({"steps": 130}, ""),
    ],
)
def test_settings_between_a_stop_and_its_resume(
    change: dict[str, Any], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = checkpoint.load_config(run)
    for name, value in change.items():
        there = getattr(config, name)
        config = dataclasses.replace(
            config, **{name: dataclasses.replace(there, **value) if isinstance(value, dict) else value}
        )
    checkpoint.save_config(run, config)
    before = contents(run)
    if words:
        assert main(["resume", str(run)]) == 2
        assert words in sentence(capsys)
        assert contents(run) == before
    else:
        resumed = loop.resume(run, pytest.fail)
        loop.train(resumed)
        assert resumed.step == config.steps
        assert (resumed.frozen_at, resumed.config.label) == (config.seer.freeze_step, config.label)


def test_once_frozen_no_seer_setting_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped_run(SHORT, tmp_path / "run", 100)
    text = (tmp_path / "run" / "config.toml").read_text("utf-8")
    (tmp_path / "run" / "config.toml").write_text(text.replace('dtype = "float32"', 'dtype = "uint8"'))
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "seer.dtype is uint8, but the checkpoint of step 100 was made with float32" in sentence(capsys)


CONTROL = TrainConfig(
    "dmc/reacher-easy",
    steps=60,
    environment=ControlConfig(size=24, fast_render=True),
    eval=EvalConfig(every=60, episodes=1),
    checkpoint_every=1000,
)
ACTORS: dict[str, Any] = {"hidden": 16, "learning_starts": 10, "batch_size": 8}


@pytest.mark.parametrize(
    "config",
    [
        SHORT,
        dataclasses.replace(SHORT, agent=DQNConfig(hidden=16, learning_starts=20, batch_size=8, update_every=1)),
        dataclasses.replace(CONTROL, agent=SACConfig(**ACTORS)),
        dataclasses.replace(CONTROL, agent=CURLConfig(crop=20, **ACTORS)),
        dataclasses.replace(CONTROL, agent=DrQv2Config(shift=2, **ACTORS)),
    ],
    ids=["rainbow", "dqn", "sac", "curl", "drqv2"],
)
def test_the_seam_may_move_until_the_freeze(config: TrainConfig, tmp_path: Path) -> None:
    """A run that was begun with another seam, stopped, and resumed with this one, is the run with this one."""
    config = dataclasses.replace(config, seer=SeerConfig(freeze_step=50, layers=1))
    other = dataclasses.replace(config, seer=SeerConfig(freeze_step=50))
    stopped_run(other, tmp_path / "moved", 40)
    checkpoint.save_config(tmp_path / "moved", dataclasses.replace(config, run_dir=tmp_path / "moved"))
    moved = loop.resume(tmp_path / "moved", pytest.fail)
    loop.train(moved)
    straight = Run(dataclasses.replace(config, run_dir=tmp_path / "straight"))
    loop.train(straight)
    ours, theirs = weights.tensors(moved.agent), weights.tensors(straight.agent)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("freeze_step", [80, 150, None], ids=["frozen before", "frozen after", "never"])
def test_a_run_that_kept_its_last_checkpoint_trains_longer(freeze_step: int | None, tmp_path: Path) -> None:
    """As if it had been longer from its beginning, where nothing depends on how long it is (as the weights' beta does)."""
    config = dataclasses.replace(
        SHORT,
        seer=SeerConfig(freeze_step=None),
        replay=ReplayConfig(priority_exponent=0.5, priority_beta=1.0),
        keep_last=True,
    )
    first = dataclasses.replace(config, seer=SeerConfig(freeze_step=freeze_step if freeze_step == 80 else None))
    loop.train(Run(dataclasses.replace(first, run_dir=tmp_path / "run")))
    assert rundir.ended_at(tmp_path / "run") == checkpoint.newest(tmp_path / "run") == 120
    with pytest.raises(Done, match="has ended, at step 120"):
        loop.resume(tmp_path / "run", pytest.fail)
    longer = dataclasses.replace(config, steps=240, seer=SeerConfig(freeze_step=freeze_step))
    checkpoint.save_config(tmp_path / "run", dataclasses.replace(longer, steps=120, run_dir=tmp_path / "run"))
    run = loop.resume(tmp_path / "run", pytest.fail, steps=240)
    assert run.step == 120
    loop.train(run)
    straight = Run(dataclasses.replace(longer, run_dir=tmp_path / "straight"))
    loop.train(straight)
    assert run.replay.capacity == straight.replay.capacity
    assert held(run.replay) == held(straight.replay)
    assert run.evaluations == straight.evaluations
    assert rundir.ended_at(tmp_path / "run") == 240
    assert (tmp_path / "run" / "agent.safetensors").read_bytes() == (tmp_path / "straight" / "agent.safetensors").read_bytes()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv, of util-linux")
def test_what_may_not_be_read_is_not_damage(run: Path) -> None:
    """As another user, or without the right to read everything, which root has."""
    manifest = max((run / "checkpoints").glob("*.json"))
    blob = json.loads(manifest.read_bytes().partition(b"\n")[2])["blobs"]["arrays"]
    (run / "checkpoints" / blob).chmod(0)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, sys.executable, "-m", "seer_rl", "resume", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"{blob} cannot be read (Permission denied); nothing was changed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    (run / "checkpoints" / blob).chmod(0o600)
    resumed = loop.resume(run, pytest.fail)
    assert resumed.step == 40
    resumed.close()


def test_a_damaged_file_is_moved_aside(run: Path) -> None:
    manifest = max((run / "checkpoints").glob("*.json"))
    blob = run / "checkpoints" / json.loads(manifest.read_bytes().partition(b"\n")[2])["blobs"]["arrays"]
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    said: list[str] = []
    resumed = loop.resume(run, said.append)
    resumed.close()
    assert (resumed.step, len(said)) == (30, 1)
    assert (run / "checkpoints" / f"{blob.name}.damaged").read_bytes() == data
    assert (run / "checkpoints" / f"{manifest.name}.damaged").exists()


def test_every_flipped_bit_of_an_agents_file_is_seen(ended: Path, tmp_path: Path) -> None:
    data = (ended / "agent.safetensors").read_bytes()
    loaded, about = weights.load(ended / "agent.safetensors", checkpoint.HEADER)
    assert (about["env"], len(loaded) > 5) == ("atari/asterix", True)
    rng, header = random.Random(0), 8 + int.from_bytes(data[:8], "little")
    for i in range(1000):
        flipped = bytearray(data)
        flipped[rng.randrange(header if i % 2 else len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "flipped").write_bytes(flipped)
        with contextlib.suppress(ValueError):
            assert weights.load(tmp_path / "flipped", checkpoint.HEADER)[1] == {}  # the entry's own name was hit


def test_agents_of_version_0_1_0_are_read_with_a_note(done: Path) -> None:
    import safetensors.torch

    old = safetensors.torch.load_file(done / "agent.safetensors")
    (done / rundir.ENDED).unlink()  # nor was that written
    about = json.dumps({"agent": "rainbow", "env": "atari/asterix"})
    (done / "agent.safetensors").write_bytes(safetensors.torch.save(old, {"seer-rl": about}))
    with pytest.warns(UserWarning, match=r"version 0\.1\.0 have no checksum"):
        assert main(["eval", str(done), "--episodes", "1"]) == 0


# ---- faults that must not end a run, numbers that must not be saved -----------------------------------------------------


@pytest.mark.parametrize("setting", ["seed", "agent.n_step", "seer.dtype"])
def test_the_agent_of_another_run_is_refused(setting: str, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another seed or other settings, with weights of the same shapes."""
    config = checkpoint.load_config(done)
    changed = {
        "seed": dataclasses.replace(config, seed=1),
        "agent.n_step": dataclasses.replace(config, agent=dataclasses.replace(config.agent, n_step=7)),
        "seer.dtype": dataclasses.replace(config, seer=dataclasses.replace(config.seer, dtype="uint8")),
    }[setting]
    agent, env = build.trained(done, config)
    env.close()
    checkpoint.save_agent(done, agent, changed, frozen=True)
    assert main(["eval", str(done), "--episodes", "1"]) == 2
    assert "agent.safetensors is of a run whose " in sentence(capsys)


@pytest.mark.parametrize("name", ["agent.safetensors", "metrics.csv"])
def test_results_that_are_not_those_of_the_end_are_refused(name: str, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A digit in the metrics, or the agent of an earlier evaluation."""
    if name == "metrics.csv":
        text = (done / name).read_text()
        at = text.index("eval/return,") + len("eval/return,")
        (done / name).write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    else:
        config = checkpoint.load_config(done)
        agent, env = build.trained(done, config)
        env.close()
        agent.load_state_dict(agent.state_dict() | {key: value + 1 for key, value in weights.tensors(agent).items()})
        checkpoint.save_agent(done, agent, config)
    command = ["plot", str(done), "--output", str(done / "x.png")] if name == "metrics.csv" else ["eval", str(done)]
    assert main(command) == 2
    assert f"{name} is not the file with which the run ended" in sentence(capsys)


@pytest.mark.parametrize("when", [30, 60], ids=["a checkpoint", "an evaluation and a checkpoint"])
def test_an_environment_that_dies_while_something_is_due_is_started_anew(when: int, tmp_path: Path) -> None:
    run, killed = Run(dataclasses.replace(SHORT, run_dir=tmp_path / "run")), False

    def kill(run: Run, event: Event | Metrics) -> None:
        nonlocal killed
        if run.step == when and event in (Event.EVALUATING, Event.SAVING) and not killed:
            assert run.env
            os.kill(run.env.pids[0], signal.SIGKILL)
            run.env._processes[0]._process.wait()
            killed = True

    with pytest.warns(UserWarning, match=f"failed at step {when} .*and was started anew"):
        loop.train(run, kill)
    assert run.step == 120


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hung"])
def test_a_run_that_is_stopped_with_a_failed_environment_is_saved(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "STOP_PATIENCE", 0.5)
    run = Run(dataclasses.replace(SHORT, run_dir=tmp_path / "run", eval=EvalConfig(1000, 1)))

    def show(run: Run, event: Event | Metrics) -> None:
        if run.step == 40 and not run.stopping:
            assert run.env
            os.kill(run.env.pids[0], how)
            run.stopping = True

    with pytest.raises(Stopped):
        loop.train(run, show)
    resumed = loop.resume(tmp_path / "run", pytest.fail)
    assert (resumed.step, resumed.resumed is not None and resumed.resumed.state["env"]) == (40, [None])
    with pytest.warns(UserWarning, match="the checkpoint of step 40 has no state of the environment"):
        loop.train(resumed)
    assert resumed.step == 120


@pytest.mark.parametrize("failures", [1, 2])
def test_a_simulator_that_fails_in_an_evaluation(failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dm_control's own error for a state that is no number: once it is started anew, twice is a fault with a checkpoint."""
    config = dataclasses.replace(
        CONTROL, agent=SACConfig(**ACTORS), eval=EvalConfig(every=20, episodes=1), run_dir=tmp_path / "run"
    )
    run, left = Run(config), failures

    def broken(agent: Any, env: Any, *rest: Any) -> list[float]:
        nonlocal left
        control = env.unwrapped
        step = control._env.step

        def diverge(action: Any) -> Any:
            if left:
                control._physics.data.qpos[:] = np.nan
            return step(action)

        control._env.step = diverge
        try:
            return evaluate(agent, env, *rest)
        finally:
            left -= left > 0
            control._env.step = step

    monkeypatch.setattr(run_module, "evaluate", broken)
    told = pytest.warns(UserWarning, match=r"the evaluation's environment failed at step 20 .*PhysicsError")
    if failures == 1:
        with told:
            loop.train(run)
    else:
        with told, pytest.raises(Fault, match=r"failed at step 20 .* is saved: go on with: seer resume"):
            loop.train(run)
        run = loop.resume(tmp_path / "run", pytest.fail)
        loop.train(run)
    assert [step for step, _ in run.evaluations] == [20, 40, 60]


@pytest.mark.parametrize("what", ["weights", "moments"])
def test_weights_that_are_no_numbers_are_never_written(what: str, tmp_path: Path) -> None:
    """They arise between two looks at the losses, right before an evaluation and a checkpoint."""
    config = dataclasses.replace(
        SHORT, run_dir=tmp_path / "run", checkpoint_every=65, eval=EvalConfig(65, 1), seer=SeerConfig()
    )
    run = Run(config)
    advance = run.advance

    def broken() -> list[dict[str, float]]:
        game = advance()
        if run.step == 65:
            with torch.no_grad():
                if what == "weights":
                    next(run.agent.parameters())[0] = float("nan")
                else:
                    assert isinstance(run.agent, Rainbow)
                    next(iter(run.agent.optimizer.state.values()))["exp_avg"][0] = float("inf")
        return game

    run.advance = broken  # type: ignore[method-assign]
    with pytest.raises(Fault, match=r"is no number any more at step 65; there is no checkpoint"):
        loop.train(run)
    assert not (tmp_path / "run" / "agent.safetensors").exists()
    assert checkpoint.newest(tmp_path / "run") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 1e39), "the reward is 1e+39, which is no finite float32"),
        ((None, float("nan")), "the reward is nan"),
        ((np.zeros((4, 84, 84), np.float32), 0.0), "an observation must be uint8 of the shape (4, 84, 84), not float32"),
        ((np.zeros((84, 84), np.uint8), 0.0), "not uint8 of (84, 84)"),
        ((np.zeros((1, 84, 84), np.uint8), 0.0), "not uint8 of (1, 84, 84)"),
        ((7, 0.0), "not int64 of ()"),
    ],
)
def test_what_the_replay_cannot_hold_ends_the_run_in_a_sentence(
    given: tuple[Any, float], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(dataclasses.replace(SHORT, run_dir=tmp_path / "run"))
    step = VectorEnv.step_wait

    def odd(env: VectorEnv) -> Any:
        answer = step(env)[0]
        wrong = answer._replace(obs=answer.obs if given[0] is None else given[0], reward=given[1])
        return {0: answer if run.step < 35 else wrong}

    monkeypatch.setattr(VectorEnv, "step_wait", odd)
    with pytest.raises(Fault) as fault:
        loop.train(run)
    assert words in str(fault.value)
    assert "at step 35; the checkpoint of step 30 in" in str(fault.value)


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own
def test_a_disk_that_is_full_when_metrics_are_written_is_a_sentence(tmp_path: Path) -> None:
    """The system's own refusal, by a limit on the size of files."""
    run = Run(dataclasses.replace(SHORT, run_dir=tmp_path / "run", eval=EvalConfig(35, 1)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(run: Run, event: Event | Metrics) -> None:
        if event is Event.EVALUATING:
            size = (run.run_dir / "metrics.csv").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))

    try:
        with pytest.raises(Fault, match=r"the system refused at step 35 \(.*; the checkpoint of step 30 in"):
            loop.train(run, show)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resumed = loop.resume(tmp_path / "run", pytest.fail)
    resumed.close()
    assert resumed.step == 30


def test_a_file_system_without_locks_is_told_as_that(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    assert main(["resume", str(run)]) == 2
    assert "cannot be locked against other processes (No locks available)" in sentence(capsys)


def test_settings_are_in_every_checkpoint(stopped: Path) -> None:
    found = checkpoint.load(stopped, pytest.fail)
    assert found
    assert found.state["settings"] == to_toml(checkpoint.load_config(stopped))


def test_damage_for_a_while() -> None:
    """The short form of `python -m tests.damage`."""
    counts, wrong = damage.check(cases=50, seed=0, say=False)
    assert wrong == []
    assert sum(counts.values()) == 50
    assert counts["refused"] > 5
    assert counts["the same"] > 5


def test_a_directory_stays_one_where_no_more_files_may_be_opened(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_handle = os.open(tmp_path, os.O_RDONLY)
    os.close(next_handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_handle, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as refused:
            Folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "ulimit -n" in refusal(refused.value)
