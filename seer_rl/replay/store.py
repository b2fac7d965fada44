"""Hold the records of N lanes: observations in an arena, and beside it what is small and lies in the computer's own memory."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_rl.replay.arena import Arena, Layout, Table
from seer_rl.replay.lane import FIRST, VALID, Lane
from seer_rl.replay.sumtree import Index, SumTree

SEGMENT_BYTES = 4 << 20  # about the bytes of a segment: the rows that are written to disk together
NODES_BYTES = 16  # of a record in the sum tree: two float64 nodes


class Store:
    """Hold `rows` records, those of all lanes side by side: a row of an observation, a step, and a leaf of the sum tree.

    Lanes fill from the front. What nothing was written to takes no memory.
    """

    def __init__(
        self,
        arena: Arena,
        layout: Layout,
        rows: int,
        lanes: int,
        steps: np.dtype[Any],
        stack: int,
        n_step: int,
        priorities: bool,
    ) -> None:
        """Map the arena as `rows` rows; what is in it stays.

        steps: the dtype of what belongs to a step: reward, action, flags. priorities: whether there is a sum tree.
        """
        self.arena, self.layout, self.stack, self.n_step = arena, layout, stack, n_step
        self.table = Table(arena, layout, rows)
        self.steps = np.zeros(rows, steps)  # pages of zeros, which the system commits when they are written
        self.flags: NDArray[np.uint8] = self.steps["flags"]
        self.lanes = [Lane(i, lanes, self.flags, stack, n_step) for i in range(lanes)]
        self.tree = SumTree(np.zeros(2 * rows)) if priorities else None
        self.segment_rows = max(1, SEGMENT_BYTES // layout.row_bytes)
        self.touched: set[int] = set()  # segments with rows that changed since someone looked

    @property
    def rows(self) -> int:
        """Count the records that fit."""
        return self.table.rows

    @property
    def used(self) -> int:
        """Count the rows up to the last one in use."""
        return max(lane.size for lane in self.lanes) * len(self.lanes)

    def write(self, rows: Sequence[int], stored: Mapping[str, torch.Tensor], priority: float) -> None:
        """Write observations [n, copies, ...] into `rows` [n], and the priorities of the steps that lanes say have changed.

        priority: of a step that can be sampled from now on. One that no longer can be has none.
        """
        for i, row in enumerate(rows):
            # As many rows are in use of each lane: where this one outgrows the others, its neighbours' segments grow, too.
            first = row - row % len(self.lanes)
            self.touched.update(range(first // self.segment_rows, (first + len(self.lanes) - 1) // self.segment_rows + 1))
            for key, x in stored.items():
                self.table.write(key, slice(row, row + 1), x[i : i + 1])
        changed = [row for lane in self.lanes for row in lane.changed]
        for lane in self.lanes:
            lane.changed.clear()
        if self.tree and changed:
            index = np.array(changed)
            self.tree[index] = np.where(self.flags[index] & VALID > 0, priority, 0.0)

    def stacks(self, rows: Index) -> dict[str, torch.Tensor]:
        """Return the stacks [B, C, H, W] of frames that end in `rows` [B], by key."""
        lanes = len(self.lanes)
        history = (rows[:, None] - lanes * np.arange(self.stack)) % self.rows  # [B, stack], newest first
        frames = (rows[:, None] - lanes * reach(self.flags[history])) % self.rows
        where = self.table.index(frames.flatten())
        return {
            key: self.table.read(key, where).view(*frames.shape, *column.shape).flatten(1, 2)
            for key, column in self.layout.columns.items()
        }

    # ---- saving --------------------------------------------------------------------------------------------------

    @property
    def segment_count(self) -> int:
        """Count the segments: pieces, of `segment_rows` rows each, of the observations in the rows in use."""
        return -(-self.used // self.segment_rows)

    def segment(self, number: int) -> memoryview:
        """Return the bytes of a segment: a view where the arena lies in the computer's own memory, else a copy."""
        begin, end = number * self.segment_rows, min((number + 1) * self.segment_rows, self.used)
        bytes_: NDArray[np.uint8] = self.arena.bytes[begin * self.layout.row_bytes : end * self.layout.row_bytes].cpu().numpy()
        return bytes_.data

    def books(self) -> dict[str, list[memoryview]]:
        """Return views of all else that belongs to the rows in use, in pieces: "steps", and "priorities" if there are any."""
        parts: dict[str, NDArray[Any]] = {"steps": self.steps[: self.used]}
        if self.tree:
            parts["priorities"] = self.tree.leaves[: self.used]
        whole = {name: part.view(np.uint8).data for name, part in parts.items()}
        return {name: [x[i : i + SEGMENT_BYTES] for i in range(0, len(x), SEGMENT_BYTES)] for name, x in whole.items()}

    def fill(self, segments: Iterable[bytes], books: Mapping[str, Iterable[bytes]]) -> None:
        """Take over what `segment` and `books` gave; lanes must say already which rows are in use.

        Raises ValueError where the bytes are more or less than those of the rows in use.
        """
        _fill(self.arena.bytes[: self.used * self.layout.row_bytes], "records", segments)
        _fill(torch.from_numpy(self.steps[: self.used].view(np.uint8)), "steps", books["steps"])
        if self.tree:
            _fill(torch.from_numpy(self.tree.leaves[: self.used].view(np.uint8)), "priorities", books["priorities"])
            self.tree.rebuild()


def reach(flags: NDArray[np.uint8]) -> Index:
    """Tell how many records back the frames of stacks lie, oldest first [B, stack], by flags [B, stack], newest first.

    In place of frames from before the episode stands its first one.
    """
    first = flags & FIRST > 0
    inside: NDArray[np.bool_] = np.cumsum(first, axis=1) - first == 0  # of the same episode
    back: Index = (np.cumsum(inside, axis=1) - 1)[:, ::-1]
    return back


def _fill(whole: torch.Tensor, what: str, pieces: Iterable[bytes]) -> None:
    """Fill `whole` [n] uint8 with the pieces, one behind the other. Raises ValueError if they are not n bytes."""
    end = 0
    for piece in pieces:
        if end + len(piece) > len(whole):
            raise ValueError(f"the replay's {what} are more than the {len(whole):,} bytes that they should be")
        whole[end : end + len(piece)].copy_(torch.frombuffer(bytearray(piece), dtype=torch.uint8))
        end += len(piece)
    if end != len(whole):
        raise ValueError(f"the replay's {what} are {end:,} bytes instead of {len(whole):,}")
