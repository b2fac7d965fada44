"""Learn by Rainbow (Hessel et al., 2018) in its data-efficient form (van Hasselt et al., 2019).

Rainbow is double, dueling, distributional (C51), n-step and noisy, and prioritized where its replay is. The replay puts n-step
returns together: `batch.reward` is the discounted sum of rewards, `batch.discount` the factor of the value that follows.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from seer_rl.agents.base import AgentConfig
from seer_rl.agents.networks import DuelingC51, NoisyLinear, clipped_step, draw_noise, encoder, explored, features_of, joined
from seer_rl.bounds import Count, NotNegative, Positive, Share, Size, Steps, Units, Within
from seer_rl.replay.observation import Obs, Shapes, length, vectors_in
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class RainbowConfig(AgentConfig):
    """Configure Rainbow."""

    encoder: str = "data-efficient"
    """Convolutions: data-efficient (2 layers, 576 features of an 84x84 stack), canonical (3 layers, 3136 features) or
    impala (15, residual); or module:factory, a PyTorch module from elsewhere."""
    hidden: Units = 256
    """Units of the hidden layer of each stream."""
    atoms: Annotated[int, Within(2, 1000)] = 51
    """Atoms of the return's distribution."""
    value_range: Positive = 10.0
    """Returns are represented on [-value_range, value_range]."""
    noise_std: NotNegative = 0.1
    """The noisy layers' weights and biases begin with a standard deviation of this divided by sqrt(inputs)."""
    learning_rate: NotNegative = 1e-4
    """Adam's step size."""
    adam_eps: Positive = 1.5e-4
    """Adam's epsilon."""
    gradient_norm: Positive = 10.0
    """Gradients are scaled down to this norm."""
    n_step: Size = 20
    """Rewards summed before bootstrapping."""
    target_every: Count = 2000
    """Agent steps between copies of the online network into the target network."""
    learning_starts: Steps = 1600
    """Agent steps before the first update."""
    random_steps: Steps = 0
    """Agent steps of a uniformly random player at the start. Noisy layers alone explore little at first: one action is taken
    half of the time or more. 0, as in the paper, whose players never act at random in training."""
    eval_epsilon: Share = 0.001
    """Share of random actions in evaluation."""


class Rainbow(nn.Module):
    """Learn distributions of returns by Rainbow: an encoder under a head, and a target copy of both."""

    name: ClassVar[str] = "rainbow"
    Config: ClassVar[type[RainbowConfig]] = RainbowConfig
    continuous: ClassVar[bool] = False
    compiled: ClassVar[str | None] = "losses"
    sharing: ClassVar[int] = 1
    period: ClassVar[int] = 1
    obs_shape: Any  # as `Agent` has it
    support: torch.Tensor

    def __init__(self, config: RainbowConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent for uint8 images of `obs_shape` (C, H, W), or several and vectors by key, and for discrete actions.

        seam: how many convolutions lie below it; None: all. seed: of the generator.
        Raises ValueError where the encoder does not fit the images or has no such convolution.
        """
        super().__init__()
        self.config, self.obs_shape, self.actions = config, obs_shape, actions
        self.vectors = vectors_in(obs_shape)
        self.encoder = encoder(config.encoder, obs_shape, seam, shared=config.shared_encoder)
        features = features_of(self.encoder, obs_shape)
        self.head = DuelingC51(features, actions, config.atoms, config.hidden, config.noise_std)
        self.target_encoder, self.target_head = copy.deepcopy((self.encoder, self.head))
        self.target_encoder.requires_grad_(False)
        self.target_head.requires_grad_(False)
        self.register_buffer("support", torch.linspace(-config.value_range, config.value_range, config.atoms), persistent=False)
        self.noisy, self.target_noisy = noisy_layers(self.head), noisy_layers(self.target_head)
        trained = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate, eps=config.adam_eps, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.acts = self.updates = 0  # agent steps, and updates, in training
        self.updated_at = max(0, config.learning_starts - 1)  # the agent step of the latest update: nothing is copied before

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters."""
        return {"acts": self.acts, "updates": self.updates, "updated_at": self.updated_at}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the counters."""
        self.acts, self.updates, self.updated_at = state["acts"], state["updates"], state["updated_at"]

    @property
    def lower(self) -> nn.Module:
        """Return the encoder's modules below the seam: uint8 [B, C, H, W] to float32 [B, ...]."""
        return self.encoder.lower

    @property
    def target_lower(self) -> nn.Module:
        """Return the target encoder's modules below the seam."""
        return self.target_encoder.lower

    def augment(self, obs: Obs) -> Obs:
        """Return `obs` [B, C, H, W] uint8 as it is: Rainbow augments nothing."""
        return obs

    @torch.no_grad()
    def act(self, obs: Obs) -> torch.Tensor:
        """Choose actions [N] int64 at `obs` [N, ...]: images, or embeddings of them.

        In training they are greedy under fresh noise, but for the first `random_steps`, which are drawn uniformly. In
        evaluation they are epsilon-greedy without noise.
        """
        if self.training:
            draw_noise(self.noisy, self.generator)
            self.acts += length(obs)
            explore = torch.full((length(obs),), self.acts <= self.config.random_steps)
        else:
            explore = torch.rand(length(obs), generator=self.generator) < self.config.eval_epsilon
        return explored(self, obs, explore)

    def features(self, encoder: nn.Module, obs: Obs) -> torch.Tensor:
        """Return what the heads get of `obs` [B, ...]: the features of images, or of embeddings, and vectors behind: [B, F]."""
        return joined(encoder(obs), obs, self.vectors)

    def policy(self, obs: Obs) -> torch.Tensor:
        """Return expected returns [B, actions] float32 at `obs` [B, ...]: the greedy policy takes the largest."""
        return self.values(self.head(self.features(self.encoder, obs)))

    def values(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the expected returns [B, actions] of the distributions that `logits` [B, actions, atoms] give."""
        values: torch.Tensor = torch.matmul(logits.softmax(dim=-1), self.support)
        return values

    def forward(self, obs: Obs) -> torch.Tensor:
        """Run every layer at `obs` [B, ...]: `policy` needs them all."""
        return self.policy(obs)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take a gradient step; return metrics, and each transition's loss [B], its priority (Hessel et al., section 3).

        The online network keeps the noise of the latest act; the target network draws its own. The target becomes a copy of the
        online network at the end of the first update at or after every multiple of `target_every` agent steps.
        """
        draw_noise(self.target_noisy, self.generator)
        losses = self.losses(batch)
        loss = (batch.weight * losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clipped_step(self.optimizer, self.config.gradient_norm)
        self.updates += 1
        before, self.updated_at = self.updated_at, self.acts
        if self.acts // self.config.target_every > before // self.config.target_every:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_head.load_state_dict(self.head.state_dict())
        return {"losses/loss": loss.detach(), "losses/gradient_norm": norm}, losses.detach()

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the loss of each transition [B], for a batch of any size, without learning from it."""
        # Not by way of `self`: there a training run puts the compiled method, which is made for one size.
        return Rainbow.losses(self, batch)

    def losses(self, batch: Batch) -> torch.Tensor:
        """Return the cross entropy [B] of the projected target distribution and the online one (Bellemare et al., 2017)."""
        rows = torch.arange(len(batch.action), device=batch.action.device)
        logits = self.head(self.features(self.encoder, batch.obs))  # [B, actions, atoms]
        log_p = logits[rows, batch.action].log_softmax(dim=-1)  # [B, atoms]
        with torch.no_grad():
            best = self.values(self.head(self.features(self.encoder, batch.next_obs))).argmax(
                dim=-1
            )  # double Q: online chooses
            target = self.target_head(self.features(self.target_encoder, batch.next_obs))[rows, best].softmax(dim=-1)
            projected = project(target, batch.reward, batch.discount, self.support)
        losses: torch.Tensor = -(projected * log_p).sum(dim=-1)
        return losses


def noisy_layers(module: nn.Module) -> list[NoisyLinear]:
    """List the noisy layers of `module`, in order."""
    return [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]


def project(p: torch.Tensor, reward: torch.Tensor, discount: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Project the distribution of reward + discount * z, z ~ p on `support`, back onto `support` (Bellemare et al., eq. 7).

    p: [B, atoms]; reward, discount: [B]; support: [atoms], evenly spaced. Returns [B, atoms]: each shifted atom's mass is
    shared between its two neighbours on the support in proportion to their closeness.
    """
    shifted = (reward[:, None] + discount[:, None] * support).clamp(support[0], support[-1])  # [B, atoms]
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    distance = (shifted[:, None, :] - support[:, None]).abs_().div_(spacing)  # [B, atoms, shifted atoms]
    closeness = distance.neg_().add_(1).clamp_(min=0)
    return torch.matmul(closeness, p[:, :, None]).squeeze(-1)
