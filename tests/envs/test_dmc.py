"""DeepMind Control, on the real simulator and renderer."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from dm_control import suite
from gymnasium.utils.env_checker import check_env

from seer_rl import envs
from seer_rl.envs import base, dmc
from seer_rl.envs.dmc import ControlConfig

SMALL = ControlConfig(size=24, fast_render=True)


def play(env: Any, steps: int, seed: int | None, actions: int = 0) -> list[tuple[bytes, float]]:
    """Observations and rewards of `steps` random actions."""
    rng = np.random.default_rng(actions)
    obs, _ = env.reset(seed=seed)
    found = [(obs.tobytes(), 0.0)]
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        found.append((obs.tobytes(), float(reward)))
        if terminated or truncated:
            obs, _ = env.reset()
            found.append((obs.tobytes(), 0.0))
    return found


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "atari/pong"])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_both_families_are_gymnasium_environments(name: str) -> None:
    env = envs.make(name, training=True, settings=SMALL if name.startswith("dmc") else None, render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    check_env(env.unwrapped, skip_render_check=True)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.ndim == 3
    env.close()


def test_an_observation_is_three_frames_of_a_real_picture() -> None:
    env: Any = envs.make("dmc/walker-walk", training=True)
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((9, 100, 100), np.uint8)
    assert np.array_equal(obs[:3], obs[3:6])  # the first frame stands for those before it
    after, *_ = env.step(np.ones(6, np.float32))
    assert np.array_equal(after[:6], obs[3:])
    assert not np.array_equal(after[6:], obs[6:])
    picture = env.unwrapped._env.physics.render(100, 100, camera_id=0)
    assert np.array_equal(after[6:], picture.transpose(2, 0, 1))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
    env.close()


@pytest.mark.parametrize(("task", "repeat"), [("cartpole-swingup", 8), ("finger-spin", 2), ("cheetah-run", 4)])
def test_an_agent_step_is_its_control_steps(task: str, repeat: int) -> None:
    """Rewards, lengths and the time limit are those of dm_control itself, driven by hand."""
    env: Any = envs.make("dmc/" + task, training=True, settings=SMALL)
    env.reset(seed=5)
    domain, name = task.split("-")
    raw = suite.load(domain, name, task_kwargs={"random": 0})
    raw.task.random.seed(int(np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))).integers(2**31)))
    raw.reset()
    rng, steps, score, truncated = np.random.default_rng(0), 0, 0.0, False
    info: dict[str, Any] = {}
    while not truncated:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, terminated, truncated, info = env.step(action)
        expected = sum(raw.step(action).reward for _ in range(min(repeat, 1000 - steps * repeat)))
        assert reward == pytest.approx(expected, abs=1e-9)
        assert not terminated
        score += reward
        steps += 1
    assert steps == base.max_episode_steps(env) == 1000 // repeat
    assert info["episode"] == {"r": pytest.approx(score), "l": steps}
    env.close()


def test_seeds_are_exact_and_episodes_differ() -> None:
    first, again, other = (envs.make("dmc/reacher-easy", True, SMALL) for _ in range(3))
    trace = play(first, 260, seed=3)  # into a second episode
    assert trace == play(again, 260, seed=3)
    assert trace == play(first, 260, seed=3)  # a used environment too
    assert trace != play(other, 260, seed=4)
    assert trace[0] != trace[251]
    for env in (first, again, other):
        env.close()


def test_actions_are_scaled_to_the_tasks_range_and_clipped() -> None:
    env: Any = envs.make("dmc/pendulum-swingup", True, SMALL).unwrapped
    env._low, env._high = np.array([-3.0]), np.array([1.0])
    given: list[float] = []
    step = env._env.step

    def recorded(control: Any) -> Any:
        given.append(float(control[0]))
        return step(control)

    env._env.step = recorded
    env.reset(seed=0)
    for action in (-1.0, 0.0, 1.0, 7.0):
        env.step(np.array([action], np.float32))
    assert given[:: env.action_repeat] == [-3.0, -1.0, 1.0, 1.0]
    env.close()


def test_names_are_found_however_they_are_joined_and_near_ones_named() -> None:
    assert dmc._task("ball_in_cup-catch", suite.ALL_TASKS) == ("ball_in_cup", "catch")
    assert dmc._task("BallInCupCatch", suite.ALL_TASKS) == ("ball_in_cup", "catch")
    with pytest.raises(ValueError, match="did you mean walker-walk"):
        dmc._task("walker-wlak", suite.ALL_TASKS)
    with pytest.raises(ValueError, match="for example cartpole-swingup"):
        dmc._task("xyzzy", suite.ALL_TASKS)


def test_fast_rendering_is_another_picture() -> None:
    pictures = []
    for fast in (False, True):
        env = envs.make("dmc/walker-walk", True, ControlConfig(fast_render=fast))
        pictures.append(env.reset(seed=0)[0])
        env.close()
    assert not np.array_equal(*pictures)
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 40  # of the same scene


def test_the_camera_is_chosen_among_the_models() -> None:
    env = envs.make("dmc/quadruped-walk", True, ControlConfig(size=84, camera=2))
    obs, _ = env.reset(seed=0)
    theirs = [env.unwrapped._env.physics.render(84, 84, camera_id=i).transpose(2, 0, 1) for i in range(3)]  # type: ignore[attr-defined]
    assert [np.array_equal(obs[-3:], picture) for picture in theirs] == [False, False, True]
    env.close()
    with pytest.raises(ValueError, match="there is no camera 4 in quadruped-walk: its 4 are counted from 0"):
        envs.make("dmc/quadruped-walk", True, ControlConfig(camera=4))


def test_frames_may_be_larger_than_what_mujoco_draws_into_by_itself() -> None:
    env = envs.make("dmc/cartpole-balance", True, ControlConfig(size=512, fast_render=True))
    obs, _ = env.reset(seed=0)
    env.close()
    assert obs.shape == (9, 512, 512)
    assert len({obs[:, rows].std() > 1 for rows in (slice(0, 256), slice(256, 512))} | {obs[..., 480:].std() > 0}) == 1


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISABLE_RENDER_THREAD_OFFLOADING")
    }
    return subprocess.run([sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=False)


def test_rendering_needs_no_settings_and_ends_without_noise() -> None:
    done = python("from seer_rl import envs; e = envs.make('dmc/cartpole-swingup', True); print(e.reset(seed=0)[0].std() > 1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_without_a_renderer_one_sentence_names_the_package() -> None:
    program = (
        "import seer_rl.envs.dmc as d; d.PROBE = 'raise SystemExit(1)'\n"
        "from seer_rl.commands.main import main; raise SystemExit(main(['train', 'dmc/cartpole-swingup']))"
    )
    done = python(program)
    assert done.returncode == 2
    assert "apt-get install libosmesa6" in done.stderr
    assert done.stderr.count("\n") == 1
    for name in ("glfw", "bogus"):
        chosen = python(
            "from seer_rl.commands.main import main; raise SystemExit(main(['train', 'dmc/cartpole-swingup']))", MUJOCO_GL=name
        )
        assert chosen.returncode == 2
        assert chosen.stderr.startswith(f"seer: the renderer that MUJOCO_GL={name} asks for")
        assert chosen.stderr.count("\n") == 1


def test_the_renderers_name_may_be_written_in_any_case() -> None:
    works = python("from seer_rl.envs.dmc import renderer; print(renderer())").stdout.strip()
    program = "from seer_rl import envs; print(envs.make('dmc/cartpole-swingup', True).reset(seed=0)[0].shape)"
    done = python(program, MUJOCO_GL=f" {works.upper()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "(9, 100, 100)\n", "")
