"""CURL (Srinivas et al., 2020): RAD whose critic's encoder also learns to tell images apart, whatever their crop."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.networks import gradient_step
from seer_rl.agents.sac import RAD, RADConfig
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class CURLConfig(RADConfig):
    """Settings of CURL."""


class CURL(RAD):
    """RAD and a contrastive loss. Two crops of one image are needed for it: on embeddings it ends by itself.

    As in the authors' code, two Adams step the critic's encoder down the same contrastive gradient. One is the loss's own, and
    trains W, too. The other is the critics', whose moments are of both losses, as in the code that made the paper's curves.
    """

    name: ClassVar[str] = "curl"
    Config: ClassVar[type[Any]] = CURLConfig

    def __init__(
        self, config: CURLConfig, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(config, obs_shape, actions, seam, seed)
        self.similarity = nn.Parameter(torch.rand(config.embedding, config.embedding))  # W
        own = {id(p) for p in self.critic.parameters()}
        encoder = [p for p in self.critic_trained if id(p) not in own]
        self.contrastive_optimizer = torch.optim.Adam([self.similarity, *encoder], config.learning_rate, fused=True)

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """RAD's update, then on images two steps of the encoder and one of W down the contrastive loss."""
        metrics, errors = super().update(batch)
        if batch.obs.dtype == torch.uint8:
            loss = self.contrastive_loss(self.augment(batch.obs), self.augment(batch.obs))
            self.critic_optimizer.zero_grad(set_to_none=True)  # the critics have no part in this loss: they are passed over
            gradient_step(loss, self.contrastive_optimizer)
            self.critic_optimizer.step()
            metrics["losses/contrastive"] = loss.detach()
        return metrics, errors

    def contrastive_loss(self, anchor: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """InfoNCE: which of the B keys is another crop of this query's image? (section 4.3)

        anchor, positive: [B, C, S, S] uint8 crops of the same images. Query q: the critic's embedding; key k: its target's.
        Logits q W k^T [B, B], of which the diagonal is right.
        """
        _, query = self.embed(self.encoder, anchor)
        with torch.no_grad():
            _, key = self.embed(self.target_encoder, positive)
        logits = query @ self.similarity @ key.T  # [B, B]
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
