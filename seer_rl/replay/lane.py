"""Keep the books of a lane: where its next record goes, which of its records are whole, and where its episodes end.

A lane is the stream of one environment. Its records lie in a ring of its own: with N lanes, lane i has the rows i, i + N,
i + 2 N, and so on, of a table that all lanes share. So rows that follow each other in a lane are N apart, and no window over a
lane's rows meets another lane's.
"""

import numpy as np
from numpy.typing import NDArray

# Flags of a record. A record without an action holds the observation after the newest step, or after a truncated episode.
FIRST = 1  # the first observation of an episode: no stack reaches behind it
TERMINATED = 2  # the step ended its episode for good: no value follows
TRUNCATED = 4  # the episode was cut short after the step: a value follows, so the observation after it is kept
VALID = 8  # the step can be sampled: its stack and its n-step window are complete

STATE = ("next", "size", "open", "pending", "valid")


class Lane:
    """Keep the books of one stream of steps. It writes flags; actions, rewards and observations are for others to write."""

    def __init__(self, number: int, lanes: int, flags: NDArray[np.uint8], stack: int, n_step: int) -> None:
        """number: the lane's, from 0 to `lanes` - 1. flags: of every row of the table, as a view."""
        self.number, self.lanes, self.flags, self.stack, self.n_step = number, lanes, flags, stack, n_step
        self.next = number  # the row of its next record
        self.size = 0  # records in use
        self.open: int | None = None  # the row of the newest observation, which has no action yet
        self.pending = 0  # steps of the running episode whose n-step window is not complete yet
        self.valid = 0  # steps that can be sampled
        self.changed: list[int] = []  # rows that became valid, or are no longer, since someone looked

    @property
    def oldest(self) -> int:
        """Return the row of the oldest record."""
        return self.behind(self.next, self.size)

    def behind(self, row: int, steps: int) -> int:
        """Return the row that lies `steps` records before `row`; a negative number looks ahead."""
        return (row - steps * self.lanes) % len(self.flags)

    def rows(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the rows of the records `begin` to `end`, counted from the oldest one; before it lies the newest."""
        return (self.oldest + self.lanes * np.arange(begin, end)) % len(self.flags)

    def begin(self) -> int:
        """Begin an episode, and return the row of its first observation. One that is still running counts as truncated."""
        if self.open is not None and not self.flags[self.open] & FIRST:
            last = self.behind(self.open, 1)
            self.flags[last] |= TRUNCATED
            self._complete(self.pending, last)
        self.open = self._append(FIRST)
        return self.open

    def step(self, terminated: bool, truncated: bool) -> int | None:
        """Complete the step at the newest observation; return the row of the observation after it, None where none is kept."""
        step = self.open
        assert step is not None
        self.flags[step] |= TERMINATED if terminated else TRUNCATED if truncated else 0
        after = None if terminated else self._append(0)
        self.pending += 1
        self.open = None if truncated else after
        if self.open is None:
            self._complete(self.pending, step)
        elif self.pending == self.n_step:
            self._complete(1, self.behind(step, self.n_step - 1))
        return after

    def _append(self, flags: int) -> int:
        """Take the next row, over the oldest record if the ring is full; return it."""
        row = self.next
        if self.size * self.lanes == len(self.flags):
            self._evict(row)
        else:
            self.size += 1
        self.flags[row] = flags
        self.next = self.behind(row, -1)
        return row

    def _evict(self, row: int) -> None:
        """Give up the record in `row`, and every step whose stack needs its frame: they are sampled no more."""
        self._invalidate(row)
        for newer in range(1, self.stack):
            step = self.behind(row, -newer)
            if self.flags[step] & FIRST:
                break
            self._invalidate(step)

    def _invalidate(self, row: int) -> None:
        if self.flags[row] & VALID:
            self.flags[row] &= ~np.uint8(VALID)
            self.valid -= 1
            self.changed.append(row)

    def _complete(self, count: int, newest: int) -> None:
        """Let the `count` steps up to `newest` be sampled: their n-step windows are complete."""
        for steps in range(count):
            row = self.behind(newest, steps)
            self.flags[row] |= VALID
            self.changed.append(row)
        self.valid += count
        self.pending -= count

    def without_stack(self) -> int:
        """Count those of the oldest records that lack a frame of their stack: all before an episode's first."""
        count = min(self.stack - 1, self.size)
        return next((i for i in range(count) if self.flags[self.behind(self.oldest, -i)] & FIRST), count)
