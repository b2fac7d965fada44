"""Augmentations of images, uint8 -> uint8, so that whatever is not uint8 is known to be an embedding."""

import torch
from torch.nn import functional as F


def center_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the middle `size` x `size` pixels out of images [B, C, H, W]; images of that size come back as they are."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, :, top : top + size, left : left + size]


def random_crop(images: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Cut a `size` x `size` window out of each of the images [B, C, H, W]; every position is equally likely (RAD, CURL)."""
    count, _, height, width = images.shape
    tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    # One image after the other: each is copied row by row, and a gather of single pixels takes ten times longer on a CPU.
    return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in zip(images, tops, lefts, strict=True)])


def random_shift(images: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Move each of the images [B, C, S, S] by up to `pad` pixels either way; its border pixels fill the gap (DrQ-v2)."""
    return random_crop(F.pad(images, (pad,) * 4, mode="replicate"), images.shape[-1], generator)
