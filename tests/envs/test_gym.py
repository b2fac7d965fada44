"""Any gymnasium environment: its images, vectors and actions, what is refused, and runs that stop and go on."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest

from seer_rl import envs, outside
from seer_rl.agents.curl import CURL
from seer_rl.agents.sac import SAC, SACConfig
from seer_rl.commands.film import filming
from seer_rl.commands.main import main
from seer_rl.envs import base
from seer_rl.envs.gym import GymConfig, make
from seer_rl.envs.subprocess import EnvironmentFailed, EnvProcess
from seer_rl.outside import TRUSTED
from seer_rl.training import checkpoint, loop
from seer_rl.training.arguments import Mistake
from seer_rl.training.config import AnalysisConfig, EvalConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Event, Metrics
from seer_rl.training.play import play
from seer_rl.training.run import Run, Stopped
from tests.envs import made
from tests.replay.saved import held

HERE = "tests.envs.made"


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that a user would have given on the command line."""
    names = [*(name for name in vars(made) if not name.startswith("_")), "absent"]
    monkeypatch.setenv(TRUSTED, ",".join(f"{HERE}:{name}" for name in names))
    monkeypatch.syspath_prepend(os.getcwd())


AS_IT_IS = GymConfig(size=0, stack=1)


def given(space: gym.Space[Any], **settings: Any) -> tuple[gym.Env[Any, Any], made.Counting, Any]:
    """An environment with such observations, as the family makes it of what is inside, and its first observation."""
    inside = made.Counting(space, made.COUNTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "counted", lambda: inside)
        env = make(f"{HERE}:counted", dataclasses.replace(AS_IT_IS, **settings), training=True)
    obs, _ = env.reset(seed=0)
    base.check(env, "it")
    return env, inside, obs


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((24, 20, 3), lambda x: x.transpose(2, 0, 1)),
        ((24, 20, 1), lambda x: x.transpose(2, 0, 1)),
        ((24, 20, 4), lambda x: x.transpose(2, 0, 1)),
        ((3, 24, 20), lambda x: x),
        ((24, 20), lambda x: x[None]),
        ((3, 24, 3), lambda x: x.transpose(2, 0, 1)),  # both could be: last it is
    ],
)
def test_channels_are_found_by_the_rule(shape: tuple[int, ...], channels: Any) -> None:
    env, inside, obs = given(made.image(*shape))
    assert np.array_equal(obs, channels(inside.seen(inside.observation_space)))
    assert obs.dtype == np.uint8
    assert env.observation_space.contains(obs)


def test_images_are_resized_and_gray_as_they_should_be() -> None:
    _, inside, obs = given(made.image(60, 48, 3), size=30, gray=True)
    raw = inside.seen(inside.observation_space).astype(np.float64)
    brightness = np.rint(raw @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert np.abs(obs[0].astype(int) - cv2.resize(brightness, (30, 30), interpolation=cv2.INTER_AREA)).max() <= 1
    _, inside, obs = given(made.image(60, 60, 3), size=30)  # halves: every pixel is the mean of four
    raw = inside.seen(inside.observation_space).astype(np.float64)
    means = raw.reshape(30, 2, 30, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(obs - means).max() <= 1
    _, inside, obs = given(made.image(9, 9, 4), gray=True)  # opacity is no colour
    raw = inside.seen(inside.observation_space).astype(np.float64)
    assert np.array_equal(obs[0], np.rint(raw[..., :3] @ [0.299, 0.587, 0.114]).astype(np.uint8))
    assert given(made.image(60, 60, 3))[2].shape == (3, 60, 60)
    assert given(made.image(60, 60, 3), size=None)[2].shape == (3, 84, 84)


def test_frames_are_stacked_oldest_first_in_dictionaries_too() -> None:
    env, inside, obs = given(made.SENSES, stack=2)
    first = inside.seen(inside.observation_space)
    assert {key: x.shape for key, x in obs.items()} == {
        "front": (6, 24, 24),
        "wrist": (2, 20, 22),
        "joints": (6,),
        "grip": (2,),
    }
    after = env.step(0)[0]
    second = inside.seen(inside.observation_space)
    assert np.array_equal(after["front"][:3], first["front"].transpose(2, 0, 1))
    assert np.array_equal(after["front"][3:], second["front"].transpose(2, 0, 1))
    assert np.array_equal(after["wrist"], np.stack([first["wrist"], second["wrist"]]))
    assert np.array_equal(after["joints"], np.concatenate([first["joints"], second["joints"]]).astype(np.float32))
    assert after["grip"].dtype == np.float32
    assert base.frames_in(env) == 2
    assert base.obs_shape(env) == {key: x.shape for key, x in obs.items()}


def test_an_environment_may_write_into_the_same_array() -> None:
    env = make(f"{HERE}:frugal", GymConfig(stack=3), training=True)
    seen = [env.reset(seed=0)[0], env.step(0)[0], env.step(0)[0]]
    inside = env.unwrapped
    assert isinstance(inside, made.Frugal)
    first, second, third = (obs[-1] for obs in seen)
    assert np.array_equal(seen[-1], np.stack([first, second, third]))
    assert len({int(frame[0, 0]) for frame in (first, second, third)}) == 3
    vectors = make(f"{HERE}:gripping", GymConfig(stack=2), training=True)
    before, after = vectors.reset(seed=0)[0]["joints"], vectors.step(0)[0]["joints"]
    assert np.array_equal(after[:2], before[2:])
    assert not np.array_equal(after[2:], before[2:])


def test_hints_name_the_code_that_a_command_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")
    assert outside.again("seer eval runs/it") == "seer eval runs/it"
    outside.trust("catch:Catch", "atari/pong", "mine:Agent")
    assert outside.again("seer eval runs/it") == "SEER_CODE=catch:Catch,mine:Agent seer eval runs/it"
    monkeypatch.setenv(TRUSTED, f"mine:Agent, {HERE}:counted")  # as people write it
    assert outside.load(f"{HERE}:counted", "environment") is made.counted


def test_what_an_environment_tells_beside_the_score_is_not_sent() -> None:
    with closing(EnvProcess(f"{HERE}:frugal", GymConfig())) as process:
        process.ask("reset", {0: 1})
        assert not any(isinstance(answer, EnvironmentFailed) for answer in process.answers().values())
        for _ in range(made.LENGTH):
            process.ask("step", {0: 1})
            (answer,) = process.answers().values()
            assert not isinstance(answer, EnvironmentFailed)
        assert answer.info == {"episode": {"r": 4.0 * made.LENGTH, "l": made.LENGTH}}


def test_what_an_environment_raises_is_told_with_file_and_line() -> None:
    """In the process of its own, and in an evaluation."""
    lines = Path(made.__file__).read_text("utf-8").splitlines()
    line = 1 + next(i for i, text in enumerate(lines) if "no second step" in text)
    told = f"LookupError: no second step (tests/envs/made.py, line {line})"
    with closing(EnvProcess(f"{HERE}:breaking", GymConfig())) as process:
        for method, argument in (("reset", 1), ("step", 1), ("step", 1)):
            process.ask(method, {0: argument})
            (answer,) = process.answers().values()
    assert isinstance(answer, EnvironmentFailed)
    assert str(answer) == told
    with closing(envs.make(f"{HERE}:breaking", training=False)) as env, pytest.raises(EnvironmentFailed) as failure:
        play(env, lambda _: 1, 1, seed=0)
    assert str(failure.value) == told


def test_what_draws_no_pictures_cannot_be_filmed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{HERE}:counted takes no render_mode, without which it draws no pictures"):
        envs.make(f"{HERE}:counted", training=False, render_mode="rgb_array")
    env = envs.make(f"{HERE}:counted", training=False)
    with pytest.raises(Mistake, match="draws no pictures"), closing(env), filming(tmp_path / "film.mp4", 30) as take:
        play(envs.Filmed(env, take), lambda _: 1, 1, seed=0)
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_not_as_its_space_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floats between 0 and 1 would be black, and another order of the dimensions noise."""
    wrongs: list[Callable[[Any], Any]] = [
        lambda x: x.astype(np.float32) / 255,
        lambda x: x.transpose(2, 0, 1),
        lambda x: x.astype(np.int64),
    ]
    for wrong in wrongs:
        env, inside, _ = given(made.image(24, 20, 3))
        shown = wrong(inside.seen(inside.observation_space))
        monkeypatch.setattr(inside, "seen", lambda _, shown=shown: shown)
        with pytest.raises(ValueError, match=r"where its space says uint8 and \(24, 20, 3\)"):
            env.step(0)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ({"count": 1, "words": ["a", None, 2.5, True], "array": np.zeros(3), "number": np.int8(3), "big": 2**100}, True),
        ({0: "by number"}, False),
        ({"set": {1}}, False),
        ({"space": gym.spaces.Discrete(3)}, False),
        ({"objects": np.array([None])}, False),
        ({"code": print}, False),
    ],
)
def test_a_state_that_cannot_be_saved_is_none(state: dict[Any, Any], kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(f"{HERE}:remembering", AS_IT_IS, training=True)
    env.reset(seed=0)
    assert base.get_state(env)
    monkeypatch.setattr(made.Remembering, "get_state", lambda _: state)
    assert (base.get_state(env) is not None) == kept


@pytest.mark.parametrize(
    ("name", "method"),
    [("set_state", None), ("get_state", lambda self, body: {}), ("set_state", lambda self: None)],
)
def test_methods_of_the_same_names_that_take_something_else_are_no_state(
    name: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method:
        monkeypatch.setattr(made.Remembering, name, method)
    else:
        monkeypatch.delattr(made.Remembering, name)
    env = make(f"{HERE}:remembering", AS_IT_IS, training=True)
    env.reset(seed=0)
    assert base.get_state(env) is None


@pytest.mark.parametrize(("limit", "expected"), [(1000, 250), (None, None)])
def test_an_environments_own_limit_counts_agent_steps(
    limit: int | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made.Frugal, "max_episode_steps", limit)
    assert base.max_episode_steps(make(f"{HERE}:frugal", GymConfig(action_repeat=4), training=True)) == expected


def test_actions_are_rescaled_and_count_from_nought() -> None:
    env = make(f"{HERE}:senses", AS_IT_IS, training=True)
    env.reset(seed=0)
    inside = env.unwrapped
    assert isinstance(inside, made.Counting)
    for action, expected in (([-1, -1], [0, -2]), ([1, 1], [10, 2]), ([0, 0.5], [5, 1]), ([9, -9], [10, -2])):
        env.step(np.array(action, np.float32))
        assert inside.taken[-1].tolist() == expected
    assert env.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    env, inside, _ = given(made.image(9, 9, 3))
    env.step(2)
    assert (inside.taken, env.action_space) == ([5], gym.spaces.Discrete(4))


def test_actions_are_repeated_until_the_end() -> None:
    env, inside, _ = given(made.image(9, 9, 3), action_repeat=4)
    rewards, lengths = [], 0
    while True:
        _, reward, terminated, _, info = env.step(1)
        rewards.append(reward)
        lengths += 1
        if terminated:
            break
    assert (len(inside.taken), lengths) == (made.LENGTH, 7)  # 6 times 4, and the last one alone
    assert rewards == [16.0] * 6 + [4.0]
    assert info["episode"] == {"r": 100.0, "l": 7}
    car = make("CarRacing-v3", GymConfig(action_repeat=3), training=True)
    assert base.max_episode_steps(car) == 334
    assert car.metadata["render_fps"] == pytest.approx(50 / 3)  # of films, which show every agent step


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{HERE}:blind", "there is no uint8 image"),
        (f"{HERE}:unbounded", "they must have bounds on both sides"),
        (f"{HERE}:several", "they must be discrete, or a vector of floats"),
        (f"{HERE}:talking", "its observation 'ear' is Text"),
        (f"{HERE}:striped", "their channels, 1, 3 or 4, must come first or last"),
        (f"{HERE}:failing", "cannot be made: KeyError: 'no arena' (tests/envs/made.py, line "),
        (f"{HERE}:nothing", "gave str, not a gymnasium environment"),
        (f"{HERE}:absent", "cannot be imported"),
        (f"{HERE}:family", "is a family of environments: name one of its tasks"),
        ("gym/NoSuchThing-v0", "gymnasium has no environment 'NoSuchThing-v0'"),
        ("gym/CartPole-v1", "AddRenderObservation"),
        ("gym/no_such_module:It-v0", "SEER_CODE=no_such_module:It-v0"),
        ("gym/", "there is no environment 'gym/'"),
        ("gym/../../x y*", "there is no environment"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises((ValueError, ImportError)) as refused:
        envs.make(name, training=True)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_in_a_file_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv(TRUSTED)
    for name in (f"{HERE}:counted", f"gym/{HERE}:Counted-v0"):
        with pytest.raises(ValueError, match=f"{TRUSTED}={HERE}:[cC]ounted"):
            envs.make(name, training=True)
    assert main(["train", f"{HERE}:absent", "--run-dir", str(tmp_path / "r")]) == 2  # on the command line it is the user's word
    assert "has no attribute 'absent'" in capsys.readouterr().err


def test_discrete_actions_get_rainbow_and_continuous_ones_sac() -> None:
    from seer_rl.training.arguments import parse

    assert parse([f"{HERE}:counted"], trusting=True).agent == parse(["atari/pong"]).agent
    config = parse(
        [f"{HERE}:senses", "--env.num-envs", "4", "--env.gray", "--env.stack", "4", "--env.action-repeat", "2"], True
    )
    assert config.agent == SACConfig()
    assert config.environment == GymConfig(num_envs=4, gray=True, stack=4, action_repeat=2)
    assert type(parse([f"{HERE}:senses", "--agent", "curl"], trusting=True).agent) is CURL.Config


def config(task: str, run_dir: Path, **changes: Any) -> TrainConfig:
    agent = SACConfig(hidden=16, learning_starts=20, batch_size=8)
    short = TrainConfig(
        task, steps=90, seed=1, agent=agent, seer=SeerConfig(freeze_step=50, dtype="uint8"), eval=EvalConfig(100, 1)
    )
    return dataclasses.replace(short, environment=GymConfig(size=36, stack=2), run_dir=run_dir, **changes)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_environment_that_tells_its_state_resumes_bit_for_bit(num_envs: int, tmp_path: Path) -> None:
    """Two cameras and vectors, before and after the freeze."""
    settings = config(f"{HERE}:remembering", tmp_path / "straight")
    settings = dataclasses.replace(settings, environment=dataclasses.replace(settings.environment, num_envs=num_envs))
    straight = Run(settings)
    loop.train(straight)
    run = Run(dataclasses.replace(settings, run_dir=tmp_path / "pieces"))
    for stop in (33, 72):

        def show(run: Run, event: Event | Metrics, stop: int = stop) -> None:
            run.stopping = run.step >= stop

        with pytest.raises(Stopped):
            loop.train(run, show)
        run = loop.resume(tmp_path / "pieces", pytest.fail)
    loop.train(run)
    assert held(run.replay) == held(straight.replay)
    for name in ("metrics.csv", checkpoint.AGENT):
        assert (run.run_dir / name).read_bytes() == (straight.run_dir / name).read_bytes()


def test_one_without_state_is_killed_and_begins_a_new_episode(tmp_path: Path) -> None:
    code = "import sys; from seer_rl.commands.main import main; sys.exit(main())"
    words = [f"{HERE}:senses", "--env.size", "24", "--steps", "100000", "--agent.hidden", "16", "--agent.batch-size", "8",
             "--agent.learning-starts", "20", "--seer.freeze-step", "60", "--checkpoint-every", "50", "--eval.episodes", "1",
             "--run-dir", str(tmp_path / "run")]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen([sys.executable, "-c", code, "train", *words], stdout=out, stderr=out) as run:
        while run.poll() is None and (checkpoint.newest(tmp_path / "run") or 0) < 100:
            pass
        run.send_signal(signal.SIGKILL)
    saved = checkpoint.newest(tmp_path / "run")
    assert saved is not None, log.read_text()
    with closing(loop.resume(tmp_path / "run", lambda note: None)) as resumed:
        with pytest.warns(UserWarning, match="has no state of the environment: its episode is cut there"):
            resumed.begin()
        assert (resumed.step, resumed.frozen_at) == (saved, 60)
        resumed.advance()


def test_car_racing_trains_past_a_freeze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(config(f"{HERE}:car", tmp_path / "run"))
    loop.train(run)
    assert (run.step, run.frozen_at) == (90, 50)
    assert run.replay.bytes_per_step == 100 + 4 + 3 * 4 + 4
    assert main(["eval", str(tmp_path / "run"), "--episodes", "1"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "policy.onnx")]) == 0
    capsys.readouterr()


def test_what_needs_one_image_refuses_dictionaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="are dictionaries: leave out --analysis"):
        Run(config(f"{HERE}:senses", tmp_path / "run", analysis=AnalysisConfig(every=45)))
    run = Run(config(f"{HERE}:senses", tmp_path / "run"))
    loop.train(run)
    checkpoint.save_snapshot(tmp_path / "run", 45, run.agent, run.config)  # as earlier versions took them
    assert isinstance(run.agent, SAC)
    assert main(["eval", str(tmp_path / "run"), "--episodes", "1"]) == 0
    for command in (
        ["export", str(tmp_path / "run"), str(tmp_path / "policy.onnx")],
        ["analyze", "attention", str(tmp_path / "run")],
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert "are dictionaries of front, grip, joints, wrist: this needs a single image" in capsys.readouterr().err
    assert not (tmp_path / "policy.onnx").exists()


def test_observations_that_are_not_finite_end_the_run_in_a_sentence() -> None:
    from seer_rl.replay.observation import Unfit
    from seer_rl.replay.replay import Replay

    replay = Replay({"eye": (1, 2, 2), "joints": (2,)}, (), np.uint8, capacity=20)
    good: dict[str, Any] = {"eye": np.zeros((1, 1, 2, 2), np.uint8), "joints": np.zeros((1, 2), np.float32)}
    replay.begin(good)
    for key, wrong, words in (
        ("joints", np.array([[np.nan, 0]], np.float32), "'joints' hold numbers that are not finite"),
        ("joints", np.zeros((1, 2)), "'joints' must be float32 of the shape (2,), not float64"),
        ("eye", np.zeros((1, 1, 2, 3), np.uint8), "'eye' must be uint8 of the shape (1, 2, 2), not uint8 of (1, 2, 3)"),
    ):
        with pytest.raises(Unfit) as refused:
            replay.add([0], [0.0], [False], [False], good | {key: wrong})
        assert words in str(refused.value)
    with pytest.raises(Unfit, match="must be dictionaries of eye, joints, not dictionaries of eye"):
        replay.begin({"eye": good["eye"]})
    with pytest.raises(Unfit, match="must be dictionaries of eye, joints, not arrays"):
        replay.begin(good["eye"])
    assert (replay.size, len(replay)) == (1, 0)  # and nothing was stored
