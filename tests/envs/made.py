"""Gymnasium environments whose every number is known, for tests of the family that takes any."""

from typing import Any

import gymnasium as gym
import numpy as np

from seer_rl.envs.atari import FAMILY

LENGTH = 25  # steps of an episode
CONTINUOUS = gym.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, 2.0], np.float32))
COUNTED = gym.spaces.Discrete(4, start=3)


class Counting(gym.Env[Any, Any]):
    """Shows the number of the step and of the episode's seed; gives the first number of each action as its reward."""

    def __init__(self, space: gym.Space[Any], actions: gym.Space[Any], terminates: bool = True) -> None:
        self.observation_space, self.action_space, self.terminates = space, actions, terminates
        self.count, self.shade, self.taken = 0, 0, list[Any]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.shade = 0, int(self.np_random.integers(100))
        return self.seen(self.observation_space), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.count += 1
        over = self.count == LENGTH
        reward = float(np.ravel(action)[0])
        return self.seen(self.observation_space), reward, over and self.terminates, over and not self.terminates, {}

    def seen(self, space: gym.Space[Any]) -> Any:
        """Every pixel has a value of its own, which the step and the seed move."""
        if isinstance(space, gym.spaces.Dict):
            return {key: self.seen(part) for key, part in space.spaces.items()}
        numbers = np.arange(int(np.prod(space.shape or ()))).reshape(space.shape or ())
        return ((numbers * 7 + self.count * 31 + self.shade) % 256).astype(space.dtype)


class Remembering(Counting):
    """The same, and it tells and takes its state."""

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count, "shade": self.shade, "rng": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count, self.shade, self.np_random.bit_generator.state = state["count"], state["shade"], state["rng"]


class Breaking(Counting):
    """Breaks at its second step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.count == 1:
            raise LookupError("no second step")
        return super().step(action)


def image(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, shape, np.uint8)


SENSES = gym.spaces.Dict(
    {
        "front": image(24, 24, 3),
        "wrist": image(20, 22),
        "joints": gym.spaces.Box(-9, 9, (3,), np.float64),
        "grip": gym.spaces.Box(0, 1, ()),
    }
)


def car() -> gym.Env[Any, Any]:
    """CarRacing, in short episodes."""
    return gym.make("CarRacing-v3", max_episode_steps=40)


class Frugal(Counting):
    """Writes every observation into the same array, and tells things that cannot be sent."""

    max_episode_steps: int | None = 1000

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = super().step(action)
        for old, new in zip(_arrays(self.buffer), _arrays(obs), strict=True):
            old[...] = new
        return self.buffer, reward, terminated, truncated, {"why": lambda: obs}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.buffer = super().reset(seed=seed)[0]
        return self.buffer, {}


def _arrays(obs: Any) -> list[Any]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def frugal() -> gym.Env[Any, Any]:
    return Frugal(image(1, 84, 84), COUNTED)


def gripping() -> gym.Env[Any, Any]:
    return Frugal(gym.spaces.Dict({"eye": image(1, 84, 84), "joints": gym.spaces.Box(-9, 300, (2,), np.float32)}), COUNTED)


def senses() -> gym.Env[Any, Any]:
    return Counting(SENSES, CONTINUOUS)


def remembering() -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Remembering(SENSES, CONTINUOUS, terminates=False), 20)


def counted() -> gym.Env[Any, Any]:
    return Counting(image(40, 40, 3), COUNTED)


def blind() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


def unbounded() -> gym.Env[Any, Any]:
    return Counting(image(40, 40, 3), gym.spaces.Box(-np.inf, np.inf, (2,)))


def several() -> gym.Env[Any, Any]:
    return Counting(image(40, 40, 3), gym.spaces.MultiDiscrete([2, 3]))


def talking() -> gym.Env[Any, Any]:
    return Counting(gym.spaces.Dict({"eye": image(9, 9, 3), "ear": gym.spaces.Text(9)}), COUNTED)


def striped() -> gym.Env[Any, Any]:
    return Counting(image(40, 40, 7), COUNTED)


def breaking() -> gym.Env[Any, Any]:
    return Breaking(image(40, 40, 3), COUNTED)


def failing() -> gym.Env[Any, Any]:
    raise KeyError("no arena")


def nothing() -> str:
    return "an environment"


family = FAMILY
