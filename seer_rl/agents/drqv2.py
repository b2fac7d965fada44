"""DrQ-v2 (Yarats et al., 2022): deep deterministic policy gradients from pixels, n-step returns, random shifts, fading noise.

Convolutions are shared and trained by the critic; actor and critic own an embedding each. Of the encoder only the critic's
embedding has a slow target. Images are convolved once per update and time step, before both losses; the actor's loss then uses
the embedding as the critic's step left it, of the features from before, as the authors' code does.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import nn

from seer_rl.agents.augment import random_shift
from seer_rl.agents.base import AgentConfig
from seer_rl.agents.networks import (
    ActorCriticEmbedding,
    TwinQ,
    encoder,
    gradient_step,
    initialize,
    mlp,
    output_shape,
    polyak_update,
)
from seer_rl.bounds import Count, NotNegative, Rate, Size, Steps, Units
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class DrQv2Config(AgentConfig):
    """Settings of DrQ-v2."""

    encoder: str = "sac-ae"
    """Convolutions: sac-ae (4 layers of 32 channels) or impala (15, residual);
    or module:factory, a PyTorch module from elsewhere."""
    embedding: Units = 50
    """Length of the actor's and of the critic's embedding."""
    hidden: Units = 1024
    """Units of the two hidden layers of the actor and of each critic."""
    learning_rate: NotNegative = 1e-4
    """Adam's step size."""
    tau: Rate = 0.01
    """Share of the critics that moves into their targets in every update."""
    shift: Size = 4
    """Pixels by which images are moved in updates, at most."""
    noise_start: NotNegative = 1.0
    """Standard deviation of the exploration noise at the start."""
    noise_end: NotNegative = 0.1
    """And in the end."""
    noise_steps: Count = 100_000
    """Agent steps in which it falls, linearly. Its authors' are 100,000 for easy tasks, 500,000 for medium and 2,000,000 for
    hard ones."""
    noise_clip: NotNegative = 0.3
    """Noise in updates is clipped to this."""
    batch_size: Size = 256
    """Transitions per update. Its authors': 512 for walker."""
    n_step: Size = 3
    """Rewards summed before bootstrapping. Its authors': 1 for walker."""
    learning_starts: Steps = 2000
    """Agent steps before the first update, with random actions."""
    update_every: Count = 2
    """Agent steps per update."""


class DrQv2(nn.Module):
    """The agent: shared convolutions, embeddings, actor, twin critics and their target, and one update."""

    name: ClassVar[str] = "drqv2"
    Config: ClassVar[type[DrQv2Config]] = DrQv2Config
    continuous: ClassVar[bool] = True
    compiled: ClassVar[str | None] = None
    sharing: ClassVar[int] = 2
    period: ClassVar[int] = 1

    def __init__(
        self, config: DrQv2Config, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0
    ) -> None:
        """obs_shape: (C, S, S) of uint8 images. actions: length of an action.

        seam: convolutions below it. Default: everything up to and with the embeddings is.
        """
        super().__init__()
        if config.shift >= obs_shape[-1]:
            raise ValueError(f"--agent.shift {config.shift} would move frames of {obs_shape[-1]}x{obs_shape[-1]} out of sight")
        self.config, self.obs_shape, self.actions, self.whole = config, obs_shape, actions, seam is None
        self.encoder = encoder(config.encoder, obs_shape, seam, "uint8 / 255 - 0.5")
        features = output_shape(self.encoder, obs_shape, torch.uint8)[0]
        # Behind both of the encoder's parts: what it computes are features, since every update needs them for two embeddings.
        self.encoder.add_module("embedding", ActorCriticEmbedding(features, config.embedding, tanh=True))
        self.actor = mlp(config.embedding, config.hidden, actions)
        self.critic = TwinQ(config.embedding, actions, config.hidden)
        initialize(self, delta=False)
        self.target_encoder = nn.Sequential(OrderedDict(embedding=copy.deepcopy(self.embedding)))
        self.target_critic = copy.deepcopy(self.critic)
        self.target_encoder.requires_grad_(False)
        self.target_critic.requires_grad_(False)
        own = {id(p) for p in self.embedding.actor.parameters()}
        critic_trained = [*(p for p in self.encoder.parameters() if id(p) not in own), *self.critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(critic_trained, config.learning_rate, fused=True)
        actor_trained = [*self.embedding.actor.parameters(), *self.actor.parameters()]
        self.actor_optimizer = torch.optim.Adam(actor_trained, config.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = 0

    def get_extra_state(self) -> dict[str, int]:
        """Give the counter."""
        return {"acts": self.acts}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the counter."""
        self.acts = state["acts"]

    @property
    def embedding(self) -> ActorCriticEmbedding:
        """Give the encoder's last layer, which does not belong to its convolutions: the target has one of its own."""
        return cast(ActorCriticEmbedding, self.encoder.embedding)

    @property
    def target_embedding(self) -> ActorCriticEmbedding:
        """Give the target's."""
        return cast(ActorCriticEmbedding, self.target_encoder.embedding)

    @property
    def lower(self) -> nn.Module:
        """Give what is below the seam, of the online network."""
        return nn.Sequential(self.encoder.lower, self.embedding) if self.whole else self.encoder.lower

    @property
    def target_lower(self) -> nn.Module:
        """Give that of the target, whose convolutions are the online ones."""
        return nn.Sequential(self.encoder.lower, self.target_embedding) if self.whole else self.encoder.lower

    def augment(self, obs: torch.Tensor) -> torch.Tensor:
        """A random shift of each image [B, C, S, S]."""
        return random_shift(obs, self.config.shift, self.generator)

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        """What of `obs` an update sees: images (uint8) are augmented, anything else is an embedding already."""
        return self.augment(obs) if obs.dtype == torch.uint8 else obs

    def features(self, view: torch.Tensor) -> torch.Tensor:
        """Map what an update sees to the last convolution's features [B, F]; a stored embedding [B, 2 L] stays as it is."""
        if self.whole and view.dtype != torch.uint8:
            return view
        features: torch.Tensor = self.encoder(view)
        return features

    def embed(self, owner: nn.Module, features: torch.Tensor, stored: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `features` to the actor's and the critic's embedding [B, L] by `owner`; `stored` ones are embeddings already."""
        actor, critic = (features if stored else owner(features)).chunk(2, dim=-1)
        return actor, critic

    def stored(self, obs: torch.Tensor) -> bool:
        """Tell whether `obs` are stored embeddings, rather than images or what convolutions below the seam gave."""
        return self.whole and obs.dtype != torch.uint8

    @property
    def noise(self) -> float:
        """Standard deviation of the exploration noise now (section 3.1, equation 4)."""
        done = min(1.0, self.acts / max(1, self.config.noise_steps))
        return self.config.noise_start + (self.config.noise_end - self.config.noise_start) * done

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> torch.Tensor:
        """Choose actions [N, A] at `obs` [N, ...]: with noise in training (at first uniform ones), without in evaluation."""
        if self.training:
            self.acts += 1
            if self.acts <= self.config.learning_starts:
                return torch.rand(len(obs), self.actions, generator=self.generator) * 2 - 1
        action = self.policy(obs)
        if self.training:
            action = (action + self.draw(action, self.noise)).clamp(-1, 1)
        return action

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        """The action [B, A] at `obs`, without noise."""
        return torch.tanh(self.actor(self.seen(obs)[0]))

    def seen(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The actor's and the critic's embedding [B, L] of `obs` as it is, without shifts."""
        return self.embed(self.embedding, self.features(obs), self.stored(obs))

    def draw(self, like: torch.Tensor, std: float) -> torch.Tensor:
        """Gaussian noise in the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator).to(like.device) * std

    def noisy_action(self, z: torch.Tensor) -> torch.Tensor:
        """The policy's action [B, A] at actor embeddings [B, L] plus clipped noise, in [-1, 1]; gradients pass the clamp."""
        action = torch.tanh(self.actor(z))
        clip = self.config.noise_clip
        noisy = (action + self.draw(action, self.noise).clamp(-clip, clip)).clamp(-1, 1)
        return action + (noisy - action).detach()

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Let every layer compute: the policy's actions [B, A], and what the critics say of them [2, B]."""
        action = self.policy(obs)
        return action, self.critic(self.seen(obs)[1], action)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One step of the critics and of the actor; returns metrics and each transition's temporal difference [B]."""
        features, stored = self.features(self.view(batch.obs)), self.stored(batch.obs)
        _, critic_z = self.embed(self.embedding, features, stored)
        difference = self.temporal_difference(critic_z, batch)  # [2, B]
        critic_loss = (batch.weight * difference.square()).sum(dim=0).mean()
        gradient_step(critic_loss, self.critic_optimizer)
        actor_z, critic_z = self.embed(self.embedding, features.detach(), stored)
        actor_loss = self.actor_loss(actor_z, critic_z.detach())
        gradient_step(actor_loss, self.actor_optimizer)
        polyak_update(self.target_critic, self.critic, self.config.tau)
        if batch.obs.dtype == torch.uint8 or not self.whole:
            polyak_update(self.target_embedding, self.embedding, self.config.tau)
        metrics = {"losses/critic": critic_loss.detach(), "losses/actor": actor_loss.detach()}
        return metrics, difference.detach().abs().mean(dim=0)

    def errors(self, batch: Batch) -> torch.Tensor:
        """How wrong the critics are, [B]."""
        _, critic_z = self.embed(self.embedding, self.features(self.view(batch.obs)), self.stored(batch.obs))
        return self.temporal_difference(critic_z, batch).abs().mean(dim=0)

    def temporal_difference(self, critic_z: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Q_i(obs, action) - (reward + discount * min_j Q'_j(next_obs, a')), [2, B], a' the noisy action there (equation 2)."""
        with torch.no_grad():
            features, stored = self.features(self.view(batch.next_obs)), self.stored(batch.next_obs)
            actor_z, _ = self.embed(self.embedding, features, stored)
            _, target_z = self.embed(self.target_embedding, features, stored)
            next_action = self.noisy_action(actor_z)
            value = self.target_critic(target_z, next_action).amin(dim=0)
            goal = batch.reward + batch.discount * value
        difference: torch.Tensor = self.critic(critic_z, batch.action) - goal
        return difference

    def actor_loss(self, actor_z: torch.Tensor, critic_z: torch.Tensor) -> torch.Tensor:
        """-E[min_i Q_i(obs, a)], a the noisy action at obs (equation 3)."""
        value: torch.Tensor = self.critic(critic_z, self.noisy_action(actor_z)).amin(dim=0)
        return -value.mean()
