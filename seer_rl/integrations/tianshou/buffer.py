"""The library's own buffers, in which images become codes.

A buffer has a part for each environment, a ring of rows; the rows of all parts lie one behind the other in the same arrays.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import Batch, PrioritizedReplayBuffer, SegmentTree

from seer_rl.replay.arena import Arena

Array = NDArray[Any]

CHUNK = 256  # observations that are embedded at once


def parts(buffer: Any) -> list[Any]:
    """List the parts of a buffer, of each environment one; a buffer of one environment is its only part itself."""
    return list(getattr(buffer, "buffers", [buffer]))


def image_keys(buffer: Any) -> list[str]:
    """List under which keys observations are stored."""
    return ["obs", "obs_next"] if buffer._save_obs_next else ["obs"]


def nbytes(value: Any) -> int:
    """Count the bytes of an array, or of all arrays in a batch."""
    return sum(nbytes(one) for one in value.values()) if isinstance(value, Batch) else int(value.nbytes)


def oldest_first(buffer: Any) -> list[Array]:
    """List the rows of the steps of each part, oldest first."""
    rows, first = [], 0
    for part in parts(buffer):
        rows.append(first + (part._insertion_idx - len(part) + np.arange(len(part))) % part.maxsize)
        first += part.maxsize
    return rows


def frames(buffer: Any, rows: Array) -> Array:
    """Return the rows [B, S] of the frames, oldest first, that make the observations in `rows` [B]."""
    all_rows = [rows]
    for _ in range(buffer.stack_num - 1):
        all_rows.insert(0, buffer.prev(all_rows[0]))
    return np.stack(all_rows, axis=1)


def together(images: Array, rows: Array) -> Array:
    """Return the observations [B, C, H, W] whose frames lie in `rows` [B, S] of `images`."""
    return images[rows].reshape(len(rows), -1, *images.shape[-2:])


def convert(buffer: Any, steps: int, encode: Callable[[Array], Array]) -> None:
    """Replace images [B, C, H, W] by codes [B, n], which `encode` makes of them, and let each part hold `steps` steps.

    The latest steps move to the beginning of their part, oldest first. The images are given back to the system while codes are
    made, from the last row to the first, so that at no time both are there in full.
    """
    meta, each, old = buffer._meta, parts(buffer), [rows[-steps:] for rows in oldest_first(buffer)]
    rows, new = np.concatenate(old), np.concatenate([i * steps + np.arange(len(one)) for i, one in enumerate(old)])
    needs, total, keys = frames(buffer, rows), steps * len(each), image_keys(buffer)
    last = needs.max(axis=1)  # the last row that an observation needs: some of its frames may lie at the end of the ring
    order = np.argsort(last)[::-1]
    for part in each:
        if part is not buffer:
            part._meta = Batch()  # views of the images
    columns = {key: _moved(value, rows, new, total) for key, value in meta.items() if key not in keys}
    for key in keys:
        images = meta.pop(key)
        for first in range(0, len(order), CHUNK):
            chunk = order[first : first + CHUNK]
            codes = encode(together(images, needs[chunk]))
            if first == 0:  # of an arena the system commits a page when it is written
                size = total * codes[0].nbytes
                columns[key] = Arena(size, torch.device("cpu")).bytes.numpy()[:size].view(codes.dtype).reshape(total, -1)
            columns[key][new[chunk]] = codes
            left = int(last[order[first + CHUNK]]) + 1 if first + CHUNK < len(order) else 0
            with contextlib.suppress(ValueError):  # where somebody else has a view of the images, they stay until the end
                images.resize((left, *images.shape[1:]))
    for part, one in zip(each, old, strict=True):
        part.maxsize, part._size, part._insertion_idx = steps, len(one), len(one) % steps
        part._indices, part.last_index = np.arange(steps), np.array([max(len(one) - 1, 0)])
        part._ep_start_idx = max(len(one) - part._ep_len, 0) % steps
    if each[0] is not buffer:
        edges = steps * np.arange(len(each) + 1)
        buffer.maxsize, buffer._indices, buffer._offset, buffer._extend_offset = total, np.arange(total), edges[:-1], edges
        buffer._lengths = np.array([len(one) for one in old])
        buffer.last_index = edges[:-1] + np.maximum(buffer._lengths - 1, 0)
    for one in [buffer, *each]:
        one.stack_num, one._save_only_last_obs = 1, False  # a code is a whole stack, and has no last frame
        one.options.update(stack_num=1, save_only_last_obs=False)
    if isinstance(buffer, PrioritizedReplayBuffer):
        weight, buffer.weight = buffer.weight, SegmentTree(total)
        buffer.weight[new] = weight[rows]
    share(buffer, _batch(columns))


def share(buffer: Any, meta: Batch) -> None:
    """Let the buffer hold `meta`, and its parts their rows of it. `set_batch` refuses columns that a user's hook has added."""
    buffer._meta, first = meta, 0
    for part in parts(buffer):
        if part is not buffer:
            part._meta = meta[first : first + part.maxsize]
        first += part.maxsize


def _moved(value: Any, rows: Array, new: Array, total: int) -> Any:
    """Return `total` rows, of which `new` are what `rows` of `value` were."""
    if isinstance(value, Batch):
        return _batch({key: _moved(one, rows, new, total) for key, one in value.items()})
    moved = np.zeros((total, *value.shape[1:]), value.dtype)
    if value.dtype == object:
        moved[...] = None
    moved[new] = value[rows]
    return moved


def _batch(columns: dict[str, Any]) -> Batch:
    """Return a batch of these columns as they are: given to it at once, it would look into arrays of objects."""
    batch = Batch()
    batch.__dict__.update(columns)
    return batch
