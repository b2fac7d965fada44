"""Bytes on a device, and rows of columns in them: where a replay keeps what was observed."""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 4  # bytes: a row begins at a multiple of it, so that float32 columns can be read in place
PIECE = 16 << 20  # bytes that are moved at once on a device


@dataclass(frozen=True)
class Column:
    """What a row holds under a key: `copies` arrays of `shape` and `dtype`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    copies: int = 1

    @property
    def nbytes(self) -> int:
        """Count the bytes of one row's part."""
        return self.copies * math.prod(self.shape) * self.dtype.itemsize


class Layout:
    """Say where columns lie in a row: those of the widest numbers first, so that every number is aligned."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        """columns: by key. Those of numbers as wide lie in the order in which they are given."""
        self.columns = dict(columns)
        self.offsets: dict[str, int] = {}
        end = 0
        for key, column in sorted(columns.items(), key=lambda item: -item[1].dtype.itemsize):
            self.offsets[key] = end
            end += column.nbytes
        self.row_bytes = -(-end // ALIGNMENT) * ALIGNMENT


class Arena:
    """Hold a fixed number of bytes, all zeros at first, on any device.

    In the computer's own memory the system commits a page when it is first written, and takes it back at `release`.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        """Reserve `size` bytes. Raises MemoryError, in a sentence, where the system or the device refuses."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        try:
            if device.type == "cpu":
                private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
                self._pages: mmap.mmap | None = mmap.mmap(-1, size, **private)  # private: pages can be given back one by one
                self.bytes = torch.frombuffer(self._pages, dtype=torch.uint8)
            else:
                self._pages, self.bytes = None, torch.zeros(size, dtype=torch.uint8, device=device)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise MemoryError(f"the system refuses a replay of {size:,} bytes: give it less memory") from error

    def move(self, to: int, size: int) -> None:
        """Move the first `size` bytes so that they begin at byte `to`."""
        if self._pages is not None:
            self._pages.move(to, 0, size)
            return
        for begin in reversed(range(0, size, PIECE)):  # the last piece first: what lies where a piece goes has moved before
            piece = self.bytes[begin : min(begin + PIECE, size)].clone()
            self.bytes[to + begin : to + begin + len(piece)] = piece

    def release(self, begin: int) -> None:
        """Give the pages from byte `begin` on back to the system, as far as it takes them. When used again they are zeros."""
        if self._pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            if begin < len(self._pages):
                self._pages.madvise(mmap.MADV_DONTNEED, begin, len(self._pages) - begin)


class Table:
    """Read and write rows of columns that lie in an arena, one behind the other."""

    def __init__(self, arena: Arena, layout: Layout, rows: int, begin: int = 0) -> None:
        """Lay `rows` rows over the bytes from `begin` on, a multiple of `ALIGNMENT`."""
        self.layout, self.rows = layout, rows
        self._bytes = arena.bytes[begin : begin + rows * layout.row_bytes]
        whole = self._bytes.view(rows, layout.row_bytes)
        self._columns = {
            key: whole[:, layout.offsets[key] : layout.offsets[key] + column.nbytes].view(column.dtype)
            for key, column in layout.columns.items()
        }

    def index(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return `rows` where `read` takes them."""
        return torch.from_numpy(rows).to(self._bytes.device)

    def read(self, key: str, row: torch.Tensor, copy: torch.Tensor | int = 0) -> torch.Tensor:
        """Return what `row` [B] int64 hold under `key`, of each its copy number `copy` [B] int64: [B, *shape]."""
        column = self.layout.columns[key]
        if column.copies == 1:
            found = self._columns[key].index_select(0, row)
        else:  # every window of as many numbers as a copy has is a row of this view: the copies among them are gathered at once
            numbers, length = self._bytes.view(column.dtype), math.prod(column.shape)
            windows = numbers.as_strided((len(numbers) - length + 1, length), (1, 1), numbers.storage_offset())
            begin = (row * self.layout.row_bytes + self.layout.offsets[key]) // column.dtype.itemsize + copy * length
            found = windows.index_select(0, begin)
        return found.view(-1, *column.shape)

    def write(self, key: str, rows: slice, values: torch.Tensor) -> None:
        """Set what `rows` hold under `key` to `values` [B, copies, *shape], of the column's dtype, from any device."""
        self._columns[key][rows].copy_(values.flatten(1))

    def reverse(self, rows: slice, count: int) -> None:
        """Exchange the first `count` of `rows` with the last `count`, in the opposite order."""
        part = self._bytes.view(self.rows, -1)[rows]
        backwards = torch.arange(count - 1, -1, -1, device=part.device)
        front = part[:count].index_select(0, backwards)
        part[:count] = part[len(part) - count :].index_select(0, backwards)
        part[len(part) - count :] = front
