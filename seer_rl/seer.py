"""Freeze a converged encoder, and replace every stored image by its embedding: this is SEER, the idea of the library.

Chen et al. wrote "Improving Computational Efficiency in Visual Reinforcement Learning via Stored Embeddings"; their first name
for SEER was LeVER. Nothing else in the library knows when the freeze happens: an agent sends uint8 observations through its
`lower` module and takes anything else as an embedding, so one update trains on images before and on embeddings after.
"""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Agent, Freezable
from seer_rl.convergence import EVERY, ConvergenceMonitor, converged
from seer_rl.replay.codec import BITS, EXAMPLES, LEAST, Dtype
from seer_rl.replay.observation import Obs, each
from seer_rl.replay.replay import Replay, Rewriter


def unchanged(obs: Obs) -> Obs:
    """Return `obs` as it is: no augmentation."""
    return obs


@dataclass
class Seam:
    """Say what `freeze` asks of an agent, for one that is no class: `freeze(Seam(encoder, target_encoder), replay)`."""

    lower: nn.Module
    """The module below the seam. It maps uint8 images [B, C, H, W] to float32 embeddings [B, ...]."""
    target_lower: nn.Module
    """The same module of the target network; `lower` itself where the target shares it."""
    augment: Callable[[Obs], Obs] = unchanged
    """Augments images as an update does, to the size that `lower` takes."""


def freeze(
    agent: Freezable,
    replay: Replay,
    capacity: int | None = None,
    copies: int = 4,
    dtype: Dtype = "float32",
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Stop training `agent.lower`, and replace the images in `replay` by its embeddings, in place (section 4, algorithm 1).

    The target network's lower module becomes a copy of the online one. Layers above the seam stay as they are. Afterwards the
    images are gone, and the replay holds as many steps as its bytes allow. Go on with the same `update` and the same `replay`.

    agent: see `Freezable`; `Seam(lower, target_lower)` makes one from two modules of your own.
    replay: holds uint8 images [C, H, W], at least one.
    capacity: the most steps to hold, even if more would fit; None: no other limit than the bytes.
    copies: K, the embeddings stored of each observation, each of another augmentation. It is 1 where nothing is augmented.
    dtype: how embeddings are stored. The agent gets them as float32.
    check_stop: is called before each pass through the encoder. It may raise to give up: agent and replay are then useless.
    Raises RuntimeError where the replay is frozen already or a lane of it is empty; and ValueError where too few embeddings
    would fit into it, `dtype` is none of ours, or is uint8 or uint4 and the replay holds fewer than 32 observations, `copies`
    is less than 1, or `agent.target_lower` is of other layers than `agent.lower`. Then nothing has changed.
    Warns where an embedding takes more room than a frame, so that the replay holds fewer steps than before.
    """
    if not {"lower", "target_lower", "augment"} <= {*dir(agent)}:
        raise ValueError(f"{type(agent).__name__} is no agent: give freeze Seam(encoder, target_encoder)")
    if copies < 1:
        raise ValueError(f"copies is the number of embeddings to store of each observation, 1 or more, not {copies}")
    if dtype in BITS and replay.size < min(LEAST, replay.capacity):
        raise ValueError(
            f"{replay.size} stored observations are too few to make a grid of {dtype}: "
            f"freeze later, with {LEAST} or better {EXAMPLES:,} of them, or store float16"
        )
    _require_alike(agent)
    frame_bytes, steps = replay.bytes_per_step, replay.capacity
    copies = copies_of(agent, replay.images, copies)
    dropped = replay.rewrite(_embeddings(agent, copies, check_stop), copies, capacity, dtype)
    agent.target_lower.load_state_dict(agent.lower.state_dict())
    _stop_training(agent)
    if replay.bytes_per_step > frame_bytes and replay.capacity < min(steps, capacity or steps):
        warnings.warn(
            f"an embedding takes more memory than a frame ({replay.bytes_per_step:,} bytes a step, not {frame_bytes:,}): "
            f"the replay shrinks from {steps:,} to {replay.capacity:,} steps and its {dropped:,} oldest were dropped",
            stacklevel=2,
        )


def _require_alike(agent: Freezable) -> None:
    """Raise ValueError where the target's module below the seam cannot become a copy of the online one."""
    online, target = (module.state_dict() for module in (agent.lower, agent.target_lower))

    def differs(name: str) -> bool:
        if name not in online or name not in target:
            return True
        pair = online[name], target[name]  # of a lazy layer that has not run yet, the shape is the other's
        return not any(map(is_lazy, pair)) and len({getattr(x, "shape", None) for x in pair}) > 1

    if differing := [name for name in {**online, **target} if differs(name)]:
        raise ValueError(
            f"the target's module below the seam cannot become a copy of the online one, from which it differs in "
            f"{differing[0]}: give two of the same layers (where one is compiled, the module that was compiled)"
        )


@dataclass(frozen=True)
class Never:
    """Train the encoder to the end: the baseline."""

    def due(self, step: int) -> bool:
        """Tell whether to freeze now, at agent step `step`."""
        return False


@dataclass(frozen=True)
class AtStep:
    """Freeze at an agent step, the paper's T_f."""

    step: int

    def due(self, step: int) -> bool:
        """Tell whether to freeze now, at agent step `step`."""
        return step >= self.step


class WhenConverged:
    """Freeze when signals of the training say that the encoder has converged, and at `latest` whatever they say."""

    def __init__(self, agent: Agent, earliest: int, latest: int, stride: int = 1) -> None:
        """earliest, latest: agent steps. stride: agent steps that are taken at once, between two looks."""
        self.monitor, self.earliest, self.latest, self.stride = ConvergenceMonitor(agent), earliest, latest, stride

    def measures(self, step: int) -> bool:
        """Tell whether a measurement is due at agent step `step`; it is for the caller to make (`monitor.measure`)."""
        history, before = self.monitor.history, step - self.stride
        made = bool(history) and history[-1].step == step
        return not made and (step // EVERY > before // EVERY or before < self.latest <= step)

    def due(self, step: int) -> bool:
        """Tell whether to freeze now, at agent step `step`."""
        history = self.monitor.history
        return bool(history) and history[-1].step == step and converged(history, self.earliest, self.latest)


When = Never | AtStep | WhenConverged


def embedder(agent: Freezable, copies: int, check_stop: Callable[[], None] = lambda: None) -> Rewriter:
    """Stop training below the seam; return the function that makes embeddings of observations, as `Replay.rewrite` takes it.

    The function maps images [B, C, H, W] uint8 to the embeddings to act on [B, ...] and those to store [B, copies, ...].
    `freeze` does this and all the rest; call it yourself only to restore a frozen replay.

    copies: K, as `freeze` used it. check_stop: as for `freeze`.
    """
    _stop_training(agent)
    return _embeddings(agent, copies, check_stop)


def _stop_training(agent: Freezable) -> None:
    for module in (agent.lower, agent.target_lower):
        module.requires_grad_(False)
        for parameter in module.parameters():
            parameter.grad = None  # an optimizer passes over parameters without a gradient
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase):
                part.momentum = 0.0  # statistics stand still, too, should images pass in training mode


def _embeddings(agent: Freezable, copies: int, check_stop: Callable[[], None]) -> Rewriter:
    @torch.no_grad()
    def embeddings(obs: Obs, current: bool) -> tuple[Obs, Obs]:
        if not current:
            check_stop()
        weight = next(itertools.chain(agent.lower.parameters(), agent.lower.buffers()), None)
        images = views(agent, obs if weight is None else each(lambda x: x.to(weight.device), obs), copies, current)
        with evaluating(agent.lower):
            z = agent.lower(each(lambda *some: torch.cat(some), *images))  # all images in one pass
        made = each(lambda x: x.view(len(images), -1, *x.shape[1:]).transpose(0, 1), z)  # [B, views, ...]
        return each(lambda x: x[:, 0], made), each(lambda x: x[:, -copies:], made)

    return embeddings


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all in it into evaluation mode, and back into what each was in.

    An embedding is stored for good: it must depend neither on the images beside it (batch normalization) nor on chance
    (dropout).
    """
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def copies_of(agent: Freezable, obs: Obs, copies: int) -> int:
    """Return K, the embeddings to store of each observation: `copies`, or 1 where `obs` [B, C, H, W] is not augmented."""
    return 1 if agent.augment(obs) is obs else copies


def views(agent: Freezable, obs: Obs, copies: int, current: bool) -> list[Obs]:
    """List the images to embed of `obs` [B, C, H, W] uint8: `copies` augmented ones.

    With `current`, the image to act on stands before them, unless it is one of them because nothing is augmented. It is the
    middle of the observation, of the size of augmented images: the centre crop, or the whole image.
    """
    augmented = [agent.augment(obs) for _ in range(copies)]
    if not current or augmented[0] is obs:
        return augmented
    return [each(lambda x, seen: center_crop(x, seen.shape[2:]), obs, augmented[0]), *augmented]
