"""SEER in TorchRL: what must hold before, at and after the freeze, with the library's own losses, buffers and collectors."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torchrl
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
    TensorStorage,
)
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.data.replay_buffers.storages import CompressedListStorage
from torchrl.envs import CatFrames, Compose, GymWrapper, RenameTransform, SerialEnv, ToTensorImage, TransformedEnv
from torchrl.modules import EGreedyModule, ProbabilisticActor, QValueActor, TanhDelta, TanhNormal, ValueOperator
from torchrl.objectives import DQNLoss, LossModule, SACLoss, SoftUpdate, TD3Loss

from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig
from seer_rl.integrations.torchrl import Seam, Seer
from seer_rl.integrations.torchrl.networks import Lower

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the library, about a class of its own, when this is imported
    from torchrl.collectors import Collector

SHAPES = {"dqn": (4, 84, 84), "sac": (9, 44, 44), "td3": (9, 44, 44), "shared": (9, 44, 44)}
KINDS = list(SHAPES)


def env(kind: str, count: int = 1) -> Any:
    """Real environments: a game, or a task that is drawn; episodes are short, and end by a time limit."""

    def one() -> Any:
        if kind == "dqn":
            made = gym.wrappers.TimeLimit(envs.make("atari/pong", training=True), 25)
        else:
            task = envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=44))
            made = gym.wrappers.TimeLimit(task, 20)
        return TransformedEnv(GymWrapper(made), RenameTransform(["observation"], ["pixels"]))

    return one() if count == 1 else SerialEnv(count, one)


def cnn(kind: str) -> nn.Sequential:
    """Convolutions that take floats only."""
    channels = SHAPES[kind][0]
    sizes = [(channels, 8, 8, 4), (8, 8, 4, 2)] if kind == "dqn" else [(channels, 8, 4, 4), (8, 8, 3, 2)]
    layers = [layer for i, o, k, s in sizes for layer in (nn.Conv2d(i, o, k, s), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(-3))


class Critic(nn.Module):
    """A value of an image and an action."""

    def __init__(self, seam: Seam) -> None:
        super().__init__()
        self.seam, self.head = seam, nn.Sequential(nn.Linear(seam.length + 1, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, pixels: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.head(torch.cat([self.seam(pixels), action], -1))
        return value


class Run:
    """A small training in the library's own style."""

    def __init__(self, kind: str, buffer: Any = None, count: int = 1, encoder: Any = None, seed: int = 1) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the library's prioritized sampler draws from it
        self.kind, self.env, shape = kind, env(kind, count), SHAPES[kind]
        make = encoder or (lambda: Seam(cnn(kind), shape))
        self.loss: Any
        if kind == "dqn":
            seam = make()
            head = nn.Sequential(nn.Linear(getattr(seam, "length", 648), 16), nn.ReLU(), nn.Linear(16, 6))
            spec = self.env.action_spec if count == 1 else self.env.full_action_spec_unbatched["action"]
            self.policy: Any = QValueActor(nn.Sequential(seam, head), in_keys=["pixels"], spec=spec)
            self.loss = DQNLoss(self.policy, delay_value=True, double_dqn=True)
            self.acting: Any = TensorDictSequential(self.policy, EGreedyModule(spec=spec, eps_init=0.5, eps_end=0.5))
        else:
            seam = make()
            other = seam if kind == "shared" else make()
            outputs = 1 if kind == "td3" else 2
            layers: list[nn.Module] = [seam, nn.Linear(seam.length, 16), nn.ReLU(), nn.Linear(16, outputs)]
            keys, distribution = (["param"], TanhDelta) if kind == "td3" else (["loc", "scale"], TanhNormal)
            if kind != "td3":
                layers.append(NormalParamExtractor())
            actor = ProbabilisticActor(
                TensorDictModule(nn.Sequential(*layers), in_keys=["pixels"], out_keys=keys),
                in_keys=keys, distribution_class=distribution, spec=self.env.action_spec,
            )  # fmt: skip
            critic = ValueOperator(Critic(other), in_keys=["pixels", "action"])
            self.policy = self.acting = actor
            if kind == "td3":
                self.loss = TD3Loss(actor, critic, action_spec=self.env.action_spec, delay_actor=True, delay_qvalue=True)
            else:
                self.loss = SACLoss(actor, critic, action_spec=self.env.action_spec, separate_losses=kind == "shared")
        self.loss.make_value_estimator(gamma=0.99)
        self.updater = SoftUpdate(self.loss, tau=0.3)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), 1e-3, weight_decay=0.01)
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(60), batch_size=8) if buffer is None else buffer

    def collect(self, steps: int, batch: int = 10, total: int | None = None, keep: Any = None) -> Any:
        """Let a collector write steps into the buffer; return the collector."""
        collector = Collector(self.env, self.acting, frames_per_batch=batch, total_frames=total or steps, auto_register_policy_transforms=True)
        for data in collector:
            self.buffer.extend(data.reshape(-1))
            if keep is not None:
                keep.append(data.reshape(-1).clone())
        return collector

    def update(self, times: int = 1) -> torch.Tensor:
        """Learn from the buffer; return the last loss."""
        for _ in range(times):
            batch = self.buffer.sample()
            losses = self.loss(batch)
            total: torch.Tensor = sum(x for key, x in losses.items() if key.startswith("loss"))  # type: ignore[assignment]
            self.optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.updater.step()
            if isinstance(self.buffer, TensorDictPrioritizedReplayBuffer):
                self.buffer.update_tensordict_priority(batch)
        return total.detach()


def below(loss: Any) -> dict[str, torch.Tensor]:
    """Every weight below a seam, online and target, by its name in the loss's state."""
    return {key: x.clone() for key, x in loss.state_dict().items() if isinstance(x, torch.Tensor) and ".lower." in key}


def value(loss: Any, batch: Any) -> dict[str, float]:
    """The library's loss of a batch."""
    torch.manual_seed(3)
    return {key: float(x.detach()) for key, x in loss(batch.clone()).items() if key.startswith("loss")}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves(kind: str) -> None:
    """Contract (a), (b), (c): the same rows, as images and as float32 embeddings; then a hundred updates."""
    run = Run(kind)
    seer = Seer(run.loss, run.buffer, 40)
    run.collect(40)
    assert not seer.frozen
    run.update(4)
    for key, x in list(run.loss.state_dict().items()):  # as the freeze will do
        if key.startswith("target_") and ".lower." in key:
            x.copy_(run.loss.state_dict()[key.removeprefix("target_")])
    before = value(run.loss, run.buffer[torch.arange(40)])
    assert seer.step()
    batch = run.buffer[torch.arange(40)]
    encoders = {"dqn": 1, "sac": 3, "td3": 3, "shared": 1}[kind]
    length = next(seam for seam in seer.lower.seams.values()).length
    assert batch["pixels"].shape == (40, encoders * length)
    after = value(run.loss, batch)
    assert after.keys() == before.keys()
    assert all(after[key] == pytest.approx(before[key], abs=1e-5) for key in before)
    frozen, state = below(run.loss), {key: x.clone() for key, x in run.loss.state_dict().items()}
    targets = [key for key in frozen if key.startswith("target_")]
    assert targets
    assert all(torch.equal(frozen[key], frozen[key.removeprefix("target_")]) for key in targets)
    run.update(100)
    assert all(torch.equal(x, frozen[key]) for key, x in below(run.loss).items())
    moved = {key for key, x in run.loss.state_dict().items() if not torch.equal(x, state[key])}
    assert any(key.startswith("target_") for key in moved)
    assert any(not key.startswith("target_") for key in moved)
    assert not seer.step()


STORAGES: dict[str, Callable[[Path], Any]] = {
    "tensor": lambda path: LazyTensorStorage(50),
    "memmap": lambda path: LazyMemmapStorage(50),
    "directory": lambda path: LazyMemmapStorage(50, scratch_dir=path / "memmap"),
    "list": lambda path: ListStorage(50),
    "compressed": lambda path: CompressedListStorage(50),
}


@pytest.mark.parametrize(
    ("storage", "count", "prioritized", "capacity"),
    [
        ("tensor", 1, True, None),
        ("tensor", 8, False, 50),
        ("memmap", 1, True, 70),
        ("directory", 1, False, 30),
        ("list", 8, True, None),
        ("compressed", 1, False, None),
    ],
)
def test_transitions_are_those_of_the_librarys_own_buffer(
    storage: str, count: int, prioritized: bool, capacity: int | None, tmp_path: Path
) -> None:
    """Contract (e), (f): what is stored, before and after the freeze, row by row, and with what priority; rings have wrapped."""
    kind: Any = TensorDictPrioritizedReplayBuffer if prioritized else TensorDictReplayBuffer
    settings: Any = {"alpha": 0.7, "beta": 0.5} if prioritized else {}
    run = Run("dqn", kind(storage=STORAGES[storage](tmp_path), batch_size=8, **settings), count)
    seer = Seer(run.loss, run.buffer, 64, capacity=capacity)
    written: list[Any] = []
    run.collect(64, 16, keep=written)
    run.update(4)
    everything = torch.cat(written)
    assert everything["next", "done"].any()
    theirs = kind(storage=STORAGES[storage](tmp_path / "theirs"), batch_size=8, **settings)
    for data in written:
        theirs.extend(data)
    for key in ("pixels", ("next", "pixels"), "action", ("next", "reward"), ("next", "terminated"), ("next", "truncated")):
        assert torch.equal(run.buffer[torch.arange(50)][key], theirs[torch.arange(50)][key]), key
    tree: Any = run.buffer.sampler._sum_tree if prioritized else None
    priorities = [float(tree[(14 + i) % 50]) for i in range(50)] if prioritized else []
    assert seer.step()
    steps = seer.report["steps_after"]
    kept = min(50, steps)
    assert len(run.buffer) == kept
    if prioritized:
        assert len(set(priorities)) > 2
        assert [float(run.buffer.sampler._sum_tree[i]) for i in range(kept)] == priorities[-kept:]
    run.collect(32, 16, keep=written)
    everything = torch.cat(written)[-min(steps, kept + 32) :]
    rows = (torch.arange(len(everything)) + run.buffer.writer._cursor) % steps if kept + 32 > steps else torch.arange(kept + 32)
    stored = run.buffer[rows]
    for key in ("action", ("next", "reward"), ("next", "done"), ("next", "terminated"), ("next", "truncated")):
        assert torch.equal(stored[key], everything[key]), key
    with torch.no_grad():
        for key in ("pixels", ("next", "pixels")):
            expected = cast_seam(run)(everything[key])
            torch.testing.assert_close(stored[key], expected, atol=1e-5, rtol=1e-5)
    run.update(3)
    assert run.buffer.sample()["index"].max() < steps


def cast_seam(run: Run) -> Any:
    """The policy's seam."""
    return next(module for module in run.policy.modules() if isinstance(module, Seam))
