"""Any gymnasium environment whose observations are uint8 images, or dictionaries that hold some: gym/ID, or module:factory.

Images are found, resized and stacked; what else a dictionary holds must be vectors, which become float32 and are stacked, too.
An image has its channels last if its last dimension is 1, 3 or 4, and otherwise first if its first one is; two dimensions are a
gray image. Bounded continuous actions are rescaled to [-1, 1], discrete ones count from 0.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from seer_rl import outside
from seer_rl.bounds import Count, Within
from seer_rl.envs import base
from seer_rl.envs.base import EnvConfig, Family
from seer_rl.text import install

COLOURS = (1, 3, 4)  # channels of an image: gray, RGB, RGB and opacity
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue in a gray pixel (ITU-R BT.601)
SIZE = 84


@dataclass(frozen=True)
class GymConfig(EnvConfig):
    """Settings of a gymnasium environment."""

    size: Annotated[int | None, Within(0, 1024)] = None
    """Height and width of images. None: 100 for agents that crop, 84 for the others. 0: as they come."""
    gray: bool = False
    """One channel of brightness in place of red, green and blue."""
    stack: Annotated[int, Within(1, 32)] = 3
    """Frames in an observation: one alone does not show what moves."""
    action_repeat: Count = 1
    """Steps of the environment per agent step."""


def make(task: str, settings: GymConfig, training: bool, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make the environment of `task`, a gymnasium id or module:factory: images [channels, height, width], actions in [-1, 1].

    Raises ValueError, in a sentence, for an environment that has no images, or other actions; ImportError where one of its
    libraries is missing.
    """
    env = _created(task, render_mode)
    try:
        env = Episodes(_rescaled(env), settings.action_repeat)
        env = _with_images(env, SIZE if settings.size is None else settings.size, settings.gray)
        if settings.stack > 1:
            env = _flat(gym.wrappers.FrameStackObservation(env, settings.stack, padding_type="reset"))
    except BaseException as error:
        env.close()
        if isinstance(error, ValueError):
            raise ValueError(f"{task} cannot be learnt from: {error}") from error
        raise
    return env


def _created(task: str, render_mode: str | None) -> gym.Env[Any, Any]:
    """Make the environment as its authors made it. A name with a colon is code, which the user must have named."""
    try:
        if not outside.is_outside(task):
            return gym.make(task, render_mode=render_mode, disable_env_checker=True)
        if not task.partition(":")[2].isidentifier():  # an id that is there once its module is imported
            outside.load_module(task, "environment")
            return gym.make(task.partition(":")[2], render_mode=render_mode, disable_env_checker=True)
        factory = outside.load(task, "environment")
        if isinstance(factory, Family):
            raise ValueError(f"{task} is a family of environments: name one of its tasks, as {task}/{factory.example}")
        try:
            env = factory(render_mode=render_mode) if render_mode else factory()
        except TypeError as error:
            if "'render_mode'" not in str(error):
                raise
            raise ValueError(f"{task} takes no render_mode, without which it draws no pictures") from error
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(str(error)) from error
    except gym.error.Error as error:
        raise ValueError(f"gymnasium has no environment {task!r} to offer: {error}") from error
    if not isinstance(env, gym.Env):
        raise ValueError(f"{task} gave {type(env).__name__}, not a gymnasium environment")
    return env


class Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats actions, and tells at the end of an episode its return "r" and its length "l" in agent steps.

    Offers the environment's state where the environment does.
    """

    def __init__(self, env: gym.Env[Any, Any], action_repeat: int) -> None:
        super().__init__(env)
        self._repeat, self._return, self._length = action_repeat, 0.0, 0
        limit = base.max_episode_steps(env)
        self.max_episode_steps = None if limit is None else -(-limit // action_repeat)
        if "render_fps" in env.metadata:  # a film has a picture of every agent step
            self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / action_repeat}
        if base.gives_state(env):
            self.get_state, self.set_state = self._get_state, self._set_state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._return, self._length = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Repeat `action`, until the episode ends, and sum the rewards."""
        total = 0.0
        for _ in range(self._repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self._return, self._length = self._return + total, self._length + 1
        ended = {"episode": {"r": self._return, "l": self._length}} if terminated or truncated else {}
        return obs, total, bool(terminated), bool(truncated), {key: info[key] for key in info if key != "episode"} | ended

    def _get_state(self) -> dict[str, Any]:
        inner = self.env.get_wrapper_attr("get_state")()
        return {"inner": inner, "return": self._return, "length": self._length, "elapsed": self._limit()._elapsed_steps}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.env.get_wrapper_attr("set_state")(state["inner"])
        self._return, self._length, self._limit()._elapsed_steps = state["return"], state["length"], state["elapsed"]

    def _limit(self) -> Any:
        """Return the wrapper that ends episodes after a time; this one where there is none."""
        env: gym.Env[Any, Any] = self.env
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.wrappers.TimeLimit):
                return env
            env = env.env
        self._elapsed_steps: int | None = None
        return self


def _rescaled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Let continuous actions lie in [-1, 1], as float32, and discrete ones count from 0. Raises ValueError for any others."""
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        start = int(space.start)
        return gym.wrappers.TransformAction(env, lambda a: int(a) + start, gym.spaces.Discrete(int(space.n))) if start else env
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"its actions are {space}: they must be discrete, or a vector of floats")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"its actions are {space}: they must have bounds on both sides")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: NDArray[np.float32]) -> NDArray[Any]:
        scaled: NDArray[Any] = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1) / 2 * (high - low)
        return scaled.astype(space.dtype)

    return gym.wrappers.TransformAction(env, rescale, gym.spaces.Box(-1.0, 1.0, space.shape, np.float32))


def _with_images(env: gym.Env[Any, Any], size: int, gray: bool) -> gym.Env[Any, Any]:
    """Give images uint8 [channels, height, width] and vectors float32 [length]. Raises ValueError for other observations."""
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}
    changes = {key: _change(key, part, size, gray) for key, part in parts.items()}
    if not any(len(new.shape) == 3 for _, new in changes.values()):
        raise ValueError(
            f"its observations are {space}: there is no uint8 image of two or three dimensions among them "
            "(gymnasium.wrappers.AddRenderObservation makes one of what an environment draws)"
        )
    if isinstance(space, gym.spaces.Dict):
        spaces = gym.spaces.Dict({key: new for key, (_, new) in changes.items()})
        return gym.wrappers.TransformObservation(env, lambda obs: {k: fn(obs[k]) for k, (fn, _) in changes.items()}, spaces)
    return gym.wrappers.TransformObservation(env, *changes[""])


Change = tuple[Callable[[Any], NDArray[Any]], gym.spaces.Box]


def _change(key: str, space: gym.Space[Any], size: int, gray: bool) -> Change:
    """Return what makes an image or a vector of what the environment gives, and the space of the result."""
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3):
        return _image(space.shape, size, gray)
    if isinstance(space, gym.spaces.Box) and len(space.shape) <= 1 and space.dtype.kind in "fiub":
        length = int(np.prod(space.shape))  # of a single number, 1
        return lambda x: np.array(x, np.float32).reshape(length), gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
    named = f"its observation {key!r} is" if key else "its observations are"
    raise ValueError(f"{named} {space}: it must be a uint8 image, or in a dictionary a vector of numbers")


def _image(shape: tuple[int, ...], size: int, gray: bool) -> Change:
    """Return what makes an image [channels, size, size] of one of `shape`, and its space."""
    order = (0, 1, 2) if len(shape) == 2 or shape[2] in COLOURS else (1, 2, 0)
    whole = shape if len(shape) == 3 else (*shape, 1)
    height, width, channels = (whole[i] for i in order)
    if channels not in COLOURS:
        raise ValueError(f"its images have the shape {shape}: their channels, 1, 3 or 4, must come first or last")
    to = (size or height, size or width)
    gray = gray and channels > 1
    if resizes := to != (height, width):
        try:
            import cv2
        except ImportError as error:
            raise ImportError(f"resizing images needs the extra [gym]: {install('gym')}") from error

    def change(x: Any) -> NDArray[np.uint8]:
        x = np.asarray(x)
        if x.dtype != np.uint8 or x.shape != shape:
            raise ValueError(f"an image is {x.dtype} of the shape {x.shape}, where its space says uint8 and {shape}")
        x = x.reshape(whole).transpose(order)
        if gray:
            x = np.rint(x[..., :3] @ LUMA).astype(np.uint8)[..., None]
        if resizes:
            x = cv2.resize(np.ascontiguousarray(x), (to[1], to[0]), interpolation=cv2.INTER_AREA).reshape(*to, x.shape[2])
        return np.array(x.transpose(2, 0, 1), np.uint8, order="C")

    return change, gym.spaces.Box(0, 255, (1 if gray else channels, *to), np.uint8)


def _flat(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Put stacked frames one behind the other: [stack, channels, ...] becomes [stack * channels, ...]."""

    def flat(x: NDArray[Any]) -> NDArray[Any]:
        return x.reshape(-1, *x.shape[2:])

    def box(space: Any) -> gym.spaces.Box:
        return gym.spaces.Box(flat(space.low), flat(space.high), dtype=space.dtype)

    space = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        spaces = gym.spaces.Dict({key: box(one) for key, one in space.spaces.items()})
        return gym.wrappers.TransformObservation(env, lambda obs: {key: flat(x) for key, x in obs.items()}, spaces)
    return gym.wrappers.TransformObservation(env, flat, box(space))


@functools.cache
def agent_for(task: str) -> str:
    """Return the agent that suits an environment's actions: rainbow where they are discrete, sac where they are continuous.

    Raises ValueError or ImportError, in a sentence, where the environment cannot be made.
    """
    try:
        env = _created(task, None)
    except Exception as error:  # of many kinds: it is code of others
        if isinstance(error, ValueError | ImportError) and not outside.place(error):
            raise
        raise ValueError(f"the environment {task} cannot be made: {outside.told(error)}") from error
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    env.close()
    return "rainbow" if discrete else "sac"


FAMILY = Family(name="gym", make=make, example="CarRacing-v3", agent=agent_for, Config=GymConfig, tasks=r"[\w ./:-]+")
