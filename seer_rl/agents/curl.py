"""Learn by CURL (Srinivas et al., 2020): RAD whose encoder also learns to tell images apart, however they are cropped."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.augment import has_images
from seer_rl.agents.networks import gradient_step, halves
from seer_rl.agents.sac import RAD, RADConfig
from seer_rl.replay.observation import Obs, Shapes, images_in
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class CURLConfig(RADConfig):
    """Configure CURL."""


class CURL(RAD):
    """Learn by RAD and a contrastive loss. The loss compares two crops of an image, so there is none on stored embeddings.

    As in the code that made the paper's curves, two Adam optimizers move the critic's encoder by the same contrastive gradient.
    One belongs to the contrastive loss and trains W, too. The other is the critics', so its moments come from both losses.
    """

    name: ClassVar[str] = "curl"
    Config: ClassVar[type[Any]] = CURLConfig

    def __init__(self, config: CURLConfig, obs_shape: Shapes, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make the agent, as `RAD` does."""
        super().__init__(config, obs_shape, actions, seam, seed)
        compared = config.embedding * images_in(obs_shape)  # numbers
        self.similarity = nn.Parameter(torch.rand(compared, compared))  # W
        own = {id(p) for p in self.critic.parameters()}
        encoder = [p for p in self.critic_trained if id(p) not in own]
        self.contrastive_optimizer = torch.optim.Adam([self.similarity, *encoder], config.learning_rate, fused=True)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Update as RAD does; then, on images, take two steps of the encoder and one of W down the contrastive loss.

        Returns metrics, and each transition's temporal difference [B].
        """
        metrics, errors = super().update(batch)
        if has_images(batch.obs):
            loss = self.contrastive_loss(self.augment(batch.obs), self.augment(batch.obs))
            self.critic_optimizer.zero_grad(set_to_none=True)  # the critics have no part in this loss: they are passed over
            gradient_step(loss, self.contrastive_optimizer)
            self.critic_optimizer.step()
            metrics["losses/contrastive"] = loss.detach()
        return metrics, errors

    def contrastive_loss(self, anchor: Obs, positive: Obs) -> torch.Tensor:
        """Return the InfoNCE loss: which of the B keys is another crop of the query's image? (section 4)

        anchor, positive: crops [B, C, S, S] uint8 of the same images. A query q is the critic's embedding of an anchor; a key k
        is the target's embedding of a positive. The logits are q W k^T [B, B]; the right answers lie on the diagonal.
        """
        _, query = halves(self.encoder(anchor), anchor, ())  # without vectors: they are the same in both
        with torch.no_grad():
            _, key = halves(self.target_encoder(positive), positive, ())
        logits = query @ self.similarity @ key.T  # [B, B]
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
