"""A family of environments from outside, in one file: every command with it, and what runs without state do."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import ale
from seer_rl import envs, outside
from seer_rl.commands.main import main
from seer_rl.envs import base
from seer_rl.experiments import inspect, stats, sweep
from seer_rl.replay.lane import TRUNCATED
from seer_rl.training import checkpoint, loop
from seer_rl.training.config import from_toml
from seer_rl.training.events import Event, Metrics
from seer_rl.training.logger import read
from seer_rl.training.run import Run, Stopped

HEAD = "examples.ale:FAMILY"
NAME = f"{HEAD}/Breakout"
SETTINGS = (
    f"{NAME} --preset short --env.difficulty 1 --agent.learning-starts 20 --agent.hidden 16 --checkpoint-every 20 "
    "--eval.episodes 1 --analysis.every 40 --keep-last --no-compile"
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(outside.TRUSTED, "")
        run_dir = tmp_path_factory.mktemp("ale") / "run"
        assert main(["train", *SETTINGS.split(), "--run-dir", str(run_dir)]) == 0
        yield run_dir


def test_its_settings_defaults_preset_and_scale_are_its_own(run_dir: Path) -> None:
    outside.trust(HEAD)
    config = from_toml((run_dir / checkpoint.CONFIG).read_text())
    assert config.environment == ale.Settings(difficulty=1, size=48)
    assert (config.steps, config.seer.freeze_step, config.agent.batch_size) == (100, 60, 4)
    assert read(run_dir)["seer/freeze_step"] == [(60, 60.0)]
    assert stats.normalised(NAME, 15.0) == 0.5


def test_every_command_knows_it_once_the_user_has_named_it(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect, "OBSERVATIONS", 200)
    commands = [
        f"eval {run_dir} --episodes 1",
        f"play {run_dir} --video {tmp_path}/film.mp4",
        f"export {run_dir} {tmp_path}/policy.onnx",
        f"plot {run_dir} --output {tmp_path}/curves.png",
        f"report {run_dir} --no-film --output {tmp_path}/report.html",
        f"analyze similarity {run_dir} --lag 40 --output {tmp_path}/similarity.png",
    ]
    for command in commands:
        assert main(command.split()) in (1, 2), command
        assert f"{outside.TRUSTED}={HEAD} before the command" in capsys.readouterr().err
    outside.trust(HEAD)
    for command in commands:
        assert main(command.split()) == 0, (command, capsys.readouterr().err)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["resume", str(run_dir), "--steps", "110"]) == 0
    assert "note: the checkpoint of step 100 has no state of the environment" in capsys.readouterr().out


def test_a_score_is_noted_where_a_whole_game_ends_and_never_clipped() -> None:
    """As envs/base.py says: an automatic freeze compares the scores of training with those of a random player's games."""
    outside.trust(HEAD)
    env = envs.make(f"{HEAD}/SpaceInvaders", training=True, settings=ale.Settings())
    env.action_space.seed(1)
    env.reset(seed=1)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(float(reward))
        over = terminated or truncated
        assert ("episode" in info) == over
    assert info["lives"] == 0
    assert info["episode"]["l"] == len(rewards)
    assert info["episode"]["r"] > sum(rewards) > 0
    assert max(rewards) == 1


def test_a_sweep_takes_it_by_the_users_word_and_not_by_a_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text(f'envs = ["{NAME}"]\n')
    assert main(["sweep", str(tmp_path / "plan.toml"), "--output", str(tmp_path / "runs")]) == 2
    assert f"{outside.TRUSTED}={HEAD} before the command" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (config,) = sweep.configs({"envs": [NAME]}, tmp_path / "runs", trusting=True).values()
    assert isinstance(config.environment, ale.Settings)


def test_without_state_a_run_goes_on_with_a_new_episode_and_says_so(tmp_path: Path) -> None:
    """Frozen, stopped on either side of it, and resumed: its replay has the episode cut there, and the run its whole length."""
    outside.trust(HEAD)
    env = envs.make(NAME, training=True)
    env.reset(seed=0)
    assert base.get_state(env) is None
    assert base.max_episode_steps(env) is None or base.frames_in(env) == 4
    env.close()
    assert main(["train", *SETTINGS.split(), "--run-dir", str(tmp_path / "whole")]) == 0
    config = from_toml((tmp_path / "whole" / checkpoint.CONFIG).read_text().replace("whole", "run"))
    run = Run(config)
    stops = iter((30, 80, 1000))

    def show(run: Run, event: Event | Metrics) -> None:
        run.stopping = run.step >= stop

    stop = next(stops)
    with pytest.raises(Stopped):
        loop.train(run, show)
    for stop in stops:  # noqa: B007 (`show` reads it)
        run = loop.resume(tmp_path / "run", pytest.fail)
        told = pytest.warns(UserWarning, match=f"step {run.step} has no state of the environment: its episode is cut there")
        with told, contextlib.suppress(Stopped):
            loop.train(run, show)
    assert (run.step, run.frozen_at) == (100, 60)
    assert int((run.replay._store.flags & TRUNCATED > 0).sum()) == 2  # where it was stopped
    assert checkpoint.newest(tmp_path / "run") == 100


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("examples.ale:Nothing/Breakout", "has no attribute 'Nothing'"),
        ("examples.nowhere:FAMILY/Breakout", "No module named"),
        ("examples.ale:make/Breakout", "is no family of environments: seer_rl/envs/base.py says what one needs"),
        (f"{HEAD}/", "there is no environment"),
        (f"{HEAD}/Nothing", "Nothing"),
    ],
)
def test_what_is_no_family_is_refused(name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_only_the_environment_is_the_users_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory or a label that looks like such a name imports nothing."""
    for option in ("--run-dir", "--label"):
        assert main(["train", "--preset", "quick", "--steps", "1", option, "examples.nowhere:FAMILY/x"]) == 2
        assert "--seer.freeze-step 8,000 lies beyond the run of 1 steps" in capsys.readouterr().err
        assert "nowhere" not in os.environ[outside.TRUSTED]


def test_an_environment_that_does_not_keep_the_contract_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    family = base.Family("others", example="CartPole-v1", make=lambda task, settings, training, render_mode: gym.make(task))
    monkeypatch.setattr(envs, "FAMILIES", (*envs.FAMILIES, family))
    with pytest.raises(ValueError, match=r"the observations of others/CartPole-v1 are Box\(.*\): they must be uint8 images"):
        envs.make("others/CartPole-v1", training=True)
