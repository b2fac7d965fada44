"""Augmentations against slicing by hand, and their distribution."""

import functools
from typing import Any

import torch

from seer_rl.agents.augment import center_crop, random_crop, random_shift


def images(count: int = 6, size: int = 12) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=g)


def test_every_window_is_drawn_equally_often_the_last_offset_too() -> None:
    x = images(1, size=6).expand(9000, -1, -1, -1)
    crops = random_crop(x, (4, 4), torch.Generator().manual_seed(1))
    assert crops.shape == (9000, 3, 4, 4)
    assert crops.dtype == torch.uint8
    windows = [x[0, :, top : top + 4, left : left + 4] for top in range(3) for left in range(3)]
    counts = torch.stack([(crops == w).flatten(1).all(dim=1).sum() for w in windows])
    assert counts.sum() == 9000
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 32  # chi square with 8 degrees of freedom: p = 0.0001


def test_a_shift_moves_the_image_and_repeats_its_border() -> None:
    x, pad = images(400, size=5), 2
    shifted = random_shift(x, pad, torch.Generator().manual_seed(1))
    assert shifted.shape == x.shape
    assert shifted.dtype == torch.uint8
    seen = set()
    for image, moved in zip(x, shifted, strict=True):
        found = []
        for down in range(-pad, pad + 1):
            for across in range(-pad, pad + 1):
                rows = [min(max(i + down, 0), 4) for i in range(5)]
                columns = [min(max(i + across, 0), 4) for i in range(5)]
                if torch.equal(image[:, rows][:, :, columns], moved):
                    found.append((down, across))
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25


def test_the_centre_is_the_middle_and_a_fitting_image_is_left_alone() -> None:
    x = images(size=12)
    assert center_crop(x, (12, 12)) is x
    assert torch.equal(center_crop(x, (8, 8)), x[:, :, 2:10, 2:10])
    assert torch.equal(center_crop(x, (12, 6)), x[:, :, :, 3:9])
    assert random_crop(x, (12, 12), torch.Generator()) is x  # so it counts as not augmented, and one embedding is stored
    assert random_shift(x, 0, torch.Generator()) is x


def test_augmentations_follow_their_generator() -> None:
    augments: list[Any] = [functools.partial(random_crop, size=(7, 6)), functools.partial(random_shift, pad=3)]
    for augment in augments:
        first, again, other = (augment(images(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
