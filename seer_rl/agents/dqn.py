"""Learn by DQN (Mnih et al., 2015): epsilon-greedy actions, one hidden layer, Huber loss on the temporal difference."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.base import AgentConfig
from seer_rl.agents.networks import AutocastSequential, encoder, explored, features_of, joined
from seer_rl.bounds import Count, NotNegative, Positive, Share, Steps, Units
from seer_rl.replay.observation import Obs, Shapes, length, vectors_in
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class DQNConfig(AgentConfig):
    """Configure DQN."""

    encoder: str = "canonical"
    """Convolutions: canonical (3 layers, 3136 features of an 84x84 stack) or data-efficient (2 layers, 576 features);
    or module:factory, a PyTorch module from elsewhere."""
    learning_starts: Steps = 5000
    """Agent steps before the first update."""
    update_every: Count = 4
    """Agent steps per update."""
    hidden: Units = 512
    """Units of the hidden layer."""
    learning_rate: NotNegative = 1e-4
    """Adam's step size."""
    adam_eps: Positive = 1.5e-4
    """Adam's epsilon."""
    target_every: Count = 1000
    """Updates between copies of the online network into the target network."""
    epsilon_final: Share = 0.05
    """Share of random actions once it has fallen from 1."""
    epsilon_steps: Count = 50_000
    """Agent steps in which that share falls, linearly."""
    eval_epsilon: Share = 0.01
    """Share of random actions in evaluation."""


class DQN(nn.Module):
    """Learn action values by deep Q-learning (Mnih et al., 2015): an encoder under a head, and a target copy of both."""

    name: ClassVar[str] = "dqn"
    Config: ClassVar[type[DQNConfig]] = DQNConfig
    continuous: ClassVar[bool] = False
    compiled: ClassVar[str | None] = "temporal_difference"
    sharing: ClassVar[int] = 1
    period: ClassVar[int] = 1
    obs_shape: Any  # as `Agent` has it

    def __init__(self, config: DQNConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent for uint8 images of `obs_shape` (C, H, W), or several and vectors by key, and for discrete actions.

        seam: how many convolutions lie below it; None: all. seed: of the generator.
        Raises ValueError where the encoder does not fit the images or has no such convolution.
        """
        super().__init__()
        self.config, self.obs_shape, self.actions = config, obs_shape, actions
        self.vectors = vectors_in(obs_shape)
        self.encoder = encoder(config.encoder, obs_shape, seam, shared=config.shared_encoder)
        features = features_of(self.encoder, obs_shape)
        fc1, fc2 = nn.Linear(features, config.hidden), nn.Linear(config.hidden, actions)
        hidden = AutocastSequential(OrderedDict(fc1=fc1, relu=nn.ReLU()))
        self.head = nn.Sequential(OrderedDict(hidden=hidden, fc2=fc2))
        self.target_encoder, self.target_head = copy.deepcopy((self.encoder, self.head))
        self.target_encoder.requires_grad_(False)
        self.target_head.requires_grad_(False)
        trained = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate, eps=config.adam_eps, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = self.updates = 0

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters."""
        return {"acts": self.acts, "updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the counters."""
        self.acts, self.updates = state["acts"], state["updates"]

    @property
    def lower(self) -> nn.Module:
        """Return the encoder's modules below the seam: uint8 [B, C, H, W] to float32 [B, ...]."""
        return self.encoder.lower

    @property
    def target_lower(self) -> nn.Module:
        """Return the target encoder's modules below the seam."""
        return self.target_encoder.lower

    def augment(self, obs: Obs) -> Obs:
        """Return `obs` [B, C, H, W] uint8 as it is: DQN augments nothing."""
        return obs

    @property
    def epsilon(self) -> float:
        """Return the share of random actions now, from 0 to 1."""
        if not self.training:
            return self.config.eval_epsilon
        return max(self.config.epsilon_final, 1 - (1 - self.config.epsilon_final) * self.acts / self.config.epsilon_steps)

    @torch.no_grad()
    def act(self, obs: Obs) -> torch.Tensor:
        """Choose epsilon-greedy actions [N] int64 at `obs` [N, ...]: images, or embeddings of them."""
        explore = torch.rand(length(obs), generator=self.generator) < self.epsilon
        self.acts += length(obs) * self.training
        return explored(self, obs, explore)

    def features(self, encoder: nn.Module, obs: Obs) -> torch.Tensor:
        """Return what the heads get of `obs` [B, ...]: the features of images, or of embeddings, and vectors behind: [B, F]."""
        return joined(encoder(obs), obs, self.vectors)

    def policy(self, obs: Obs) -> torch.Tensor:
        """Return expected returns [B, actions] float32 at `obs` [B, ...]: the greedy policy takes the largest."""
        values: torch.Tensor = self.head(self.features(self.encoder, obs))
        return values

    def forward(self, obs: Obs) -> torch.Tensor:
        """Run every layer at `obs` [B, ...]: `policy` needs them all."""
        return self.policy(obs)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take a gradient step (algorithm 1); return metrics, and the temporal difference of each transition [B]."""
        difference = self.temporal_difference(batch)
        loss = (batch.weight * F.huber_loss(difference, torch.zeros_like(difference), reduction="none")).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_head.load_state_dict(self.head.state_dict())
        return {"losses/loss": loss.detach()}, difference.detach()

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the temporal difference of each transition [B], for a batch of any size, without learning from it."""
        # Not by way of `self`: there a training run puts the compiled method, which is made for one size.
        return DQN.temporal_difference(self, batch)

    def temporal_difference(self, batch: Batch) -> torch.Tensor:
        """Return Q(obs, action) - (reward + discount * max_a Q_target(next_obs, a)) of each transition [B]."""
        q = self.head(self.features(self.encoder, batch.obs)).gather(1, batch.action[:, None]).squeeze(1)
        with torch.no_grad():
            best = self.target_head(self.features(self.target_encoder, batch.next_obs)).amax(dim=1)
        difference: torch.Tensor = q - (batch.reward + batch.discount * best)
        return difference
