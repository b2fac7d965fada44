"""Operations: of every layer, of an act, an update and a freeze, on either side of it.

Two conventions. The paper's (its appendix B) counts one multiply-add as one operation, a backward pass as two forward passes,
and leaves acting on images out. The true one counts multiplications and additions, acting too, and no gradient that nobody
needs (that of a network's input). Both count convolutions and matrix products only, a noisy layer like a plain one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from seer_rl.agents.networks import NoisyLinear


@dataclass(frozen=True)
class Layer:
    """A layer's name, its multiply-adds for one input, and whether it is the first trained layer on its path."""

    name: str
    multiply_adds: int
    first: bool


def layers(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Layer]:
    """The convolutions and linear layers of `module` in the order of execution, on one input of `input_shape`.

    Each weight is multiplied once per output of its unit: per pixel of a convolution, once in a linear layer (appendix B).
    """
    found: list[Layer] = []
    device = next(module.parameters(), torch.empty(0)).device

    def counter(name: str) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
        def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            weight = layer.get_parameter("weight")
            times = output.numel() // len(weight)
            found.append(Layer(name, weight.numel() * times, first=not inputs[0].requires_grad))

        return count

    weighted = nn.Conv2d | nn.Linear | NoisyLinear
    hooks = [m.register_forward_hook(counter(name)) for name, m in module.named_modules() if isinstance(m, weighted)]
    try:
        with torch.enable_grad():
            module(torch.zeros(1, *input_shape, dtype=dtype, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class Part:
    """Layers of an agent that run together, and how often. Shares are allowed: of a step, or of a pass."""

    layers: list[Layer]
    forwards: float  # F, per update
    backwards: float  # B, per update: each the gradients of weights and of inputs
    spared: float = 0  # of those, passes in which nobody needs the input's gradient of the layers marked `first`
    acts: int = 0  # passes per act
    below: int = 0  # the paper's N for these layers: networks whose encoder has them; 0 above the seam

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass."""
        return sum(layer.multiply_adds for layer in self.layers)


@dataclass(frozen=True)
class Costs:
    """Operations of an agent in both conventions: each method gives (paper, true).

    images, embeddings: what an update and an act compute on either. batch_size: of updates on either. copies: K, embeddings
    stored per observation. views: images that are embedded per new observation once frozen, the one acted on included.
    """

    images: list[Part]
    embeddings: list[Part]
    batch_size: tuple[int, int]
    copies: int = 1
    views: int = 1

    @property
    def E(self) -> int:
        """Multiply-adds of one forward pass of everything below the seam."""
        return sum(part.multiply_adds for part in self.images if part.below)

    @property
    def EKN(self) -> int:
        """The paper's count for the embeddings of one observation, in which layers that networks share count for each."""
        return self.copies * sum(part.multiply_adds * part.below for part in self.images)

    def update(self, frozen: bool) -> tuple[int, int]:
        """One gradient step: b F (E + M) + 2 b B (E + M), without E once frozen; F and B as each part has them."""
        parts, b = (self.embeddings if frozen else self.images), self.batch_size[frozen]
        paper = b * sum(part.multiply_adds * (part.forwards + 2 * part.backwards) for part in parts)
        spared = b * sum(layer.multiply_adds * part.spared for part in parts for layer in part.layers if layer.first)
        return round(paper), round(2 * (paper - spared))

    def act(self, frozen: bool) -> tuple[int, int]:
        """One step: acting, and once frozen E K N for the embeddings that are stored. The paper omits acting."""
        acting = sum(part.multiply_adds * part.acts for part in self.embeddings)
        return (self.EKN if frozen else 0), 2 * (acting + self.E * (self.views if frozen else 1))

    def freeze(self, observations: int) -> tuple[int, int]:
        """The freeze, once: E K N per observation in the replay."""
        return self.EKN * observations, 2 * self.E * self.copies * observations
