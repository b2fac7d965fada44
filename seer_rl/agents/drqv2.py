"""Learn by DrQ-v2 (Yarats et al., 2022): deterministic policy gradients from pixels, with n-step returns, random shifts and
exploration noise that falls.

Actor and critic share convolutions, which the critic trains, and have an embedding each. Of the encoder, only the embedding has
a slow target. An update convolves its images once, before both losses. As in the authors' code, the actor's loss embeds those
features again, after the critic's step.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn

from seer_rl.agents.augment import has_images, on_images, random_shift
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
from seer_rl.bounds import Count, NotNegative, Rate, Size, Steps, Units
from seer_rl.replay.observation import Obs, Shapes, each, length, vectors_in
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class DrQv2Config(AgentConfig):
    """Configure DrQ-v2."""

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
    """Share of the critics, and on images of their embedding, that moves into the targets in every update."""
    shift: Size = 4
    """Pixels by which images are moved in updates, at most."""
    noise_start: NotNegative = 1.0
    """Standard deviation of the exploration noise at the start."""
    noise_end: NotNegative = 0.1
    """Standard deviation of the exploration noise in the end."""
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
    """Learn a deterministic policy by DrQ-v2: an encoder, an actor, twin critics, and targets of embedding and critics."""

    name: ClassVar[str] = "drqv2"
    Config: ClassVar[type[DrQv2Config]] = DrQv2Config
    continuous: ClassVar[bool] = True
    compiled: ClassVar[str | None] = None
    sharing: ClassVar[int] = 2
    period: ClassVar[int] = 1
    obs_shape: Any  # as `Agent` has it

    def __init__(self, config: DrQv2Config, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent for uint8 images of `obs_shape` (C, S, S), or several and vectors by key.

        actions: the numbers in an action. seam: how many convolutions lie below it; None: the whole encoder does, embeddings
        included. seed: of the generator.
        Raises ValueError where the shift is as wide as the images, or the encoder does not fit them or has no such convolution.
        """
        super().__init__()
        self.config, self.obs_shape, self.actions, self.whole = config, obs_shape, actions, seam is None
        self.vectors = vectors_in(obs_shape)
        self.encoder = encoder(config.encoder, obs_shape, seam, "uint8 / 255 - 0.5", config.shared_encoder)
        embeddings: list[ActorCriticEmbedding] = []
        for one, shape in encoders(self.encoder, obs_shape):
            if config.shift >= min(shape[1:]):
                raise ValueError(f"--agent.shift {config.shift} would move frames of {shape[1]}x{shape[2]} out of sight")
            embeddings.append(ActorCriticEmbedding(features_of(one, shape), config.embedding, tanh=True))
            # Behind both of the encoder's parts: what it computes are features, which every update needs for two embeddings.
            one.add_module("embedding", embeddings[-1])
        inputs = heads_length(obs_shape, config.embedding)
        self.actor = mlp(inputs, config.hidden, actions)
        self.critic = TwinQ(inputs, actions, config.hidden)
        initialize(self, delta=False)
        self.target_encoder = nn.Sequential(OrderedDict(embedding=copy.deepcopy(self.embedding)))
        self.target_critic = copy.deepcopy(self.critic)
        self.target_encoder.requires_grad_(False)
        self.target_critic.requires_grad_(False)
        of_actor = [p for one in embeddings for p in one.actor.parameters()]
        own = {id(p) for p in of_actor}
        critic_trained = [*(p for p in self.encoder.parameters() if id(p) not in own), *self.critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(critic_trained, config.learning_rate, fused=True)
        self.actor_optimizer = torch.optim.Adam([*of_actor, *self.actor.parameters()], config.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = 0

    def get_extra_state(self) -> dict[str, int]:
        """Return the counter."""
        return {"acts": self.acts}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the counter."""
        self.acts = state["acts"]

    @property
    def embedding(self) -> nn.Module:
        """Return the encoder's last layer, or those of several. Unlike the convolutions, the target has one of its own."""
        return self.encoder.part("embedding")

    @property
    def target_embedding(self) -> nn.Module:
        """Return the target's embedding layer."""
        return cast(nn.Module, self.target_encoder.embedding)

    @property
    def lower(self) -> nn.Module:
        """Return the online network's modules below the seam: uint8 [B, C, S, S] to float32 [B, ...]."""
        return nn.Sequential(self.encoder.lower, self.embedding) if self.whole else self.encoder.lower

    @property
    def target_lower(self) -> nn.Module:
        """Return the target network's modules below the seam. It shares the online convolutions."""
        return nn.Sequential(self.encoder.lower, self.target_embedding) if self.whole else self.encoder.lower

    def augment(self, obs: Obs) -> Obs:
        """Shift each of the images [B, C, S, S] uint8 at random, by up to `shift` pixels either way (section 3.1)."""
        return on_images(lambda x: random_shift(x, self.config.shift, self.generator), obs)

    def view(self, obs: Obs) -> Obs:
        """Return what an update sees of `obs` [B, ...]: augmented images if they are uint8; embeddings stay as they are."""
        return self.augment(obs) if has_images(obs) else obs

    def features(self, view: Obs) -> Obs:
        """Map what an update sees to the last convolution's features [B, F]; a stored embedding [B, 2 L] stays as it is."""
        features: Obs = view if self.stored(view) else self.encoder(view)
        return features

    def embed(self, owner: nn.Module, features: Obs, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `features` of `obs` to the actor's and the critic's embedding [B, L] by `owner`; stored ones are that already.

        The embeddings of several images are joined, with vectors behind.
        """
        return halves(features if self.stored(obs) else owner(features), obs, self.vectors)

    def stored(self, obs: Obs) -> bool:
        """Tell whether `obs` are stored embeddings, rather than images or what convolutions below the seam gave."""
        return self.whole and not has_images(obs)

    @property
    def noise(self) -> float:
        """Return the standard deviation of the exploration noise now (section 3.1, equation 4)."""
        done = min(1.0, self.acts / max(1, self.config.noise_steps))
        return self.config.noise_start + (self.config.noise_end - self.config.noise_start) * done

    @torch.no_grad()
    def act(self, obs: Obs) -> torch.Tensor:
        """Choose actions [N, A] float32 in [-1, 1] at `obs` [N, ...]: images, or embeddings of them.

        In training they have noise, and the first `learning_starts` of them are uniform; in evaluation they have none.
        """
        if self.training:
            self.acts += length(obs)
            if self.acts <= self.config.learning_starts:
                return torch.rand(length(obs), self.actions, generator=self.generator) * 2 - 1
        action = self.policy(obs)
        if self.training:
            action = (action + self.draw(action, self.noise)).clamp(-1, 1)
        return action

    def policy(self, obs: Obs) -> torch.Tensor:
        """Return the actions [B, A] float32 at `obs` [B, ...], without noise."""
        return torch.tanh(self.actor(self.seen(obs)[0]))

    def seen(self, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actor's and the critic's embedding, [B, L] each, of `obs` as it is, without shifts."""
        return self.embed(self.embedding, self.features(obs), obs)

    def draw(self, like: torch.Tensor, std: float) -> torch.Tensor:
        """Draw Gaussian noise of standard deviation `std`, in the shape and on the device of `like`."""
        return torch.randn(like.shape, generator=self.generator).to(like.device) * std

    def noisy_action(self, z: torch.Tensor) -> torch.Tensor:
        """Return the policy's actions [B, A] at actor embeddings `z` [B, L] plus clipped noise, clamped to [-1, 1].

        Gradients pass as if there were neither noise nor clamp.
        """
        action = torch.tanh(self.actor(z))
        clip = self.config.noise_clip
        noisy = (action + self.draw(action, self.noise).clamp(-clip, clip)).clamp(-1, 1)
        return action + (noisy - action).detach()

    def forward(self, obs: Obs) -> tuple[torch.Tensor, torch.Tensor]:
        """Run every layer at `obs` [B, ...]: return the policy's actions [B, A] and their values by the two critics [2, B]."""
        action = self.policy(obs)
        return action, self.critic(self.seen(obs)[1], action)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take a step of the critics and of the actor; return metrics, and each transition's temporal difference [B]."""
        features = self.features(self.view(batch.obs))
        _, critic_z = self.embed(self.embedding, features, batch.obs)
        difference = self.temporal_difference(critic_z, batch)  # [2, B]
        critic_loss = (batch.weight * difference.square()).sum(dim=0).mean()
        gradient_step(critic_loss, self.critic_optimizer)
        actor_z, critic_z = self.embed(self.embedding, each(torch.Tensor.detach, features), batch.obs)
        actor_loss = self.actor_loss(actor_z, critic_z.detach())
        gradient_step(actor_loss, self.actor_optimizer)
        polyak_update(self.target_critic, self.critic, self.config.tau)
        if not self.stored(batch.obs):
            polyak_update(self.target_embedding, self.embedding, self.config.tau)
        metrics = {"losses/critic": critic_loss.detach(), "losses/actor": actor_loss.detach()}
        return metrics, difference.detach().abs().mean(dim=0)

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the temporal difference of each transition [B], the mean of both critics', without learning from it."""
        _, critic_z = self.embed(self.embedding, self.features(self.view(batch.obs)), batch.obs)
        return self.temporal_difference(critic_z, batch).abs().mean(dim=0)

    def temporal_difference(self, critic_z: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return Q_i(obs, action) - (reward + discount * min_j Q'_j(next_obs, a')) [2, B], of each critic i (equation 2).

        critic_z: the critic's embeddings of obs [B, L]. a' is the noisy action at next_obs.
        """
        with torch.no_grad():
            features = self.features(self.view(batch.next_obs))
            actor_z, _ = self.embed(self.embedding, features, batch.next_obs)
            _, target_z = self.embed(self.target_embedding, features, batch.next_obs)
            next_action = self.noisy_action(actor_z)
            value = self.target_critic(target_z, next_action).amin(dim=0)
            goal = batch.reward + batch.discount * value
        difference: torch.Tensor = self.critic(critic_z, batch.action) - goal
        return difference

    def actor_loss(self, actor_z: torch.Tensor, critic_z: torch.Tensor) -> torch.Tensor:
        """Return -E[min_i Q_i(obs, a)] for the noisy action a at obs (equation 3). actor_z, critic_z: embeddings [B, L]."""
        value: torch.Tensor = self.critic(critic_z, self.noisy_action(actor_z)).amin(dim=0)
        return -value.mean()
