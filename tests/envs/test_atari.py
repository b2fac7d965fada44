"""The Atari environment against the emulator itself, stepped by hand, and against the replay."""

import warnings
from pathlib import Path
from typing import Any

import ale_py
import cv2
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from seer_rl import envs
from seer_rl.envs import base
from seer_rl.envs.atari import Atari
from seer_rl.replay.replay import Replay


def test_gymnasium_accepts_it() -> None:
    with warnings.catch_warnings():
        # Frames have no channel axis, being stacked later, and 84x84 is what the paper plays on.
        warnings.filterwarnings("ignore", message=".*not an image.*")
        warnings.filterwarnings("ignore", message=".*not having a spec.*")  # it is not in gymnasium's list of names
        check_env(Atari("pong", training=True, render_mode="rgb_array"))


def by_hand(seed: int, actions: list[int], noops: int) -> tuple[list[np.ndarray], list[float]]:
    """Frames and rewards of Breakout: 4 frames an action, grey, resized, then the larger of the last two."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", seed)
    ale.loadROM(Path(str(ale_py.roms.get_rom_path("breakout"))))
    ale.reset_game()

    def screen() -> np.ndarray:
        return cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_LINEAR)

    for _ in range(noops):
        ale.act(0)
    frames, rewards = [screen()], []
    for action in actions:
        total, last_two = 0.0, []
        for i in range(4):
            total += ale.act(ale.getMinimalActionSet()[action])
            if i >= 2:
                last_two.append(screen())
        frames.append(np.maximum(*last_two))
        rewards.append(total)
    return frames, rewards


def test_frames_are_the_emulators_resized_then_maximised_and_stacked() -> None:
    env = envs.make("atari/breakout", training=False)
    actions = [1, 3, 3, 2, 0, 1, 2, 2, 3, 0, 1, 3] * 3
    obs, _ = env.reset(seed=5)
    rng = np.random.default_rng(0)
    rng.bit_generator.state = np.random.PCG64(5).state  # gymnasium's generator for seed 5
    seed, noops = int(rng.integers(2**31)), int(rng.integers(31))
    frames, rewards = by_hand(seed, actions, noops)
    history = [frames[0]] * 4  # the first frame stands for those before it
    assert np.array_equal(obs, np.stack(history))
    for action, frame, reward in zip(actions, frames[1:], rewards, strict=True):
        obs, found, terminated, truncated, _ = env.step(action)
        history = [*history[1:], frame]
        assert np.array_equal(obs, np.stack(history))
        assert found == reward
        assert not terminated
        assert not truncated


def play(env: Any, steps: int, seed: int) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    seen: list[tuple[Any, ...]] = [(obs.sum(), info["lives"])]
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        seen.append((int(obs.sum()), reward, terminated, truncated, info["lives"], info.get("episode", {}).get("r")))
        if terminated or truncated:
            seen.append((int(env.reset()[0].sum()),))
    return seen


def test_a_seed_fixes_everything_and_another_changes_it() -> None:
    first, again, other = (play(envs.make("atari/seaquest", training=True), 1500, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_noop_starts_are_spread_over_0_to_30() -> None:
    env = Atari("breakout", training=True)
    env.reset(seed=0)
    starts = set()
    for _ in range(400):
        env.reset()
        starts.add(env._ale.getEpisodeFrameNumber())
    assert min(starts) == 0
    assert max(starts) == 30
    assert len(starts) == 31


def test_a_lost_life_ends_the_episode_but_not_the_game_in_training_only() -> None:
    training, evaluation = Atari("breakout", training=True), Atari("breakout", training=False)
    lives = []
    training.reset(seed=0)
    for _ in range(3000):
        _, _, terminated, _, info = training.step(1)
        if terminated:
            lives.append(info["lives"])
            assert ("episode" in info) == (info["lives"] == 0)
            assert training.reset()[1]["lives"] == (info["lives"] or 5)
            if info["lives"] == 0:
                break
    assert lives == [4, 3, 2, 1, 0]
    evaluation.reset(seed=0)
    ends = []
    for _ in range(3000):
        _, _, terminated, _, info = evaluation.step(1)
        if terminated:
            ends.append(info["lives"])
            break
    assert ends == [0]


def test_qbert_shows_no_lives_before_its_game_is_over() -> None:
    """Only a loss with lives left ends an episode: the last life ends with the game, exactly once."""
    env = Atari("qbert", training=True)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    ends = []
    for _ in range(5000):
        _, _, terminated, _, info = env.step(int(rng.integers(6)))
        if terminated:
            ends.append((info["lives"], "episode" in info))
            if "episode" in info:
                break
            env.reset()
    assert ends == [(3, False), (2, False), (1, False), (0, True)]


def test_rewards_are_clipped_in_training_and_scores_are_not() -> None:
    scores, sums = [], []
    for training in (True, False):
        env = Atari("qbert", training)
        rng = np.random.default_rng(1)
        env.reset(seed=1)
        total = 0.0
        while True:
            _, reward, terminated, truncated, info = env.step(int(rng.integers(6)))
            total += reward
            assert not training or -1 <= reward <= 1
            if "episode" in info:
                break
            if terminated or truncated:
                env.reset()
        scores.append(info["episode"]["r"])
        sums.append(total)
    assert sums[1] == scores[1] >= 25
    assert sums[0] < scores[0]


def test_half_an_hour_of_play_is_a_truncation() -> None:
    env = Atari("pong", training=True)
    env.reset(seed=0)
    env._ale.act(0)
    for _ in range(26_900):  # frames: Pong's first points take longer than this test may
        env._ale.act(0)
        if env._ale.game_over():
            env._ale.reset_game()
    start = env._ale.getEpisodeFrameNumber()
    assert env.max_episode_steps == 27_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seer_rl.envs.atari.MAX_FRAMES", start + 40)
        ends: list[bool] = []
        while not (ends and ends[-1]):
            _, _, terminated, truncated, info = env.step(0)
            ends.append(truncated)
    assert len(ends) == 10
    assert not terminated
    assert "episode" in info


@pytest.mark.parametrize(
    ("game", "cuts"),
    [
        ("tic_tac_toe_3d", (8, 9, 31, 32, 65, 66)),  # which often draws nothing for seconds
        ("earthworld", (0, 210, 231)),
        ("seaquest", (1, 50, 150)),
    ],
)
def test_a_restored_game_shows_what_the_other_shows(game: str, cuts: tuple[int, ...]) -> None:
    """A console's state has no picture, and a frame that is not drawn shows an earlier one."""
    env = envs.make(f"atari/{game}", training=True)
    restored: list[Any] = []
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for step in range(cuts[-1] + 60):
        if step in cuts:
            twice = envs.make(f"atari/{game}", training=True), envs.make(f"atari/{game}", training=True)
            state: Any = base.get_state(env)
            base.set_state(twice[0], state)
            again: Any = base.get_state(twice[0])  # saved again before a step
            base.set_state(twice[1], again)
            restored += twice
        action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
        results = [one.step(action) for one in (env, *restored)]
        if results[0][2] or results[0][3]:
            results += [(one.reset()[0],) for one in (env, *restored)]
        half = len(restored) + 1
        for result in results[1:half]:
            assert np.array_equal(result[0], results[0][0]), step
            assert result[1:] == results[0][1:]
        for result in results[half + 1 :]:
            assert np.array_equal(result[0], results[half][0]), step


def test_a_state_of_version_0_1_0_is_read() -> None:
    env, other = Atari("pong", training=True), Atari("pong", training=True)
    env.reset(seed=0)
    env.step(1)
    state = env.get_state()
    del state["since"]
    state["emulator"] = np.frombuffer(env._ale.cloneState(include_rng=True).serialize(), np.uint8)  # it was the present one
    other.reset(seed=1)
    other.set_state(state)
    assert np.array_equal(env.step(2)[0], other.step(2)[0])


def test_names_are_forgiving_and_mistakes_are_answered() -> None:
    for name in ("atari/bank_heist", "atari/BankHeist", "atari/bank-heist"):
        envs.make(name, training=True)
    with pytest.raises(ValueError, match="did you mean seaquest"):
        envs.make("atari/sequest", training=True)
    with pytest.raises(ValueError, match="such as atari/alien or dmc/walker-walk"):
        envs.make("alien", training=True)


def test_the_replay_gives_back_the_environments_own_stacks() -> None:
    env = envs.make("atari/qbert", training=True)
    replay = Replay((4, 84, 84), (), np.uint16, capacity=2000, stack=base.frames_in(env), n_step=3)
    rng = np.random.default_rng(0)
    seen: list[tuple[np.ndarray, np.ndarray, bool]] = []
    obs, _ = env.reset(seed=0)
    replay.begin(obs[None])
    for step in range(1500):
        action = int(rng.integers(6))
        next_obs, reward, terminated, truncated, _ = env.step(action)
        replay.add(
            [step], [float(reward)], [terminated], [truncated], next_obs[None]
        )  # the step's number in place of its action
        seen.append((obs, next_obs, terminated))
        obs = next_obs
        if terminated or truncated:
            obs, _ = env.reset()
            replay.begin(obs[None])
    assert sum(terminated for *_, terminated in seen) > 5
    batch = replay.sample(300)
    for row, step in enumerate(batch.action.tolist()):
        assert np.array_equal(batch.obs[row], seen[step][0])
        if not any(terminated for *_, terminated in seen[step : step + 3]):
            assert np.array_equal(batch.next_obs[row], seen[step + 2][1])
        else:
            assert batch.discount[row] == 0
