"""Encoders and heads. Every module maps a batch; shapes are of one item unless [B, ...] is written."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

EncoderName = Literal["data-efficient", "canonical"]

# Convolutions as (channels, kernel, stride). "data-efficient" is van Hasselt et al. (2019), "canonical" Mnih et al. (2015).
CONVOLUTIONS: dict[EncoderName, tuple[tuple[int, int, int], ...]] = {
    "data-efficient": ((32, 5, 5), (64, 5, 5)),
    "canonical": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
}


class Pixels(nn.Module):
    """uint8 [B, C, H, W] in 0..255 to float32 in [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255


def encoder(name: EncoderName, obs_shape: tuple[int, ...], layers: int | None = None) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolutional encoder of uint8 images [B, C, H, W], cut in two after convolution `layers` (default: the last) and ReLU.

    The lower part of a whole encoder ends with the flattened activation; cut earlier, it gives [B, channels, h, w]
    and the upper part holds the remaining layers. Raises ValueError where the image is too small or no such layer exists.
    """
    convolutions = CONVOLUTIONS[name]
    cut = len(convolutions) if layers is None else layers
    if not 1 <= cut <= len(convolutions):
        raise ValueError(f"the {name} encoder has convolutional layers 1 to {len(convolutions)}: there is no layer {layers}")
    channels, *size = obs_shape
    blocks: list[OrderedDict[str, nn.Module]] = [OrderedDict(pixels=Pixels()), OrderedDict()]
    for i, (out, kernel, stride) in enumerate(convolutions, start=1):
        if min(size) < kernel:
            raise ValueError(f"images of {obs_shape[1]}x{obs_shape[2]} are too small for the {name} encoder")
        size = [(n - kernel) // stride + 1 for n in size]
        part = blocks[i > cut]
        part[f"conv{i}"] = nn.Conv2d(channels, out, kernel, stride)
        part[f"relu{i}"] = nn.ReLU()
        channels = out
    blocks[cut < len(convolutions)]["flatten"] = nn.Flatten()
    return nn.Sequential(blocks[0]), nn.Sequential(blocks[1])


def output_shape(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    """Shape of what `module` gives for one input, without computing it."""
    with torch.no_grad():
        device = next(module.parameters()).device
        return tuple(module(torch.zeros(1, *input_shape, dtype=dtype, device=device)).shape[1:])


class NoisyLinear(nn.Module):
    """y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b, with factorised noise (Fortunato et al., 2018, eq. 9-11).

    eps_w = f(e_out) f(e_in)^T and eps_b = f(e_out), f(x) = sign(x) sqrt|x|, e standard normal. The noise stays the same until
    `draw_noise`; in evaluation mode there is none.
    """

    noise_in: torch.Tensor
    noise_out: torch.Tensor

    def __init__(self, in_features: int, out_features: int, std: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # section 3.2: mu ~ U[-1/sqrt(p), 1/sqrt(p)], sigma = std / sqrt(p)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_std = nn.Parameter(torch.full((out_features, in_features), std * bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.bias_std = nn.Parameter(torch.full((out_features,), std * bound))
        self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
        self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(self.noise_out, self.noise_in))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_std, self.noise_out))


def draw_noise(layers: Sequence[NoisyLinear], generator: torch.Generator) -> None:
    """Give every layer new noise, all from one draw on the generator's device (a CPU generator: the same on any device)."""
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    e = torch.randn(sum(sizes), generator=generator, device=generator.device)
    pieces = iter(torch.split((e.sign() * e.abs().sqrt_()).to(layers[0].weight.device), sizes))
    for layer in layers:
        layer.noise_in, layer.noise_out = next(pieces), next(pieces)


class DuelingC51(nn.Module):
    """Logits [B, actions, atoms] of the return's distribution: value stream plus centred advantage stream.

    Dueling (Wang et al., 2016, eq. 9) applied per atom, as in Rainbow (Hessel et al., 2018); noisy linear layers throughout.
    """

    def __init__(self, inputs: int, actions: int, atoms: int, hidden: int, std: float) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms

        def stream(outputs: int) -> nn.Sequential:
            fc1, fc2 = NoisyLinear(inputs, hidden, std), NoisyLinear(hidden, outputs, std)
            return nn.Sequential(OrderedDict(fc1=fc1, relu=nn.ReLU(), fc2=fc2))

        self.value = stream(atoms)
        self.advantage = stream(actions * atoms)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        value = self.value(z).view(-1, 1, self.atoms)
        advantage = self.advantage(z).view(-1, self.actions, self.atoms)
        logits: torch.Tensor = value + advantage - advantage.mean(dim=1, keepdim=True)
        return logits
