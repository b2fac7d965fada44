"""SEER in LeRobot's HIL-SERL: the learner's buffers hold what the frozen vision encoder makes of images, not the images.

    from lerobot.rl.learner import train_cli
    from seer_rl.integrations.lerobot import stored_features

    if __name__ == "__main__":  # the learner may start processes, which import this file again
        with stored_features(dtype="uint8", views=4):
            train_cli()

The library freezes its vision encoder before the first step, and yet stores images of float32 and embeds every sampled batch.
Here an image is embedded once, when it comes in. What lies above the frozen encoder goes on learning, and actors see images.
"""

import functools
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

if version("lerobot") != "0.4.4":
    raise ImportError(f"seer_rl.integrations.lerobot works with lerobot 0.4.4 only, and {version('lerobot')} is installed")

from lerobot.policies.sac.modeling_sac import SACObservationEncoder, SACPolicy
from lerobot.rl.buffer import ReplayBuffer, random_shift

from seer_rl.integrations import checksum
from seer_rl.replay.codec import BITS, LEAST, Codec, Dtype, examples, layout, require_dtype

__all__ = ["FeatureBuffer", "feature_buffer", "stored_features"]

FILE = "features.npz"  # a saved buffer, in the directory where the learner wants a dataset

Obs = dict[str, torch.Tensor]
"""What a state of the library holds by key: images [B, C, H, W] and vectors [B, D]."""


@contextmanager
def stored_features(dtype: Dtype = "uint8", views: int = 4) -> Iterator[None]:
    """Let the library's learner, run inside this block, store features: in its online buffer and in that of demonstrations.

    dtype, views: as for `feature_buffer`, which refuses what cannot be done right as soon as the learner has made its policy.
    """
    from lerobot.rl import learner

    theirs = {name: getattr(learner, name) for name in ("make_policy", "ReplayBuffer", "LeRobotDataset")}

    def make(*args: Any, **kwargs: Any) -> Any:
        policy = theirs["make_policy"](*args, **kwargs)
        learner.ReplayBuffer = feature_buffer(policy, dtype, views)  # it makes its buffers after its policy
        return policy

    def opened(repo_id: Any, root: Any) -> Any:
        saved = Path(root) / FILE  # of a run that goes on
        return saved if saved.exists() else theirs["LeRobotDataset"](repo_id, root)

    learner.make_policy, learner.LeRobotDataset = make, opened
    try:
        yield
    finally:
        for name, its in theirs.items():
            setattr(learner, name, its)


def feature_buffer(
    policy: Any, dtype: Dtype = "uint8", views: int = 4, normalize: Callable[[Obs], Obs] | None = None
) -> type["FeatureBuffer"]:
    """Let `policy` take stored features in the place of images; return the class to make its replay buffers from.

    policy: a SACPolicy with a frozen vision encoder. It takes images as before, too, and its weights keep their names.
    dtype: how features are stored, see `seer_rl.replay.codec.Dtype`. Batches have them as float32.
    views: K, the randomly shifted copies of each image whose features are stored. Sampling draws one of them, where the library
        shifts the image anew. With 1 the image is taken as it is, and nothing is shifted.
    normalize: maps images by key to what the encoder is given, where a training loop normalizes what it samples; a
        preprocessor's `process_observation` does. The library's own learner normalizes nothing.
    Raises ValueError for another dtype or number of views, and for a policy whose features cannot be stored.
    """
    return type("FeatureBuffer", (FeatureBuffer,), {"features": Features(policy, dtype, views, normalize)})


class FeatureEncoder(SACObservationEncoder):  # type: ignore[misc]
    """The library's encoder, which takes features [B, C, h, w] in the place of images."""

    feature_shape: tuple[int, ...]

    def get_cached_image_features(self, obs: Obs) -> Obs:
        """Return the features of images, or features as they are."""
        if all(obs[key].shape[1:] == self.feature_shape for key in self.image_keys):
            return {key: obs[key] for key in self.image_keys}
        self.image_encoder.eval()  # it must not follow the statistics of batches: what is stored would no longer fit
        found: Obs = super().get_cached_image_features(obs)
        return found


class FeaturePolicy(SACPolicy):  # type: ignore[misc]
    """The library's policy, whose frozen encoder stays as it is, bit for bit."""

    def update_target_networks(self) -> None:
        """Move the target critics towards the critics, as the library does; but not the encoder, which both share.

        Of a shared weight the library makes a weighted mean of itself, which rounding moves a little in every update.
        """
        share = self.config.critic_target_update_weight
        pairs = [(self.critic_target, self.critic_ensemble)]
        if self.config.num_discrete_actions is not None:
            pairs.append((self.discrete_critic_target, self.discrete_critic))
        for target, online in pairs:
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                if old is not new:
                    old.data.lerp_(new.data, share)


class Features:
    """Make features of images, and say how they are stored: the same for all buffers of a policy."""

    def __init__(self, policy: Any, dtype: Dtype, views: int, normalize: Callable[[Obs], Obs] | None) -> None:
        require_dtype(dtype)
        if views < 1:
            raise ValueError(f"at least one view of an image is stored, not {views}")
        if not isinstance(policy, SACPolicy):
            raise ValueError(f"features are stored for LeRobot's SACPolicy, not for {type(policy).__name__}")
        encoders, config = (policy.encoder_actor, policy.encoder_critic), policy.config
        if not policy.encoder_actor.has_images:
            raise ValueError("the policy sees no images: there are no features to store")
        actor, critic = (one.image_encoder for one in encoders)
        if any(parameter.requires_grad for one in (actor, critic) for parameter in one.parameters()):
            raise ValueError("the vision encoder is trained, so that stored features would age: set freeze_vision_encoder=True")
        if config.vision_encoder_name is None and config.pretrained_path is None:
            raise ValueError("the frozen vision encoder was never trained: give a vision_encoder_name or a pretrained_path")
        if any(not torch.equal(x, actor.state_dict()[name]) for name, x in critic.state_dict().items()):
            raise ValueError("the actor's vision encoder differs from the critics': set shared_encoder=True")
        seen = next(iter(policy.encoder_actor.spatial_embeddings.values()))
        self.encoder, self.shape = policy.encoder_actor, (seen.channel, seen.height, seen.width)
        self.keys: list[str] = self.encoder.image_keys
        if self.shape in {tuple(config.input_features[key].shape) for key in self.keys}:
            raise ValueError(f"images and features have the same shape, {self.shape}: they could not be told apart")
        self.dtype, self.views, self.normalize = dtype, views, normalize
        self.codecs = {} if dtype in BITS else {key: Codec(dtype, self.shape) for key in self.keys}
        policy.__class__ = FeaturePolicy  # names of weights, copies and saved files stay as they are
        for one in encoders:
            one.__class__, one.feature_shape = FeatureEncoder, self.shape

    @property
    def made_by(self) -> int:
        """Return the checksum of the vision encoder."""
        return checksum(self.encoder.image_encoder.state_dict().values())

    @torch.no_grad()
    def embed(self, obs: Obs) -> Obs:
        """Replace images [B, C, H, W] by the features of their views, float32 [B, K, C, h, w]; what is encoded stays."""
        if any(obs[key].dim() != 4 for key in self.keys):
            return obs
        device = next(self.encoder.image_encoder.parameters()).device
        images = {key: obs[key].to(device).float().repeat_interleave(self.views, 0) for key in self.keys}
        if self.views > 1:
            images = {key: random_shift(x) for key, x in images.items()}
        z = self.encoder.get_cached_image_features(images if self.normalize is None else self.normalize(images))
        return {**obs, **{key: z[key].unflatten(0, (-1, self.views)) for key in self.keys}}

    def needed(self, available: int) -> int:
        """Count the observations that grids of integers are made from, of `available` ones."""
        return examples(self.dtype, self.shape, available, self.views)

    def fit(self, seen: list[Obs]) -> None:
        """Make the grids of integers from observations whose features are [1, K, C, h, w]."""
        self.codecs = {key: Codec.fit(self.dtype, torch.cat([obs[key] for obs in seen]).flatten(0, 1)) for key in self.keys}

    def encode(self, obs: Obs) -> Obs:
        """Replace features [..., C, h, w] by what is stored of them; what is encoded stays."""
        codes = {key: x if (x := obs[key]).dtype == torch.uint8 else self.codecs[key].encode(x) for key in self.keys}
        return {**obs, **codes}


class FeatureBuffer(ReplayBuffer):  # type: ignore[misc]
    """A replay buffer of the library that stores features in the place of images; `feature_buffer` makes it for a policy."""

    features: ClassVar[Features]

    def __init__(
        self,
        capacity: int,
        device: str = "cuda:0",
        state_keys: Any = None,
        image_augmentation_function: Callable[..., Any] | None = None,
        use_drq: bool = True,
        storage_device: str = "cpu",
        optimize_memory: bool = False,
    ) -> None:
        """Take what the library's buffer takes.

        Raises ValueError for an augmentation that is not that of the stored views, and for a capacity that makes no grid.
        """
        if image_augmentation_function is not None:
            raise ValueError("stored views are images shifted as the library shifts them: give no image_augmentation_function")
        if not use_drq and self.features.views > 1:
            raise ValueError(f"use_drq=False and {self.features.views} shifted views contradict each other: store views=1")
        if capacity < LEAST and not self.features.codecs:
            dtype = self.features.dtype
            raise ValueError(
                f"{capacity} transitions are too few to make a grid of {dtype}: give a capacity of {LEAST} or more"
            )
        # The views are the augmentation: nothing is left for the library to shift.
        super().__init__(capacity, device, state_keys, random_shift, False, storage_device, optimize_memory)
        self.waiting: list[tuple[Any, ...]] = []  # transitions that came before there was a grid

    def __len__(self) -> int:
        """Count the transitions."""
        return int(self.size) + len(self.waiting)

    def add(
        self, state: Obs, action: Any, reward: Any, next_state: Obs, done: Any, truncated: Any, complementary_info: Any = None
    ) -> None:
        """Store a transition; images [1, C, H, W] become features."""
        seen = self.features.embed(state)
        after = seen if self.optimize_memory else self.features.embed(next_state)  # there the next row is what follows
        transition = seen, after, action, reward, done, truncated, complementary_info
        if self.features.codecs and not self.waiting:
            self._store(*transition)
            return
        self.waiting.append(transition)
        if self.features.codecs or len(self.waiting) >= self.features.needed(self.capacity):
            self.settle()

    def _store(self, seen: Obs, after: Obs, action: Any, reward: Any, *rest: Any) -> None:
        super().add(self.features.encode(seen), action, reward, self.features.encode(after), *rest)

    def settle(self) -> None:
        """Store the transitions that wait for a grid. Raises RuntimeError where they are too few to make one."""
        if self.waiting and not self.features.codecs:
            _require_enough(len(self.waiting), self.features.dtype)
            self.features.fit([waiting[0] for waiting in self.waiting])
        for transition in self.waiting:
            self._store(*transition)
        self.waiting.clear()

    def _initialize_storage(self, state: Obs, action: Any, complementary_info: Any = None) -> None:
        features, others = self.features, {key: x for key, x in state.items() if key not in self.features.keys}
        super()._initialize_storage(others, action, complementary_info)
        dtype, shape = layout(features.dtype, features.shape)
        for kept in [self.states] if self.optimize_memory else [self.states, self.next_states]:
            for key in features.keys:
                rows = torch.empty((self.capacity, features.views, *shape), dtype=dtype, device=self.storage_device)
                kept[key] = Column(rows)

    def sample(self, batch_size: int) -> Any:
        """Draw transitions, with features float32 [B, C, h, w] in the place of images."""
        self.settle()
        batch = super().sample(batch_size)
        for obs in (batch["state"], batch["next_state"]):
            obs.update({key: codec.decode(obs[key]) for key, codec in self.features.codecs.items()})
        return batch

    def get_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return the library's iterator. What waits is stored here, and not in the thread that may sample for it."""
        self.settle()
        return super().get_iterator(*args, **kwargs)

    @classmethod
    def _lerobotdataset_to_transitions(cls, dataset: Any, state_keys: Any = None) -> Any:
        frames = Frames(dataset, cls.features)
        if not cls.features.codecs:
            _require_enough(len(dataset), cls.features.dtype)
            places = np.linspace(0, len(dataset) - 1, cls.features.needed(len(dataset))).astype(int).tolist()
            cls.features.fit([frames.embedded(i) for i in places])
        return super()._lerobotdataset_to_transitions(frames, state_keys)

    # ---- saving --------------------------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, torch.Tensor]:
        """Return all rows by name, each [capacity, ...]."""
        states = {"state": self.states} if self.optimize_memory else {"state": self.states, "next_state": self.next_states}
        groups = states | {"info": self.complementary_info}
        found = {f"{group}/{key}": x for group, columns in groups.items() for key, x in columns.items()}
        found |= {"action": self.actions, "reward": self.rewards, "done": self.dones, "truncated": self.truncateds}
        return {name: x.rows if isinstance(x, Column) else x for name, x in found.items()}

    def to_lerobot_dataset(self, repo_id: str, fps: int = 1, root: Any = None, task_name: str = "") -> Any:
        """Save the buffer where the learner asks for a dataset. It has no images for one, so it writes `root`/features.npz.

        Returns the file's path, which `from_lerobot_dataset` takes. Raises ValueError without a `root`, or for an empty buffer.
        """
        self.settle()
        if root is None or not self.size:
            raise ValueError("the buffer has no images to make a dataset of: give a root for its features, and at least one")
        Path(root).mkdir(parents=True, exist_ok=True)
        features, size = self.features, self.size
        saved: dict[str, Any] = {"dtype": features.dtype, "views": features.views, "optimize_memory": self.optimize_memory}
        states = {key: codec.get_state() for key, codec in features.codecs.items() if features.dtype in BITS}
        saved |= {f"grid/{key}": torch.stack([state["low"], state["step"]]).numpy() for key, state in states.items()}
        saved |= {f"rows/{name}": x[:size].numpy(force=True) for name, x in self._arrays().items()}
        path = Path(root) / FILE
        # An earlier file stays until this one is whole.
        with tempfile.TemporaryDirectory(prefix=f".{FILE}.", dir=root) as beside:
            np.savez(Path(beside) / FILE, position=self.position, made_by=features.made_by, **saved)
            (Path(beside) / FILE).replace(path)
        return path

    @classmethod
    def from_lerobot_dataset(
        cls,
        lerobot_dataset: Any,
        device: str = "cuda:0",
        state_keys: Any = None,
        capacity: int | None = None,
        image_augmentation_function: Callable[..., Any] | None = None,
        use_drq: bool = True,
        storage_device: str = "cpu",
        optimize_memory: bool = False,
    ) -> Any:
        """Make a buffer of a dataset, whose images are embedded as they are read; or of a saved buffer, given as its path.

        Takes what the library's method takes. Raises ValueError for a buffer that was saved with other settings.
        """
        others = image_augmentation_function, use_drq, storage_device, optimize_memory
        if not isinstance(lerobot_dataset, Path):
            return super().from_lerobot_dataset(lerobot_dataset, device, state_keys, capacity, *others)
        features = cls.features
        if not zipfile.is_zipfile(lerobot_dataset):
            raise ValueError(f"{lerobot_dataset} is no file of saved features, or it is damaged")
        with np.load(lerobot_dataset) as saved:
            missing = {"made_by", *(f"rows/state/{key}" for key in features.keys)} - set(saved)
            if missing:
                raise ValueError(f"{lerobot_dataset} does not hold this policy's features: it has no {min(missing)}")
            if saved["made_by"] != features.made_by:
                raise ValueError("another vision encoder made the features in this file: load the policy saved with it")
            for name, now in {"dtype": features.dtype, "views": features.views, "optimize_memory": optimize_memory}.items():
                if saved[name] != now:
                    raise ValueError(f"the buffer was saved with {name}={saved[name]}, and cannot go on with {now}")
            if features.dtype in BITS:
                grids = {key: torch.from_numpy(saved[f"grid/{key}"]) for key in features.keys}
                codecs = {key: Codec(features.dtype, features.shape, (grid[0], grid[1])) for key, grid in grids.items()}
                pairs = [(codecs[key], codec) for key, codec in features.codecs.items()]
                if any(not (torch.equal(a.low, b.low) and torch.equal(a.step, b.step)) for a, b in pairs):
                    raise ValueError("all buffers of a policy share a grid: load the saved ones before anything else is stored")
                features.codecs = codecs
            # The oldest row comes first: the buffer may be larger now.
            rows = {
                name.removeprefix("rows/"): torch.from_numpy(np.roll(saved[name], -int(saved["position"]), 0))
                for name in saved
                if name.startswith("rows/")
            }
        size = len(rows["action"])
        if (capacity or size) < size:
            raise ValueError(f"the saved buffer holds {size} transitions, more than a capacity of {capacity}")
        buffer = cls(capacity or size, device, state_keys, *others)
        first = {
            group: {name.removeprefix(f"{group}/"): x[:1] for name, x in rows.items() if name.startswith(f"{group}/")}
            for group in ("state", "info")
        }
        buffer._initialize_storage(first["state"], rows["action"][:1], first["info"] or None)
        for name, x in buffer._arrays().items():
            x[:size] = rows[name]
        buffer.position, buffer.size = size % buffer.capacity, size
        return buffer


def _require_enough(count: int, dtype: Dtype) -> None:
    """Raise RuntimeError for too few observations to make a grid of integers from."""
    if count < LEAST:
        raise RuntimeError(f"{count} observations make no grid of {dtype}: add {LEAST} before sampling, or store float16")


class Column:
    """What a buffer holds of one camera: K encoded views of each observation."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows  # [capacity, K, ...]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return all views of one row [K, ...], to write to; or of many rows [B] one view each, [B, ...], drawn at random."""
        if isinstance(index, int):
            return self.rows[index]
        views = self.rows.shape[1]
        return self.rows[index, torch.randint(views, index.shape, device=index.device) if views > 1 else 0]


class Frames:
    """A dataset of the library with encoded features in the place of images."""

    def __init__(self, dataset: Any, features: Features) -> None:
        self.dataset, self.features = dataset, features
        self._frame = functools.lru_cache(maxsize=2)(self._encoded)  # the library reads a frame twice

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._frame(index)

    def embedded(self, index: int) -> Any:
        """Return a frame with features float32 [1, K, C, h, w]."""
        frame = self.dataset[index]
        return self.features.embed({**frame, **{key: frame[key][None] for key in self.features.keys}})

    def _encoded(self, index: int) -> Any:
        frame = self.features.encode(self.embedded(index))
        return {**frame, **{key: frame[key][0].cpu() for key in self.features.keys}}
