"""Looks inside an encoder: where it looks, and how much a layer still changes.

A layer's activations are compared as matrices [samples, units]. Of a convolution, channels are the units, and every position of
every image is a sample: there are then many more samples than units, without which either measure says little.
"""

import itertools
from collections.abc import Callable

import torch
from torch import nn

from seer_rl.agents.base import Modular
from seer_rl.agents.networks import NoisyLinear
from seer_rl.convergence import centred

VARIANCE = 0.99  # of each layer, which SVCCA keeps


def spatial_attention(activations: torch.Tensor) -> torch.Tensor:
    """Return the attention maps [B, H, W] of activations [B, C, H, W].

    A map is the softmax over positions of the mean over channels of |activation|. It sums to 1 (the paper's section 5.4).
    """
    mean = activations.abs().mean(dim=1)  # [B, H, W]
    return mean.flatten(1).softmax(dim=1).view_as(mean)


def record(network: Modular, compute: Callable[[], object]) -> dict[str, torch.Tensor]:
    """Return what each convolution and linear layer of `network` gives while `compute` runs, by name, from the bottom up.

    Outputs are [B, C, H, W] or [B, units], after the ReLU where one follows. Names are those of the weights, without
    "encoder." before them.
    """
    following: dict[nn.Module, nn.Module] = {}
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            following |= {layer: after for layer, after in itertools.pairwise(module) if isinstance(after, nn.ReLU)}
    found: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            found[name] = output.detach().clone()  # what comes next may work in place

        return keep

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | NoisyLinear) and not name.startswith("target_"):
            hooks.append(following.get(module, module).register_forward_hook(keeper(name.removeprefix("encoder."))))
    try:
        with torch.no_grad():
            compute()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def units(activations: torch.Tensor) -> torch.Tensor:
    """Return activations [B, C, H, W] or [B, ..., units] as a float64 matrix [samples, units]."""
    if activations.dim() == 4:
        activations = activations.permute(0, 2, 3, 1)
    return activations.flatten(0, -2).double()


def svcca(x: torch.Tensor, y: torch.Tensor, variance: float = VARIANCE) -> float:
    """Compute the mean canonical correlation of the directions of x [n, p] and y [n, q] that hold `variance` of each.

    It lies between 0 and 1, and is 0 where a layer is constant (Raghu et al., 2017). For independent layers with a directions
    each it is about 0.85 sqrt(a / n). With as many directions as samples it is 1, whatever they hold. So with a directions of
    x and b of y, n must be at least 2 (a + b): raises ValueError where it is less.
    """
    if len(x) != len(y):
        raise ValueError(f"similarity needs the same samples on both sides, not {len(x)} and {len(y)}")
    a, b = _directions(centred(x), variance), _directions(centred(y), variance)
    if not a.shape[1] or not b.shape[1]:
        return 0.0
    if len(x) < 2 * (a.shape[1] + b.shape[1]):
        raise ValueError(f"{len(x)} samples are too few for {a.shape[1]} and {b.shape[1]} directions: use twice their sum")
    return float(torch.linalg.svdvals(a.T @ b).clamp(max=1).mean())


def _directions(x: torch.Tensor, variance: float) -> torch.Tensor:
    """Return an orthonormal basis [n, k] of the fewest left singular vectors of x [n, p] that hold `variance` of it.

    It comes from the eigenvectors of the smaller of x x' and x' x, which takes a fifth of the time of a singular value
    decomposition of x. Directions that hold less than about 1e-12 of x's variance are lost in rounding.
    """
    wide = len(x) <= x.shape[1]
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(x @ x.T if wide else x.T @ x))
    real = values > values[:1] * max(x.shape) * torch.finfo(values.dtype).eps
    values = values.clamp(min=0)
    held = values.cumsum(0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    before = torch.cat([held.new_zeros(1), held[:-1]])  # of the directions before each
    kept: torch.Tensor = vectors[:, real & (before < variance)]
    basis: torch.Tensor = kept if wide else torch.linalg.qr(x @ kept).Q
    return basis
