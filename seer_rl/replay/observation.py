"""Observations as the library passes them: a tensor, or a dictionary of tensors where there are several cameras or senses.

A tensor of dtype uint8 is an image, or a batch of images. In a dictionary, what is float32 from the start is a vector, such as
joint angles: it is stored as it is and handed to the heads. Behind the freeze, images have become float32 embeddings.
"""

from collections.abc import Callable, Mapping

import torch

Obs = torch.Tensor | dict[str, torch.Tensor]
Shape = tuple[int, ...]
Shapes = Shape | Mapping[str, Shape]
"""The shape of an observation, or the shapes by key: (C, H, W) of an image, (D,) of a vector."""

ONLY = "obs"  # the key of an observation that is no dictionary


def keyed(obs: Obs) -> dict[str, torch.Tensor]:
    """Return an observation as a dictionary."""
    return obs if isinstance(obs, dict) else {ONLY: obs}


def is_image(shape: Shape) -> bool:
    """Tell an image's shape (C, H, W) from a vector's (D,)."""
    return len(shape) == 3


def each(fn: Callable[..., torch.Tensor], *obs: Obs) -> Obs:
    """Apply `fn` to the tensors of observations with the same keys, and return its results as such an observation."""
    first, *others = obs
    if isinstance(first, dict):
        return {key: fn(x, *(other[key] for other in others if isinstance(other, dict))) for key, x in first.items()}
    return fn(first, *others)
