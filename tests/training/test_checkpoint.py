"""Runs that are stopped, killed or damaged, and go on as if nothing had happened."""

import dataclasses
import hashlib
import json
import os
import random
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
from dm_control import suite

from seer_rl import envs
from seer_rl.agents.curl import CURLConfig
from seer_rl.agents.drqv2 import DrQv2Config
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.agents.sac import SACConfig
from seer_rl.commands.main import main
from seer_rl.envs import base
from seer_rl.envs.base import EnvConfig
from seer_rl.envs.dmc import ControlConfig
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.envs.vector import VectorEnv
from seer_rl.training import checkpoint, loop
from seer_rl.training.config import AnalysisConfig, EvalConfig, ReplayConfig, SeerConfig, TrainConfig, from_toml, to_toml
from seer_rl.training.events import Event, Fault, Metrics
from seer_rl.training.files import Folder
from seer_rl.training.run import Run, Stopped
from studies import shared
from tests.replay.saved import held

ATARI = TrainConfig(
    "atari/qbert",
    steps=280,
    seed=3,
    seer=SeerConfig(freeze_step=160),
    replay=ReplayConfig(memory=1_000_000, priority_exponent=0.5),  # 141 steps of frames: wrapped before the freeze
    eval=EvalConfig(every=110, episodes=1),
    agent=RainbowConfig(learning_starts=60, batch_size=8, hidden=16),
    checkpoint_every=100_000,
)
CONTROL_ENV = ControlConfig(size=24, fast_render=True, action_repeat=20)  # games of 50 steps
CONTROL = TrainConfig(
    "dmc/reacher-easy",
    steps=220,
    environment=CONTROL_ENV,
    seer=SeerConfig(freeze_step=120, copies=2),
    replay=ReplayConfig(memory=150_000),  # 86 steps of frames
    eval=EvalConfig(every=100, episodes=1),
    agent=CURLConfig(crop=20, hidden=32, learning_starts=40, batch_size=12),
    checkpoint_every=100_000,
)


def end_of(run: Run) -> dict[str, Any]:
    """What a run came to, to the last bit."""
    return {
        "metrics": (run.run_dir / "metrics.csv").read_bytes(),
        "agent": (run.run_dir / "agent.safetensors").read_bytes(),
        "replay": held(run.replay),
        "operations": run.account.operations,
        "random_scores": run.random_scores,
        "evaluations": run.evaluations,
    }


def whole(config: TrainConfig, run_dir: Path) -> Run:
    run = Run(dataclasses.replace(config, run_dir=run_dir))
    loop.train(run)
    return run


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run of `ATARI` comes to that nothing befalls. How often a run is saved changes nothing of it."""
    return end_of(whole(ATARI, tmp_path_factory.mktemp("alone") / "run"))


def stop_at(step: int) -> Callable[[Run, Event | Metrics], None]:
    def show(run: Run, event: Event | Metrics) -> None:
        if run.step >= step:
            run.stopping = True

    return show


def in_pieces(config: TrainConfig, run_dir: Path, stops: list[int]) -> Run:
    """The same run, stopped as soon as it shows itself at each of `stops`, and resumed."""
    run = Run(dataclasses.replace(config, run_dir=run_dir))
    for step in stops:
        with pytest.raises(Stopped):
            loop.train(run, stop_at(step))
        run = loop.resume(run_dir, pytest.fail)
        assert run.step >= step
    loop.train(run)
    return run


@pytest.mark.parametrize(
    ("config", "stops"),
    [
        # while filling, at an evaluation, before, at and after the freeze
        (dataclasses.replace(ATARI, seer=dataclasses.replace(ATARI.seer, dtype="uint4")), [40, 110, 150, 160, 170, 250]),
        (dataclasses.replace(ATARI, seer=SeerConfig(freeze_step=0), steps=200), [20, 100]),
        (dataclasses.replace(CONTROL, seer=dataclasses.replace(CONTROL.seer, dtype="uint8")), [20, 110, 120, 190]),
        (dataclasses.replace(CONTROL, agent=SACConfig(hidden=32, learning_starts=40, batch_size=12)), [110, 140]),
        (dataclasses.replace(CONTROL, agent=DrQv2Config(hidden=32, learning_starts=40, batch_size=12, shift=2)), [110, 140]),
        (dataclasses.replace(ATARI, environment=EnvConfig(num_envs=4)), [40, 110, 150, 200]),
        (
            dataclasses.replace(
                CONTROL,
                steps=222,
                environment=dataclasses.replace(CONTROL_ENV, num_envs=3),
                replay=ReplayConfig(memory=200_000),
            ),
            [100, 130],
        ),
    ],
    ids=[
        "rainbow, uint4",
        "rainbow, frozen from the start",
        "curl, uint8",
        "sac",
        "drqv2",
        "rainbow, four environments",
        "curl, three environments",
    ],
)
def test_a_run_in_pieces_is_the_whole_run_bit_for_bit(config: TrainConfig, stops: list[int], tmp_path: Path) -> None:
    straight, pieces = whole(config, tmp_path / "straight"), in_pieces(config, tmp_path / "pieces", stops)
    assert end_of(straight) == end_of(pieces)
    assert not (tmp_path / "pieces" / "checkpoints").exists()  # a run that has ended needs none


@pytest.mark.parametrize(
    "arm",
    [SeerConfig(freeze_step=160), SeerConfig(freeze_step="auto", earliest=80, latest=160, dtype="uint4")],
    ids=["fixed", "auto"],
)
def test_a_run_that_branches_off_another_is_the_run_from_its_beginning(
    arm: SeerConfig, left_alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seer_rl.seer.EVERY", 40)
    never = dataclasses.replace(
        ATARI, seer=SeerConfig(freeze_step="auto", earliest=281, latest=281), checkpoint_every=80, label="never"
    )
    trunk, config = tmp_path / "never", dataclasses.replace(ATARI, seer=arm, run_dir=tmp_path / "arm")
    with pytest.raises(Stopped):
        loop.train(Run(dataclasses.replace(never, run_dir=trunk)), stop_at(170))  # measured at 160, after that checkpoint
    assert shared.leaves(trunk, config) == 160
    assert not shared.branch(trunk, tmp_path / "arm", config, 70)
    assert shared.branch(trunk, tmp_path / "arm", config, 160)
    run = loop.resume(tmp_path / "arm", pytest.fail)
    assert run.step == 160
    loop.train(run)
    straight = left_alone if arm == ATARI.seer else end_of(whole(config, tmp_path / "straight"))
    ends = [end_of(run), dict(straight)]
    if arm.freeze_step != "auto":  # the trunk was measured, which is counted, and written down
        for end in ends:
            del end["operations"], end["metrics"]
    assert ends[0] == ends[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from seer_rl.envs import atari
from seer_rl.training import loop
from seer_rl.training.config import from_toml
from seer_rl.training.process import prepare
from seer_rl.training.run import Run
from tests.seer import SHORT_GAME
import dataclasses
atari.MAX_FRAMES = SHORT_GAME
config = dataclasses.replace(from_toml(Path(sys.argv[1]).read_text("utf-8")), run_dir=Path(sys.argv[2]))
def show(run, event):
    if run.step >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare(config)
loop.train(Run(config), show)
"""


def test_a_killed_run_goes_on_from_its_newest_checkpoint(left_alone: dict[str, Any], tmp_path: Path) -> None:
    """One agent, at one instant; `tests.torture` kills two at any."""
    config = dataclasses.replace(ATARI, checkpoint_every=60)
    (tmp_path / "config.toml").write_text(to_toml(config))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "config.toml"), str(tmp_path / "killed"), "200"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert checkpoint.newest(tmp_path / "killed") == 180
    run = loop.resume(tmp_path / "killed", pytest.fail)
    assert run.step == 180
    loop.train(run)
    assert end_of(run) == left_alone


def test_only_what_changed_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    blob = checkpoint._blob
    monkeypatch.setattr("seer_rl.replay.store.SEGMENT_BYTES", 100_000)
    config = dataclasses.replace(ATARI, replay=ReplayConfig(), seer=SeerConfig(), checkpoint_every=50, steps=301)

    def counted(folder: Folder, data: Any) -> str:
        written.append(memoryview(data).nbytes)
        return blob(folder, data)

    monkeypatch.setattr(checkpoint, "_blob", counted)
    run = Run(dataclasses.replace(config, run_dir=tmp_path / "run"))
    with pytest.raises(Stopped):
        loop.train(run, stop_at(300))
    frames = sum(n for n in written if n <= 100_000)
    assert frames < 300 * 7064 + 7 * 2 * 100_000  # each record once, and at each checkpoint the two segments that it ends in
    resumed = loop.resume(tmp_path / "run", pytest.fail)
    assert held(resumed.replay) == held(run.replay)
    resumed.close()


SOME = {
    "cartpole-swingup",
    "quadruped-escape",
    "lqr-lqr_2_1",
    "reacher-easy",
    "manipulator-bring_ball",
}  # of each kind of state


@pytest.mark.parametrize(
    "name",
    [
        "atari/qbert",
        "atari/alien",
        *(
            pytest.param("dmc/" + "-".join(names), marks=[] if "-".join(names) in SOME else pytest.mark.slow)
            for names in suite.ALL_TASKS
        ),
    ],
)
def test_environments_go_on_from_their_state(name: str) -> None:
    settings = ControlConfig(size=16, fast_render=True) if name.startswith("dmc") else base.EnvConfig()

    def trace(env: Any, steps: int, seed: int) -> list[Any]:
        rng, found = np.random.default_rng(seed), []
        for _ in range(steps):
            discrete = name.startswith("atari")
            action = int(rng.integers(env.action_space.n)) if discrete else rng.uniform(-1, 1, env.action_space.shape)
            obs, reward, terminated, truncated, info = env.step(action)
            found.append((obs.tobytes(), float(reward), terminated, truncated, str(info)))
            if terminated or truncated:
                found.append(env.reset()[0].tobytes())
        return found

    env, other = (envs.make(name, True, settings) for _ in range(2))
    env.reset(seed=1)
    trace(env, 1500 if name.startswith("atari") else 7, seed=0)
    arrays: dict[str, Any] = {}
    plain = json.loads(json.dumps(checkpoint._flatten(base.get_state(env), arrays)))
    state = checkpoint._unflatten(plain, {k: v.copy() for k, v in arrays.items()})
    steps = 1500 if name.startswith("atari") else 12
    expected = trace(env, steps, seed=1)
    base.set_state(other, state)
    assert trace(other, steps, seed=1) == expected
    env.close()
    other.close()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, of steps 40 and 60."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    config = dataclasses.replace(ATARI, run_dir=run_dir, checkpoint_every=40, eval=EvalConfig(1000, 1))
    with pytest.raises(Stopped):
        loop.train(Run(config), stop_at(60))
    assert len(list((run_dir / "checkpoints").glob("*.json"))) == 2
    return run_dir


def damage(path: Path, how: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return
    if how == "flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    keep = {"cut": rng.randrange(max(1, len(data))), "emptied": 0}.get(how, len(data))
    path.write_bytes(data[:keep])


@pytest.mark.parametrize("seed", [*range(30), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 120))])
def test_damage_is_named_and_the_checkpoint_before_is_used(seed: int, stopped: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir)
    files = sorted((run_dir / "checkpoints").iterdir())
    before, last = sorted((run_dir / "checkpoints").glob("*.json"))
    newest = json.loads(last.read_bytes().partition(b"\n")[2])
    older = json.loads(before.read_bytes().partition(b"\n")[2])
    assert (newest["step"], older["step"]) == (60, 40)
    victim = rng.choice(files)
    how = rng.choice(["cut", "flipped", "emptied", "removed"])
    damage(victim, how, rng)
    said: list[str] = []
    in_newest = victim == last or victim.name in newest["blobs"].values()
    in_older = victim == before or victim.name in older["blobs"].values()
    if in_newest and in_older:
        with pytest.raises(ValueError, match=r"every checkpoint of .* is damaged"):
            checkpoint.load(run_dir, said.append)
        assert len(said) == 2
        with pytest.raises(ValueError, match=r"every checkpoint of .* is damaged"):  # still: nothing begins over them
            checkpoint.load(run_dir, said.append)
        return
    found = checkpoint.load(run_dir, said.append)
    assert found is not None
    assert found.step == (40 if in_newest else 60)
    if victim == last and how == "removed":
        assert "parts of a checkpoint without its list" in said[0]
    elif in_newest:
        assert victim.name in said[0]
    elif victim == before and how == "removed":
        assert said == [] or "without its list" in said[0]
    else:
        assert said == []
    if seed < 2:
        run = loop.resume(run_dir, said.append)
        loop.train(run)
        assert run.step == ATARI.steps


def test_a_checkpoint_with_code_in_it_runs_none(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stopped, tmp_path / "run")
    import hashlib

    bomb = b"cos\nsystem\n(S'touch hacked'\ntR."
    name = hashlib.sha256(bomb).hexdigest()
    (tmp_path / "run" / "checkpoints" / name).write_bytes(bomb)
    for manifest in (tmp_path / "run" / "checkpoints").glob("*.json"):
        body = json.loads(manifest.read_bytes().partition(b"\n")[2])
        body["blobs"]["arrays"] = name
        text = json.dumps(body).encode()
        manifest.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert main(["resume", "run"]) == 2
    assert not (tmp_path / "hacked").exists()


def test_a_stop_in_the_random_players_games_loses_nothing(left_alone: dict[str, Any], tmp_path: Path) -> None:
    """They are played where they are first needed, at the first evaluation, and again after the stop."""
    run = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "run", checkpoint_every=1000))

    def stop(run: Run, event: Event | Metrics) -> None:
        run.stopping = event is Event.RANDOM_GAMES

    with pytest.raises(Stopped):
        loop.train(run, stop)
    assert not run.random_scores
    assert run.saved == run.step == min(ATARI.eval.every, ATARI.steps)
    again = loop.resume(tmp_path / "run", print)
    loop.train(again)
    assert end_of(again) == left_alone


def test_a_stop_in_the_freeze_goes_back_to_the_step_before_it(left_alone: dict[str, Any], tmp_path: Path) -> None:
    """It leaves agent and replay useless: the checkpoint that was written right before is what there is."""
    config = dataclasses.replace(ATARI, run_dir=tmp_path / "run", checkpoint_every=1000)

    def stop(run: Run, event: Event | Metrics) -> None:
        run.stopping = event is Event.FREEZING

    with pytest.raises(Stopped):
        loop.train(Run(config), stop)
    run = loop.resume(tmp_path / "run", pytest.fail)
    assert (run.step, run.frozen) == (config.seer.freeze_step, False)
    loop.train(run)
    assert end_of(run) == left_alone


def test_a_full_disk_keeps_the_last_good_checkpoint(
    left_alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(ATARI, run_dir=tmp_path / "run", checkpoint_every=40)
    write, full = Folder.write, False

    def writes(folder: Folder, name: str, data: Any, durable: bool = True, beside: str | None = None) -> None:
        if full and folder.path.name == "checkpoints":
            raise OSError(28, "No space left on device")
        write(folder, name, data, durable, beside)

    def show(run: Run, event: Event | Metrics) -> None:
        nonlocal full
        full = run.step >= 60

    monkeypatch.setattr(Folder, "write", writes)
    with pytest.raises(Fault, match=r"no space left on device: make room.*the checkpoint of step 40 in .* is from before it"):
        loop.train(Run(config), show)
    monkeypatch.undo()
    run = loop.resume(tmp_path / "run", pytest.fail)
    assert run.step == 40
    loop.train(run)
    assert end_of(run) == left_alone


def test_a_snapshot_that_cannot_be_written_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    """Something else lies where the snapshots belong."""
    run = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "run", analysis=AnalysisConfig(every=60)))

    def obstruct(run: Run, event: Event | Metrics) -> None:
        directory = run.run_dir / checkpoint.ANALYSIS
        if run.step == 40 and directory.is_dir():
            shutil.rmtree(directory)
            directory.write_text("in the way")

    with pytest.raises(Fault, match=r"the system refused at step 60 \(.*analysis.*\); there is no checkpoint"):
        loop.train(run, obstruct)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "run", checkpoint_every=50))

    def break_down(run: Run, event: Event | Metrics) -> None:
        if run.step == 60:
            with torch.no_grad():
                next(run.agent.parameters()).fill_(float("nan"))

    with pytest.raises(Fault, match=r"losses/loss is nan at step 80; the checkpoint of step 50 in .* is from before it"):
        loop.train(run, break_down)
    assert checkpoint.newest(tmp_path / "run") == 50
    run, step = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "other")), VectorEnv.step_wait
    monkeypatch.setattr(VectorEnv, "step_wait", lambda env: {0: step(env)[0]._replace(reward=float("inf"))})
    with pytest.raises(Fault, match="the reward is inf, which is no finite float32, at step 1; there is no checkpoint"):
        loop.train(run)


def failing(how: str, failures: int) -> Callable[[Run, Event | Metrics], None]:
    """Let the environment fail so often, from step 100 on."""

    def show(run: Run, event: Event | Metrics) -> None:
        nonlocal failures
        if run.step < 100 or not failures:
            return
        failures -= 1
        assert run.env
        if how == "hangs":
            run.env.patience = 0.5
        if how == "raises":
            run.env.step_async({0: "no action"})
            assert isinstance(run.env.step_wait()[0], EnvironmentFailed)  # and so does the step that the run asks for
        else:
            os.kill(run.env.pids[0], signal.SIGKILL if how == "dies" else signal.SIGSTOP)

    return show


@pytest.mark.parametrize("how", ["dies", "hangs", "raises"])
def test_an_environment_that_fails_is_started_anew_once(tmp_path: Path, how: str) -> None:
    run = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "run", seer=SeerConfig(), steps=200))
    why = {"dies": "its process ended with code -9", "hangs": "no answer for 0.5 seconds", "raises": ".*Error"}[how]
    with pytest.warns(UserWarning, match=rf"the environment failed at step 101 \({why}.*and was started anew"):
        loop.train(run, failing(how, 1))
    assert run.step == 200
    assert run.replay._store.flags[:200].any()
    assert (run.replay._store.flags & 2 > 0).sum() >= 1  # the episode was cut


def test_an_environment_that_fails_again_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run(dataclasses.replace(ATARI, run_dir=tmp_path / "run"))
    with (
        pytest.warns(UserWarning, match="was started anew"),
        pytest.raises(Fault, match=r"failed again at step 102 .*; everything up to it is saved: go on with: seer resume"),
    ):
        loop.train(run, failing("dies", 2))
    run = loop.resume(tmp_path / "run", pytest.fail)
    assert run.step == 102
    with pytest.warns(UserWarning, match="has no state of the environment"):  # what failed is not asked for its state
        loop.train(run)
    assert run.step == ATARI.steps


def test_a_state_may_use_the_names_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    state = {
        "array": np.arange(3),
        "shape": [3],
        "in": [{"array": "text", "shape": None}, {"array": np.float32(2), "shape": ()}],
    }
    checkpoint.save(tmp_path / "run", 1, {"env": state}, [], keep=1)
    found = checkpoint.load(tmp_path / "run", pytest.fail)
    assert found
    assert np.array_equal(found.state["env"].pop("array"), np.arange(3))
    assert found.state["env"] == {"shape": [3], "in": [{"array": "text", "shape": None}, {"array": 2.0, "shape": []}]}


def test_a_checkpoint_of_another_format_stays_as_it_is(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    for manifest in (tmp_path / "run" / "checkpoints").glob("*.json"):
        body = json.loads(manifest.read_bytes().partition(b"\n")[2]) | {"format": 99}
        text = json.dumps(body)
        manifest.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", "utf-8")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()}
    with pytest.raises(ValueError, match=r"is of format 99, .* resume it with the version that wrote it; nothing was changed"):
        loop.resume(tmp_path / "run", pytest.fail)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()} == before


def test_what_resuming_refuses(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    assert main(["train", "atari/qbert", "--run-dir", str(tmp_path / "run")]) == 2
    assert f"holds a run at step 60: go on with: seer resume {tmp_path / 'run'}" in capsys.readouterr().err
    (tmp_path / "begun").mkdir()
    for name in ("config.toml", ".lock"):
        shutil.copy(stopped / name, tmp_path / "begun")
    assert main(["train", "atari/qbert", "--run-dir", str(tmp_path / "begun")]) == 2
    assert f"no checkpoint yet: begin it again with: seer resume {tmp_path / 'begun'};" in capsys.readouterr().err
    run = loop.resume(tmp_path / "run", pytest.fail)
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "another process is training in" in capsys.readouterr().err
    loop.train(run)
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert f"has ended, at step {ATARI.steps}" in capsys.readouterr().err
    assert main(["resume", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path) -> None:
    config = dataclasses.replace(ATARI, run_dir=tmp_path / "run", steps=100, seer=SeerConfig())
    (tmp_path / "run").mkdir()
    checkpoint.save_config(tmp_path / "run", config)
    said: list[str] = []
    run = loop.resume(tmp_path / "run", said.append)
    assert said == [f"{tmp_path / 'run'} has no checkpoint yet: it begins again"]
    loop.train(run)
    assert end_of(run) == end_of(whole(config, tmp_path / "straight"))


def test_a_signal_stops_an_evaluation_soon_with_a_checkpoint(tmp_path: Path) -> None:
    """Each signal, between two steps, is commands/test_console.py's."""
    settings = "--steps 100000 --no-compile --agent.hidden 16 --agent.learning-starts 100 --agent.batch-size 8"
    settings += " --eval.every 300 --eval.episodes 10 --run-dir run"
    command = [sys.executable, "-m", "seer_rl", "train", "atari/qbert", *settings.split()]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("evaluating"):
                break
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(30)
        assert code == 128 + signal.SIGTERM
        assert process.stderr.read() == "seer: stopped at step 300: go on with: seer resume run\n"
    run = loop.resume(tmp_path / "run", pytest.fail)
    assert run.step == 300
    assert run.evaluations == []
    run.close()


def test_settings_of_checkpoints_survive_their_file() -> None:
    config = dataclasses.replace(ATARI, checkpoint_every=7, keep=3)
    assert from_toml(to_toml(config)) == config


def test_torture_for_a_while() -> None:
    """The short form of `python -m tests.torture`, in a process that can fork before any thread runs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--minutes", "0.5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run ended exactly as left alone" in done.stdout
