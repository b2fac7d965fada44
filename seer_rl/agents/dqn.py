"""DQN (Mnih et al., 2015): the plain agent. Epsilon-greedy, one hidden layer, Huber loss on the temporal difference."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.flops import Part, layers
from seer_rl.agents.networks import Mixed, encoder, output_shape
from seer_rl.bounds import Count, NotNegative, Positive, Share, Size, Steps, Units
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class DQNConfig:
    """Settings of DQN."""

    encoder: str = "canonical"
    """Convolutions: canonical (3 layers, 3136 features of an 84x84 stack) or data-efficient (2 layers, 576 features);
    or module:factory, a PyTorch module from elsewhere."""
    hidden: Units = 512
    """Units of the hidden layer."""
    learning_rate: NotNegative = 1e-4
    """Adam's step size."""
    adam_eps: Positive = 1.5e-4
    """Adam's epsilon."""
    batch_size: Size = 32
    """Transitions per update."""
    n_step: Size = 1
    """Rewards summed before bootstrapping."""
    discount: Share = 0.99
    """Gamma, per agent step."""
    target_every: Count = 1000
    """Updates between copies of the online network into the target network."""
    learning_starts: Steps = 5000
    """Agent steps before the first update."""
    update_every: Count = 4
    """Agent steps per update."""
    epsilon_final: Share = 0.05
    """Share of random actions once it has fallen from 1."""
    epsilon_steps: Count = 50_000
    """Agent steps in which that share falls, linearly."""
    eval_epsilon: Share = 0.01
    """Share of random actions in evaluation."""


class DQN(nn.Module):
    """The agent: an encoder (`lower`) under a head (`upper`), a target copy of both, and one update."""

    name: ClassVar[str] = "dqn"

    def __init__(
        self, config: DQNConfig, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0
    ) -> None:
        """obs_shape: (C, H, W) of uint8 images. seam: convolutions in `lower` (default: all); the rest are in `upper`."""
        super().__init__()
        self.config, self.obs_shape, self.actions = config, obs_shape, actions
        self.lower, rest = encoder(config.encoder, obs_shape, seam)
        features = output_shape(nn.Sequential(self.lower, rest), obs_shape, torch.uint8)[0]
        fc1, fc2 = nn.Linear(features, config.hidden), nn.Linear(config.hidden, actions)
        hidden = Mixed(OrderedDict([*rest.named_children(), ("fc1", fc1), ("relu", nn.ReLU())]))
        self.upper = nn.Sequential(OrderedDict(hidden=hidden, fc2=fc2))
        self.target_lower, self.target_upper = copy.deepcopy((self.lower, self.upper))
        self.target_lower.requires_grad_(False)
        self.target_upper.requires_grad_(False)
        trained = [*self.lower.parameters(), *self.upper.parameters()]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate, eps=config.adam_eps, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = self.updates = 0

    def parts(self, images: bool) -> list[Part]:
        """What an update and an act compute: online on obs, target on next_obs, and the gradients on obs."""
        above = Part(layers(self.upper, output_shape(self.lower, self.obs_shape, torch.uint8)), 2, 1, spared=not images, acts=1)
        below = Part(layers(self.lower, self.obs_shape, torch.uint8), 2, 1, spared=1, below=1)
        return [below, above] if images else [above]

    def augment(self, obs: torch.Tensor) -> torch.Tensor:
        """DQN augments nothing."""
        return obs

    def embed(self, lower: nn.Module, obs: torch.Tensor) -> torch.Tensor:
        """Images (uint8) go through `lower`; anything else is an embedding already."""
        z: torch.Tensor = lower(self.augment(obs)) if obs.dtype == torch.uint8 else obs
        return z

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        if not self.training:
            return self.config.eval_epsilon
        return max(self.config.epsilon_final, 1 - (1 - self.config.epsilon_final) * self.acts / self.config.epsilon_steps)

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> int:
        """An epsilon-greedy action at `obs` [1, ...]."""
        explore = bool(torch.rand((), generator=self.generator) < self.epsilon)
        self.acts += self.training
        if explore:
            return int(torch.randint(self.actions, (), generator=self.generator))
        return int(self.policy(obs).argmax())

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        """Expected returns [B, actions] at `obs`, of which the greedy policy takes the largest."""
        values: torch.Tensor = self.upper(self.embed(self.lower, obs))
        return values

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One gradient step; returns metrics and each transition's temporal difference [B]."""
        difference = self.temporal_difference(batch)
        loss = (batch.weight * F.huber_loss(difference, torch.zeros_like(difference), reduction="none")).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self.target_lower.load_state_dict(self.lower.state_dict())
            self.target_upper.load_state_dict(self.upper.state_dict())
        return {"losses/loss": loss.detach()}, difference.detach()

    def errors(self, batch: Batch) -> torch.Tensor:
        """How wrong the network is [B]; never the compiled difference, whose batches have one size."""
        return DQN.temporal_difference(self, batch)

    def temporal_difference(self, batch: Batch) -> torch.Tensor:
        """Q(obs, action) - (reward + discount * max_a Q_target(next_obs, a)), [B]."""
        q = self.upper(self.embed(self.lower, batch.obs)).gather(1, batch.action[:, None]).squeeze(1)
        with torch.no_grad():
            best = self.target_upper(self.embed(self.target_lower, batch.next_obs)).amax(dim=1)
        difference: torch.Tensor = q - (batch.reward + batch.discount * best)
        return difference
