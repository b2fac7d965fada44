"""The replay: one allocation of fixed size that holds steps, first with frames, later with what a function makes of them.

A step is one record: what was observed, the action taken there, the reward that followed, and flags. Records lie in a ring.
Each frame is stored once; stacks, n-step returns and discounts are put together when a batch is sampled. `rewrite` replaces
every stored observation by a function of it inside the same bytes, and from then on `add` stores that function's results.
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

# What is known of the step in a record. A record without an action holds the observation after the newest or the last step.
FIRST = 1  # first observation of an episode: no stack reaches behind it
TERMINATED = 2  # the step ended its episode for good: nothing is worth anything after it
TRUNCATED = 4  # the step's episode was cut short: its value goes on, so the observation after it is kept
VALID = 8  # the step can be sampled: its stack and its n-step window are complete

LARGEST = float(np.finfo(np.float32).max)  # magnitude of a reward
SEGMENT_BYTES = 4 << 20  # about: the records that are written to disk together
REWRITE_CHUNK = 32  # steps; bounds what a rewrite needs on top of the arena (larger ones are no faster)
STATE = ("memory", "size", "next", "open", "pending", "valid", "max_priority", "observation")


class Unfit(ValueError):
    """An observation, an action or a reward that the replay cannot hold as it is."""


class Rewriter(Protocol):
    """A function of observations [B, C, H, W] uint8: `copies` results of each to store, float32 [B, copies, ...].

    With `current`, the observation is what the agent acts on next, and the result to act on comes first. It may be one of the
    copies ([1, copies, ...]) or stand before them ([1, 1 + copies, ...]).
    """

    def __call__(self, obs: torch.Tensor, current: bool) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """B sampled transitions, ready for an n-step update: target = reward + discount * value(next_obs)."""

    obs: torch.Tensor  # [B, C, H, W] uint8 stack of frames, or [B, ...] float32 as rewritten
    action: torch.Tensor  # [B] int64, or [B, A] float32
    reward: torch.Tensor  # [B] float32: sum of up to n discounted rewards, cut at the episode's end
    discount: torch.Tensor  # [B] float32: gamma^m after m <= n steps; 0 after a termination
    next_obs: torch.Tensor  # like obs, m steps later; after a termination: any observation of the same episode
    index: Index  # [B] where the steps lie, for `update_priorities`
    weight: torch.Tensor  # [B] float32 importance weights, at most 1; all 1 where sampling is uniform

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`; `index` stays with the replay."""
        tensors = {name: getattr(self, name) for name in ("obs", "action", "reward", "discount", "next_obs", "weight")}
        return replace(self, **{name: x.to(device, non_blocking=True) for name, x in tensors.items()})


class Replay:
    """A ring of steps in one arena of `memory` bytes; `capacity = memory // bytes_per_step`.

    How to fill it, an episode at a time (`replay.observation` is what the agent should act on):

        replay.start(obs)
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
        """Reserve the arena (the system commits its pages only as they fill).

        obs_shape: (C, H, W) of the uint8 observations, a stack of `stack` frames of C / stack channels, oldest first, in
            which an episode's first frame stands for those before it.
        action_shape, action_dtype: of one action; () and an integer type for discrete ones.
        memory: bytes of the arena; or
        capacity: steps it shall hold. Exactly one of the two. The observation after the newest step, and that after the
            last step of each truncated episode, take a record as well.
        n_step, discount: rewards to sum, and gamma.
        priority_exponent: 0 samples uniformly; otherwise steps are drawn in proportion to |error| ** priority_exponent.
        """
        if (memory is None) == (capacity is None):
            raise ValueError("give either the replay's memory in bytes or its capacity in steps")
        channels, *size = obs_shape
        if channels % stack:
            raise ValueError(f"{channels} channels are not a stack of {stack} frames")
        self.stack, self.n_step, self.discount, self.exponent = stack, n_step, discount, priority_exponent
        self.copies = 1  # results held of each observation
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
        self._codec: Codec | None = None  # how its results are stored
        self._max_priority = 1.0
        self._size = 0  # records in use
        self._next = 0  # where the next record goes
        self._open: int | None = None  # the record of the newest observation, which has no action yet
        self._pending = 0  # steps of the running episode whose n-step window is not complete yet
        self._valid = 0
        self._touched: set[int] = set()  # segments with records that changed since `touched` was called

    # ---- bytes ---------------------------------------------------------------------------------------------------

    def _layout(self, dtype: DTypeLike, shape: tuple[int, ...]) -> np.dtype[np.void]:
        """The columns of a step, in C alignment: a new way to store observations is another first row."""
        columns = [("obs", dtype, shape), ("reward", "f4"), ("action", *self._action), ("flags", "u1")]
        return np.dtype(columns, align=True)

    @property
    def bytes_per_step(self) -> int:
        """Everything a step costs: observation, action, reward, flags, padding, and its two nodes of the sum tree."""
        return self._record.itemsize + self._tree_bytes

    @property
    def capacity(self) -> int:
        """Records that the arena holds."""
        return len(self._steps)

    @property
    def memory(self) -> int:
        """Bytes of all the records that the arena holds."""
        return self.capacity * self.bytes_per_step

    @property
    def size(self) -> int:
        """Records in use."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the records in use: what the replay really holds of the machine's memory, to a page."""
        return self._size * self.bytes_per_step

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self._valid

    def bytes_for(self, kind: Dtype, copies: int, shape: tuple[int, ...]) -> int:
        """Bytes per step, everything counted, once rewritten as `copies` arrays of `shape` each."""
        dtype, stored = layout(kind, shape)
        return self._layout(dtype, (copies, *stored)).itemsize + self._tree_bytes

    def capacity_for(self, kind: Dtype, copies: int, shape: tuple[int, ...]) -> int:
        """Records that the arena would then hold. Raises ValueError if they are too few to sample from."""
        dtype, stored = layout(kind, shape)
        return self._fitting(self._layout(dtype, (copies, *stored)), self._memory)

    def _fitting(self, record: np.dtype[np.void], memory: int) -> int:
        """How many records fit into `memory` bytes. Raises ValueError if they are too few to ever complete a window."""
        bytes_per_step = record.itemsize + self._tree_bytes
        capacity, least = memory // bytes_per_step, self.n_step + self.stack + 1
        if capacity < least:
            raise ValueError(
                f"a replay of {memory:,} bytes holds {capacity} steps of {bytes_per_step:,} bytes, "
                f"but stacks of {self.stack} and {self.n_step}-step returns need at least {least}"
            )
        return capacity

    def _map(self, record: np.dtype[np.void], capacity: int) -> None:
        """See the arena as `capacity` records from its front and, if prioritized, a sum tree behind them."""
        self._record = record
        self._segment = max(1, SEGMENT_BYTES // record.itemsize)
        self._steps = np.ndarray(capacity, record, self._arena)
        if self.exponent:
            behind = -(-capacity * record.itemsize // 8) * 8
            self._tree = SumTree(np.ndarray(2 * capacity, np.float64, self._arena, behind))

    # ---- writing -------------------------------------------------------------------------------------------------

    def start(self, obs: NDArray[np.uint8]) -> None:
        """Begin an episode at `obs` [C, H, W] uint8. An episode that is still running counts as truncated here.

        Raises Unfit, with nothing stored, for an observation of another shape or type.
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

        After a termination `next_obs` is not stored; after any end of an episode `start` must follow. Raises Unfit, with
        nothing stored, for an observation or action of another shape or type, and for a reward that is no finite float32.
        """
        if self._open is None:
            raise RuntimeError("Replay.add needs a running episode: call Replay.start with its first observation")
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
        """[1, ...] the current observation: a uint8 stack, or what `rewrite`'s function made of it, before it is stored."""
        return self._observation

    @property
    def _oldest(self) -> int:
        return (self._next - self._size) % self.capacity

    def _append(self, obs: NDArray[np.uint8], flags: int) -> int:
        """Write an observation into the next record, over the oldest step if the ring is full; return its place."""
        if self._size == self.capacity:
            self._evict(self._next)
        else:
            self._size += 1
        self._observation = torch.from_numpy(obs)[None]
        # Of frames the newest: the others are in the records before.
        newest = obs[-self._steps["obs"].shape[1] :] if self._rewriter is None else self._rewritten(self._observation)
        place = self._next
        self._touched.add(place // self._segment)
        self._steps["obs"][place] = newest
        self._steps["flags"][place] = flags
        self._next = (place + 1) % self.capacity
        return place

    def _rewritten(self, obs: torch.Tensor) -> Stored:
        """Keep what is to be acted on at `obs` [1, C, H, W] and return the copies to store [copies, ...]."""
        assert self._rewriter
        assert self._codec
        results = self._rewriter(obs, current=True)
        self._observation = results[:, 0]
        return self._codec.encode(results[0, -self.copies :])

    def _evict(self, place: int) -> None:
        """Forget the record at `place`, and sample no step whose stack needs its frame."""
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
        """The n-step windows of `count` steps up to `newest` are complete: they can be sampled, as often as any."""
        steps = (newest - np.arange(count)) % self.capacity
        self._touched.update((steps // self._segment).tolist())
        self._steps["flags"][steps] |= VALID
        self._valid += count
        self._pending -= count
        if self.exponent and count:
            self._tree[steps] = self._max_priority

    # ---- reading -------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, beta: float = 0.0) -> Batch:
        """Draw `batch_size` transitions with replacement: uniformly, or by priority.

        beta: exponent of the importance weights w = (N P(i))^-beta / max w (Schaul et al., 2016, section 3.4).
        Raises ValueError while no step has its whole window.
        """
        if not self._valid:
            raise ValueError("the replay holds no complete transition yet")
        index, weight = self._draw(batch_size, beta)
        reward, discount, after = self._window(index)
        obs, next_obs = self._observations(np.concatenate([index, after])).chunk(2)  # decoding has a cost per call
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
        """The observations stored `age` [B] records before the newest, as sampling gives them.

        age: up to `size` - `stack`: of those before, the write head may have taken a frame.
        """
        return self._observations((self._next - 1 - age) % self.capacity)

    def update_priorities(self, index: Index, error: torch.Tensor) -> None:
        """Give the steps `index` [B] of the last sample the priorities |error| [B] ** priority_exponent."""
        priority = (error.detach().abs().double().numpy(force=True) + 1e-6) ** self.exponent
        self._max_priority = max(self._max_priority, float(priority.max()))
        # Steps that were overwritten since they were sampled keep their zero.
        self._tree[index] = priority * (self._steps["flags"][index] & VALID > 0)

    def _draw(self, batch_size: int, beta: float) -> tuple[Index, NDArray[np.float64]]:
        """Indices of valid steps and their importance weights."""
        if not self.exponent:
            index = self.rng.integers(self._size, size=batch_size)
            # Records in use are the first `_size`, wrapped or not; redraw those that cannot be sampled.
            while (invalid := self._steps["flags"][index] & VALID == 0).any():
                index[invalid] = self.rng.integers(self._size, size=int(invalid.sum()))
            return index, np.ones(batch_size)
        # Stratified: one draw from each of `batch_size` equal parts of the total (appendix B.2.1).
        index = self._tree.find((np.arange(batch_size) + self.rng.random(batch_size)) * (self._tree.total / batch_size))
        weight = (self._valid * self._tree[index] / self._tree.total) ** -beta
        return index, weight / weight.max()

    def _window(self, index: Index) -> tuple[NDArray[np.float64], NDArray[np.float64], Index]:
        """n-step reward and discount [B], and the place [B] of the observation to bootstrap from."""
        steps = (index[:, None] + np.arange(self.n_step)) % self.capacity  # [B, n]
        flags = self._steps["flags"][steps]
        ended = flags & (TERMINATED | TRUNCATED) > 0
        inside = np.cumsum(ended, axis=1) - ended == 0  # no end before this step
        length = inside.sum(axis=1)
        gamma = self.discount ** np.arange(self.n_step)
        # Beyond the episode's end lie rewards of other episodes, or bytes that are no reward at all: select, not multiply.
        reward = np.where(inside, self._steps["reward"][steps] * gamma, 0.0).sum(axis=1)
        terminated = (inside & (flags & TERMINATED > 0)).any(axis=1)
        discount = np.where(terminated, 0.0, self.discount**length)
        return reward, discount, (index + length - terminated) % self.capacity

    def _observations(self, places: Index) -> torch.Tensor:
        """[B, C, H, W] uint8 stacks that end at `places` [B], or one of the copies of each as rewritten, [B, ...] float32."""
        if self._rewriter is not None:
            copy = self.rng.integers(self.copies, size=len(places)) if self.copies > 1 else 0
            assert self._codec
            return self._codec.decode(self._steps["obs"][places, copy])
        return _stacks(self._steps, places, self.stack)

    # ---- rewriting -----------------------------------------------------------------------------------------------

    def rewrite(self, fn: Rewriter, copies: int = 1, capacity: int | None = None, kind: Dtype = "float32") -> int:
        """Replace every stored observation by `fn` of it, inside the arena; return how many records had to be dropped.

        fn: see `Rewriter`; from now on it is applied to what `start` and `add` are given.
        copies: results of each observation, of which sampling draws one, for `obs` and `next_obs` independently.
        capacity: hold no more records than this, however many would fit (a run of T steps never needs more than T).
        kind: how the results are stored; batches have them as float32. Integers lie on a grid that is made from the results for
            some of the stored observations, spread evenly, before the first is replaced.

        Order, episodes, returns and priorities stay. Dropped are the oldest records where the results take more room than
        the frames or where `capacity` is less than what is stored, and the up to `stack` - 1 records whose stack has lost a
        frame to the write head. Peak memory: the arena and one chunk; before that, the examples of a grid. Pages no longer
        needed go back to the system.
        """
        if self._rewriter is not None:
            raise RuntimeError("the replay has been rewritten already: the images are gone")
        if not self._size:
            raise RuntimeError("an empty replay cannot be rewritten: call Replay.start with a first observation before")
        example = fn(self._observation, current=True)
        dtype, shape = layout(kind, example.shape[2:])
        record = self._layout(dtype, (copies, *shape))
        memory = self._memory
        if capacity is not None:
            memory = min(memory, (record.itemsize + self._tree_bytes) * capacity)
        capacity = self._fitting(record, memory)  # the last moment to refuse

        self._codec = self._fitted(fn, kind, example)

        old, size = self._steps, self._size
        priority = np.roll(self._tree.leaves, -self._oldest)[:size] if self.exponent else None  # the oldest first
        _rotate(old.view(f"V{old.itemsize}"), self._oldest)  # now the oldest lies at the front, wrapped or not
        self.copies = copies
        dropped = max(_without_stack(old["flags"][: self.stack - 1]), size - capacity)
        self._size = size - dropped
        self._valid -= int((old["flags"][:dropped] & VALID > 0).sum())
        self._memory = memory
        self._map(record, capacity)

        # Reading and writing both go front to back. Where results are larger than frames, the frames first move up until the
        # last frame ends where the last result will: then the write position never passes the read position.
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
        self._codec.written = self._codec.clipped = 0  # from here on
        self._touched = set(range(len(self.segments())))
        self.stack = 1  # an observation no longer needs the records before it
        self._next = self._size % self.capacity
        self._open = None if self._open is None else self._size - 1
        self._release(self._size * record.itemsize)
        if priority is not None:
            self._tree.nodes.fill(0.0)
            self._tree.leaves[: self._size] = priority[dropped:]
            self._tree.rebuild()
        return dropped

    def _fitted(self, fn: Rewriter, kind: Dtype, example: torch.Tensor) -> Codec:
        """How to store results like `example` [1, copies, ...]."""
        count = examples(kind, tuple(example.shape[2:]), self._size, len(example[0]))
        places = (self._oldest + np.linspace(0, self._size - 1, count).astype(np.int64)) % self.capacity
        results = [example[0]]
        for begin in range(0, count, REWRITE_CHUNK):
            chunk = _stacks(self._steps, places[begin : begin + REWRITE_CHUNK], self.stack)
            results.append(fn(chunk, current=False).flatten(0, 1).cpu())
        return Codec.fit(kind, torch.cat(results) if count else example[0])

    @property
    def clipped(self) -> float:
        """Share of all numbers stored since the rewrite that lay outside the grid. NaN where there is none."""
        codec = self._codec
        return codec.clipped / codec.written if codec and codec.written else float("nan")

    # ---- saving --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything but the records in use, which `segments` gives, and their priorities, which `priorities` gives."""
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
        """Go on from what `get_state`, `segments` and `priorities` gave, with the same settings, or in a longer run.

        fn: the function that the replay was rewritten with, if it was. capacity: as for `rewrite`; where the steps of a run,
        not its bytes, were the limit, a longer run holds more. Raises ValueError for what does not fit together.
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
            dtype, shape = layout(self._codec.kind, self._codec.shape)
            record = self._layout(dtype, (self.copies, *shape))
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
            if "tree" in state:  # as version 0.1.0 saved it: all of its nodes
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
        """The bytes of the records in use, in segments of a fixed number of records."""
        used, size = self._size * self._record.itemsize, self._segment * self._record.itemsize
        return [memoryview(self._arena)[i : min(i + size, used)] for i in range(0, used, size)]

    def priorities(self) -> list[memoryview]:
        """The bytes of the priorities of the records in use, in segments of a fixed number; none where sampling is uniform."""
        if not self.exponent:
            return []
        leaves = self._tree.nodes[self.capacity : self.capacity + self._size].data.cast("B")
        return [leaves[i : i + SEGMENT_BYTES] for i in range(0, len(leaves), SEGMENT_BYTES)]

    def touch(self, segments: set[int]) -> None:
        """Count these as changed again: they did not reach the disk."""
        self._touched |= segments

    def touched(self) -> set[int]:
        """The segments that changed since this was last called (or since the beginning)."""
        touched, self._touched = self._touched, set()
        return touched

    def _release(self, begin: int) -> None:
        """Give the arena's pages from byte `begin` on back to the system; they read as zeros when used again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            if begin < len(self._arena):
                self._arena.madvise(mmap.MADV_DONTNEED, begin, len(self._arena) - begin)


def _reserve(size: int) -> mmap.mmap:
    """`size` bytes of zeros, of which the system commits a page when it is first written."""
    try:
        if hasattr(mmap, "MAP_PRIVATE"):  # private: pages can be given back one by one
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"the system refuses a replay of {size:,} bytes: give it less memory") from error


def _stacks(steps: NDArray[np.void], places: Index, stack: int) -> torch.Tensor:
    """[B, stack * c, H, W] uint8 stacks, oldest frame first, that end at `places` [B] of the ring `steps`."""
    history = (places[:, None] - np.arange(stack)) % len(steps)  # [B, stack], newest first
    first = steps["flags"][history] & FIRST > 0
    reach = np.cumsum(first, axis=1) - first == 0  # still in the episode
    back = np.cumsum(reach, axis=1) - 1  # before an episode's first frame stands that frame again
    frames = steps["obs"][(places[:, None] - back[:, ::-1]) % len(steps)]  # [B, stack, c, H, W]
    return torch.from_numpy(frames).flatten(1, 2)


def _without_stack(flags: NDArray[np.uint8]) -> int:
    """How many of the oldest records, with these flags, lack a frame of their stack: those before the first episode start."""
    first = np.flatnonzero(flags & FIRST)
    return int(first[0]) if len(first) else len(flags)


def _rotate(records: NDArray[np.void], by: int) -> None:
    """Rotate left in place by three reversals, with two chunks of extra memory."""
    for part in (records[:by], records[by:], records):
        low, high = 0, len(part) if by else 0
        while high - low > 1:
            count = min(REWRITE_CHUNK, (high - low) // 2)
            front = part[low : low + count][::-1].copy()
            part[low : low + count] = part[high - count : high][::-1]
            part[high - count : high] = front
            low, high = low + count, high - count


__all__ = ["Batch", "Replay"]
