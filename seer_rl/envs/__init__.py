"""Environments: gymnasium environments with uint8 observations [C, H, W], stacks of frames."""

from typing import Any

import gymnasium as gym

from seer_rl.envs import atari


def make(name: str, training: bool, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """The environment `name`, such as "atari/alien". Raises ValueError with a hint if there is none.

    training: with what only learning should see (clipped rewards, a lost life as the end); evaluation plays without.
    """
    family, _, task = name.partition("/")
    if family == "atari" and task:
        return atari.make(task, training, render_mode)
    raise ValueError(f"there is no environment {name!r}: write atari/GAME, for example atari/alien")


def frames_in(env: gym.Env[Any, Any]) -> int:
    """How many frames an observation of `env` stacks."""
    return int(env.get_wrapper_attr("stack_size")) if env.has_wrapper_attr("stack_size") else 1


def max_episode_steps(env: gym.Env[Any, Any]) -> int:
    """Steps after which an episode is truncated."""
    return int(env.get_wrapper_attr("max_episode_steps"))
