"""Learn by soft actor-critic (SAC) from pixels (Yarats et al., 2019), or by RAD (Laskin et al., 2020): SAC on random crops.

Equations and sections are those of Haarnoja et al. (2018), "Soft Actor-Critic Algorithms and Applications". Actor
and critic share convolutions, which only the critic trains, and have an embedding each. The encoder returns both side by side:
this one vector is all that an update needs of an observation.
"""

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.augment import center_crop, has_images, on_images, random_crop
from seer_rl.agents.base import AgentConfig
from seer_rl.agents.networks import (
    ActorCriticEmbedding,
    TwinQ,
    encoder,
    encoders,
    features_of,
    gradient_step,
    halves,
    heads_length,
    initialize,
    mlp,
    polyak_update,
)
from seer_rl.bounds import NotNegative, Positive, Rate, Size, Steps, Units, Within
from seer_rl.replay.observation import Obs, Shape, Shapes, length, of_images, vectors_in
from seer_rl.replay.replay import Batch

LOG_STD = (-10.0, 2.0)


@dataclass(frozen=True)
class SACConfig(AgentConfig):
    """Configure SAC."""

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
    slow_every: Annotated[int, Within(1, 100)] = 2
    """Updates of the critics per update of actor, temperature and targets."""
    batch_size: Size = 128
    """Transitions per update."""
    learning_starts: Steps = 1000
    """Agent steps before the first update, with random actions."""


@dataclass(frozen=True)
class RADConfig(SACConfig):
    """Configure RAD."""

    crop: Size = 84
    """Height and width of the part of an image that is seen: a random one in updates, the middle one in acting."""


class SAC(nn.Module):
    """Learn a squashed Gaussian policy by soft actor-critic, with twin critics and an adapted temperature, from one encoder."""

    name: ClassVar[str] = "sac"
    Config: ClassVar[type[Any]] = SACConfig
    continuous: ClassVar[bool] = True
    compiled: ClassVar[str | None] = None
    sharing: ClassVar[int] = 2
    obs_shape: Any  # as `Agent` has it

    def __init__(self, config: SACConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent for uint8 images of `obs_shape` (C, H, W), or several and vectors by key.

        actions: the numbers in an action. seam: how many convolutions lie below it; None: the whole encoder does, embeddings
        included. seed: of the generator.
        Raises ValueError where the encoder does not fit the images or has no such convolution.
        """
        super().__init__()
        self.config, self.obs_shape, self.actions = config, obs_shape, actions
        self.vectors = vectors_in(obs_shape)
        self.encoder = encoder(config.encoder, obs_shape, seam, shared=config.shared_encoder)
        embeddings: list[ActorCriticEmbedding] = []
        for one, shape in encoders(self.encoder, obs_shape):
            features, below = features_of(one, shape), len(one.lower)
            embeddings.append(ActorCriticEmbedding(features, config.embedding))
            one.add_module("embedding", embeddings[-1])
            one.cut(len(one) if seam is None else below)
        inputs = heads_length(obs_shape, config.embedding)
        self.actor = mlp(inputs, config.hidden, 2 * actions)
        self.critic = TwinQ(inputs, actions, config.hidden)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.initial_temperature)))
        initialize(self)
        self.target_encoder, self.target_critic = copy.deepcopy((self.encoder, self.critic))
        self.target_encoder.requires_grad_(False)
        self.target_critic.requires_grad_(False)
        self.actor_trained = [*(p for one in embeddings for p in one.actor.parameters()), *self.actor.parameters()]
        own = {id(p) for p in self.actor_trained}
        below_heads = [p for p in self.encoder.parameters() if id(p) not in own]
        self.critic_trained = [*below_heads, *self.critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(self.critic_trained, config.learning_rate, fused=True)
        self.actor_optimizer = torch.optim.Adam(self.actor_trained, config.learning_rate, fused=True)
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_temperature], config.temperature_learning_rate, betas=(0.5, 0.999)
        )
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

    @property
    def period(self) -> int:
        """Return the number of updates in a cycle: one of them updates actor, temperature and targets, too."""
        return self.config.slow_every

    def augment(self, obs: Obs) -> Obs:
        """Return `obs` [B, C, H, W] uint8 as it is: SAC augments nothing."""
        return obs

    def view(self, obs: Obs) -> Obs:
        """Return what an update sees of `obs` [B, ...]: augmented images if they are uint8; embeddings stay as they are."""
        return self.augment(obs) if has_images(obs) else obs

    def embed(self, encoder: nn.Module, view: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actor's and the critic's embedding of `view`, [B, L] each; of several images joined, then the vectors."""
        return halves(encoder(view), view, self.vectors)

    @torch.no_grad()
    def act(self, obs: Obs) -> torch.Tensor:
        """Choose actions [N, A] float32 in [-1, 1] at `obs` [N, ...]: images, or embeddings of them.

        In training they are samples, the first `learning_starts` of them uniform; in evaluation they are means.
        """
        if self.training:
            self.acts += length(obs)
            if self.acts <= self.config.learning_starts:
                return torch.rand(length(obs), self.actions, generator=self.generator) * 2 - 1
        return self.sample(self.seen(obs)[0])[0] if self.training else self.policy(obs)

    def seen(self, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actor's and the critic's embedding, [B, L] each, of what acting sees of `obs`."""
        return self.embed(self.encoder, obs)

    def policy(self, obs: Obs) -> torch.Tensor:
        """Return the squashed mean actions [B, A] float32 at `obs` [B, ...]."""
        return torch.tanh(self.distribution(self.seen(obs)[0])[0])

    def distribution(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log standard deviation, [B, A] each, of the Gaussian that tanh squashes, at embeddings `z` [B, L]."""
        mean, log_std = self.actor(z).chunk(2, dim=-1)
        low, high = LOG_STD
        return mean, low + (high - low) / 2 * (torch.tanh(log_std) + 1)

    def sample(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions tanh(u) [B, A], u ~ N(mean, std); return them and their log probability [B] (appendix C).

        z: the actor's embeddings [B, L]. log pi = log N(u) - sum log(1 - tanh(u)^2); the logarithm in the sum is computed as
        2 (log 2 - u - softplus(-2 u)), which cannot overflow.
        """
        mean, log_std = self.distribution(z)
        e = torch.randn(mean.shape, generator=self.generator).to(mean.device)
        u = mean + log_std.exp() * e
        gaussian = -0.5 * e.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_p = (gaussian - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(dim=-1)
        return torch.tanh(u), log_p

    def forward(self, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Run every layer at `obs` [B, ...]: return the policy's actions [B, A] and their values by the two critics [2, B]."""
        action = self.policy(obs)
        return action, self.critic(self.seen(obs)[1], action)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take a step of the critics; return metrics, and each transition's temporal difference [B], the mean of both critics'.

        Every `slow_every`-th update also takes a step of actor and temperature, and moves the targets. As in the authors' code,
        the actor's loss uses embeddings that are computed after the critics' step; stored embeddings are not computed again.
        """
        view = self.view(batch.obs)
        _, critic_z = self.embed(self.encoder, view)
        difference = self.temporal_difference(critic_z, batch)  # [2, B]
        critic_loss = (batch.weight * difference.square()).sum(dim=0).mean()
        gradient_step(critic_loss, self.critic_optimizer)
        metrics = {"losses/critic": critic_loss.detach()}
        self.updates += 1
        if self.updates % self.config.slow_every == 0:
            actor_z, critic_z = self.embed(self.encoder, view)
            actor_loss, log_p = self.actor_loss(actor_z, critic_z.detach())
            gradient_step(actor_loss, self.actor_optimizer)
            gradient_step(self.temperature_loss(log_p.detach()), self.temperature_optimizer)
            polyak_update(self.target_critic, self.critic, self.config.critic_tau)
            polyak_update(self.target_encoder.upper, self.encoder.upper, self.config.encoder_tau)
            if has_images(batch.obs):
                polyak_update(self.target_encoder.lower, self.encoder.lower, self.config.encoder_tau)
            metrics |= {"losses/actor": actor_loss.detach(), "losses/entropy": -log_p.detach().mean(),
                        "losses/temperature": self.log_temperature.detach().exp()}  # fmt: skip
        return metrics, difference.detach().abs().mean(dim=0)

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the temporal difference of each transition [B], the mean of both critics', without learning from it."""
        _, critic_z = self.embed(self.encoder, self.view(batch.obs))
        return self.temporal_difference(critic_z, batch).abs().mean(dim=0)

    def temporal_difference(self, critic_z: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return Q_i(obs, action) - (reward + discount * (min_j Q'_j(next_obs, a') - alpha log pi(a'))) [2, B] (equation 5).

        critic_z: the critic's embeddings of obs [B, L]. a' is drawn from the policy at next_obs.
        """
        with torch.no_grad():
            view = self.view(batch.next_obs)
            next_z, _ = self.embed(self.encoder, view)
            _, target_z = self.embed(self.target_encoder, view)
            next_action, log_p = self.sample(next_z)
            value = self.target_critic(target_z, next_action).amin(dim=0) - self.log_temperature.exp() * log_p
            target = batch.reward + batch.discount * value
        difference: torch.Tensor = self.critic(critic_z, batch.action) - target
        return difference

    def actor_loss(self, actor_z: torch.Tensor, critic_z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E[alpha log pi(a) - min_i Q_i(obs, a)], a ~ pi(obs) (equation 7), and log pi(a) [B].

        actor_z, critic_z: embeddings of obs [B, L].
        """
        action, log_p = self.sample(actor_z)
        value = self.critic(critic_z, action).amin(dim=0)
        return (self.log_temperature.detach().exp() * log_p - value).mean(), log_p

    def temperature_loss(self, log_p: torch.Tensor) -> torch.Tensor:
        """Return E[-alpha (log pi(a) + target entropy)] for `log_p` [B]; the target is -(length of an action) (section 5)."""
        return (self.log_temperature.exp() * (-log_p + self.actions)).mean()


class RAD(SAC):
    """Learn by SAC from random crops of images, and act on the crop in the middle (Laskin et al., 2020)."""

    name: ClassVar[str] = "rad"
    Config: ClassVar[type[Any]] = RADConfig
    config: RADConfig

    def __init__(self, config: RADConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent for uint8 images of `obs_shape` (C, H, W), before they are cropped; the rest is as for `SAC`.

        Raises ValueError also where the images are smaller than the crop.
        """

        def cropped(shape: Shape) -> Shape:
            if min(shape[1:]) < config.crop:
                raise ValueError(f"frames of {shape[1]}x{shape[2]} are smaller than the crop of {config.crop}x{config.crop}")
            return shape[0], config.crop, config.crop

        super().__init__(config, of_images(cropped, obs_shape), actions, seam, seed)

    def augment(self, obs: Obs) -> Obs:
        """Crop each of the images [B, C, H, W] uint8 at random: [B, C, crop, crop]."""
        return on_images(lambda x: random_crop(x, (self.config.crop,) * 2, self.generator), obs)

    def seen(self, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actor's and the critic's embedding, [B, L] each, of what acting sees of `obs`: the middle of images."""
        return self.embed(self.encoder, on_images(lambda x: center_crop(x, (self.config.crop,) * 2), obs))
