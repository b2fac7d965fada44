"""Soft actor-critic from pixels (Haarnoja et al., 2018; Yarats et al., 2019); RAD (Laskin et al., 2020): SAC on random crops.

Actor and critic share convolutions, which only the critic trains, and own an embedding each. `lower` gives both embeddings side
by side, so one vector is all that an update needs of an observation.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.augment import center_crop, random_crop
from seer_rl.agents.flops import Part, layers
from seer_rl.agents.networks import ActorCriticEmbedding, TwinQ, descend, encoder, initialize, mlp, output_shape, track
from seer_rl.bounds import Count, NotNegative, Positive, Rate, Share, Size, Steps, Units
from seer_rl.replay.replay import Batch

LOG_STD = (-10.0, 2.0)


@dataclass(frozen=True)
class SACConfig:
    """Settings of SAC."""

    encoder: str = "sac-ae"
    """Convolutions: sac-ae (4 layers of 32 channels) or impala (15, residual);
    or module:factory, a PyTorch module from elsewhere."""
    embedding: Units = 50
    """Length of the actor's and of the critic's embedding."""
    hidden: Units = 1024
    """Units of the two hidden layers of the actor and of each critic."""
    learning_rate: NotNegative = 1e-3
    """Adam's step size for encoder, actor and critics."""
    temperature_learning_rate: NotNegative = 1e-4
    """Adam's step size for the temperature."""
    initial_temperature: Positive = 0.1
    """Weight of the policy's entropy at the start; it is then adapted until the entropy is -(number of actions)."""
    critic_tau: Rate = 0.01
    """Share of the critics that moves into their targets."""
    encoder_tau: Rate = 0.05
    """Share of the encoder that moves into its target."""
    slow_every: Count = 2
    """Updates of the critics per update of actor, temperature and targets."""
    batch_size: Size = 128
    """Transitions per update."""
    n_step: Size = 1
    """Rewards summed before bootstrapping."""
    discount: Share = 0.99
    """Gamma, per agent step."""
    learning_starts: Steps = 1000
    """Agent steps before the first update, with random actions."""
    update_every: Count = 1
    """Agent steps per update."""


@dataclass(frozen=True)
class RADConfig(SACConfig):
    """Settings of RAD."""

    crop: Size = 84
    """Height and width of the part of an image that is seen: a random one in updates, the middle one in acting."""


class SAC(nn.Module):
    """The agent: shared encoder, squashed Gaussian actor, twin critics, their targets, a temperature, and one update."""

    name: ClassVar[str] = "sac"

    def __init__(
        self, config: SACConfig, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0
    ) -> None:
        """obs_shape: (C, S, S) of the images to encode. actions: length of an action.

        seam: convolutions in `lower`; the rest is in `upper`. Default: `lower` is all up to and with the embeddings.
        """
        super().__init__()
        self.config, self.obs_shape, self.actions, self.whole = config, obs_shape, actions, seam is None
        self.lower, self.upper = encoder(config.encoder, obs_shape, seam)
        features = output_shape(nn.Sequential(self.lower, self.upper), obs_shape, torch.uint8)[0]
        embedding = ActorCriticEmbedding(features, config.embedding)
        (self.lower if self.whole else self.upper).add_module("embedding", embedding)
        self.actor = mlp(config.embedding, config.hidden, 2 * actions)
        self.critic = TwinQ(config.embedding, actions, config.hidden)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.initial_temperature)))
        initialize(self)
        self.target_lower, self.target_upper, self.target_critic = copy.deepcopy((self.lower, self.upper, self.critic))
        for target in (self.target_lower, self.target_upper, self.target_critic):
            target.requires_grad_(False)
        self.actor_trained = [*embedding.actor.parameters(), *self.actor.parameters()]
        own = {id(p) for p in self.actor_trained}
        below = [p for p in (*self.lower.parameters(), *self.upper.parameters()) if id(p) not in own]
        self.critic_trained = [*below, *self.critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(self.critic_trained, config.learning_rate, fused=True)
        self.actor_optimizer = torch.optim.Adam(self.actor_trained, config.learning_rate, fused=True)
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_temperature], config.temperature_learning_rate, betas=(0.5, 0.999)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = self.updates = 0

    def augment(self, obs: torch.Tensor) -> torch.Tensor:
        """SAC augments nothing."""
        return obs

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        """What of `obs` an update sees: images (uint8) are augmented, anything else is an embedding already."""
        return self.augment(obs) if obs.dtype == torch.uint8 else obs

    def embed(self, lower: nn.Module, upper: nn.Module, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The actor's and the critic's embedding [B, L] each."""
        z: torch.Tensor = upper(lower(view) if view.dtype == torch.uint8 else view)
        actor, critic = z.chunk(2, dim=-1)
        return actor, critic

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> NDArray[np.float32]:
        """An action [A] at `obs` [1, ...]: a sample of the policy in training (at first a uniform one), else its mean."""
        if self.training:
            self.acts += 1
            if self.acts <= self.config.learning_starts:
                return (torch.rand(self.actions, generator=self.generator) * 2 - 1).numpy()
        action = self.sample(self.seen(obs)[0])[0] if self.training else self.policy(obs)
        chosen: NDArray[np.float32] = action[0].numpy(force=True)
        return chosen

    def seen(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The actor's and the critic's embedding [B, L] of what is seen of `obs` in acting: the middle of images."""
        image = center_crop(obs, self.obs_shape[-1]) if obs.dtype == torch.uint8 else obs
        return self.embed(self.lower, self.upper, image)

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        """The mean action [B, A] at `obs`, squashed."""
        return torch.tanh(self.distribution(self.seen(obs)[0])[0])

    def distribution(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation [B, A] of the Gaussian that tanh squashes, at the actor's embeddings [B, L]."""
        mean, log_std = self.actor(z).chunk(2, dim=-1)
        low, high = LOG_STD
        return mean, low + (high - low) / 2 * (torch.tanh(log_std) + 1)

    def sample(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions tanh(u) [B, A], u ~ N(mean, std), and their log probability [B] (Haarnoja et al., appendix C).

        log pi = log N(u) - sum log(1 - tanh(u)^2), the last term as 2 (log 2 - u - softplus(-2 u)), which cannot overflow.
        """
        mean, log_std = self.distribution(z)
        e = torch.randn(mean.shape, generator=self.generator).to(mean.device)
        u = mean + log_std.exp() * e
        gaussian = -0.5 * e.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_p = (gaussian - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(dim=-1)
        return torch.tanh(u), log_p

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One step of the critics, at times of all else; returns metrics and each transition's temporal difference [B].

        The actor's loss is of embeddings by the encoder as the critics' step left it, as in the originals. Where embeddings
        are stored there is nothing to compute again.
        """
        view = self.view(batch.obs)
        _, critic_z = self.embed(self.lower, self.upper, view)
        difference = self.temporal_difference(critic_z, batch)  # [2, B]
        critic_loss = (batch.weight * difference.square()).sum(dim=0).mean()
        descend(critic_loss, self.critic_optimizer)
        metrics = {"losses/critic": critic_loss.detach()}
        self.updates += 1
        if self.updates % self.config.slow_every == 0:
            actor_z, critic_z = self.embed(self.lower, self.upper, view)
            actor_loss, log_p = self.actor_loss(actor_z, critic_z.detach())
            descend(actor_loss, self.actor_optimizer)
            descend(self.temperature_loss(log_p.detach()), self.temperature_optimizer)
            track(self.target_critic, self.critic, self.config.critic_tau)
            track(self.target_upper, self.upper, self.config.encoder_tau)
            if batch.obs.dtype == torch.uint8:
                track(self.target_lower, self.lower, self.config.encoder_tau)
            metrics |= {"losses/actor": actor_loss.detach(), "losses/entropy": -log_p.detach().mean(),
                        "losses/temperature": self.log_temperature.detach().exp()}  # fmt: skip
        return metrics, difference.detach().abs().mean(dim=0)

    def errors(self, batch: Batch) -> torch.Tensor:
        """How wrong the critics are, [B]."""
        _, critic_z = self.embed(self.lower, self.upper, self.view(batch.obs))
        return self.temporal_difference(critic_z, batch).abs().mean(dim=0)

    def temporal_difference(self, critic_z: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Q_i(obs, action) - (reward + discount * (min_j Q'_j(next_obs, a') - alpha log pi(a'))), [2, B], a' ~ pi(next_obs)."""
        with torch.no_grad():
            view = self.view(batch.next_obs)
            next_z, _ = self.embed(self.lower, self.upper, view)
            _, target_z = self.embed(self.target_lower, self.target_upper, view)
            next_action, log_p = self.sample(next_z)
            value = self.target_critic(target_z, next_action).amin(dim=0) - self.log_temperature.exp() * log_p
            target = batch.reward + batch.discount * value
        difference: torch.Tensor = self.critic(critic_z, batch.action) - target
        return difference

    def actor_loss(self, actor_z: torch.Tensor, critic_z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """E[alpha log pi(a) - min_i Q_i(obs, a)], a ~ pi(obs), and log pi(a) [B]."""
        action, log_p = self.sample(actor_z)
        value = self.critic(critic_z, action).amin(dim=0)
        return (self.log_temperature.detach().exp() * log_p - value).mean(), log_p

    def temperature_loss(self, log_p: torch.Tensor) -> torch.Tensor:
        """E[-alpha (log pi(a) + target entropy)], the target being -(number of actions) (Haarnoja et al., section 5)."""
        return (self.log_temperature.exp() * (-log_p + self.actions)).mean()

    def parts(self, images: bool) -> list[Part]:
        """What an update and an act compute."""
        slow, length = 1 / self.config.slow_every, self.config.embedding
        heads_first = self.whole and not images  # nothing below them is trained
        # Critics: on obs, for the actor, and the target's; the actor's loss needs gradients of their inputs only.
        critics = layers(self.critic.q1, (length + self.actions,)) * 2
        return [
            *self.encoder_parts(images),
            Part(layers(self.actor, (length,)), 1 + slow, slow, spared=slow * heads_first, acts=1),
            Part(critics, 2 + slow, 1 + slow / 2, spared=heads_first),
        ]

    def encoder_parts(self, images: bool) -> list[Part]:
        """The encoder's share. Forward: online on obs and next_obs, target on next_obs; backward: online on obs.

        And forward on obs once more for the actor's loss.
        """
        modules = [(self.upper, output_shape(self.lower, self.obs_shape, torch.uint8), torch.float32, 0)]
        if images:
            modules.append((self.lower, self.obs_shape, torch.uint8, 1))
        slow, parts = 1 / self.config.slow_every, []
        for module, shape, dtype, below in modules:
            found = layers(module, shape, dtype)
            actors = [layer for layer in found if layer.name.startswith("embedding.actor")]
            critics = [layer for layer in found if layer.name.startswith("embedding.critic")]
            shared = [layer for layer in found if not layer.name.startswith("embedding")]
            first = below or not images
            parts += [
                Part(shared, 3 + slow, 1, spared=first, acts=1, below=2 * below),
                Part(critics, 3 + slow, 1, spared=first, acts=1, below=below),
                Part(actors, 3 + slow, slow, spared=slow, acts=1, below=below),  # gets features without their gradients
            ]
        return parts


class RAD(SAC):
    """SAC that learns from random crops and acts on the middle one."""

    name: ClassVar[str] = "rad"
    config: RADConfig

    def __init__(
        self, config: RADConfig, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0
    ) -> None:
        """obs_shape: (C, H, W) of the images to crop. Raises ValueError if they are smaller than the crop."""
        channels, *size = obs_shape
        if min(size) < config.crop:
            raise ValueError(f"frames of {size[0]}x{size[1]} are smaller than the crop of {config.crop}x{config.crop}")
        super().__init__(config, (channels, config.crop, config.crop), actions, seam, seed)

    def augment(self, obs: torch.Tensor) -> torch.Tensor:
        """A random crop of each image [B, C, H, W]."""
        return random_crop(obs, self.config.crop, self.generator)
