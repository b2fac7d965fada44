"""TorchRL's DQN with its convolutions and its heads on an Atari game, with SEER and alone.

Alone, it is as in the library's own DQN for Atari: the environment makes float32 stacks of the images, a memory-mapped storage
holds them, and three batches are prefetched. With SEER, the same storage holds the stacks as uint8 until the freeze.
"""

import logging
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, GymWrapper, InitTracker, RenameTransform, ToTensorImage, TransformedEnv
from torchrl.modules import MLP, ConvNet, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate

from seer_rl import envs
from seer_rl.integrations.torchrl import Seam, Seer

STEPS, FIRST, EVERY, BATCH = 20_000, 1_000, 4, 32  # of the buffer; before learning; between two updates; of an update


class Watch(gym.Wrapper[Any, Any, Any, Any]):
    """Calls `tick` with every step, and keeps the scores of games."""

    def __init__(self, env: gym.Env[Any, Any], tick: Callable[[int], None]) -> None:
        super().__init__(env)
        self.tick, self.count, self.scores = tick, 0, list[float]()

    def step(self, action: Any) -> Any:
        found = super().step(action)
        self.count += 1
        if "episode" in found[4]:
            self.scores.append(float(found[4]["episode"]["r"]))
        self.tick(self.count)
        return found


def train(game: str, steps: int, freeze: int | None, seed: int, tick: Callable[[int], None]) -> tuple[list[float], float]:
    """Train DQN for `steps` steps, with SEER frozen at `freeze`, or where that is None without it.

    Returns the scores of all games that ended, and the bytes that the storage's tensors hold for a step at the end.
    """
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it tells of every storage that it makes
    torch.manual_seed(seed)
    watch = Watch(envs.make(game, training=True), tick)
    floats = [ToTensorImage(in_keys=["pixels"], shape_tolerant=True)] if freeze is None else []
    env = TransformedEnv(GymWrapper(watch), Compose(RenameTransform(["observation"], ["pixels"]), *floats, InitTracker()))
    env.set_seed(seed)
    convolutions: nn.Module = ConvNet(in_features=4, num_cells=[32, 64, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1],
                                      activation_class=nn.ReLU)  # fmt: skip
    if freeze is not None:
        convolutions = Seam(convolutions, (4, 84, 84))
    actions = int(watch.action_space.n)  # type: ignore[attr-defined]
    heads = MLP(in_features=3136, out_features=actions, num_cells=[512], activation_class=nn.ReLU)
    actor = QValueActor(nn.Sequential(convolutions, heads), in_keys=["pixels"], spec=env.action_spec)
    explore = EGreedyModule(spec=env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=steps // 10)
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(STEPS), batch_size=BATCH, prefetch=3)
    loss = DQNLoss(actor, delay_value=True)
    loss.make_value_estimator(gamma=0.99)
    target, optimizer = HardUpdate(loss, value_network_update_interval=500), torch.optim.Adam(loss.parameters(), lr=1e-4)
    collector = Collector(env, TensorDictSequential(actor, explore), frames_per_batch=EVERY, total_frames=steps)
    seer = None if freeze is None else Seer(loss, buffer, freeze, dtype="uint8", collector=collector)
    for data in collector:
        buffer.extend(data.reshape(-1))
        explore.step(data.numel())
        if seer is not None:
            seer.step()
        if watch.count >= FIRST:
            optimizer.zero_grad()
            loss(buffer.sample())["loss"].backward()
            optimizer.step()
            target.step()
    collector.shutdown()
    return watch.scores, sum(x[0].numel() * x.dtype.itemsize for _, x in buffer.storage._storage.items(True, True))
