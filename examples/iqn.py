"""An agent of one's own: implicit quantile networks (Dabney et al., 2018) in one file, with SEER for nothing.

    seer train atari/pong --agent examples.iqn:IQN --seer.freeze-step 50000

It meets the contract of `seer_rl/agents/base.py` and knows nothing of when its encoder is frozen: `self.encoder` takes images,
and what was made of them before the freeze's seam, alike.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl import AgentConfig, Batch
from seer_rl.agents.networks import encoder, explored, features_of, joined
from seer_rl.bounds import Count, NotNegative, Share, Size, Units
from seer_rl.replay.observation import Obs, Shapes, length, vectors_in


@dataclass(frozen=True)
class IQNConfig(AgentConfig):
    """Settings of IQN."""

    hidden: Units = 512
    """Units of the hidden layer."""
    cosines: Size = 64
    """Numbers that a quantile's level is written as."""
    quantiles: Size = 8
    """Levels drawn for each transition, on either side of the error."""
    policy_quantiles: Size = 32
    """Levels whose mean is the expected return."""
    learning_rate: NotNegative = 1e-4
    """Adam's step size."""
    target_every: Count = 500
    """Updates between copies of the online network into the target network."""
    epsilon: Share = 0.01
    """Share of random actions."""


class Quantiles(nn.Module):
    """Returns Z [B, N, actions] at levels tau [B, N] of features [B, F]: f(psi(x) * phi(tau)) (equation 4)."""

    def __init__(self, features: int, actions: int, hidden: int, cosines: int) -> None:
        super().__init__()
        self.phi = nn.Linear(cosines, features)
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, actions)

    def forward(self, x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        waves = torch.cos(math.pi * torch.arange(self.phi.in_features, device=x.device) * tau[..., None])  # [B, N, cosines]
        z: torch.Tensor = self.fc2(F.relu(self.fc1(x[:, None] * F.relu(self.phi(waves)))))
        return z


class IQN(nn.Module):
    """The agent."""

    name: ClassVar[str] = "iqn"
    Config: ClassVar[type[IQNConfig]] = IQNConfig
    continuous: ClassVar[bool] = False
    compiled: ClassVar[str | None] = None
    sharing: ClassVar[int] = 1
    period: ClassVar[int] = 1

    def __init__(self, config: IQNConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """obs_shape: (C, H, W) of uint8 images; or several by key, and vectors' (D,). seam: layers below it (default: all)."""
        super().__init__()
        self.config, self.obs_shape, self.actions = config, obs_shape, actions
        self.vectors = vectors_in(obs_shape)
        self.encoder = encoder(config.encoder, obs_shape, seam, shared=config.shared_encoder)
        self.head = Quantiles(features_of(self.encoder, obs_shape), actions, config.hidden, config.cosines)
        self.target_encoder, self.target_head = copy.deepcopy((self.encoder, self.head))
        self.target_encoder.requires_grad_(False)
        self.target_head.requires_grad_(False)
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.head.parameters()], config.learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def get_extra_state(self) -> dict[str, int]:
        """Give the counter: a checkpoint holds it."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the counter."""
        self.updates = state["updates"]

    @property
    def lower(self) -> nn.Module:
        """Give what is below the seam."""
        return self.encoder.lower

    @property
    def target_lower(self) -> nn.Module:
        """Give that of the target."""
        return self.target_encoder.lower

    def augment(self, obs: Obs) -> Obs:
        """IQN augments nothing."""
        return obs

    @torch.no_grad()
    def act(self, obs: Obs) -> torch.Tensor:
        """Choose epsilon-greedy actions [N] at `obs` [N, ...]."""
        return explored(self, obs, torch.rand(length(obs), generator=self.generator) < self.config.epsilon)

    def features(self, encoder: nn.Module, obs: Obs) -> torch.Tensor:
        """Give what the head gets of `obs` [B, ...]: the features of all images, and vectors behind: [B, F]."""
        return joined(encoder(obs), obs, self.vectors)

    def policy(self, obs: Obs) -> torch.Tensor:
        """Give expected returns [B, actions]: the mean over levels that are spread evenly."""
        x, count = self.features(self.encoder, obs), self.config.policy_quantiles
        tau = (torch.arange(count, device=x.device) + 0.5) / count
        returns: torch.Tensor = self.head(x, tau.expand(len(x), count)).mean(dim=1)
        return returns

    def forward(self, obs: Obs) -> torch.Tensor:
        """Let every layer compute: the policy needs them all."""
        return self.policy(obs)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take one gradient step; give metrics and each transition's loss [B]."""
        losses = self.errors(batch)
        loss = (batch.weight * losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_head.load_state_dict(self.head.state_dict())
        return {"losses/loss": loss.detach()}, losses.detach()

    def errors(self, batch: Batch) -> torch.Tensor:
        """Give the quantile Huber loss [B] of all pairs of levels, with kappa = 1 (equations 2 and 3)."""
        rows = torch.arange(len(batch.action), device=batch.action.device)
        tau, tau_next = (self.levels(batch.action) for _ in range(2))
        z = self.head(self.features(self.encoder, batch.obs), tau)[rows, :, batch.action]  # [B, N]
        with torch.no_grad():
            best = self.policy(batch.next_obs).argmax(dim=1)
            z_next = self.target_head(self.features(self.target_encoder, batch.next_obs), tau_next)[rows, :, best]  # [B, N']
            goal = batch.reward[:, None] + batch.discount[:, None] * z_next
        difference = goal[:, None, :] - z[:, :, None]  # [B, N, N']
        huber = F.huber_loss(difference, torch.zeros_like(difference), reduction="none")
        weight = (tau[:, :, None] - (difference.detach() < 0).float()).abs()
        losses: torch.Tensor = (weight * huber).mean(dim=2).sum(dim=1)
        return losses

    def levels(self, like: torch.Tensor) -> torch.Tensor:
        """Draw levels [B, N] uniformly, on the device of `like` [B]."""
        return torch.rand(len(like), self.config.quantiles, generator=self.generator).to(like.device)
