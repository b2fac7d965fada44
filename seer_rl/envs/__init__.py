"""Environments by name, such as "atari/alien": a family, a slash, and a task. Adding a family is a file and a line."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from seer_rl import outside, text
from seer_rl.envs import atari, dmc, gym
from seer_rl.envs.base import EnvConfig, Family, Scale, check

FAMILIES = (atari.FAMILY, dmc.FAMILY, gym.FAMILY)


def find(name: str) -> tuple[Family, str]:
    """Return the family and the task of an environment's name.

    "module:factory" is a task of gymnasium's family. A family from elsewhere is named module:object/task, and must have been
    named by the user. Raises ValueError, in a sentence, for any other name.
    """
    family, task = family_of(name), _task(name)
    if family and re.fullmatch(family.tasks, task, re.ASCII):  # it becomes a part of the run directory's name
        return family, task
    examples = " or ".join(f"{family.name}/{family.example}" for family in FAMILIES)
    raise ValueError(f"there is no environment {name!r}: write a family and a task of it, such as {examples}")


def _task(name: str) -> str:
    """Return the task in an environment's name."""
    head, slash, task = name.partition("/")
    return task if slash or not outside.is_outside(head) else name


def family_of(name: str) -> Family | None:
    """Return the family that an environment's name begins with, whatever follows; None where there is none of that name.

    Raises ValueError where it is from elsewhere, and cannot be imported or has not been named by the user.
    """
    head, slash, _ = name.partition("/")
    if outside.is_outside(head) and not slash:
        return gym.FAMILY
    if outside.is_outside(head):
        found = outside.load(head, "environment")
        if not isinstance(found, Family):
            raise ValueError(f"{head} is no family of environments: seer_rl/envs/base.py says what one needs")
        return found
    return next((family for family in FAMILIES if family.name == head), None)


def code_in(name: str) -> str:
    """Return the name of code from elsewhere that an environment's name asks for; an empty one where it asks for none."""
    head, _, task = name.partition("/")
    return head if outside.is_outside(head) else task if head == gym.FAMILY.name and outside.is_outside(task) else ""


def make(
    name: str, training: bool, settings: EnvConfig | None = None, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Make the environment `name`: "atari/alien", "dmc/walker-walk"; seer_rl/envs/base.py says what it offers.

    training: with what only learning should see (on Atari clipped rewards, a lost life as the end); evaluation plays without.
    settings: the family's; None for its defaults. Raises ValueError, with a hint, if there is no such environment; ImportError
    or OSError where something is missing that it needs.
    """
    family, task = find(name)
    if settings is None:
        settings = family.Config()
    if type(settings) is not family.Config:
        raise ValueError(f"the settings of {name} are a {family.Config.__name__}, not a {type(settings).__name__}")
    try:
        env = family.make(task, settings, training, render_mode)
    except Exception as error:  # of many kinds: it may be code of others
        if isinstance(error, ValueError | ImportError | OSError) and not outside.place(error):
            raise
        raise ValueError(f"the environment {name} cannot be made: {outside.told(error)}") from error
    try:
        check(env, name)
    except BaseException:
        env.close()
        raise
    return env


def scale(name: str) -> Scale | None:
    """Return the scale of an environment's scores; None where it is not known, or the environment's family is not."""
    try:
        family = family_of(name)
    except ValueError:
        return None
    return family.scale(_task(name)) if family else None


def plain(name: str) -> str:
    """Return an environment's task, however it is spelled: atari/bank_heist and atari/BankHeist are both bankheist."""
    return text.plain(name.partition("/")[2])


def canonical(name: str) -> str:
    """Give an environment the same name however it is spelled: atari/bank_heist and atari/BankHeist are atari/bankheist."""
    family, _, task = name.partition("/")
    return f"{family}/{plain(name) or task}"


class Unfilmed(Exception):
    """A picture that the environment does not draw, or that cannot be kept, in a sentence."""


class Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Hands a picture [H, W, 3] uint8 of every step to `keep`."""

    def __init__(self, env: gymnasium.Env[Any, Any], keep: Callable[[Any], None]) -> None:
        super().__init__(env)
        self.keep = keep

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and hand over the picture after it. Raises Unfilmed where there is none."""
        result, picture = self.env.step(action), None
        with contextlib.suppress(NotImplementedError):
            picture = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            raise Unfilmed(
                "the environment draws no pictures [height, width, 3] uint8: "
                "its class or factory must take render_mode='rgb_array', and render() return them"
            )
        self.keep(picture)
        return result
