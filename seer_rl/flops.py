"""Operations: of every layer, of an act, an update and a freeze, on either side of it.

Two conventions. The paper's (its appendix B) counts one multiply-add as one operation, a backward pass as two forward passes,
and leaves acting on images out. The true one counts multiplications and additions, acting too, and no gradient that nobody
needs (that of a network's input). Both count convolutions and matrix products only, a noisy layer like a plain one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from seer_rl.networks import NoisyLinear


@dataclass(frozen=True)
class Layer:
    """A layer's name, its multiply-adds for one input, and whether it is the first trained layer on its path."""

    name: str
    multiply_adds: int
    first: bool


def layers(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Layer]:
    """The convolutions and linear layers of `module` in the order of execution, on one input of `input_shape`.

    A convolution multiplies each of its weights once per output pixel, a linear layer once (appendix B).
    """
    found: list[Layer] = []

    def counter(name: str) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
        def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            pixels = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
            weight = layer.get_parameter("weight")
            found.append(Layer(name, weight.numel() * pixels, first=not inputs[0].requires_grad))

        return count

    weighted = nn.Conv2d | nn.Linear | NoisyLinear
    hooks = [m.register_forward_hook(counter(name)) for name, m in module.named_modules() if isinstance(m, weighted)]
    try:
        with torch.enable_grad():
            module(torch.zeros(1, *input_shape, dtype=dtype, device=next(module.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class Costs:
    """Operations of an agent with layers `lower` and `upper`, in both conventions: each method gives (paper, true).

    forwards, backwards: passes per update (F and B); copies, embeddings: K and N, embeddings stored per observation.
    """

    lower: list[Layer]
    upper: list[Layer]
    batch_size: int
    forwards: int
    backwards: int
    copies: int = 1
    embeddings: int = 1

    @property
    def E(self) -> int:
        """Multiply-adds of one forward pass below the seam."""
        return sum(layer.multiply_adds for layer in self.lower)

    @property
    def M(self) -> int:
        """Multiply-adds of one forward pass above the seam."""
        return sum(layer.multiply_adds for layer in self.upper)

    def update(self, frozen: bool) -> tuple[int, int]:
        """One gradient step: b F (E + M) + 2 b B (E + M), without E once frozen."""
        forward = self.M if frozen else self.E + self.M
        paper = self.batch_size * (self.forwards + 2 * self.backwards) * forward
        # A first layer's input needs no gradient: that half of its backward pass falls away.
        spared = sum(layer.multiply_adds for layer in (self.upper if frozen else self.lower) if layer.first)
        return paper, 2 * (paper - self.batch_size * self.backwards * spared)

    def act(self, frozen: bool) -> tuple[int, int]:
        """One step: acting, and once frozen E K N for the embeddings that are stored and acted on. The paper omits acting."""
        encoding = self.E * self.copies * self.embeddings
        return (encoding if frozen else 0), 2 * (self.M + (encoding if frozen else self.E))

    def freeze(self, observations: int) -> tuple[int, int]:
        """The freeze, once: E K N per observation in the replay."""
        paper = self.E * self.copies * self.embeddings * observations
        return paper, 2 * paper
