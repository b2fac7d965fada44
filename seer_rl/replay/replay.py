"""Hold an agent's steps in memory of fixed size: first with frames, later with what a function makes of the frames.

A step is one record: an observation, the action taken there, the reward that followed, and flags. Each environment has a lane,
a ring of records of its own (see lane.py). Each frame is stored once. Stacks, n-step returns and discounts are put together
when a batch is sampled. `rewrite` replaces every stored image by a function's result, inside the same bytes; from then on `add`
stores results of that function.

Observations lie in one arena of bytes, on any device (see arena.py). Actions, rewards, flags and priorities are small and lie
in the computer's own memory; their bytes are counted as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray

from seer_rl.replay import convert, records
from seer_rl.replay.arena import Arena, Column, Layout
from seer_rl.replay.codec import Codec, Dtype, examples, layout
from seer_rl.replay.lane import STATE, TERMINATED, TRUNCATED, VALID
from seer_rl.replay.observation import ONLY, Obs, Shape, Shapes, each, keyed
from seer_rl.replay.spec import Arrays, Spec
from seer_rl.replay.store import NODES_BYTES, Store
from seer_rl.replay.sumtree import Index

Results = dict[str, torch.Tensor]


class Rewriter(Protocol):
    """Map images to what `Replay.rewrite` stores of them. `seer_rl.embedder` makes the one that SEER uses."""

    def __call__(self, obs: Obs, current: bool) -> tuple[Obs, Obs]:
        """Map images `obs` [B, C, H, W] uint8 to float32 results: (acted_on [B, ...], stored [B, copies, ...]).

        current: `obs` is what the agent acts on next. Where it is False, nobody reads acted_on, which may then be anything.
        Where observations are dictionaries, `obs` holds those of their keys that are images, and both results the same keys.
        """


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold B sampled transitions for an n-step update: target = reward + discount * value(next_obs).

    Where observations are dictionaries, `obs` and `next_obs` are such dictionaries of tensors [B, ...].
    """

    obs: Any  # Obs: [B, C, H, W] uint8 stacks of frames; after a rewrite [B, ...] float32
    action: torch.Tensor  # [B] int64, or [B, A] float32
    reward: torch.Tensor  # [B] float32: the discounted sum of m rewards; m is n, or less where the episode ends before
    discount: torch.Tensor  # [B] float32: gamma^m; 0 where the episode terminated within the m steps
    next_obs: Any  # like obs, m steps later; where the discount is 0, any observation of the same episode
    index: Index  # [B] int64: where the steps lie, for `Replay.update_priorities`
    weight: torch.Tensor  # [B] float32: importance weights, at most 1; all are 1 where sampling is uniform

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch with its tensors on `device`; `index` stays a numpy array."""

        def moved(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        obs, next_obs = each(moved, self.obs), each(moved, self.next_obs)
        action, reward, discount, weight = map(moved, (self.action, self.reward, self.discount, self.weight))
        return Batch(obs, action, reward, discount, next_obs, self.index, weight)


def _whole(name: str, number: Any) -> int | None:
    """Return a size, if any, that may be written as 4e9. Raises ValueError for what is no whole number."""
    if number is None:
        return None
    if isinstance(number, int | float | np.integer | np.floating) and not isinstance(number, bool) and float(number) % 1 == 0:
        return int(number)
    raise ValueError(f"{name} must be a whole number of {'bytes' if name == 'memory' else 'steps'}, not {number!r}")


class Replay:
    """Keep the latest steps of N environments in N rings of the same size, in memory of fixed size.

    All that is given and returned for a step has the environments as its first dimension. Fill the replay one episode after the
    other. `replay.observation` is what the agent should act on; with one environment (N = 1):

        replay.begin(obs[None])
        while not (terminated or truncated):
            action = agent.act(replay.observation)  # [1]
            obs, reward, terminated, truncated, _ = env.step(int(action[0]))
            replay.add(action, [reward], [terminated], [truncated], obs[None])
    """

    def __init__(
        self,
        obs_shape: Shapes,
        action_shape: Shape,
        action_dtype: DTypeLike,
        *,
        memory: int | None = None,
        capacity: int | None = None,
        lanes: int = 1,
        stack: int = 1,
        n_step: int = 1,
        discount: float = 0.99,
        priority_exponent: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserve the memory. The system commits its pages only as they fill.

        obs_shape: (C, H, W) of the uint8 images; or a dictionary that names such shapes of images and (D,) of float32 vectors.
            Each is a stack of `stack` frames of C / stack channels (or D / stack numbers), oldest first; at the beginning of an
            episode its first frame stands in the place of those before it.
        action_shape, action_dtype: shape and numpy dtype of one action; () and an integer dtype for discrete actions.
        memory: bytes of everything that is stored.
        capacity: records that the replay holds. Give either this or `memory`. A step takes one record. The observation after
            the newest step takes another, and so does the one after the last step of each truncated episode.
        lanes: N, the environments.
        n_step: rewards that are summed in a batch.
        discount: gamma, for one step.
        priority_exponent: 0 samples uniformly; otherwise a step is drawn in proportion to |error| ** priority_exponent.
        seed: of the generator that samples.
        device: where observations are stored, gathered and decoded.
        Raises ValueError where the sizes do not fit together, and MemoryError where the system refuses the memory.
        """
        if (memory is None) == (capacity is None):
            raise ValueError("give either the replay's memory in bytes or its capacity in steps")
        for name, number in (("lanes", lanes), ("stack", stack), ("n_step", n_step)):
            if number < 1:
                raise ValueError(f"{name} is a number from 1 on, not {number}")
        memory, capacity = _whole("memory", memory), _whole("capacity", capacity)
        self._spec = Spec(obs_shape, action_shape, action_dtype)
        for shape in self._spec.shapes.values():
            if shape[0] % stack:
                raise ValueError(f"{shape[0]} channels are not a stack of {stack} frames")
        self.stack, self.n_step, self.discount, self.exponent = stack, n_step, discount, priority_exponent
        self.lanes, self.device = lanes, torch.device(device)
        self.copies = 1  # results stored of each image
        self.rng = np.random.default_rng(seed)
        self._steps = np.dtype([("reward", "f4"), ("action", action_dtype, action_shape), ("flags", "u1")], align=True)
        shapes = self._spec.shapes.items()
        frames = Layout({key: Column(self._spec.dtype(key), (shape[0] // stack, *shape[1:])) for key, shape in shapes})
        self._memory = self._bytes(frames) * self._divided(capacity or 0) if memory is None else memory
        rows = self._fitting(frames, self._memory)
        self._arena = Arena(self._memory, self.device)
        self._store = self._empty(frames, rows)
        self._rewriter: Rewriter | None = None
        self._codecs: dict[str, Codec] = {}  # how the rewriter's results are stored, by key
        self._observation = {  # the current one of every lane
            key: torch.zeros(lanes, *shape, dtype=self._spec.dtype(key), device=self.device) for key, shape in shapes
        }
        self._max_priority = 1.0

    def _empty(self, layout: Layout, rows: int) -> Store:
        """Map the arena anew."""
        return Store(self._arena, layout, rows, self.lanes, self._steps, self.stack, self.n_step, self.exponent > 0)

    # ---- bytes ---------------------------------------------------------------------------------------------------

    def _bytes(self, layout: Layout) -> int:
        """Count the bytes of a record with an observation of this layout."""
        return layout.row_bytes + self._steps.itemsize + (NODES_BYTES if self.exponent else 0)

    def _divided(self, capacity: int) -> int:
        """Round `capacity` records up, so that every lane has the same number."""
        return -(-capacity // self.lanes) * self.lanes

    @property
    def bytes_per_step(self) -> int:
        """Count the bytes of a record: observation, action, reward, flags, padding, and its two nodes of the sum tree."""
        return self._bytes(self._store.layout)

    @property
    def capacity(self) -> int:
        """Count the records that the replay holds when it is full."""
        return self._store.rows

    @property
    def memory(self) -> int:
        """Count the bytes of the records that the replay holds when it is full."""
        return self.capacity * self.bytes_per_step

    @property
    def size(self) -> int:
        """Count the records in use."""
        return sum(lane.size for lane in self._store.lanes)

    @property
    def nbytes(self) -> int:
        """Count the bytes of the rows in use: the memory that the system has committed, to within a page."""
        return self._store.used * self.bytes_per_step

    def __len__(self) -> int:
        """Count the transitions that can be sampled."""
        return sum(lane.valid for lane in self._store.lanes)

    def bytes_for(self, dtype: Dtype, copies: int, shape: Shapes) -> int:
        """Count the bytes of a record after a rewrite that stores `copies` arrays of `shape` as `dtype`.

        shape: of one result; where observations are dictionaries, of the results by the keys of the images.
        """
        return self._bytes(self._rewritten_layout(dtype, copies, shape))

    def capacity_for(self, dtype: Dtype, copies: int, shape: Shapes) -> int:
        """Count the records that the replay would hold after such a rewrite. Raises ValueError for too few to sample."""
        return self._fitting(self._rewritten_layout(dtype, copies, shape), self._memory)

    def _rewritten_layout(self, dtype: Dtype, copies: int, shape: Shapes) -> Layout:
        """Lay out a row that stores `copies` arrays of `shape` as `dtype` of each image, and whole stacks of each vector."""
        shapes, spec = shape if isinstance(shape, Mapping) else {ONLY: shape}, self._spec
        return Layout(
            {
                key: Column(*layout(dtype, shapes[key]), copies) if key in spec.images else Column(spec.dtype(key), vector)
                for key, vector in spec.shapes.items()
            }
        )

    def _fitting(self, layout: Layout, memory: int) -> int:
        """Count the records that fit into `memory` bytes. Raises ValueError if too few to complete an n-step window."""
        bytes_per_step = self._bytes(layout)
        capacity, least = memory // (bytes_per_step * self.lanes) * self.lanes, (self.n_step + self.stack + 1) * self.lanes
        if capacity < least:
            lanes = f" in {self.lanes} lanes" if self.lanes > 1 else ""
            raise ValueError(
                f"a replay of {memory:,} bytes holds {capacity} steps of {bytes_per_step:,} bytes{lanes}, "
                f"but stacks of {self.stack} and {self.n_step}-step returns need at least {least}"
            )
        return capacity

    # ---- writing -------------------------------------------------------------------------------------------------

    def begin(self, obs: Arrays, lanes: Sequence[int] | None = None) -> None:
        """Begin episodes at `obs` [N, C, H, W] uint8. An episode that is still running there counts as truncated.

        lanes: whose episodes begin, where not all of the N do; `obs` then has one observation for each of them.
        Raises Unfit, with nothing stored, for observations of another shape or dtype.
        """
        lanes = self._which(lanes)
        stored = self._stored(self._spec.observations(obs, len(lanes)), lanes)
        self._store.write([self._store.lanes[lane].begin() for lane in lanes], stored, self._max_priority)

    def add(
        self,
        action: ArrayLike | torch.Tensor,
        reward: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        next_obs: Arrays,
        lanes: Sequence[int] | None = None,
    ) -> None:
        """Complete the steps at the current observations; `next_obs` [N, C, H, W] uint8 become the current ones.

        action: [N, ...], of the shape and the kind of numbers that the replay was made for. reward: [N], of this step alone,
        not discounted. terminated, truncated: [N] bool, as gymnasium has them. After either, the lane's next call must be
        `begin`. A `next_obs` after a termination is not stored. What is stored is rewritten in one call for all lanes.
        lanes: whose steps these are, where not all of the N took one.
        Raises RuntimeError where no episode is running. Raises Unfit, with nothing stored, for observations or actions of
        another shape or kind, for actions beyond their dtype, and for a reward that is not a finite float32.
        """
        lanes, spec, store = self._which(lanes), self._spec, self._store
        rows = [row for lane in lanes if (row := store.lanes[lane].open) is not None]
        if len(rows) < len(lanes):
            raise RuntimeError("Replay.add needs a running episode: call Replay.begin with its first observation")
        observed, actions = spec.observations(next_obs, len(lanes)), spec.actions(action, len(lanes))
        rewards, ends = spec.rewards(reward, len(lanes)), spec.ends(terminated, truncated, len(lanes))
        kept = np.flatnonzero(~ends[0]).tolist()  # those that an observation follows
        stored = self._stored({key: x[kept] for key, x in observed.items()}, [lanes[i] for i in kept])
        store.steps["action"][rows], store.steps["reward"][rows] = actions, rewards
        after = (store.lanes[lane].step(*end) for lane, *end in zip(lanes, *(end.tolist() for end in ends), strict=True))
        store.write([row for row in after if row is not None], stored, self._max_priority)

    def _which(self, lanes: Sequence[int] | None) -> list[int]:
        """Return the numbers of `lanes`, or of all. Raises ValueError for one that is not there, or named twice."""
        every = list(range(self.lanes))
        which = every if lanes is None else list(lanes)
        if len(set(which)) < len(which) or not set(which) <= set(every):
            raise ValueError(f"the replay has lanes 0 to {self.lanes - 1}, each of which may be named once, not {which}")
        return which

    @property
    def observation(self) -> Obs:
        """Return the current observations: [N, C, H, W] uint8; after a rewrite [N, ...] float32, not rounded by any codec."""
        return self._observation[ONLY] if self._spec.single else self._observation

    @property
    def images(self) -> Obs:
        """Return the current observations without their vectors."""
        return self._images(self._observation)

    def _images(self, obs: dict[str, torch.Tensor]) -> Obs:
        """Return the images among observations, as a rewriter takes them."""
        return obs[ONLY] if self._spec.single else {key: obs[key] for key in self._spec.images}

    def _stored(self, obs: dict[str, NDArray[Any]], lanes: list[int]) -> dict[str, torch.Tensor]:
        """Make `obs` [n, ...] the current observations of `lanes` [n]; return what is stored of each: [n, copies, ...]."""
        if not lanes:
            return {}
        # Copies: a simulator may write its next observation into the same array.
        acted_on = {key: torch.tensor(x, device=self.device) for key, x in obs.items()}
        stored = {key: x[:, None] for key, x in acted_on.items()}
        if self._rewriter is None:  # of a stack only the newest frame is stored: the others are in the records before
            columns = self._store.layout.columns
            stored = {key: x[:, :, -columns[key].shape[0] :] for key, x in stored.items()}
        else:
            acting, results = self._results(self._rewriter, acted_on, current=True)
            acted_on |= acting
            stored |= self._encoded(results)
        if lanes != list(range(self.lanes)):
            every = {key: x.clone() for key, x in self._observation.items()}
            for key, x in acted_on.items():
                every[key][lanes] = x
            acted_on = every
        self._observation = acted_on
        return stored

    def _results(self, fn: Rewriter, obs: dict[str, torch.Tensor], current: bool) -> tuple[Results, Results]:
        """Map the images among `obs` [n, ...] by `fn`; return what to act on [n, ...] and what to store [n, copies, ...]."""

        def here(x: torch.Tensor) -> torch.Tensor:
            return x.detach().to(self.device, torch.float32)

        acted_on, stored = fn(self._images(obs), current)
        for z in keyed(stored).values():
            if not z.is_floating_point():
                raise ValueError(f"embeddings must be floats, not {z.dtype}: the module below the seam has to make them")
        return keyed(each(here, acted_on)) if current else {}, keyed(each(here, stored))

    def _encoded(self, results: Results) -> Results:
        """Encode results as they are stored."""
        return {key: self._codecs[key].encode(z) for key, z in results.items()}

    # ---- reading -------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, beta: float = 0.0) -> Batch:
        """Draw `batch_size` transitions with replacement, from all lanes: uniformly, or by priority (Schaul et al., 2016).

        beta: exponent of the importance weights w_i = (N P(i))^-beta / max_j w_j (section 3.4), in [0, 1].
        Raises ValueError while there is no transition whose n-step window is complete.
        """
        if not len(self):
            raise ValueError("the replay holds no complete transition yet")
        index, weight = self._draw(batch_size, beta)
        reward, discount, after = self._window(index)
        both = self._observations(np.concatenate([index, after]))  # one call: decoding has a cost per call
        action = torch.from_numpy(self._store.steps["action"][index])
        action = action if action.is_floating_point() else action.long()
        numbers = [torch.from_numpy(x.astype(np.float32)) for x in (reward, discount, weight)]
        action, reward_, discount_, weight_ = (x.to(self.device) for x in (action, *numbers))
        obs, next_obs = each(lambda x: x[:batch_size], both), each(lambda x: x[batch_size:], both)
        return Batch(obs, action, reward_, discount_, next_obs, index, weight_)

    @property
    def oldest_age(self) -> int:
        """Return the greatest age that `aged` takes: older observations may have lost a frame of their stack."""
        return (min(lane.size for lane in self._store.lanes) - self.stack + 1) * self.lanes - 1

    def aged(self, age: Index) -> Obs:
        """Return the observations that were stored `age` [B] int64 records before the newest, as `sample` gives them.

        The records of the N lanes count in turn: ages 0 to N - 1 are the newest of each lane. age: from 0 to `oldest_age`.
        """
        newest = np.array([lane.behind(lane.next, 1) for lane in self._store.lanes])
        return self._observations((newest[age % self.lanes] - age // self.lanes * self.lanes) % self.capacity)

    def update_priorities(self, index: Index, error: torch.Tensor) -> None:
        """Give the steps `index` [B] of the latest batch the priorities (|error| [B] + 1e-6) ** priority_exponent.

        A step that was overwritten since the batch was drawn is passed over. Call it only where sampling is by priority.
        """
        priority = (error.detach().abs().double().numpy(force=True) + 1e-6) ** self.exponent
        self._max_priority = max(self._max_priority, float(priority.max()))
        # A step that was overwritten since it was sampled keeps a priority of 0.
        tree = self._store.tree
        assert tree
        tree[index] = priority * (self._store.flags[index] & VALID > 0)

    def _draw(self, batch_size: int, beta: float) -> tuple[Index, NDArray[np.float64]]:
        """Draw valid steps; return their rows [B] and their importance weights [B]."""
        used, flags, tree = self._store.used, self._store.flags, self._store.tree
        if tree is None:
            index = self.rng.integers(used, size=batch_size)
            while (invalid := flags[index] & VALID == 0).any():  # draw again those that cannot be sampled
                index[invalid] = self.rng.integers(used, size=int(invalid.sum()))
            return index, np.ones(batch_size)
        # One draw from each of `batch_size` equal parts of the total (appendix B.2.1).
        index = tree.find((np.arange(batch_size) + self.rng.random(batch_size)) * (tree.total / batch_size))
        weight = (len(self) * tree[index] / tree.total) ** -beta
        return index, weight / weight.max()

    def _window(self, index: Index) -> tuple[NDArray[np.float64], NDArray[np.float64], Index]:
        """Return n-step rewards, discounts, and the rows of what to bootstrap from, [B] each, for the steps `index` [B]."""
        steps = (index[:, None] + self.lanes * np.arange(self.n_step)) % self.capacity  # [B, n]
        flags = self._store.flags[steps]
        ended = flags & (TERMINATED | TRUNCATED) > 0
        inside = np.cumsum(ended, axis=1) - ended == 0  # no end before this step
        length = inside.sum(axis=1)
        gamma = self.discount ** np.arange(self.n_step)
        # Behind the end of an episode lie rewards of others: select, do not multiply by 0.
        reward = np.where(inside, self._store.steps["reward"][steps] * gamma, 0.0).sum(axis=1)
        terminated = (inside & (flags & TERMINATED > 0)).any(axis=1)
        discount = np.where(terminated, 0.0, self.discount**length)
        return reward, discount, (index + self.lanes * (length - terminated)) % self.capacity

    def _observations(self, rows: Index) -> Obs:
        """Return the stacks [B, C, H, W] uint8 that end in `rows` [B]; after a rewrite one copy of each, [B, ...] float32."""
        if self._rewriter is None:
            found = self._store.stacks(rows)
        else:
            copy = self.rng.integers(self.copies, size=len(rows)) if self.copies > 1 else np.zeros(len(rows), np.int64)
            table = self._store.table
            where, which = table.index(rows), table.index(copy)
            found = {key: table.read(key, where, which) for key in self._spec.shapes}
            found |= {key: codec.decode(found[key]) for key, codec in self._codecs.items()}
        return found[ONLY] if self._spec.single else found

    # ---- rewriting -----------------------------------------------------------------------------------------------

    def rewrite(self, fn: Rewriter, copies: int = 1, capacity: int | None = None, dtype: Dtype = "float32") -> int:
        """Replace every stored image by results of `fn`, inside the arena; return how many records were dropped.

        fn: see `Rewriter`. From now on it is also applied to the observations that `begin` and `add` are given.
        copies: results stored of each image. Sampling draws one of them, for `obs` and `next_obs` independently.
        capacity: the most records to hold, even if more would fit: a run of T steps never needs more than T.
        dtype: how the results are stored. Batches have them as float32. For integers a grid is made first, from the results
            for some of the stored observations, spread evenly over the lanes.

        Order, episodes, rewards, priorities and vectors stay. The oldest records of a lane are dropped where the results take
        more room than the frames, or where more are stored than `capacity`. Up to `stack` - 1 records more are dropped: those
        whose stack has lost a frame to a newer record. The memory needed beside the replay is that of `convert.CHUNK` steps (of
        one step of every lane, where there are more lanes), or of the grid's examples, and that of the steps' actions, rewards,
        flags and priorities. Pages that are no longer needed go back to the system.
        Raises RuntimeError if the replay was rewritten before, or a lane is empty; ValueError if too few records would fit, the
        results are no floats, or `dtype` is none of ours. Then nothing has changed.
        """
        if self._rewriter is not None:
            raise RuntimeError("the replay has been rewritten already: the images are gone")
        if not all(lane.size for lane in self._store.lanes):
            raise RuntimeError("an empty replay cannot be rewritten: call Replay.begin with a first observation before")
        acted_on, example = self._results(fn, self._observation, current=True)
        new = self._rewritten_layout(dtype, copies, {key: tuple(z.shape[2:]) for key, z in example.items()})
        memory = self._memory
        if capacity is not None:
            memory = min(memory, self._bytes(new) * self._divided(capacity))
        rows = self._fitting(new, memory)  # refuses here, while nothing has changed
        self._codecs = self._fitted(fn, dtype, acted_on, example)

        def encode(obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            _, results = self._results(fn, obs, current=False)
            return {key: x[:, None] for key, x in obs.items()} | self._encoded(results)

        dropped = [max(lane.without_stack(), lane.size - rows // self.lanes) for lane in self._store.lanes]
        self._store = convert.convert(self._store, new, rows, dropped, encode)
        self._memory, self._rewriter, self.copies = memory, fn, copies
        self.stack = 1  # an observation no longer needs the records before its own
        self._observation = self._observation | acted_on
        for codec in self._codecs.values():
            codec.written = codec.clipped = 0  # count what comes after the rewrite only
        return sum(dropped)

    @property
    def rewritten(self) -> bool:
        """Tell whether images have been replaced by a function's results."""
        return self._rewriter is not None

    def _fitted(self, fn: Rewriter, dtype: Dtype, acted_on: Results, example: Results) -> dict[str, Codec]:
        """Make the codecs for results like `example` [N, copies, ...], from observations spread over the lanes."""
        some = {key: [z[0]] for key, z in example.items()}  # [copies, ...]
        if any(not torch.equal(acted_on[key][0], z[0, 0]) for key, z in example.items()):  # it is none of the copies
            some = {key: [torch.cat([acted_on[key][:1], z[0]])] for key, z in example.items()}
        numbers, views = sum(z[0, 0].numel() for z in example.values()), max(len(z[0]) for z in some.values())
        count = examples(dtype, (numbers,), self.size, views)
        places, ends = (
            np.linspace(0, self.size - 1, count).astype(np.int64),
            np.cumsum([lane.size for lane in self._store.lanes]),
        )
        whose = np.searchsorted(ends, places, side="right")  # the lanes count one behind the other
        oldest, first = np.array([(lane.oldest, end - lane.size) for lane, end in zip(self._store.lanes, ends, strict=True)]).T
        rows = (oldest[whose] + self.lanes * (places - first[whose])) % self.capacity
        for begin in range(0, count, convert.CHUNK):
            _, results = self._results(fn, self._store.stacks(rows[begin : begin + convert.CHUNK]), current=False)
            for key, z in results.items():
                some[key].append(z.flatten(0, 1))
        return {key: Codec.fit(dtype, torch.cat(z)) for key, z in some.items()}

    @property
    def clipped(self) -> float:
        """Return the share of the numbers stored since the rewrite that lay outside the grid; NaN where there is no grid."""
        written, clipped = (sum(getattr(codec, name) for codec in self._codecs.values()) for name in ("written", "clipped"))
        return clipped / written if written else float("nan")

    # ---- saving --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return the state without the records in use, which `segment` and `books` give."""
        return {
            "lanes": [{name: getattr(lane, name) for name in STATE} for lane in self._store.lanes],
            "memory": self._memory,
            "max_priority": self._max_priority,
            "keys": list(self._spec.shapes),
            "observation": {key: x.cpu() for key, x in self._observation.items()},
            "stack": self.stack,
            "copies": self.copies,
            "rng": self.rng.bit_generator.state,
            "rewritten": {key: codec.get_state() for key, codec in self._codecs.items()} or None,
        }

    def set_state(
        self,
        state: dict[str, Any],
        segments: Iterable[bytes],
        books: Mapping[str, Iterable[bytes]],
        fn: Rewriter | None = None,
        capacity: int | None = None,
    ) -> None:
        """Go on from what `get_state`, `segment` and `books` gave, in a replay made with the same settings.

        fn: the function that the replay was rewritten with, if it was.
        capacity: as for `rewrite`. It may be larger than before, for a longer run: then more records fit, if the bytes allow.
        Raises ValueError for parts that do not belong together, and for records that do not fit into this replay's bytes.
        """
        arena = allowed = self._memory
        earlier = state
        if "lanes" not in state:
            state = records.renamed(state)
        self._memory, self._max_priority = state["memory"], state["max_priority"]
        self.stack, self.copies, self._rewriter = state["stack"], state["copies"], fn
        self._observation = {key: torch.tensor(np.asarray(x), device=self.device) for key, x in state["observation"].items()}
        self.rng.bit_generator.state = state["rng"]
        if state.get("keys", here := list(self._spec.shapes)) != here:  # columns as wide lie in the order of their keys
            there = ", ".join(map(str, state["keys"]))
            raise ValueError(f"the replay was saved with observations of {there}, and this one has {', '.join(here)}")
        new, lanes = self._store.layout, state["lanes"]
        if state["rewritten"] is not None:
            self._codecs = {key: Codec.from_state(codec) for key, codec in state["rewritten"].items()}
            dtype = next(iter(self._codecs.values())).dtype
            new = self._rewritten_layout(dtype, self.copies, {key: codec.shape for key, codec in self._codecs.items()})
            if capacity is not None:
                allowed = min(allowed, self._bytes(new) * self._divided(capacity))
        if len(lanes) != self.lanes:
            raise ValueError(f"the replay has {self.lanes} lanes, what was saved {len(lanes)}")
        before = self._fitting(new, self._memory)
        in_order = all(lane["next"] == (i + lane["size"] * self.lanes) % before for i, lane in enumerate(lanes))
        used = max(lane["size"] for lane in lanes) * self.lanes
        if in_order and (allowed > self._memory or (arena < self._memory and used <= self._fitting(new, allowed))):
            self._memory = allowed  # the oldest record of every lane is its first: the rings can grow or shrink
        if arena < self._memory:
            raise ValueError(
                f"a replay of {arena:,} bytes cannot take over the {used:,} steps of one of {self._memory:,} bytes"
            )
        self._store = store = self._empty(new, self._fitting(new, self._memory))
        for lane, saved in zip(store.lanes, lanes, strict=True):
            for name in STATE:
                setattr(lane, name, saved[name])
            if store.rows != before:
                lane.next = lane.behind(lane.number, -lane.size)
            places = [lane.next, *([] if lane.open is None else [lane.open])]
            its_own = all(0 <= row < store.rows and row % self.lanes == lane.number for row in places)
            if not (its_own and 0 <= lane.size * self.lanes <= store.rows):
                raise ValueError(f"a replay of {store.rows} steps cannot hold {lane.size}, the next at {lane.next}")
        if state is not earlier:
            segments, books = records.split(segments, books["priorities"], earlier, new, self._steps)
        store.fill(segments, books)
        if state is not earlier:
            store.touched = set(range(store.segment_count))  # none of them is as it was saved

    @property
    def segment_count(self) -> int:
        """Count the segments: pieces, of a fixed number of rows, of the observations in the rows in use."""
        return self._store.segment_count

    def segment(self, number: int) -> memoryview:
        """Return the bytes of a segment: a view where the replay lies in the computer's own memory, else a copy."""
        return self._store.segment(number)

    def books(self) -> dict[str, list[memoryview]]:
        """Return views of all else that belongs to the rows in use, in pieces: "steps", and "priorities" if there are any."""
        return self._store.books()

    def touch(self, segments: set[int]) -> None:
        """Mark these segments as changed again, for example because writing them to disk failed."""
        self._store.touched |= segments

    def touched(self) -> set[int]:
        """Return the numbers of the segments that changed since the last call, or since the beginning."""
        touched, self._store.touched = self._store.touched, set()
        return touched
