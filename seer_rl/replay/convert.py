"""Convert a store in place: from frames to what a function makes of their stacks, front to back inside the same bytes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from seer_rl.replay.arena import Layout, Table
from seer_rl.replay.lane import VALID, Lane
from seer_rl.replay.store import Store, reach
from seer_rl.replay.sumtree import Index

CHUNK = 32  # steps converted at once: they bound the memory that this needs beside the arena (more is no faster)

Frames = dict[str, torch.Tensor]


def convert(old: Store, layout: Layout, rows: int, dropped: Sequence[int], encode: Callable[[Frames], Frames]) -> Store:
    """Return a store of `rows` rows of `layout` with the records of `old`, which is useless from then on.

    dropped: how many of the oldest records of each lane go. Enough that every stack of the others is whole. encode: maps whole
    stacks [n, C, H, W], by key, to what is stored of them: [n, copies, ...].
    Pages of the arena that are no longer needed go back to the system.
    """
    lanes = len(old.lanes)
    kept = [lane.size - drop for lane, drop in zip(old.lanes, dropped, strict=True)]
    # The frames just before the records that are kept: stacks may reach back to them.
    frames = [_read(old.table, lane.rows(drop - old.stack + 1, drop)) for lane, drop in zip(old.lanes, dropped, strict=True)]
    for lane, drop in zip(old.lanes, dropped, strict=True):  # now the first record that is kept is a lane's first
        _rotate(old.table, lane, int(lane.rows(drop, drop + 1)[0]) // lanes)

    # Reading and writing both go from front to back. Where results are larger than frames, the frames first move up, until the
    # last frame ends where the last result will end: then writing never overtakes reading.
    longest = max(kept)
    used = longest * lanes
    up = max(0, used * (layout.row_bytes - old.layout.row_bytes))
    if up:
        old.arena.move(up, used * old.layout.row_bytes)
    source, target = Table(old.arena, old.layout, used, up), Table(old.arena, layout, rows)
    chunk = max(1, CHUNK // lanes)
    for begin in range(0, longest, chunk):
        counts = [min(chunk, max(0, count - begin)) for count in kept]
        stacks: list[Frames] = []
        for i, (lane, drop, count) in enumerate(zip(old.lanes, dropped, counts, strict=True)):
            read = _read(source, (begin + np.arange(count)) * lanes + i)
            seen = {key: torch.cat([before, read[key]]) for key, before in frames[i].items()}
            records = lane.rows(drop + begin - old.stack + 1, drop + begin + count)  # in the order of time
            stacks.append(_stacks(seen, reach(old.flags[_windows(records, old.stack)])))
            frames[i] = {key: x[count:] for key, x in seen.items()}
        stored = encode({key: torch.cat([one[key] for one in stacks]) for key in old.layout.columns})
        first = 0
        for i, count in enumerate(counts):
            where = slice(begin * lanes + i, (begin + count) * lanes, lanes)
            for key, x in stored.items():
                target.write(key, where, x[first : first + count])
            first += count
    old.arena.release(used * layout.row_bytes)
    new = Store(old.arena, layout, rows, lanes, old.steps.dtype, 1, old.n_step, old.tree is not None)
    _carry_over(old, new, dropped)
    return new


def _carry_over(old: Store, new: Store, dropped: Sequence[int]) -> None:
    """Bring all but observations and the `dropped` oldest records of each lane from `old` to the front of `new`."""
    for before, lane, drop in zip(old.lanes, new.lanes, dropped, strict=True):
        some, count = before.rows(drop, before.size), before.size - drop
        rows = slice(lane.number, count * lane.lanes, lane.lanes)
        new.steps[rows] = old.steps[some]
        if old.tree and new.tree:
            new.tree.leaves[rows] = old.tree[some]
        lane.size, lane.pending, lane.valid = count, before.pending, int((new.flags[rows] & VALID > 0).sum())
        lane.next = lane.behind(lane.number, -count)
        lane.open = None if before.open is None else lane.behind(lane.next, 1)
    if new.tree:
        new.tree.rebuild()
    new.touched = set(range(new.segment_count))


def _read(table: Table, rows: Index) -> Frames:
    """Read single frames [n, ...] by key."""
    return {key: table.read(key, table.index(rows)) for key in table.layout.columns}


def _windows(records: Index, stack: int) -> Index:
    """Return windows [m, stack], the newest first, of m + stack - 1 records in the order of time."""
    ends = np.arange(stack - 1, len(records))[:, None]
    windows: Index = records[ends - np.arange(stack)]
    return windows


def _stacks(frames: Frames, back: Index) -> Frames:
    """Return m stacks [m, C, H, W] of m + stack - 1 frames; `back` [m, stack] tells how far back a stack's frames lie."""
    places = np.arange(back.shape[1] - 1, back.shape[1] - 1 + len(back))[:, None] - back
    return {
        key: x.index_select(0, torch.from_numpy(places.flatten()).to(x.device)).view(*places.shape, *x.shape[1:]).flatten(1, 2)
        for key, x in frames.items()
    }


def _rotate(table: Table, lane: Lane, by: int) -> None:
    """Rotate the records of `lane` by `by` places to the front, by three reversals that need two chunks of memory."""
    for begin, end in ((0, by), (by, lane.size), (0, lane.size)):
        low, high = begin, end if by else 0
        while high - low > 1:
            count = min(CHUNK, (high - low) // 2)
            table.reverse(slice(low * lane.lanes + lane.number, high * lane.lanes, lane.lanes), count)
            low, high = low + count, high - count
