"""SEER in TorchRL: a seam in the networks, and a transform in the replay buffer that freezes what lies below it.

    cnn = Seam(cnn, (4, 84, 84))                                  # before the loss is made
    seer = Seer(loss, buffer, freeze=50_000, dtype="uint8")       # after the loss and the buffer are made
    for data in collector:
        buffer.extend(data.reshape(-1))
        seer.step()                                               # freezes once 50,000 steps have been written

From then on, the loss gets embeddings, and the policy in the collector goes on taking images.
"""

import os
import warnings
from typing import Any

import torch

from seer_rl.integrations import require

require("torchrl", "0.14", "0.15", "torchrl")  # private names of the library are used

from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RandomSampler, ReplayBuffer, TensorStorage
from torchrl.data.replay_buffers.writers import RoundRobinWriter
from torchrl.envs import CatFrames, Compose, Transform
from torchrl.objectives import LossModule

from seer_rl.integrations.torchrl import storage as stored
from seer_rl.integrations.torchrl.networks import Lower, Place, Seam, alike
from seer_rl.replay.codec import Codec, Dtype, examples, layout, require_dtype

__all__ = ["Seam", "Seer"]

PASS = 256  # images that are embedded at once of what is written: they bound the memory that this needs
NODES_BYTES = 32  # of a row in the two trees of a prioritized sampler, whose sizes are powers of two: at most this much


class Seer(Transform):  # type: ignore[misc]
    """Freeze the encoders of a loss and convert its replay buffer; embed what is written to it, and decode what is drawn."""

    def __init__(
        self,
        loss: LossModule,
        buffer: ReplayBuffer,
        freeze: int,
        dtype: Dtype = "float32",
        capacity: int | None = None,
        key: str = "pixels",
        collector: Any = None,
    ) -> None:
        """Check all that will be needed at the freeze, and put this transform before the buffer's others.

        loss: has a `Seam` in each network that sees images. buffer: holds images under `key` and ("next", `key`).
        freeze: the step, counted in what has been written into the buffer. dtype: how embeddings are stored, see
        `seer_rl.replay.codec.Dtype`. capacity: the most steps to hold afterwards; None: as many as the buffer's bytes hold.
        collector: whose total_frames the freeze must lie within, if given.
        Raises ValueError for what cannot be done right.
        """
        super().__init__()
        if isinstance(freeze, bool) or not isinstance(freeze, int):
            raise ValueError(
                f"freeze is a number of steps, not {freeze!r}: an automatic freeze is there in Stable-Baselines3 only"
            )
        if freeze < 1:
            raise ValueError(f"a freeze at {freeze} comes before the first step: the encoder would never have been trained")
        total = getattr(collector, "total_frames", freeze)
        if freeze > total:
            raise ValueError(f"a freeze at {freeze} lies beyond the collector's total_frames={total}: it would never come")
        require_dtype(dtype)
        # A module must not own these: their weights are the loss's, and are saved with it.
        self.__dict__.update(buffer=buffer, lower=Lower(loss))
        self.freeze_step, self.dtype, self.capacity = freeze, dtype, capacity
        self.keys: list[stored.Key] = [key, ("next", key)]
        self.places: list[Place] = []  # the encoders whose outputs lie side by side in an embedding
        self.codec: Codec | None = None  # from the freeze on
        self.made_by: int | None = None  # the checksum of the encoders that made the embeddings
        self.checked = False  # whether the encoders were compared with it since the buffer may have been loaded
        self.sums: list[float] = []  # of the encoders' weights, as of then
        self.report: dict[str, int] = {}  # of the freeze: bytes of a step and steps that fit, before and after
        self._check_buffer()
        self._initial = {place: {k: x.clone() for k, x in self.lower.weights(place).items()} for place in self.lower.places()}
        buffer.insert_transform(0, self)
        buffer.register_load_hook(self._before_loading)

    def _check_buffer(self) -> None:
        """Refuse a buffer that cannot be converted."""
        buffer: Any = self.buffer
        if not isinstance(buffer, ReplayBuffer) or buffer.shared or not getattr(buffer, "_sync", True) or buffer._sample_unit:
            raise ValueError("SEER needs a replay buffer of this process, with shared=False, sync=True and no sample_unit")
        if type(buffer.sampler) not in (RandomSampler, PrioritizedSampler) or not isinstance(buffer.writer, RoundRobinWriter):
            names = type(buffer.sampler).__name__, type(buffer.writer).__name__
            raise ValueError(
                f"SEER knows RandomSampler, PrioritizedSampler and RoundRobinWriter, not {names[0]} with {names[1]}"
            )
        if buffer.writer.tracks_generations:
            raise ValueError("SEER moves rows at the freeze: make the writer with track_generations=False")
        stored.refuse(buffer.storage)
        for transform in _flat(buffer.transform):
            lists = transform.in_keys, transform.out_keys, transform.in_keys_inv, transform.out_keys_inv
            used = {key for keys in lists for key in keys or ()}
            if transform is not self and (used & set(self.keys) if used else self._changes_images(transform)):
                how = "stack frames in the environment" if isinstance(transform, CatFrames) else "do that in the environment"
                name = type(transform).__name__
                raise ValueError(f"{name} in the buffer works on images, which will be embeddings after the freeze: {how}")

    def _changes_images(self, transform: Any) -> bool:
        """Tell whether a transform that names no keys, such as a function, changes the images of the oldest row."""
        if self.frozen or not len(self.buffer.storage):
            return False  # it is asked again at the freeze
        row: Any = torch.stack([stored.row(self.buffer.storage, 0)])
        out = transform(row.clone())
        pairs = [(row.get(key, None), out.get(key, None)) for key in self.keys]  # a key that is missing is told of later
        return any(x is not None and (y is None or x.dtype != y.dtype or not torch.equal(x, y.to(x.device))) for x, y in pairs)

    @property
    def frozen(self) -> bool:
        """Tell whether embeddings are stored."""
        return self.codec is not None

    def step(self) -> bool:
        """Freeze if that is due; return whether it happened now. Call it between two updates, as often as you like."""
        if self.frozen:
            self._check_encoders()  # weights may have been loaded into the loss
            return False
        if self.buffer.write_count < self.freeze_step:
            return False
        self.freeze()
        return True

    def freeze(self) -> None:
        """Freeze now. What was drawn before is out of date, and so are its places in the buffer.

        Raises RuntimeError where that was done before, or where the buffer is empty or an encoder has not been trained, and
        ValueError where too few embeddings would fit. Loss and buffer are as before then.
        """
        buffer: Any = self.buffer
        if self.frozen:
            raise RuntimeError("the buffer has been frozen already: the images are gone")
        self._check_buffer()
        if not len(buffer.storage):
            raise RuntimeError("an empty buffer cannot be frozen: write steps into it before")
        if any(alike(self.lower.weights(place), weights) for place, weights in self._initial.items()):
            raise RuntimeError("an encoder has never been trained since Seer was made: freeze after updates of the loss")
        buffer.synchronize()
        with buffer._futures_lock:
            buffer._clear_prefetch_queue_locked()
            with buffer._replay_lock:
                self._convert()

    def _convert(self) -> None:
        """Replace the images."""
        buffer: Any = self.buffer
        storage, sampler, n = buffer.storage, buffer.sampler, len(buffer.storage)
        for key in self.keys:
            x = stored.row(storage, 0).get(key, None)
            if x is None or tuple(x.shape) != self.lower.shape:
                found = None if x is None else tuple(x.shape)
                raise ValueError(f"the buffer needs images of {self.lower.shape} under {key!r}, and has {found}")
        if getattr(storage, "scratch_dir", None) and os.path.lexists(stored.beside(storage)):  # a link is not followed
            raise ValueError(f"{stored.beside(storage)} is there already, and embeddings would be written to it: move it away")
        places = self.lower.distinct()
        dtype, shape = layout(self.dtype, (self.lower.length(places),))
        example = torch.zeros(shape, dtype=dtype)
        nodes = NODES_BYTES if isinstance(sampler, PrioritizedSampler) else 0
        before, image = stored.row_bytes(storage) + nodes, stored.row(storage, 0).get(self.keys[0])
        after = before + 2 * (example.numel() * dtype.itemsize - image.numel() * image.dtype.itemsize)
        steps = storage.max_size
        fit = steps * before // after if stored.grows(storage) or after > before else steps
        capacity = min(fit, self.capacity or fit)
        if capacity < (buffer._batch_size or 1):
            raise ValueError(
                f"the buffer would hold {capacity} steps of {after:,} bytes, less than a batch: give it more memory"
            )
        order = torch.arange(n) if n < steps else (torch.arange(n) + buffer.writer._cursor) % n  # the oldest first
        kept = order[-capacity:]
        if after > before and len(kept) < n:
            warnings.warn(
                f"an embedding takes more memory than an image: the buffer shrinks from {steps:,} to {capacity:,} steps, "
                f"and its {n - len(kept):,} oldest were dropped",
                stacklevel=4,
            )
        some = order[torch.linspace(0, n - 1, max(1, examples(self.dtype, (self.lower.length(places),), n, 1))).long()]
        codec = Codec.fit(
            self.dtype,
            torch.cat(
                [self.lower.embed(stored.images(storage, self.keys[0], r), places).cpu() for r in some.split(stored.CHUNK)]
            ),
        )
        self.lower.tie(places)
        self.lower.fix()
        stored.convert(storage, self.keys, kept, capacity, example, lambda x: codec.encode(self.lower.embed(x, places)))
        buffer.writer._cursor = len(kept) % capacity
        if isinstance(sampler, PrioritizedSampler):
            self._move_priorities(kept, capacity if stored.grows(storage) else sampler._max_capacity)
        codec.written = codec.clipped = 0  # count what comes after the freeze only
        self.codec, self.places, self._initial = codec, places, {}
        self.made_by, self.checked, self.sums = self.lower.checksum(places), True, self.lower.sums(places)
        self.report = {"bytes_before": before, "steps_before": steps, "bytes_after": after, "steps_after": capacity}

    def _move_priorities(self, kept: torch.Tensor, capacity: int) -> None:
        """Make the sampler's trees anew: row i has the priority that row `kept`[i] had."""
        sampler: Any = self.buffer.sampler
        priorities = torch.as_tensor(sampler._sum_tree[kept.to(sampler.device)])
        (most, where), sampler._max_capacity = sampler._max_priority, capacity
        sampler._init()
        rows = torch.arange(len(kept), device=priorities.device)
        sampler._sum_tree[rows] = priorities
        sampler._min_tree[rows] = priorities
        if most is None:
            return
        moved = (kept == torch.as_tensor(where).cpu()).nonzero().flatten()
        if len(moved):
            sampler._max_priority = most, moved[0]
        elif sampler._max_priority_within_buffer:  # its row was dropped: the library looks for the next
            sampler._max_priority = None
        else:
            sampler._max_priority = most, priorities.argmax()

    # ---- what the buffer calls -----------------------------------------------------------------------------------

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Decode the embeddings of a batch: [B, L] float32. Before the freeze, leave it as it is."""
        if self.codec is not None:
            if not self.checked:
                self._check_encoders()
            tensordict = tensordict.copy()  # a reader of the whole buffer is handed the storage's own rows
            for key in self.keys:
                tensordict.set(key, self.codec.decode(tensordict.get(key)))
        return tensordict

    def _inv_call(self, tensordict: TensorDictBase | None) -> TensorDictBase | None:
        """Embed the images [..., *shape] of what is written. Before the freeze, leave it as it is."""
        if tensordict is None or self.codec is None:  # None: `MultiStepTransform` waits for more steps
            return tensordict
        if not self.checked:
            self._check_encoders()
        dims, now, after = len(self.lower.shape), *(tensordict.get(key) for key in self.keys)
        for x in (now, after):
            if tuple(x.shape[-dims:]) != self.lower.shape:
                raise ValueError(f"a frozen buffer takes images of {self.lower.shape} and embeds them, not {tuple(x.shape)}")
        batch, (now, after) = now.shape[:-dims], (x.reshape(-1, *self.lower.shape) for x in (now, after))
        # Within an episode, what follows a step is what the next step sees: it need not be embedded twice.
        fresh = torch.ones(len(now), dtype=torch.bool, device=now.device)
        fresh[:-1] = (after[:-1] != now[1:]).flatten(1).any(1)
        both = (codes := self._codes(now), codes.roll(-1, 0))
        if fresh.any():
            both[1][fresh] = self._codes(after[fresh])
        for key, x in zip(self.keys, both, strict=True):
            tensordict.set(key, x.view(*batch, *x.shape[1:]))
        return tensordict

    def _codes(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images [n, *shape], some at a time, and encode what comes of them, where the images are."""
        assert self.codec is not None
        some = (images[begin : begin + PASS] for begin in range(0, len(images), PASS))
        return torch.cat([self.codec.encode(self.lower.embed(x, self.places)).to(images.device) for x in some])

    def _check_encoders(self) -> None:
        """Raise RuntimeError where the encoders are not those that made the embeddings in the buffer."""
        sums = self.lower.sums(self.places)
        if self.checked and sums == self.sums:
            return
        self.checked, self.sums = self.lower.checksum(self.places) == self.made_by, sums
        if not self.checked:
            raise RuntimeError("other encoders made the embeddings in this buffer: load the weights of the loss saved with it")

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a frozen buffer needs beside its rows; the encoders are saved with the loss."""
        if self.codec is None:
            return {}
        state = {"codec": self.codec.get_state(), "places": self.places, "capacity": self.buffer.storage.max_size}
        return state | {"made_by": self.made_by}

    def set_extra_state(self, state: Any) -> None:
        """Go on from what `get_extra_state` returned. The loss is frozen, whether its weights were loaded before or will be."""
        if not state:
            if self.frozen:
                raise RuntimeError("this buffer is frozen, and the saved one is not: load it into a new one")
            return
        self.codec, self.places = Codec.from_state(state["codec"]), state["places"]
        self.made_by, self.checked = state["made_by"], False
        self.buffer.storage.max_size = state["capacity"]
        if isinstance(self.buffer.sampler, PrioritizedSampler) and stored.grows(self.buffer.storage):
            self.buffer.sampler._max_capacity = state["capacity"]
        self.lower.fix()

    def _before_loading(self, data: Any, out: Any = None) -> Any:
        """Make room for as many rows as were saved: the buffer may have been larger than it is made."""
        storage, sampler = self.buffer.storage, self.buffer.sampler
        if self.frozen and isinstance(data, TensorDictBase) and tuple(data.get(self.keys[0]).shape[1:]) == self.lower.shape:
            raise RuntimeError("this buffer is frozen, and the saved one is not: load it into a new one")
        if len(data) != storage.max_size:
            if isinstance(storage, TensorStorage) and not isinstance(storage, LazyTensorStorage):
                raise ValueError(
                    f"a TensorStorage has its size for good, and {len(data):,} rows were saved: use LazyTensorStorage"
                )
            stored.empty(storage, len(data))
            if isinstance(sampler, PrioritizedSampler):
                sampler._max_capacity = len(data)
                sampler._init()
        return data


def _flat(transforms: Any) -> list[Any]:
    """List all transforms, those inside a `Compose` in place of it."""
    return [one for each in transforms for one in (_flat(each) if isinstance(each, Compose) else [each])]
