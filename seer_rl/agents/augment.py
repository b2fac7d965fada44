"""Augmentations of images, uint8 -> uint8, so that whatever is not uint8 is known to be an embedding."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from seer_rl.replay.observation import Obs, keyed


def has_images(obs: Obs) -> bool:
    """Tell whether observations are or hold images, uint8, rather than embeddings of them."""
    return any(x.dtype == torch.uint8 for x in keyed(obs).values())


def on_images(fn: Callable[[torch.Tensor], torch.Tensor], obs: Obs) -> Obs:
    """Apply `fn` to the images of observations, uint8 [B, C, H, W]; what else they hold stays as it is.

    Where `fn` changes none of them, observations come back as they are.
    """
    if isinstance(obs, dict):
        made = {key: fn(x) if x.dtype == torch.uint8 else x for key, x in obs.items()}
        return made if any(made[key] is not x for key, x in obs.items()) else obs
    return fn(obs) if obs.dtype == torch.uint8 else obs


def center_crop(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Cut the middle out of images [B, C, H, W]; size: (height, width). Images of that size come back as they are."""
    (height, width), (new_height, new_width) = images.shape[2:], size
    if (height, width) == (new_height, new_width):
        return images
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return images[:, :, top : top + new_height, left : left + new_width]


def random_crop(images: torch.Tensor, size: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Cut a window out of each of the images [B, C, H, W]; every position is equally likely (RAD, CURL).

    size: (height, width). Images of that size come back as they are.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    count, (height, width) = len(images), size
    tops = torch.randint(images.shape[2] - height + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(images.shape[3] - width + 1, (count,), generator=generator).tolist()
    # One image after the other: each is copied row by row, and a gather of single pixels takes ten times longer on a CPU.
    return torch.stack([image[:, y : y + height, x : x + width] for image, y, x in zip(images, tops, lefts, strict=True)])


def random_shift(images: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Move each of the images [B, C, H, W] by up to `pad` pixels either way; its border pixels fill the gap (DrQ-v2).

    Without any, images come back as they are.
    """
    if pad == 0:
        return images
    return random_crop(F.pad(images, (pad,) * 4, mode="replicate"), images.shape[2:], generator)
