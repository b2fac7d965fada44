"""Tianshou's DQN with its Nature CNN on an Atari game, with SEER and alone.

The library's trainer looks for NaN in its whole buffer after each collection, which takes far longer than to learn: here its
collector and its algorithm are called without it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.env.atari.atari_network import DQNet
from tianshou.utils.torch_utils import policy_within_training_step

from seer_rl import envs
from seer_rl.integrations.tianshou import Seer
from seer_rl.integrations.tianshou.buffer import nbytes

STEPS, FIRST, EVERY, BATCH = 20_000, 1_000, 4, 32  # of the buffer; before learning; between two updates; of an update


class Watch:
    """Calls `tick` with every step, and keeps the scores of games. It is a collector's `on_step_hook`."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self.tick, self.step, self.scores = tick, 0, list[float]()

    def __call__(self, action_batch: Any, rollout_batch: Any) -> None:
        self.step += 1
        if "episode" in rollout_batch.info.get_keys():
            self.scores.append(float(rollout_batch.info.episode.r[0]))
        self.tick(self.step)


def train(game: str, steps: int, freeze: int | None, seed: int, tick: Callable[[int], None]) -> tuple[list[float], float]:
    """Train DQN for `steps` steps, with SEER frozen at `freeze`, or where that is None with the buffer of Tianshou's examples.

    Returns the scores of all games that ended, and the bytes that the buffer's arrays hold for a step at the end.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the library explores with it)
    task = envs.make(game, training=True)
    model: Any = DQNet(4, 84, 84, int(task.action_space.n))  # type: ignore[attr-defined]
    policy: Any = DiscreteQLearningPolicy(model=model, action_space=task.action_space, eps_training=1.0)
    algorithm: Any = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-4), target_update_freq=500)
    buffer: Any = VectorReplayBuffer(STEPS, 1, stack_num=4, ignore_obs_next=True, save_only_last_obs=True)
    watch = Watch(tick)
    collector: Any = Collector(algorithm, DummyVectorEnv([lambda: task]), buffer, exploration_noise=True, on_step_hook=watch)
    seer = None if freeze is None else Seer(algorithm, collector, freeze, dtype="uint8")
    collector.reset(gym_reset_kwargs={"seed": seed})
    with policy_within_training_step(policy):
        while watch.step < steps:
            policy.set_eps_training(max(0.05, 1 - 0.95 * watch.step / (0.1 * steps)))
            if seer is not None:
                seer.training_fn(0, watch.step)
            collector.collect(n_step=min(EVERY, steps - watch.step))
            if watch.step >= FIRST:
                algorithm.update(buffer=buffer, sample_size=BATCH)
    return watch.scores, nbytes(buffer._meta) / buffer.maxsize
