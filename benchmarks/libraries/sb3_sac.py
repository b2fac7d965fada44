"""Stable-Baselines3's SAC on a task of DeepMind Control from pixels, three frames of 64x64, with SEER and alone."""

from collections.abc import Callable

from stable_baselines3 import SAC

from benchmarks.libraries.sb3 import run
from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig


def train(game: str, steps: int, freeze: int | None, seed: int, tick: Callable[[int], None]) -> tuple[list[float], float]:
    """Train SAC for `steps` steps, with SEER frozen at `freeze`, or where that is None without it."""
    env = envs.make(game, training=True, settings=ControlConfig(size=64, action_repeat=8))
    settings = {"buffer_size": 20_000, "learning_starts": 500, "batch_size": 128, "policy_kwargs": {"net_arch": [256, 256]}}
    return run(SAC, env, steps, freeze, tick, seed=seed, **settings)
