"""SEER, the idea: once the encoder has converged, freeze it and replace every stored image by its embedding.

Chen et al., "Improving Computational Efficiency in Visual Reinforcement Learning via Stored Embeddings" (first called LeVER).
Nothing else in the library knows when this happens. An agent sends uint8 observations through its `lower` module and takes
anything else as an embedding, so the same update trains on images before and on embeddings after.
"""

import warnings
from collections.abc import Callable

import torch

from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Freezable
from seer_rl.replay.codec import Dtype
from seer_rl.replay.replay import Replay, Rewriter


def freeze(
    agent: Freezable,
    replay: Replay,
    capacity: int | None = None,
    copies: int = 4,
    dtype: Dtype = "float32",
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Stop training `agent.lower` and rewrite `replay` with its embeddings, in place (the paper's section 4, algorithm 1).

    The target's lower module becomes a copy of the online one; layers above the seam are left alone on both sides. The
    replay then holds as many steps as its bytes allow, at most `capacity`. Its images are gone afterwards.
    copies: K, embeddings of differently augmented images per observation; one for an agent that augments nothing.
    dtype: how embeddings are stored; the agent gets them as float32 in any case.
    check_stop: called before each pass; it may raise to give up, which leaves agent and replay useless.
    Warns where embeddings take more room than frames, so that steps are lost instead of won.
    """
    frame_bytes, steps = replay.bytes_per_step, replay.capacity
    agent.target_lower.load_state_dict(agent.lower.state_dict())
    copies = copies_of(agent, replay.observation, copies)
    dropped = replay.rewrite(embedder(agent, copies, check_stop), copies, capacity, dtype)
    if replay.bytes_per_step > frame_bytes and replay.capacity < min(steps, capacity or steps):
        warnings.warn(
            f"an embedding takes more memory than a frame ({replay.bytes_per_step:,} bytes a step, not {frame_bytes:,}): "
            f"the replay shrinks from {steps:,} to {replay.capacity:,} steps and its {dropped:,} oldest were dropped",
            stacklevel=2,
        )


def embedder(agent: Freezable, copies: int, check_stop: Callable[[], None] = lambda: None) -> Rewriter:
    """Stop the training below the seam; return what makes embeddings of observations from then on."""
    for module in (agent.lower, agent.target_lower):
        module.requires_grad_(False)
        for parameter in module.parameters():
            parameter.grad = None  # optimizers pass over parameters that have none

    @torch.no_grad()
    def embeddings(obs: torch.Tensor, current: bool) -> torch.Tensor:
        if not current:
            check_stop()
        images = views(agent, obs.to(next(agent.lower.parameters()).device), copies, current)
        z: torch.Tensor = agent.lower(torch.cat(images))  # one pass for all of them
        return z.view(len(images), len(obs), *z.shape[1:]).transpose(0, 1)  # [B, views, ...]

    return embeddings


def copies_of(agent: Freezable, obs: torch.Tensor, copies: int) -> int:
    """K: how many embeddings of an observation `obs` [1, C, H, W] to store. All are the same where nothing is augmented."""
    return 1 if agent.augment(obs) is obs else copies


def views(agent: Freezable, obs: torch.Tensor, copies: int, current: bool) -> list[torch.Tensor]:
    """The images of `obs` [B, C, H, W] to embed: `copies` augmented ones; where augmented, before them the one to act on.

    An agent acts on what lies in the middle of its augmented images: the centre crop, or the whole image.
    """
    augmented = [agent.augment(obs) for _ in range(copies)]
    acted_on = [center_crop(obs, augmented[0].shape[-1])] if current and augmented[0] is not obs else []
    return acted_on + augmented


def paper_capacity(capacity: int, frame_bytes: int, length: int, embeddings: int = 1, copies: int = 1) -> int:
    """C' = floor(C P / (4 N K L)), the paper's capacity after the freeze (section 4.2).

    capacity: C, steps held before; frame_bytes: P; length: L, floats per embedding; embeddings: N per observation (1 for
    Q-learning); copies: K. It counts observations only; `Replay.capacity` counts every byte.
    """
    return capacity * frame_bytes // (4 * embeddings * copies * length)
