"""SEER in Tianshou: off-policy algorithms from images, in any number of environments.

    seer = Seer(algorithm, collector, freeze=50_000, dtype="uint8")
    algorithm.run_training(OffPolicyTrainerParams(training_collector=collector, training_fn=seer.training_fn, ...))

At step 50,000 the convolutions stop training, and each image in the library's own buffer becomes what they make of it. The
buffer stays the same object and holds as many steps as its bytes allow. From then on networks take such embeddings in the place
of images wherever they are given them, so no algorithm has to know of the freeze.
"""

import warnings
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from seer_rl.integrations import checksum, require, sums

require("tianshou", "2.0.1", "3", "tianshou")  # before names are imported that another version may not have

from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm, OffPolicyWrapperAlgorithm
from tianshou.data import (
    AsyncCollector,
    Collector,
    PrioritizedReplayBuffer,
    PrioritizedVectorReplayBuffer,
    ReplayBuffer,
    VectorReplayBuffer,
)
from tianshou.utils.lagged_network import EvalModeModuleWrapper

from seer_rl.integrations.tianshou import buffer as buffers
from seer_rl.integrations.tianshou.split import Split, sees
from seer_rl.replay.codec import Codec, Dtype, examples, layout, require_dtype

__all__ = ["Seer"]

BUFFERS = (ReplayBuffer, VectorReplayBuffer, PrioritizedReplayBuffer, PrioritizedVectorReplayBuffer)


class Seer:
    """Freezes an algorithm's convolutions, and the buffer that its training collects into."""

    def __init__(self, algorithm: Any, collector: Any, freeze: int, dtype: Dtype = "float32") -> None:
        """Find the convolutions, and become the collector's `on_step_hook`. A hook that it has already is called first.

        algorithm: an `OffPolicyAlgorithm`. collector: the `Collector` of its training, with a buffer of the library's classes.
        A buffer that was saved after a freeze goes on as it is; load the algorithm's weights as well.
        freeze: the step of the environments, as the trainer counts them. dtype: how embeddings are stored, see
        `seer_rl.replay.codec.Dtype`.
        Raises ValueError for what cannot be frozen.
        """
        if isinstance(freeze, bool) or not isinstance(freeze, int) or freeze < 1:
            raise ValueError(f"freeze is a step of the environments, from 1 on, and 'auto' is not there, not {freeze!r}")
        require_dtype(dtype)
        if not isinstance(algorithm, OffPolicyAlgorithm) or isinstance(algorithm, OffPolicyWrapperAlgorithm):
            raise ValueError(f"SEER freezes off-policy algorithms without a wrapper, not {type(algorithm).__name__}")
        if not isinstance(collector, Collector) or isinstance(collector, AsyncCollector):
            raise ValueError(f"SEER works with a Collector, not with {type(collector).__name__}")
        buffer: Any = collector.buffer
        if type(buffer) not in BUFFERS:
            names = ", ".join(one.__name__ for one in BUFFERS)
            raise ValueError(f"SEER converts buffers of the classes {names}, not {type(buffer).__name__}")
        if buffer.stack_num > 1 and buffer._sample_avail:
            raise ValueError("sample_avail=True leaves out steps that a frozen buffer would draw: use sample_avail=False")
        self.algorithm, self.collector, self.buffer = algorithm, collector, buffer
        self.freeze_step, self.dtype = freeze, dtype
        networks = [*algorithm.policy.children(), *algorithm.children()]
        passed = (type(algorithm.policy), EvalModeModuleWrapper)  # the lagged networks, which are found below
        self.online = list(dict.fromkeys(Split.of(one) for one in networks if sees(one) and not isinstance(one, passed)))
        if not self.online:
            raise ValueError(f"SEER freezes convolutions, and the networks of {type(algorithm).__name__} have none")
        lagged: Any = getattr(algorithm, "_lagged_networks", None)  # an algorithm may do without
        pairs = [pair for pair in lagged._lagged_network_pairs if sees(pair.source)] if lagged else []
        self.targets = [(Split.of(pair.target), Split.of(pair.source)) for pair in pairs]
        self.frozen_at: int | None = None
        self.report: dict[str, int] = {}  # of the freeze: bytes of the buffer and steps that fit, before and after
        self.untrained = [checksum(split.weights) for split in self.online]
        self.checked = False
        self.sums: list[float] = []  # of the convolutions' weights, when they were last found to be those of the buffer
        self.last: tuple[NDArray[Any], NDArray[Any]] | None = None  # the latest obs_next [N, C, H, W], and their codes [N, n]
        self.hook: Any = collector.get_on_step_hook()
        if isinstance(earlier := getattr(self.hook, "__self__", None), Seer):
            self.hook = earlier.hook
        collector.set_on_step_hook(self.on_step)
        if self.frozen:
            buffers.share(buffer, buffer._meta)  # what were views of it are copies after loading
            self._fix([Codec.from_state(state) for state in buffer.seer["codecs"]], buffer.seer["scales"])

    @property
    def frozen(self) -> bool:
        """Tell whether embeddings are stored."""
        return hasattr(self.buffer, "seer")

    def _made_by(self) -> int:
        """Return a number that tells these convolutions from others."""
        return checksum(weights for split in self.online for weights in split.weights)

    def _require_encoders(self) -> None:
        """Raise RuntimeError where the convolutions are not those that made the embeddings in the buffer."""
        now = sums(weights for split in self.online for weights in split.weights)
        if now == self.sums:
            return
        if self._made_by() != self.buffer.seer["checksum"]:
            raise RuntimeError("other convolutions made the embeddings in this buffer: load the weights saved with it")
        self.sums = now

    def training_fn(self, epoch: int, env_step: int) -> None:
        """Freeze where that is due. It is for `training_fn` of the trainer's parameters, or to be called there.

        env_step: the steps of all environments so far.
        Raises ValueError, with nothing changed, where the convolutions were never trained or a network cannot take embeddings;
        RuntimeError where other weights were loaded after the freeze.
        """
        if self.frozen:
            self._require_encoders()
            return
        if env_step < self.freeze_step:
            return
        if not self.checked:
            if self.collector.get_on_step_hook() != self.on_step:
                raise RuntimeError("the collector's on_step_hook is no longer SEER's: let the new one call seer.on_step")
            raise RuntimeError("no step has been collected since Seer was made: collect before the first training_fn")
        if any(s.scale is None or checksum(s.weights) == before for s, before in zip(self.online, self.untrained, strict=True)):
            raise ValueError(f"a freeze at {env_step} comes before the convolutions were trained: let it come later")
        codecs, buffer = self._codecs(), self.buffer
        steps = self._capacity(sum(_length(codec.dtype, codec.shape) for codec in codecs))
        self._rehearse()
        for target, source in self.targets:
            target.below.load_state_dict(source.below.state_dict())
        self._fix(codecs, scales := [split.scale or 1.0 for split in self.online])
        before = {"bytes_before": buffers.nbytes(buffer._meta), "steps_before": buffer.maxsize}
        buffers.convert(buffer, steps, self._codes)
        buffer.seer = {"checksum": self._made_by(), "scales": scales, "codecs": [codec.get_state() for codec in codecs]}
        self.report = {**before, "bytes_after": buffers.nbytes(buffer._meta), "steps_after": buffer.maxsize}
        self.frozen_at = env_step
        if buffer.maxsize < before["steps_before"]:
            warnings.warn(
                f"an embedding takes more memory than what is stored of an image: the buffer shrinks from "
                f"{before['steps_before']:,} to {buffer.maxsize:,} steps",
                stacklevel=2,
            )

    def _rehearse(self) -> None:
        """Raise ValueError where a network will not do with embeddings what it does with images."""
        row = np.concatenate(buffers.oldest_first(self.buffer))[-1:]
        image = buffers.together(self.buffer._meta.obs, buffers.frames(self.buffer, row))
        for split in {*self.online, *(target for target, _ in self.targets)}:
            split.rehearse(image)

    def on_step(self, action_batch: Any, rollout_batch: Any) -> None:
        """Let embeddings be stored of a step, once the buffer is frozen: the collector's `on_step_hook`.

        Raises ValueError for observations that are no images, and for a buffer that cannot hold what is made of them.
        """
        if self.hook is not None:
            self.hook(action_batch, rollout_batch)
        obs, obs_next = rollout_batch.obs, rollout_batch.obs_next
        if not self.checked:
            self._check(obs)
        if not self.frozen:
            return
        if not self.buffer._save_obs_next:
            rollout_batch.obs = self._codes(obs)
            return
        known = np.zeros(len(obs), bool)
        if self.last is not None and len(self.last[0]) == len(obs):  # where an episode has begun, the image is another
            known = np.array([np.array_equal(*pair) for pair in zip(self.last[0], obs, strict=True)])
        made = self._codes(np.concatenate([obs[~known], obs_next]))  # in one pass
        fresh, after = made[: -len(obs_next)], made[-len(obs_next) :]
        codes = self.last[1].copy() if self.last is not None and known.any() else np.empty_like(after)
        codes[~known] = fresh
        rollout_batch.obs, rollout_batch.obs_next, self.last = codes, after, (obs_next, after)

    def _check(self, obs: Any) -> None:
        """Refuse what cannot be done right, as early as it can be known. obs: of a step."""
        buffer = self.buffer
        if not isinstance(obs, np.ndarray) or obs.ndim != 4:
            found = f"arrays of {obs.shape[1:]}" if isinstance(obs, np.ndarray) else type(obs).__name__
            raise ValueError(f"SEER stores observations that are one image [C, H, W] each, not {found}")
        if self.frozen:
            self._require_encoders()
            self.checked = True
            return
        count = obs.shape[1]
        if (buffer.stack_num, buffer._save_only_last_obs) not in ((1, False), (count, True)):
            raise ValueError(
                f"the buffer must give back the images that are acted on: use stack_num=1 and save_only_last_obs=False, or "
                f"stack_num={count} and save_only_last_obs=True"
            )
        if len(buffer):
            self._capacity(sum(_length(self.dtype, tuple(split.embed(obs[:1]).shape[1:])) for split in self.online))
            self.checked = True

    def _capacity(self, length: int) -> int:
        """Count the steps of each environment that fit into the buffer's bytes with codes of `length` numbers.

        Raises ValueError for too few.
        """
        meta, keys = self.buffer._meta, buffers.image_keys(self.buffer)
        held, images = buffers.nbytes(meta), sum(buffers.nbytes(meta[key]) for key in keys)
        one = len(keys) * length * layout(self.dtype, ())[0].itemsize + (held - images) // self.buffer.maxsize
        steps = held // (one * len(buffers.parts(self.buffer)))
        n_step = getattr(self.algorithm, "n_step", getattr(self.algorithm, "n_step_return_horizon", 1))
        if steps <= n_step:
            raise ValueError(
                f"a buffer of {held:,} bytes holds {steps} steps of {one:,} bytes of each environment, but {n_step}-step "
                f"returns need {n_step + 1}: make it larger, or use dtype='uint8'"
            )
        return int(steps)

    def _codecs(self) -> list[Codec]:
        """Make the codecs of all embeddings, from observations spread over the buffer."""
        images, rows = self.buffer._meta.obs, np.concatenate(buffers.oldest_first(self.buffer))
        numbers = sum(
            split.embed(buffers.together(images, buffers.frames(self.buffer, rows[:1]))).numel() for split in self.online
        )
        count = max(1, examples(self.dtype, (numbers,), len(rows), 1))
        some = buffers.frames(self.buffer, rows[np.linspace(0, len(rows) - 1, count).astype(int)])
        codecs = []
        for split in self.online:
            chunks = [some[i : i + buffers.CHUNK] for i in range(0, count, buffers.CHUNK)]
            codecs.append(Codec.fit(self.dtype, torch.cat([split.embed(buffers.together(images, chunk)) for chunk in chunks])))
        return codecs

    def _fix(self, codecs: list[Codec], scales: list[float]) -> None:
        """Let all convolutions be as they are for good."""
        first = 0
        for split, codec, scale in zip(self.online, codecs, scales, strict=True):
            last = first + _length(codec.dtype, codec.shape)
            split.scale, split.codec, split.place, first = scale, codec, slice(first, last), last
            split.fix()
        for target, source in self.targets:
            target.codec, target.place = source.codec, source.place
            target.fix()

    def _codes(self, images: NDArray[Any]) -> NDArray[Any]:
        """Map images [B, C, H, W] to codes [B, n]: of all embeddings, side by side."""
        codes = [cast(Codec, split.codec).encode(split.embed(images)).flatten(1) for split in self.online]
        return torch.cat(codes, dim=1).numpy(force=True)


def _length(dtype: Dtype, shape: tuple[int, ...]) -> int:
    """Count the numbers that are stored of an embedding of `shape`."""
    return int(np.prod(layout(dtype, shape)[1]))
