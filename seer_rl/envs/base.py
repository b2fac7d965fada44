"""The contract of environments: what one must offer, what it may, and what makes a family of them.

An environment is a gymnasium environment whose observations are uint8 images [C, H, W], or dictionaries of such images and of
float32 vectors, and whose actions are discrete or a box of [-1, 1]. Where a whole game ends, `info["episode"]` holds its score
"r" and its length "l" in agent steps, as gymnasium's RecordEpisodeStatistics writes them. An episode may end before the game
does, as where a life is lost.

What else an environment may offer, itself or by one of its wrappers:

- `get_state()` and `set_state(state)`: everything that what follows in it depends on, as a tree of lists and of dicts with
  text for keys, which hold numbers, text and arrays. A run that is resumed then goes on bit for bit. Without, it begins a
  new episode.
- `stack_size`, as FrameStackObservation has it: the frames in an observation. The replay then stores every frame once.
- `max_episode_steps`, or a limit in its `spec`: the steps after which an episode is truncated. A replay without a limit
  needs one more record for each such episode.
- `render()` in render mode "rgb_array": a picture [H, W, 3] uint8, for films.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np

from seer_rl.bounds import Within
from seer_rl.replay.observation import Shapes, stack

Settings = Mapping[str, Any]
"""Values of settings by their names in config.toml: {"steps": 500_000, "seer.freeze_step": 50_000, "environment.camera": 2}."""


@dataclass(frozen=True)
class EnvConfig:
    """Settings of an environment. A family with settings of its own (`--env.*`) derives a dataclass from this one.

    Where it has a setting `size` with None for its default, that is 100 for agents that crop images, and 84 for the others.
    """

    num_envs: Annotated[int, Within(1, 10_000)] = field(default=1, kw_only=True)
    """Environments that the agent trains in at once. It acts for all of them together; each step of each one is an agent step,
    and there are as many updates per agent step as with one."""


@dataclass(frozen=True)
class Scale:
    """The scores that count as 0 and as 1 where tasks are averaged, and whose they are."""

    zero: float
    one: float
    players: tuple[str, str] | None = None  # such as ("random player", "human")

    def normalised(self, score: float) -> float:
        """Return a score on this scale."""
        return (score - self.zero) / (self.one - self.zero)

    def words(self) -> str:
        """Say what the scale is."""
        return f"0 is a {self.players[0]}, 1 a {self.players[1]}" if self.players else f"returns / {self.one:g}"


def nothing(task: str, agent: str) -> Settings:
    """Return no settings."""
    return {}


def unknown(task: str) -> Scale | None:
    """Return no scale."""
    return None


@dataclass(frozen=True)
class Family:
    """Environments of a kind, such as Atari's games; alien of Atari is called "atari/alien"."""

    name: str
    """In front of the slash."""
    make: Callable[[str, Any, bool, str | None], gym.Env[Any, Any]]
    """(task, settings, training, render_mode) -> environment. training: with what only learning should see, such as clipped
    rewards. Raises ValueError, with a hint, if there is no such task, and ImportError or OSError where something is missing."""
    example: str
    """A task, for sentences that say how names are written."""
    agent: str | Callable[[str], str] = "rainbow"
    """The agent that trains where none is named, or a function that chooses it for a task."""
    Config: type[EnvConfig] = EnvConfig
    """The settings."""
    defaults: Callable[[str, str], Settings] = nothing
    """(task, agent) -> settings that suit them better than the general defaults."""
    presets: Mapping[str, Callable[[str, str], Settings]] = field(default_factory=dict)
    """By the names that --preset gives them: (task, agent) -> settings, on top of `defaults`. Raises ValueError where they
    do not go together. task: "" where none was named; the settings may then name one as "env"."""
    scale: Callable[[str], Scale | None] = unknown
    """task -> its scale, as far as it is known."""
    tasks: str = r"[\w -]+"
    """A regular expression that the names of tasks match. They become a part of the run directory's name."""

    def agent_for(self, task: str) -> str:
        """Return the agent that trains in `task` where none is named."""
        return self.agent if isinstance(self.agent, str) else self.agent(task)


class Step(NamedTuple):
    """What a step gave, as `gymnasium.Env.step` does; and the first observation of the next episode where one ended.

    Of `info` there is "episode" only, where a whole game ended.
    """

    obs: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    first: Any  # None where no episode ended


def check(env: gym.Env[Any, Any], name: str) -> None:
    """Raise ValueError, in a sentence, if `env` is not what this file's first lines say."""
    seen, acts = env.observation_space, env.action_space
    parts = list(seen.spaces.values()) if isinstance(seen, gym.spaces.Dict) else [seen]
    images = [part for part in parts if isinstance(part, gym.spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3]
    vectors = [part for part in parts if isinstance(part, gym.spaces.Box) and part.dtype == np.float32 and len(part.shape) == 1]
    if not images or len(images) + len(vectors) * isinstance(seen, gym.spaces.Dict) < len(parts):
        raise ValueError(
            f"the observations of {name} are {seen}: they must be uint8 images [channels, height, width], "
            "or dictionaries of such images and float32 vectors"
        )
    discrete = isinstance(acts, gym.spaces.Discrete) and acts.start == 0
    box = isinstance(acts, gym.spaces.Box) and len(acts.shape) == 1 and bool(np.all(acts.low == -1) and np.all(acts.high == 1))
    if not discrete and not box:
        raise ValueError(f"the actions of {name} are {acts}: they must be discrete, from 0 on, or a vector within [-1, 1]")


def obs_shape(env: gym.Env[Any, Any]) -> Shapes:
    """Return the shape of an observation of `env`, or the shapes by key where it is a dictionary."""
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        return {key: tuple(part.shape or ()) for key, part in space.spaces.items()}
    return tuple(space.shape or ())


def frames_in(env: gym.Env[Any, Any]) -> int:
    """Return how many frames an observation of `env` stacks."""
    return int(env.get_wrapper_attr("stack_size")) if env.has_wrapper_attr("stack_size") else 1


def max_episode_steps(env: gym.Env[Any, Any]) -> int | None:
    """Return the steps after which an episode of `env` is truncated, if that is known."""
    limit = env.get_wrapper_attr("max_episode_steps") if env.has_wrapper_attr("max_episode_steps") else None
    if limit is None and env.spec:
        limit = env.spec.max_episode_steps
    return None if limit is None else int(limit)


def get_state(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Return everything that what follows in `env` depends on: simulator, stack of frames, random numbers, score so far.

    None where the environment has no state to give, or one that cannot be saved and taken back.
    """
    if not gives_state(env):
        return None
    frames = {"frames": stack(list(env.get_wrapper_attr("obs_queue")))} if env.has_wrapper_attr("obs_queue") else {}
    state = {"inner": env.get_wrapper_attr("get_state")(), **frames}
    return state if _can_be_saved(state) else None


def gives_state(env: gym.Env[Any, Any]) -> bool:
    """Tell whether `env` has get_state() and set_state(state): others may have methods of these names that take more."""
    for name, given in (("get_state", ()), ("set_state", ({},))):
        method = env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
        try:
            inspect.signature(method).bind(*given)  # type: ignore[arg-type]
        except TypeError:
            return False
        except ValueError:  # it does not say what it takes
            continue
    return True


def _can_be_saved(tree: Any) -> bool:
    """Tell whether a state is what this file's first lines say: a checkpoint would not hold anything else."""
    if isinstance(tree, dict):
        return all(isinstance(key, str) and _can_be_saved(value) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return all(map(_can_be_saved, tree))
    if isinstance(tree, np.ndarray | np.generic):
        return tree.dtype.kind in "biuf"
    return tree is None or isinstance(tree, str | int | float)


def set_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Go on from what `get_state` gave, in an environment of the same make."""
    env.reset(seed=0)
    env.get_wrapper_attr("set_state")(state["inner"])
    if "frames" in state:
        frames = state["frames"]
        count = len(next(iter(frames.values()))) if isinstance(frames, Mapping) else len(frames)
        one = [{key: x[i] for key, x in frames.items()} if isinstance(frames, Mapping) else frames[i] for i in range(count)]
        env.get_wrapper_attr("obs_queue").extend(one)
