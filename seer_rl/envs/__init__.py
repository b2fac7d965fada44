"""Environments: gymnasium environments with uint8 observations [C, H, W], stacks of frames."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np

from seer_rl.bounds import Within
from seer_rl.envs import atari, dmc

FAMILIES = ("atari", "dmc")


@dataclass(frozen=True)
class EnvConfig:
    """Settings of a DeepMind Control environment. Atari is always the paper's."""

    action_repeat: Annotated[int | None, Within(1, 1000)] = None
    """Control steps per agent step. None: the paper's (8 cartpole, 2 finger and walker, 4 elsewhere)."""
    size: Annotated[int | None, Within(1, 512)] = None
    """Height and width of frames. None: 100 for agents that crop, 84 for the others."""
    fast_render: bool = False
    """Without shadows, reflections and multisampling: several times faster on a CPU, but other pictures than the paper's."""
    camera: Annotated[int, Within(0, 100)] = 0
    """Camera of the task's model that sees: 0, as in the paper; for DrQ-v2 on quadruped 2, as its authors chose."""


def make(name: str, training: bool, settings: EnvConfig = EnvConfig(), render_mode: str | None = None) -> gym.Env[Any, Any]:
    """The environment `name`: "atari/alien", "dmc/walker-walk". Raises ValueError with a hint if there is none.

    training: with what only learning should see (on Atari clipped rewards, a lost life as the end); evaluation plays without.
    """
    family, _, task = name.partition("/")
    if not re.fullmatch(r"[\w -]*", task, re.ASCII):  # it becomes a part of the run directory's name
        family = ""
    if family == "atari" and task:
        if settings != EnvConfig():
            names = "--env.action-repeat, --env.size, --env.fast-render and --env.camera"
            raise ValueError(f"{names} are for dmc/ environments, not for atari/")
        return atari.make(task, training, render_mode)
    if family == "dmc" and task:
        return dmc.make(task, settings.action_repeat, settings.size, settings.fast_render, render_mode, settings.camera)
    raise ValueError(f"there is no environment {name!r}: write atari/GAME or dmc/TASK, such as atari/alien or dmc/walker-walk")


def plain(name: str) -> str:
    """An environment's task, however it is spelled: atari/bank_heist and atari/BankHeist are both bankheist."""
    return re.sub(r"[^a-z0-9]", "", name.partition("/")[2].lower())


def canonical(name: str) -> str:
    """Give an environment the same name however it is spelled: atari/bank_heist and atari/BankHeist are atari/bankheist."""
    family, _, task = name.partition("/")
    return f"{family}/{plain(name) or task}"


def get_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Everything that what follows in `env` depends on: simulator, stack of frames, random numbers, score so far."""
    return {"inner": env.unwrapped.get_state(), "frames": np.stack(env.get_wrapper_attr("obs_queue"))}  # type: ignore[attr-defined]


def set_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Go on from what `get_state` gave, in an environment of the same make."""
    env.reset(seed=0)
    env.unwrapped.set_state(state["inner"])  # type: ignore[attr-defined]
    env.get_wrapper_attr("obs_queue").extend(state["frames"])


def frames_in(env: gym.Env[Any, Any]) -> int:
    """How many frames an observation of `env` stacks."""
    return int(env.get_wrapper_attr("stack_size")) if env.has_wrapper_attr("stack_size") else 1


def max_episode_steps(env: gym.Env[Any, Any]) -> int:
    """Steps after which an episode is truncated."""
    return int(env.get_wrapper_attr("max_episode_steps"))


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Hands a picture of every step to `keep`."""

    def __init__(self, env: gym.Env[Any, Any], keep: Callable[[Any], None]) -> None:
        super().__init__(env)
        self.keep = keep

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self.keep(self.env.render())
        return result
