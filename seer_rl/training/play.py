"""Playing whole games: an agent's, for its scores, and a random player's."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from seer_rl import outside
from seer_rl.agents.base import Agent
from seer_rl.envs import Unfilmed
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.replay.observation import Obs, each


def play(
    env: gym.Env[Any, Any],
    act: Callable[[Obs], Any],
    episodes: int,
    seed: int,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the scores of `episodes` whole games in which `act` gives an action for each observation [1, C, H, W] uint8.

    check_stop: called before each step; it may raise to end the games. Raises EnvironmentFailed if the environment does.
    """
    scores: list[float] = []
    obs, _ = _ask(env.reset, seed=seed)
    while len(scores) < episodes:
        check_stop()
        obs, _, terminated, truncated, info = _ask(env.step, act(one(obs)))
        if terminated or truncated:
            scores.append(float(info["episode"]["r"]))
            obs, _ = _ask(env.reset)
    return scores


def one(obs: Any) -> Obs:
    """Return an environment's observation as a batch of one, as agents take it."""
    if isinstance(obs, Mapping):
        return {key: torch.from_numpy(x)[None] for key, x in obs.items()}
    return torch.from_numpy(obs)[None]


def chosen(actions: torch.Tensor) -> list[int | NDArray[np.float32]]:
    """Give an agent's actions [N] or [N, A] as environments take them, one for each."""
    return list(actions.numpy(force=True)) if actions.is_floating_point() else actions.tolist()


def _ask(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Ask an environment for something. Raises EnvironmentFailed for its exceptions, of many kinds, but for Unfilmed."""
    try:
        return method(*args, **options)
    except Unfilmed:
        raise
    except Exception as error:
        raise EnvironmentFailed(outside.told(error)) from error


def evaluate(
    agent: Agent,
    env: gym.Env[Any, Any],
    episodes: int,
    seed: int,
    device: torch.device,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the agent's scores in evaluation mode. Its training is not disturbed: it then draws the same random numbers."""
    state = agent.generator.get_state()
    agent.generator.manual_seed(seed)
    agent.eval()
    try:
        return play(env, lambda obs: chosen(agent.act(each(lambda x: x.to(device), obs)))[0], episodes, seed, check_stop)
    finally:
        agent.train()
        agent.generator.set_state(state)


def random_scores(
    env: gym.Env[Any, Any], episodes: int, seed: int, check_stop: Callable[[], None] = lambda: None
) -> list[float]:
    """Return the scores of a player that chooses actions uniformly."""
    env.action_space.seed(seed)
    return play(env, lambda _: env.action_space.sample(), episodes, seed, check_stop)
