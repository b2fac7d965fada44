"""Hold an agent's steps in one allocation of fixed size: first with frames, later with what a function makes of the frames.

A step is one record: an observation, the action taken there, the reward that followed, and flags. The records lie in a ring.
Each frame is stored once. Stacks, n-step returns and discounts are put together when a batch is sampled. `rewrite` replaces
every stored observation by a function's result, inside the same bytes; from then on `add` stores results of that function.
"""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from seer_rl.replay.codec import Codec, Dtype, Stored, examples, layout
from seer_rl.replay.sumtree import Index, SumTree

# Flags of a record. A record without an action holds the observation after the newest step, or after a truncated episode.
FIRST = 1  # the first observation of an episode: no stack reaches behind it
TERMINATED = 2  # the step ended its episode for good: no value follows
TRUNCATED = 4  # the episode was cut short after the step: a value follows, so the observation after it is kept
VALID = 8  # the step can be sampled: its stack and its n-step window are complete

LARGEST = float(np.finfo(np.float32).max)  # the largest magnitude of a reward
SEGMENT_BYTES = 4 << 20  # about the bytes of a segment: the records that are written to disk together
REWRITE_CHUNK = 32  # steps rewritten at once: they bound the memory that a rewrite needs beside the arena (more is no faster)
STATE = ("memory", "size", "next", "open", "pending", "valid", "max_priority", "observation")


class Unfit(ValueError):
    """Say that the replay cannot hold an observation, an action or a reward as it is."""


class Rewriter(Protocol):
    """Map observations to what `Replay.rewrite` stores of them. `seer_rl.embedder` makes the one that SEER uses."""

    def __call__(self, obs: torch.Tensor, current: bool) -> torch.Tensor:
        """Map `obs` [B, C, H, W] uint8 to float32 [B, copies, ...]: the results to store of each observation.

        current: `obs` [1, C, H, W] is what the agent acts on next. Then the first result is the one to act on. It may be one of
        the copies, so that the shape is [1, copies, ...], or stand before them: [1, 1 + copies, ...].
        """


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold B sampled transitions for an n-step update: target = reward + discount * value(next_obs)."""

    obs: torch.Tensor  # [B, C, H, W] uint8 stacks of frames; after a rewrite [B, ...] float32
    action: torch.Tensor  # [B] int64, or [B, A] float32
    reward: torch.Tensor  # [B] float32: the discounted sum of m rewards; m is n, or less where the episode ends before
    discount: torch.Tensor  # [B] float32: gamma^m; 0 where the episode terminated within the m steps
    next_obs: torch.Tensor  # like obs, m steps later; where the discount is 0, any observation of the same episode
    index: Index  # [B] int64: where the steps lie, for `Replay.update_priorities`
    weight: torch.Tensor  # [B] float32: importance weights, at most 1; all are 1 where sampling is uniform

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch with its tensors on `device`; `index` stays a numpy array."""
        tensors = {name: getattr(self, name) for name in ("obs", "action", "reward", "discount", "next_obs", "weight")}
        return replace(self, **{name: x.to(device, non_blocking=True) for name, x in tensors.items()})


class Replay:
    """Keep the latest steps in a ring, in one arena of fixed size: `capacity` is `memory // bytes_per_step` records.

    Fill it one episode after the other. `replay.observation` is what the agent should act on:

        replay.begin(obs)
        while not (terminated or truncated):
            action = agent.act(replay.observation)
            obs, reward, terminated, truncated, _ = env.step(action)
            replay.add(action, reward, terminated, truncated, obs)
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        action_shape: tuple[int, ...],
        action_dtype: DTypeLike,
        *,
        memory: int | None = None,
        capacity: int | None = None,
        stack: int = 1,
        n_step: int = 1,
        discount: float = 0.99,
        priority_exponent: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Reserve the arena. The system commits its pages only as they fill.

        obs_shape: (C, H, W) of the uint8 observations. Each is a stack of `stack` frames of C / stack channels, oldest first;
            at the beginning of an episode its first frame stands in the place of those before it.
        action_shape, action_dtype: shape and numpy dtype of one action; () and an integer dtype for discrete actions.
        memory: bytes of the arena.
        capacity: records that the arena holds. Give either this or `memory`. A step takes one record. The observation after
            the newest step takes another, and so does the one after the last step of each truncated episode.
        n_step: rewards that are summed in a batch.
        discount: gamma, for one step.
        priority_exponent: 0 samples uniformly; otherwise a step is drawn in proportion to |error| ** priority_exponent.
        seed: of the generator that samples.
        Raises ValueError where the sizes do not fit together, and MemoryError where the system refuses the arena.
        """
        if (memory is None) == (capacity is None):
            raise ValueError("give either the replay's memory in bytes or its capacity in steps")
        channels, *size = obs_shape
        if channels % stack:
            raise ValueError(f"{channels} channels are not a stack of {stack} frames")
        self.stack, self.n_step, self.discount, self.exponent = stack, n_step, discount, priority_exponent
        self.copies = 1  # results stored of each observation
        self.rng = np.random.default_rng(seed)
        self._action = (action_dtype, action_shape)
        self._obs_shape = tuple(obs_shape)
        self._tree_bytes = 16 if priority_exponent else 0  # two float64 nodes a step
        record = self._layout("u1", (channels // stack, *size))
        self._memory = memory if memory is not None else (record.itemsize + self._tree_bytes) * (capacity or 0)
        capacity = self._fitting(record, self._memory)
        self._arena = _reserve(self._memory + 8)  # 8: the sum tree begins at a multiple of it
        self._map(record, capacity)
        self._rewriter: Rewriter | None = None
        self._codec: Codec | None = None  # how the rewriter's results are stored
        self._max_priority = 1.0
        self._size = 0  # records in use
        self._next = 0  # where the next record goes
        self._open: int | None = None  # the record of the newest observation, which has no action yet
        self._pending = 0  # steps of the running episode whose n-step window is not complete yet
        self._valid = 0  # steps that can be sampled
        self._touched: set[int] = set()  # segments with records that changed since `touched` was called

    # ---- bytes ---------------------------------------------------------------------------------------------------

    def _layout(self, dtype: DTypeLike, shape: tuple[int, ...]) -> np.dtype[np.void]:
        """Lay out a record whose observation has this dtype and shape: its columns, aligned as in C."""
        columns = [("obs", dtype, shape), ("reward", "f4"), ("action", *self._action), ("flags", "u1")]
        return np.dtype(columns, align=True)

    @property
    def bytes_per_step(self) -> int:
        """Count the bytes of a record: observation, action, reward, flags, padding, and its two nodes of the sum tree."""
        return self._record.itemsize + self._tree_bytes

    @property
    def capacity(self) -> int:
        """Count the records that the arena holds when it is full."""
        return len(self._steps)

    @property
    def memory(self) -> int:
        """Count the bytes of the records that the arena holds when it is full."""
        return self.capacity * self.bytes_per_step

    @property
    def size(self) -> int:
        """Count the records in use."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Count the bytes of the records in use: the memory that the system has committed, to within a page."""
        return self._size * self.bytes_per_step

    def __len__(self) -> int:
        """Count the transitions that can be sampled."""
        return self._valid

    def bytes_for(self, dtype: Dtype, copies: int, shape: tuple[int, ...]) -> int:
        """Count the bytes of a record after a rewrite that stores `copies` arrays of `shape` as `dtype`."""
        return self._rewritten_record(dtype, copies, shape).itemsize + self._tree_bytes

    def capacity_for(self, dtype: Dtype, copies: int, shape: tuple[int, ...]) -> int:
        """Count the records that the arena would hold after such a rewrite. Raises ValueError if they are too few to sample."""
        return self._fitting(self._rewritten_record(dtype, copies, shape), self._memory)

    def _rewritten_record(self, dtype: Dtype, copies: int, shape: tuple[int, ...]) -> np.dtype[np.void]:
        """Lay out a record that stores `copies` arrays of `shape` as `dtype`."""
        stored_dtype, stored_shape = layout(dtype, shape)
        return self._layout(stored_dtype, (copies, *stored_shape))

    def _fitting(self, record: np.dtype[np.void], memory: int) -> int:
        """Count the records that fit into `memory` bytes. Raises ValueError if too few to complete an n-step window."""
        bytes_per_step = record.itemsize + self._tree_bytes
        capacity, least = memory // bytes_per_step, self.n_step + self.stack + 1
        if capacity < least:
            raise ValueError(
                f"a replay of {memory:,} bytes holds {capacity} steps of {bytes_per_step:,} bytes, "
                f"but stacks of {self.stack} and {self.n_step}-step returns need at least {least}"
            )
        return capacity

    def _map(self, record: np.dtype[np.void], capacity: int) -> None:
        """Map the arena: `capacity` records at its front and, where sampling is by priority, a sum tree behind them."""
        self._record = record
        self._segment = max(1, SEGMENT_BYTES // record.itemsize)
        self._steps = np.ndarray(capacity, record, self._arena)
        if self.exponent:
            behind = -(-capacity * record.itemsize // 8) * 8
            self._tree = SumTree(np.ndarray(2 * capacity, np.float64, self._arena, behind))

    # ---- writing -------------------------------------------------------------------------------------------------

    def begin(self, obs: NDArray[np.uint8]) -> None:
        """Begin an episode at `obs` [C, H, W] uint8. An episode that is still running counts as truncated.

        Raises Unfit, with nothing stored, for an observation of another shape or dtype.
        """
        self._require_observation(obs)
        if self._open is not None and not self._steps["flags"][self._open] & FIRST:
            last = (self._open - 1) % self.capacity
            self._steps["flags"][last] |= TRUNCATED
            self._complete(self._pending, last)
        self._open = self._append(obs, FIRST)

    def add(
        self,
        action: int | NDArray[np.float32],
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: NDArray[np.uint8],
    ) -> None:
        """Complete the step at the current observation; `next_obs` [C, H, W] uint8 becomes the current one.

        action: of the shape and dtype that the replay was made for. reward: of this step alone, not discounted.
        terminated, truncated: as gymnasium has them. After either the next call must be `begin`. A `next_obs` after a
        termination is not stored.
        Raises RuntimeError where no episode is running. Raises Unfit, with nothing stored, for an observation or an action of
        another shape or dtype, and for a reward that is not a finite float32.
        """
        if self._open is None:
            raise RuntimeError("Replay.add needs a running episode: call Replay.begin with its first observation")
        self._require_observation(next_obs)
        if np.shape(action) != self._action[1]:
            raise Unfit(f"an action must have the shape {self._action[1]}, not {np.shape(action)}")
        if not abs(reward) <= LARGEST:  # not: NaN is refused too
            raise Unfit(f"the reward is {reward}, which is no finite float32")
        step = self._open
        self._touched.add(step // self._segment)
        self._steps["action"][step] = action
        self._steps["reward"][step] = reward
        self._steps["flags"][step] |= TERMINATED if terminated else TRUNCATED if truncated else 0
        self._open = None if terminated else self._append(next_obs, 0)
        self._pending += 1
        if terminated or truncated:
            self._open = None
            self._complete(self._pending, step)
        elif self._pending == self.n_step:
            self._complete(1, (step - self.n_step + 1) % self.capacity)

    def _require_observation(self, obs: NDArray[np.uint8]) -> None:
        shape, dtype = np.shape(obs), getattr(obs, "dtype", type(obs).__name__)
        if shape != self._obs_shape or dtype != np.uint8:
            raise Unfit(f"an observation must be uint8 of the shape {self._obs_shape}, not {dtype} of {shape}")

    @property
    def observation(self) -> torch.Tensor:
        """Return the current observation: [1, C, H, W] uint8; after a rewrite [1, ...] float32, not rounded by any codec."""
        return self._observation

    @property
    def _oldest(self) -> int:
        return (self._next - self._size) % self.capacity

    def _append(self, obs: NDArray[np.uint8], flags: int) -> int:
        """Write an observation into the next record, over the oldest one if the ring is full; return its place."""
        if self._size == self.capacity:
            self._evict(self._next)
        else:
            self._size += 1
        self._observation = torch.from_numpy(obs)[None]
        # Of a stack only the newest frame is written: the others are in the records before.
        newest = obs[-self._steps["obs"].shape[1] :] if self._rewriter is None else self._rewritten(self._observation)
        place = self._next
        self._touched.add(place // self._segment)
        self._steps["obs"][place] = newest
        self._steps["flags"][place] = flags
        self._next = (place + 1) % self.capacity
        return place

    def _rewritten(self, obs: torch.Tensor) -> Stored:
        """Rewrite `obs` [1, C, H, W]: keep the result to act on, and return the encoded copies to store [copies, ...]."""
        assert self._rewriter
        assert self._codec
        results = self._rewriter(obs, current=True)
        self._observation = results[:, 0]
        return self._codec.encode(results[0, -self.copies :])

    def _evict(self, place: int) -> None:
        """Give up the record at `place`, and every step whose stack needs its frame: they are sampled no more."""
        flags = self._steps["flags"]
        self._invalidate(place)
        for newer in range(1, self.stack):
            step = (place + newer) % self.capacity
            if flags[step] & FIRST:
                break
            self._invalidate(step)

    def _invalidate(self, step: int) -> None:
        if self._steps["flags"][step] & VALID:
            self._touched.add(step // self._segment)
            self._steps["flags"][step] &= ~np.uint8(VALID)
            self._valid -= 1
            if self.exponent:
                self._tree[np.array([step])] = 0.0

    def _complete(self, count: int, newest: int) -> None:
        """Let the `count` steps up to `newest` be sampled: their n-step windows are complete. Their priority is the highest."""
        steps = (newest - np.arange(count)) % self.capacity
        self._touched.update((steps // self._segment).tolist())
        self._steps["flags"][steps] |= VALID
        self._valid += count
        self._pending -= count
        if self.exponent and count:
            self._tree[steps] = self._max_priority

    # ---- reading -------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, beta: float = 0.0) -> Batch:
        """Draw `batch_size` transitions with replacement: uniformly, or by priority (Schaul et al., 2016).

        beta: exponent of the importance weights w_i = (N P(i))^-beta / max_j w_j (section 3.4), in [0, 1].
        Raises ValueError while there is no transition whose n-step window is complete.
        """
        if not self._valid:
            raise ValueError("the replay holds no complete transition yet")
        index, weight = self._draw(batch_size, beta)
        reward, discount, after = self._window(index)
        obs, next_obs = self._observations(np.concatenate([index, after])).chunk(2)  # one call: decoding has a cost per call
        action = torch.from_numpy(self._steps["action"][index])
        return Batch(
            obs,
            action if action.is_floating_point() else action.long(),
            torch.from_numpy(reward.astype(np.float32)),
            torch.from_numpy(discount.astype(np.float32)),
            next_obs,
            index,
            torch.from_numpy(weight.astype(np.float32)),
        )

    def aged(self, age: Index) -> torch.Tensor:
        """Return the observations that were stored `age` [B] int64 records before the newest, as `sample` gives them.

        age: from 0 to `size` - `stack`. Older observations may have lost a frame of their stack.
        """
        return self._observations((self._next - 1 - age) % self.capacity)

    def update_priorities(self, index: Index, error: torch.Tensor) -> None:
        """Give the steps `index` [B] of the latest batch the priorities (|error| [B] + 1e-6) ** priority_exponent.

        A step that was overwritten since the batch was drawn is passed over. Call it only where sampling is by priority.
        """
        priority = (error.detach().abs().double().numpy(force=True) + 1e-6) ** self.exponent
        self._max_priority = max(self._max_priority, float(priority.max()))
        # A step that was overwritten since it was sampled keeps a priority of 0.
        self._tree[index] = priority * (self._steps["flags"][index] & VALID > 0)

    def _draw(self, batch_size: int, beta: float) -> tuple[Index, NDArray[np.float64]]:
        """Draw valid steps; return their places [B] and their importance weights [B]."""
        if not self.exponent:
            index = self.rng.integers(self._size, size=batch_size)
            # The records in use are always the first `_size`. Draw again those that cannot be sampled.
            while (invalid := self._steps["flags"][index] & VALID == 0).any():
                index[invalid] = self.rng.integers(self._size, size=int(invalid.sum()))
            return index, np.ones(batch_size)
        # One draw from each of `batch_size` equal parts of the total (appendix B.2.1).
        index = self._tree.find((np.arange(batch_size) + self.rng.random(batch_size)) * (self._tree.total / batch_size))
        weight = (self._valid * self._tree[index] / self._tree.total) ** -beta
        return index, weight / weight.max()

    def _window(self, index: Index) -> tuple[NDArray[np.float64], NDArray[np.float64], Index]:
        """Return n-step rewards, discounts, and the places of what to bootstrap from, [B] each, for the steps `index` [B]."""
        steps = (index[:, None] + np.arange(self.n_step)) % self.capacity  # [B, n]
        flags = self._steps["flags"][steps]
        ended = flags & (TERMINATED | TRUNCATED) > 0
        inside = np.cumsum(ended, axis=1) - ended == 0  # no end before this step
        length = inside.sum(axis=1)
        gamma = self.discount ** np.arange(self.n_step)
        # Behind the end of an episode lie rewards of others, or bytes that may be NaN: select, do not multiply by 0.
        reward = np.where(inside, self._steps["reward"][steps] * gamma, 0.0).sum(axis=1)
        terminated = (inside & (flags & TERMINATED > 0)).any(axis=1)
        discount = np.where(terminated, 0.0, self.discount**length)
        return reward, discount, (index + length - terminated) % self.capacity

    def _observations(self, places: Index) -> torch.Tensor:
        """Return the stacks [B, C, H, W] uint8 that end at `places` [B]; after a rewrite one copy of each, [B, ...] float32."""
        if self._rewriter is not None:
            copy = self.rng.integers(self.copies, size=len(places)) if self.copies > 1 else 0
            assert self._codec
            return self._codec.decode(self._steps["obs"][places, copy])
        return _stacks(self._steps, places, self.stack)

    # ---- rewriting -----------------------------------------------------------------------------------------------

    def rewrite(self, fn: Rewriter, copies: int = 1, capacity: int | None = None, dtype: Dtype = "float32") -> int:
        """Replace every stored observation by results of `fn`, inside the arena; return how many records were dropped.

        fn: see `Rewriter`. From now on it is also applied to the observations that `begin` and `add` are given.
        copies: results stored of each observation. Sampling draws one of them, for `obs` and `next_obs` independently.
        capacity: the most records to hold, even if more would fit: a run of T steps never needs more than T.
        dtype: how the results are stored. Batches have them as float32. For integers a grid is made first, from the results
            for some of the stored observations, spread evenly over the ring.

        Order, episodes, rewards and priorities stay. The oldest records are dropped where the results take more room than the
        frames, or where more are stored than `capacity`. Up to `stack` - 1 records more are dropped: those whose stack has
        lost a frame to a newer record. The memory needed beside the arena is that of `REWRITE_CHUNK` steps, or of the grid's
        examples. Pages that are no longer needed go back to the system.
        Raises RuntimeError if the replay was rewritten before, or is empty; ValueError if too few records would fit.
        """
        if self._rewriter is not None:
            raise RuntimeError("the replay has been rewritten already: the images are gone")
        if not self._size:
            raise RuntimeError("an empty replay cannot be rewritten: call Replay.begin with a first observation before")
        example = fn(self._observation, current=True)
        record = self._rewritten_record(dtype, copies, tuple(example.shape[2:]))
        memory = self._memory
        if capacity is not None:
            memory = min(memory, (record.itemsize + self._tree_bytes) * capacity)
        capacity = self._fitting(record, memory)  # refuses here, while nothing has changed

        self._codec = self._fitted(fn, dtype, example)

        old, size = self._steps, self._size
        priority = np.roll(self._tree.leaves, -self._oldest)[:size] if self.exponent else None  # the oldest first
        _rotate(old.view(f"V{old.itemsize}"), self._oldest)  # now the oldest record is the first
        self.copies = copies
        dropped = max(_without_stack(old["flags"][: self.stack - 1]), size - capacity)
        self._size = size - dropped
        self._valid -= int((old["flags"][:dropped] & VALID > 0).sum())
        self._memory = memory
        self._map(record, capacity)

        # Reading and writing both go from front to back. Where results are larger than frames, the frames first move up, until
        # the last frame ends where the last result will end: then writing never overtakes reading.
        if up := max(0, self._size * record.itemsize - size * old.itemsize):
            self._arena.move(up, 0, size * old.itemsize)
        old = np.ndarray(size, old.dtype, self._arena, up)
        before = old[max(0, dropped - self.stack + 1) : dropped].copy()
        for begin in range(dropped, size, REWRITE_CHUNK):
            chunk = np.concatenate([before, old[begin : begin + REWRITE_CHUNK]])
            result = fn(_stacks(chunk, np.arange(len(before), len(chunk)), self.stack), current=False)
            steps = self._steps[begin - dropped :][: len(result)]
            steps["obs"] = self._codec.encode(result)
            for column in ("reward", "action", "flags"):
                steps[column] = chunk[column][len(before) :]
            before = chunk[len(chunk) - self.stack + 1 :]

        self._rewriter, self._observation = fn, example[:, 0]
        self._codec.written = self._codec.clipped = 0  # count what comes after the rewrite only
        self._touched = set(range(len(self.segments())))
        self.stack = 1  # an observation no longer needs the records before its own
        self._next = self._size % self.capacity
        self._open = None if self._open is None else self._size - 1
        self._release(self._size * record.itemsize)
        if priority is not None:
            self._tree.nodes.fill(0.0)
            self._tree.leaves[: self._size] = priority[dropped:]
            self._tree.rebuild()
        return dropped

    def _fitted(self, fn: Rewriter, dtype: Dtype, example: torch.Tensor) -> Codec:
        """Make the codec for results like `example` [1, copies, ...], from observations spread over the ring."""
        count = examples(dtype, tuple(example.shape[2:]), self._size, len(example[0]))
        places = (self._oldest + np.linspace(0, self._size - 1, count).astype(np.int64)) % self.capacity
        results = [example[0]]
        for begin in range(0, count, REWRITE_CHUNK):
            chunk = _stacks(self._steps, places[begin : begin + REWRITE_CHUNK], self.stack)
            results.append(fn(chunk, current=False).flatten(0, 1).cpu())
        return Codec.fit(dtype, torch.cat(results) if count else example[0])

    @property
    def clipped(self) -> float:
        """Return the share of the numbers stored since the rewrite that lay outside the grid; NaN where there is no grid."""
        codec = self._codec
        return codec.clipped / codec.written if codec and codec.written else float("nan")

    # ---- saving --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return the state without the records in use (`segments` gives them) and their priorities (`priorities`)."""
        state = {name: getattr(self, "_" + name) for name in STATE}
        state |= {"stack": self.stack, "copies": self.copies, "rng": self.rng.bit_generator.state}
        state["rewritten"] = self._codec.get_state() if self._codec else None
        return state

    def set_state(
        self,
        state: dict[str, Any],
        segments: Iterable[bytes],
        priorities: Iterable[bytes] = (),
        fn: Rewriter | None = None,
        capacity: int | None = None,
    ) -> None:
        """Go on from what `get_state`, `segments` and `priorities` gave, in a replay made with the same settings.

        fn: the function that the replay was rewritten with, if it was.
        capacity: as for `rewrite`. It may be larger than before, for a longer run: then more records fit, if the bytes allow.
        Raises ValueError for parts that do not belong together.
        """
        allowed = self._memory
        for name in STATE:
            setattr(self, "_" + name, state[name])
        self.stack, self.copies, self._rewriter = state["stack"], state["copies"], fn
        self._observation = torch.from_numpy(np.array(state["observation"]))
        self.rng.bit_generator.state = state["rng"]
        record = self._record
        if state["rewritten"] is not None:
            self._codec = Codec.from_state(state["rewritten"])
            record = self._rewritten_record(self._codec.dtype, self.copies, self._codec.shape)
            if capacity is not None:
                allowed = min(allowed, (record.itemsize + self._tree_bytes) * capacity)
        old = self._fitting(record, self._memory)
        if allowed > self._memory and self._next in (0, self._size):  # the oldest record is the first
            self._memory = allowed
            self._next = self._size
        self._map(record, self._fitting(record, self._memory))
        self._next %= self.capacity
        places = [self._next, *([] if self._open is None else [self._open])]
        if not (0 <= self._size <= self.capacity and all(0 <= place < self.capacity for place in places)):
            raise ValueError(f"a replay of {self.capacity} steps cannot hold {self._size}, the next at {self._next}")
        begin, used = 0, self._size * record.itemsize
        for data in segments:
            if begin + len(data) > used:
                raise ValueError(f"the replay's records are more than the {used:,} bytes that they should be")
            self._arena[begin : begin + len(data)] = data
            begin += len(data)
        if begin != used:
            raise ValueError(f"the replay's records are {begin:,} bytes instead of {used:,}")
        if self.exponent:
            leaves = self._tree.leaves[: self._size]
            if "tree" in state:  # saved by version 0.1.0: all nodes of the tree
                leaves[:] = state["tree"][old : old + self._size]
            else:
                begin = 0
                for data in priorities:
                    leaves[begin : begin + len(data) // 8] = np.frombuffer(data, np.float64)
                    begin += len(data) // 8
                if begin != self._size:
                    raise ValueError(f"there are {begin:,} priorities for {self._size:,} records")
            self._tree.rebuild()

    def segments(self) -> list[memoryview]:
        """Return the bytes of the records in use, as views of segments that hold a fixed number of records each."""
        used, size = self._size * self._record.itemsize, self._segment * self._record.itemsize
        return [memoryview(self._arena)[i : min(i + size, used)] for i in range(0, used, size)]

    def priorities(self) -> list[memoryview]:
        """Return the priorities of the records in use, float64, as views of segments; none where sampling is uniform."""
        if not self.exponent:
            return []
        leaves = self._tree.nodes[self.capacity : self.capacity + self._size].data.cast("B")
        return [leaves[i : i + SEGMENT_BYTES] for i in range(0, len(leaves), SEGMENT_BYTES)]

    def touch(self, segments: set[int]) -> None:
        """Mark these segments as changed again, for example because writing them to disk failed."""
        self._touched |= segments

    def touched(self) -> set[int]:
        """Return the numbers of the segments that changed since the last call, or since the beginning."""
        touched, self._touched = self._touched, set()
        return touched

    def _release(self, begin: int) -> None:
        """Give the arena's pages from byte `begin` on back to the system. When used again they are zeros."""
        if hasattr(mmap, "MADV_DONTNEED"):
            begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            if begin < len(self._arena):
                self._arena.madvise(mmap.MADV_DONTNEED, begin, len(self._arena) - begin)


def _reserve(size: int) -> mmap.mmap:
    """Reserve `size` bytes of zeros. The system commits a page when it is first written."""
    try:
        if hasattr(mmap, "MAP_PRIVATE"):  # private: pages can be given back one by one
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"the system refuses a replay of {size:,} bytes: give it less memory") from error


def _stacks(steps: NDArray[np.void], places: Index, stack: int) -> torch.Tensor:
    """Return the stacks [B, stack * c, H, W] uint8, oldest frame first, that end at `places` [B] of the ring `steps`."""
    history = (places[:, None] - np.arange(stack)) % len(steps)  # [B, stack], newest first
    first = steps["flags"][history] & FIRST > 0
    reach = np.cumsum(first, axis=1) - first == 0  # of the same episode
    back = np.cumsum(reach, axis=1) - 1  # in place of frames before the episode, its first one
    frames = steps["obs"][(places[:, None] - back[:, ::-1]) % len(steps)]  # [B, stack, c, H, W]
    return torch.from_numpy(frames).flatten(1, 2)


def _without_stack(flags: NDArray[np.uint8]) -> int:
    """Count those of the oldest records that lack a frame of their stack, by their flags: all before an episode's first."""
    first = np.flatnonzero(flags & FIRST)
    return int(first[0]) if len(first) else len(flags)


def _rotate(records: NDArray[np.void], by: int) -> None:
    """Rotate `records` left in place, by three reversals that need two chunks of memory beside them."""
    for part in (records[:by], records[by:], records):
        low, high = 0, len(part) if by else 0
        while high - low > 1:
            count = min(REWRITE_CHUNK, (high - low) // 2)
            front = part[low : low + count][::-1].copy()
            part[low : low + count] = part[high - count : high][::-1]
            part[high - count : high] = front
            low, high = low + count, high - count


__all__ = ["Batch", "Replay"]
