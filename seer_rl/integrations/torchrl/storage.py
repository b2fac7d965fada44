"""Replace the images in a storage of TorchRL by embeddings: row after row, the oldest first."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor, TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage, ListStorage, TensorStorage
from torchrl.data.replay_buffers.storages import CompressedListStorage

DUMPED = "storage_metadata.json"  # the library writes it beside the rows that `dumps` saves
CHUNK = 32  # rows converted at once: they bound the memory that this needs beside the storage

Key = str | tuple[str, ...]
Encode = Callable[[torch.Tensor], torch.Tensor]  # images [B, ...] -> what is stored of them [B, ...]


def refuse(storage: Any) -> None:
    """Raise ValueError for a storage that cannot be converted."""
    if not isinstance(storage, (TensorStorage, ListStorage)):
        raise ValueError(f"SEER converts storages of tensors and lists, not {type(storage).__name__}")
    if storage.ndim > 1 or getattr(storage, "shared_init", False) or len(storage._attached_entities) > 1:
        raise ValueError("SEER needs a storage with ndim=1 that no other buffer and no other process writes to")


def row(storage: Any, index: int) -> Any:
    """Return one row of a storage, by itself: a view would keep all rows. Raises ValueError where it is no TensorDict."""
    found = storage._storage[index] if isinstance(storage, TensorStorage) else storage._get_item(index)
    if not isinstance(found, TensorDictBase):
        raise ValueError(f"SEER replaces images in TensorDicts, and the buffer holds {type(found).__name__}")
    return found.clone() if isinstance(storage, TensorStorage) else found


def images(storage: Any, key: Key, rows: torch.Tensor) -> torch.Tensor:
    """Return what the rows `rows` [B] hold under a key: [B, ...]."""
    if isinstance(storage, TensorStorage):
        found: torch.Tensor = storage._storage.get(key)[rows]
        return found
    return torch.stack([row(storage, i).get(key) for i in rows.tolist()])


def row_bytes(storage: Any) -> int:
    """Count the bytes of a row's tensors."""
    return sum(x.numel() * x.dtype.itemsize for _, x in row(storage, 0).items(True, True))


def grows(storage: Any) -> bool:
    """Tell whether a storage's bytes are known and bounded, so that they may hold more embeddings than images."""
    return not isinstance(storage, CompressedListStorage) and storage.max_size < torch.iinfo(torch.int64).max


def convert(storage: Any, keys: list[Key], kept: torch.Tensor, capacity: int, stored: torch.Tensor, encode: Encode) -> None:
    """Keep the rows `kept` [n], in this order, as the first of `capacity` rows, with what `encode` makes of their images.

    stored: an example of it. The embeddings of a key are made in one piece beside its images, which are then dropped: rows of a
    list one by one, tensors at once.
    """
    if isinstance(storage, ListStorage):
        _convert_list(storage, keys, kept, stored, encode)
        storage.max_size = capacity
    else:
        _convert_tensors(storage, keys, kept, capacity, stored, encode)
    storage._set_last_cursor(len(kept) - 1)
    storage._bump_mutation_revision()


def _encoded(x: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, into: torch.Tensor, encode: Encode) -> None:
    """Let the first of `into` be what `encode` makes of the images that `x` returns of `rows` [n]."""
    for begin in range(0, len(rows), CHUNK):
        into[begin : min(begin + CHUNK, len(rows))] = encode(x(rows[begin : begin + CHUNK])).to(into.device)


def _convert_list(storage: Any, keys: list[Key], kept: torch.Tensor, stored: torch.Tensor, encode: Encode) -> None:
    for rows in (getattr(storage, name, None) for name in ("_storage", "_metadata")):  # what is compressed has both
        if rows is not None:
            rows[:] = [rows[i] for i in kept.tolist()]
    n = len(kept)
    for key in keys:
        # All of a key's embeddings first: between large pieces of memory, small ones that stay would leave holes for good.
        made = torch.empty(n, *stored.shape, dtype=stored.dtype)
        _encoded(lambda some, key=key: images(storage, key, some), torch.arange(n), made, encode)  # type: ignore[misc]
        for i in range(n):
            item = row(storage, i).clone(False)  # the row may still be the user's own object
            item.set(key, storage._to_device(made[i].clone()))
            if "index" in item:
                item.set("index", torch.full_like(item.get("index"), i))
            storage._set_item(i, item)


def _convert_tensors(
    storage: Any, keys: list[Key], kept: torch.Tensor, capacity: int, stored: torch.Tensor, encode: Encode
) -> None:
    old = dict(storage._storage.items(True, True))  # tensors [rows, ...] by key
    first = TensorDict({key: stored.to(x.device) if key in keys else x[0].clone() for key, x in old.items()}, [])
    directory, mine = getattr(storage, "scratch_dir", None), owns(storage)
    empty(storage, capacity)
    gc.collect()  # TensorDicts refer to themselves: otherwise the old one would keep its tensors for a while
    if isinstance(storage, LazyTensorStorage):
        if directory:  # the old files are still being read
            storage.scratch_dir = str(beside(storage)) + os.sep
        storage._init(first)
    else:
        storage._storage, storage.initialized = torch.empty_like(first.expand(capacity)), True
    n = len(kept)
    for key in list(old):
        x, new = old.pop(key), storage._storage.get(key)
        if key in keys:
            _encoded(x.__getitem__, kept, new, encode)
        else:
            new[:n] = torch.arange(n).view(-1, *[1] * (x.dim() - 1)) if key == "index" else x[kept]
        if mine and isinstance(x, MemoryMappedTensor):
            os.unlink(str(x.filename))
    storage._len = n


def beside(storage: Any) -> Path:
    """Return the directory of a storage with a `scratch_dir` that the embeddings are written to."""
    return Path(storage.scratch_dir) / "embeddings"


def owns(storage: Any) -> bool:
    """Tell whether a storage's files were made by it, and may go with the images: those of a saved buffer are the user's."""
    return getattr(storage, "scratch_dir", None) is not None and not Path(storage.scratch_dir, DUMPED).exists()


def empty(storage: Any, capacity: int) -> None:
    """Let go of all rows; the next write makes `capacity` new ones."""
    storage._storage, storage.initialized, storage.max_size = None, False, capacity
    storage.__dict__.pop("_total_shape_value", None)
    storage.__dict__["_storage_keys"] = None
    storage._len = 0
