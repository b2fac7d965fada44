"""Observations as the library passes them: a tensor, or a dictionary of tensors where there are several cameras or senses.

A tensor of dtype uint8 is an image, or a batch of images. In a dictionary, what is float32 from the start is a vector, such as
joint angles: it is stored as it is and handed to the heads. Behind the freeze, images have become float32 embeddings.
"""

from __future__ import annotations  # PyTorch is named, and not imported: processes of environments do without it

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

Obs: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"
Shape = tuple[int, ...]
Shapes = Shape | Mapping[str, Shape]
"""The shape of an observation, or the shapes by key: (C, H, W) of an image, (D,) of a vector."""

ONLY = "obs"  # the key of an observation that is no dictionary


def keyed(obs: Obs) -> dict[str, torch.Tensor]:
    """Return an observation as a dictionary."""
    return obs if isinstance(obs, dict) else {ONLY: obs}


def length(obs: Obs) -> int:
    """Count the observations [B, ...] in a batch."""
    return len(next(iter(keyed(obs).values())))


def vectors_in(shapes: Shapes) -> list[str]:
    """List the keys of the vectors among an observation's parts."""
    return [key for key, shape in shapes.items() if not is_image(shape)] if isinstance(shapes, Mapping) else []


def images_in(shapes: Shapes) -> int:
    """Count the images of an observation."""
    return len(shapes) - len(vectors_in(shapes)) if isinstance(shapes, Mapping) else 1


def of_images(fn: Callable[[Shape], Shape], shapes: Shapes) -> Shapes:
    """Apply `fn` to the shapes of images; those of vectors stay as they are."""
    if isinstance(shapes, Mapping):
        return {key: fn(shape) if is_image(shape) else shape for key, shape in shapes.items()}
    return fn(shapes)


def is_image(shape: Shape) -> bool:
    """Tell an image's shape (C, H, W) from a vector's (D,)."""
    return len(shape) == 3


class Unfit(ValueError):
    """Say that the replay cannot hold an observation, an action or a reward as it is."""


def stack(observations: Sequence[Any]) -> Any:
    """Put observations of several environments together: arrays to one [N, ...], dictionaries to one of such arrays.

    Raises Unfit where they are not alike.
    """
    first, *others = observations
    if isinstance(first, Mapping):
        if any(not isinstance(one, Mapping) or one.keys() != first.keys() for one in others):
            raise Unfit("the observations of several environments have different keys")
        return {key: stack([one[key] for one in observations]) for key in first}
    shapes = {(np.shape(one), str(np.asarray(one).dtype)) for one in observations}
    if len(shapes) > 1:
        raise Unfit(f"the observations of several environments differ in shape or dtype: {sorted(shapes)}")
    return np.stack(observations)


def each(fn: Callable[..., torch.Tensor], *obs: Obs) -> Obs:
    """Apply `fn` to the tensors of observations with the same keys, and return its results as such an observation."""
    first, *others = obs
    if isinstance(first, dict):
        return {key: fn(x, *(other[key] for other in others if isinstance(other, dict))) for key, x in first.items()}
    return fn(first, *others)
