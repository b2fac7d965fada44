"""Stable-Baselines3's DQN with its Nature CNN on an Atari game, with SEER and alone."""

from collections.abc import Callable
from typing import Any

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor

from seer_rl import envs
from seer_rl.integrations.sb3 import Seer, SeerBuffer


class Tick(BaseCallback):
    """Calls `tick` with every timestep."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        super().__init__()
        self.tick = tick

    def _on_step(self) -> bool:
        self.tick(self.num_timesteps)
        return True


def run(
    algorithm: Any, env: Any, steps: int, freeze: int | None, tick: Callable[[int], None], **settings: Any
) -> tuple[list[float], float]:
    """Train, and return the scores of all games that ended and the bytes that the buffer's arrays hold for a step."""
    env = Monitor(env)
    callbacks: list[BaseCallback] = [Tick(tick)]
    if freeze is not None:
        seer = Seer(freeze, dtype="uint8")
        settings |= {
            "replay_buffer_class": SeerBuffer,
            "policy_kwargs": seer.policy_kwargs(**settings.get("policy_kwargs", {})),
        }
        callbacks.append(seer)
    model = algorithm("CnnPolicy", env, **settings)
    model.learn(steps, callback=CallbackList(callbacks))
    buffer = model.replay_buffer
    if isinstance(buffer, SeerBuffer):
        return env.get_episode_rewards(), buffer.replay.bytes_per_step
    arrays = [buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts]
    return env.get_episode_rewards(), sum(array[0].nbytes for array in arrays)


def train(game: str, steps: int, freeze: int | None, seed: int, tick: Callable[[int], None]) -> tuple[list[float], float]:
    """Train DQN for `steps` steps, with SEER frozen at `freeze`, or where that is None without it."""
    settings: dict[str, Any] = {
        "buffer_size": 20_000,
        "learning_starts": 1_000,
        "batch_size": 32,
        "train_freq": 4,
        "learning_rate": 1e-4,
        "policy_kwargs": {"net_arch": []},  # which the library takes for its own extractor only
    }
    return run(DQN, envs.make(game, training=True), steps, freeze, tick, seed=seed, **settings)
