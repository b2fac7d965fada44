"""SEER in Stable-Baselines3: DQN, SAC, TD3 and QR-DQN from images, alone or in dictionaries, in any number of environments.

    seer = Seer(freeze=50_000, dtype="uint8")
    model = SAC("CnnPolicy", env, replay_buffer_class=SeerBuffer, policy_kwargs=seer.policy_kwargs())
    model.learn(500_000, callback=seer)

Images are stored once, not as an observation and again as the next one. At step 50,000 the convolutions stop training, and each
stored image becomes what they make of it. What lies above them, the library's own linear layer first, goes on learning.
"""

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from seer_rl.replay.codec import Dtype
from seer_rl.replay.replay import Replay
from seer_rl.seer import embedder, freeze

ONE = "image"  # the key of an observation that is no dictionary
NETWORKS = (  # of an algorithm, by attributes of its policy: online networks, and the target networks of each
    (("q_net",), ("q_net_target",)),  # DQN
    (("quantile_net",), ("quantile_net_target",)),  # QR-DQN
    (("actor", "critic"), ("actor_target", "critic_target")),  # TD3
    (("actor", "critic"), ("actor", "critic_target")),  # SAC
)


class SeerExtractor(BaseFeaturesExtractor):
    """Extract features as NatureCNN does, of an image or of each image of a dictionary; or of what its convolutions made of it.

    Until the freeze it is the library's own extractor. From then on the convolutions' weights are buffers, which no optimizer,
    no Polyak average and no gradient reaches; and embeddings [B, n] are taken in the place of images [B, C, H, W].
    """

    owner: torch.Tensor  # whose part of an embedding this extractor reads; -1 as long as nothing is frozen

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int | None = None) -> None:
        """Make the networks. features_dim: features of each image; None: the library's, 512, or 256 each in dictionaries.

        Raises ValueError where there is no image, or something else than images and boxes of numbers.
        """
        keyed = isinstance(observation_space, spaces.Dict)
        self.keyed = keyed
        all_spaces = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {ONE: observation_space}
        images = {key: space for key, space in all_spaces.items() if is_image_space(space)}
        if not images:
            raise ValueError(f"SEER freezes the encoder of images, and there is no image of uint8 in {observation_space}")
        size = features_dim or (256 if keyed else 512)
        vectors = {key: get_flattened_obs_dim(space) for key, space in all_spaces.items() if key not in images}
        super().__init__(observation_space, size * len(images) + sum(vectors.values()))
        self.order = list(all_spaces)
        self.images = nn.ModuleDict({key: NatureCNN(space, size) for key, space in images.items()})
        self.register_buffer("owner", torch.tensor(-1))

    def forward(self, observations: Any) -> torch.Tensor:
        """Return features [B, F] of observations, float32 as the library hands them over: pixels from 0 to 255."""
        given = observations if self.keyed else {ONE: observations}
        features = []
        for key in self.order:
            x = given[key].float()
            if key in self.images:
                extractor: Any = self.images[key]
                x = extractor.linear(extractor.cnn(x / 255) if x.dim() == 4 else self._own_part(x, extractor))
            features.append(x.flatten(1))
        return torch.cat(features, dim=1) if len(features) > 1 else features[0]

    def _own_part(self, z: torch.Tensor, extractor: Any) -> torch.Tensor:
        """Return this network's part of an embedding [B, n], in which those of several may lie side by side."""
        length: int = extractor.linear[0].in_features
        return z if z.shape[1] == length else z[:, int(self.owner) * length :][:, :length]

    def fix(self, owner: int) -> None:
        """Let the convolutions' weights be buffers from now on; `owner` says which part of embeddings is this network's."""
        self.owner.fill_(owner)
        for extractor in self.images.values():
            for module in cast(NatureCNN, extractor).cnn.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    parameter.grad = None  # the optimizer, which still has it, passes over it
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take over from a saved policy whether it is frozen, which is when its names have to be buffers here, too."""
        frozen, theirs = int(self.owner), int(state_dict.get(f"{prefix}owner", torch.tensor(-1)))
        if frozen >= 0 > theirs:
            raise RuntimeError("this policy is frozen, and the saved one is not: load it into a new model")
        if theirs >= 0 > frozen:
            self.fix(theirs)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Below(nn.Module):
    """What lies below the seam: the convolutions of one or two extractors, whose embeddings lie side by side."""

    def __init__(self, extractors: list[SeerExtractor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(
            {key: nn.ModuleList([cast(NatureCNN, one.images[key]).cnn for one in extractors]) for key in extractors[0].images}
        )

    def forward(self, obs: Any) -> Any:
        """Map uint8 images [B, C, H, W], alone or by key, to embeddings [B, n]."""
        z = {}
        for key, images in (obs if isinstance(obs, dict) else {ONE: obs}).items():
            x = images.float() / 255
            z[key] = torch.cat([convolutions(x) for convolutions in cast(nn.ModuleList, self.convolutions[key])], dim=1)
        return z if isinstance(obs, dict) else z[ONE]


class Seam:
    """A model of Stable-Baselines3 as `seer_rl.freeze` takes it."""

    def __init__(self, model: Any) -> None:
        """Find the extractors. Raises ValueError where the model has none of ours."""
        for online, target in NETWORKS:
            if all(isinstance(getattr(model.policy, name, None), nn.Module) for name in {*online, *target}):
                break
        else:
            raise ValueError(f"SEER knows the networks of DQN, QR-DQN, SAC and TD3, not those of {type(model).__name__}")
        pairs: dict[int, tuple[Any, Any]] = {}
        for one, other in zip(online, target, strict=True):
            extractors = [getattr(model.policy, name).features_extractor for name in (one, other)]
            for extractor in extractors:
                if not isinstance(extractor, SeerExtractor):
                    raise ValueError("the model needs SEER's extractor: make it with policy_kwargs=seer.policy_kwargs()")
            pairs[id(extractors[0])] = extractors[0], extractors[1]  # a shared extractor once
        self.online, self.target = ([pair[i] for pair in pairs.values()] for i in (0, 1))
        self.shared = len(online) > len(pairs)
        self.lower, self.target_lower = Below(self.online), Below(self.target)

    def augment(self, obs: Any) -> Any:
        """Return `obs` as it is: these algorithms augment nothing."""
        return obs

    @property
    def frozen(self) -> bool:
        """Tell whether the convolutions are: a loaded policy's may be."""
        return int(self.online[0].owner) >= 0

    def fix(self) -> None:
        """Let the convolutions of every extractor be as they are for good."""
        for extractors in (self.online, self.target):
            for owner, extractor in enumerate(extractors):
                if int(extractor.owner) < 0:
                    extractor.fix(owner)


class SeerBuffer(ReplayBuffer):
    """A replay buffer of the library that keeps its steps in a `seer_rl.Replay`, which `Seer` freezes.

    Every observation is stored once. What follows a termination is not stored: there `dones` is 1, and `next_observations` is
    another observation of the episode.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        memory: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        """Reserve the memory: of `buffer_size` steps as images, or `memory` bytes, whatever `buffer_size` is.

        n_steps, gamma: of n-step returns; give them in `replay_buffer_kwargs`, with the algorithm's own gamma.
        optimize_memory_usage: has no effect; memory is used once in any case.
        Raises ValueError for spaces that it cannot hold.
        """
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.handle_timeout_termination, self.optimize_memory_usage = handle_timeout_termination, False
        discrete = isinstance(action_space, spaces.Discrete)
        if not discrete and not (isinstance(action_space, spaces.Box) and len(action_space.shape) == 1):
            raise ValueError(f"SEER stores discrete actions and vectors of numbers, not {action_space}")
        size = {"memory": memory} if memory is not None else {"capacity": buffer_size}
        self.settings: dict[str, Any] = {
            "obs_shape": _shapes(observation_space),
            "action_shape": () if discrete else action_space.shape,
            "action_dtype": "int64" if discrete else "float32",
            "lanes": n_envs, "n_step": n_steps, "discount": gamma, "seed": int(torch.randint(2**31, ())), **size,
        }  # fmt: skip
        self.replay = Replay(**self.settings, device=self.device)
        self.buffer_size = self.replay.capacity // n_envs
        self.embed = _Later()
        self._last: dict[str, NDArray[Any]] | None = None  # the observations that followed the latest steps
        self._running = np.zeros(n_envs, bool)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Store a step of every environment, as the library's own buffer does."""
        before, after = _as_stored(obs), _as_stored(next_obs)
        went_on = self._running.copy()
        if self._last is not None:  # an environment may have been reset in between: then its episode was cut
            went_on &= np.array(
                [all(np.array_equal(self._last[k][i], before[k][i]) for k in before) for i in range(self.n_envs)]
            )
        if (begun := np.flatnonzero(~went_on)).size:
            self.replay.begin(_given({key: x[begun] for key, x in before.items()}, obs), begun.tolist())
        ended = np.asarray(done, bool)
        timeout = np.array([self.handle_timeout_termination and bool(i.get("TimeLimit.truncated", False)) for i in infos])
        shape = (self.n_envs, *self.settings["action_shape"])
        self.replay.add(np.asarray(action).reshape(shape), reward, ended & ~timeout, ended & timeout, _given(after, next_obs))
        self._last, self._running = {key: np.array(x) for key, x in after.items()}, ~ended

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw transitions: images, or after the freeze embeddings."""
        batch = self.replay.sample(batch_size).to(torch.device(self.device))
        reward = batch.reward[:, None]
        if env is not None:
            reward = self.to_torch(self._normalize_reward(reward.cpu().numpy(), env))
        action = batch.action[:, None] if batch.action.dim() == 1 else batch.action
        done = (batch.discount == 0).float()[:, None]
        discounts = batch.discount[:, None] if self.settings["n_step"] > 1 else None
        return ReplayBufferSamples(batch.obs, action, batch.next_obs, done, reward, discounts)

    def size(self) -> int:
        """Count the steps that can be sampled."""
        return len(self.replay)

    @property
    def frozen(self) -> bool:
        """Tell whether embeddings are stored."""
        return self.replay.get_state()["rewritten"] is not None

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the encoder, for `model.save_replay_buffer`."""
        segments = [bytes(self.replay.segment(i)) for i in range(self.replay.segment_count)]
        books = {kind: [bytes(part) for part in parts] for kind, parts in self.replay.books().items()}
        rest = {name: value for name, value in self.__dict__.items() if name not in ("replay", "embed")}
        return {"rest": rest, "replay": self.replay.get_state(), "segments": segments, "books": books}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from what was saved; where it was frozen, `Seer` brings the encoder when learning goes on."""
        self.__dict__.update(state["rest"])
        self.replay, self.embed = Replay(**self.settings, device=self.device), _Later()
        fn = self.embed if state["replay"]["rewritten"] is not None else None
        self.replay.set_state(state["replay"], iter(state["segments"]), {k: iter(v) for k, v in state["books"].items()}, fn)


class Seer(BaseCallback):
    """Freezes a model's convolutions and its replay buffer at a step. Give it to `model.learn` as a callback."""

    def __init__(self, freeze: int, dtype: Dtype = "float32", verbose: int = 0) -> None:
        """freeze: timestep. dtype: how embeddings are stored, see `Dtype`."""
        super().__init__(verbose)
        if not isinstance(freeze, int):
            raise ValueError(f"freeze is a timestep, not {freeze!r}")
        self.freeze_step, self.dtype = freeze, dtype
        self.frozen_at: int | None = None
        self.report: dict[str, float] = {}  # of the freeze: bytes of a step and steps that fit, before and after

    def policy_kwargs(self, **others: Any) -> dict[str, Any]:
        """Return the policy's settings that SEER needs, beside `others`."""
        return {**others, "features_extractor_class": SeerExtractor, "normalize_images": False}

    @property
    def buffer(self) -> SeerBuffer:
        """Return the model's replay buffer. Raises ValueError where it is another."""
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, SeerBuffer):
            raise ValueError("the model needs SEER's replay buffer: make it with replay_buffer_class=SeerBuffer")
        return buffer

    def _init_callback(self) -> None:
        """Refuse a model that cannot be frozen, and give a loaded buffer its encoder."""
        self.seam, env = Seam(self.model), self.model.get_vec_normalize_env()
        if env is not None and env.norm_obs:
            raise ValueError("SEER stores what a fixed encoder makes of raw images: use VecNormalize(norm_obs=False)")
        if self.seam.shared:
            warnings.warn("share_features_extractor=True trains the encoder by one loss only, in SAC the actor's", stacklevel=2)
        if self.buffer.frozen:
            self.buffer.embed.fn = embedder(self.seam, 1)

    def _on_training_start(self) -> None:
        """Refuse a freeze that cannot be meant."""
        first, last = cast(Any, self.model).learning_starts, self.model._total_timesteps
        if not self.buffer.frozen and not self.seam.frozen and not first < self.freeze_step < last:
            why = "the encoder would never have been trained" if self.freeze_step <= first else "it would never come"
            raise ValueError(f"freeze={self.freeze_step} must lie between learning_starts={first} and the end, {last}: {why}")

    def _on_step(self) -> bool:
        """Freeze where that is due."""
        due = self.seam.frozen or self.num_timesteps >= self.freeze_step
        if due and not self.buffer.frozen and self.buffer.size():
            replay = self.buffer.replay
            self.report = {"bytes_before": replay.bytes_per_step, "steps_before": replay.capacity}
            freeze(self.seam, replay, copies=1, dtype=self.dtype)
            self.seam.fix()
            self.frozen_at = self.num_timesteps
            self.report |= {"bytes_after": replay.bytes_per_step, "steps_after": replay.capacity}
        return True


class _Later:
    """The function that makes embeddings, once it is known: a loaded buffer comes without the encoder."""

    fn: Any = None

    def __call__(self, obs: Any, current: bool) -> Any:
        if self.fn is None:
            raise RuntimeError("the loaded replay buffer is frozen: go on with model.learn(..., callback=seer)")
        return self.fn(obs, current)


def _shapes(space: spaces.Space[Any]) -> Any:
    """Return the shapes of images (C, H, W) and of vectors (D,) as a replay takes them."""
    if not isinstance(space, spaces.Dict):
        if not is_image_space(space):
            raise ValueError(f"SEER stores images of uint8, channels first, not {space}: use VecNormalize with norm_obs=False")
        return space.shape
    for key, one in space.spaces.items():
        if not isinstance(one, spaces.Box):
            raise ValueError(f"SEER stores images and boxes of numbers: the observation {key!r} is {one}")
    return {k: s.shape if is_image_space(s) else (get_flattened_obs_dim(s),) for k, s in space.spaces.items()}


def _as_stored(obs: Any) -> dict[str, NDArray[Any]]:
    """Return observations by key; what is no image as vectors of float32, which is what the library's networks make of it."""
    given = obs if isinstance(obs, dict) else {ONE: obs}
    return {k: np.asarray(x) if np.asarray(x).ndim == 4 else np.float32(x).reshape(len(x), -1) for k, x in given.items()}


def _given(stored: dict[str, NDArray[Any]], like: Any) -> Any:
    return stored if isinstance(like, dict) else stored[ONE]
