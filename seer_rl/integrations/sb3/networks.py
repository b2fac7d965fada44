"""The library's networks, cut in two: convolutions that can be frozen, and all that goes on learning above them."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from seer_rl.integrations import fix
from seer_rl.replay.replay import Batch

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

    frozen: torch.Tensor  # 1 from the freeze on; saved with the policy, a number like all that is
    part: int | None = None  # which part of an embedding is this network's, where several lie side by side; `Seam` sets it

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
        self.register_buffer("frozen", torch.tensor(0.0))

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
        if z.shape[1] == length:
            return z
        if self.part is None:
            raise RuntimeError("the replay buffer is frozen: go on with model.learn(..., callback=seer)")
        return z[:, self.part * length : (self.part + 1) * length]

    @property
    def is_frozen(self) -> bool:
        """Tell whether the convolutions are."""
        return float(self.frozen) == 1

    def fix(self) -> None:
        """Let the convolutions' weights be buffers from now on."""
        self.frozen.fill_(1)
        for extractor in self.images.values():
            fix(cast(NatureCNN, extractor).cnn)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take over from a saved policy whether it is frozen, which is when its names have to be buffers here, too."""
        ours, theirs = self.is_frozen, float(state_dict.get(f"{prefix}frozen", 0)) == 1
        if ours and not theirs:
            raise RuntimeError("this policy is frozen, and the saved one is not: load it into a new model")
        if theirs and not ours:
            self.fix()
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
        z, images = {}, obs if isinstance(obs, dict) else {ONE: obs}
        for key in self.convolutions:
            x = images[key].float() / 255
            z[key] = torch.cat([convolutions(x) for convolutions in cast(nn.ModuleList, self.convolutions[key])], dim=1)
        return z if isinstance(obs, dict) else z[ONE]


class Seam:
    """A model of Stable-Baselines3 as `seer_rl.freeze` takes it."""

    def __init__(self, model: Any) -> None:
        """Find the extractors. Raises ValueError where the model has none of ours."""
        for online, target in NETWORKS:
            networks = {name: getattr(model.policy, name, None) for name in (*online, *target)}
            critic = networks.get("critic")  # that of TQC returns something else
            if all(isinstance(one, nn.Module) for one in networks.values()) and isinstance(critic, ContinuousCritic | None):
                break
        else:
            raise ValueError(f"SEER knows the networks of DQN, QR-DQN, SAC and TD3, not those of {type(model).__name__}")
        if model.policy.normalize_images:  # the library would divide embeddings by 255
            raise ValueError("the policy divides what it is given by 255: make it with policy_kwargs=seer.policy_kwargs()")
        self.model, self.networks = model, [getattr(model.policy, name) for name in (online[-1], target[-1])]
        pairs: dict[int, tuple[Any, Any]] = {}
        for names in zip(online, target, strict=True):
            both = [getattr(model.policy, name).features_extractor for name in names]
            if not all(isinstance(extractor, SeerExtractor) for extractor in both):
                raise ValueError("the model needs SEER's extractor: make it with policy_kwargs=seer.policy_kwargs()")
            pairs[id(both[0])] = both[0], both[1]  # a shared extractor once
        self.online, self.target = ([pair[i] for pair in pairs.values()] for i in (0, 1))
        self.shared = len(online) > len(pairs)
        for extractors in (self.online, self.target):
            for part, extractor in enumerate(extractors):
                extractor.part = part
        self.lower, self.target_lower = Below(self.online), Below(self.target)
        self.obs_shape, self.generator = shapes(model.observation_space), torch.Generator()

    def augment(self, obs: Any) -> Any:
        """Return `obs` as it is: these algorithms augment nothing."""
        return obs

    @property
    def frozen(self) -> bool:
        """Tell whether the convolutions are: a loaded policy's may be."""
        frozen: bool = self.online[0].is_frozen
        return frozen

    def fix(self) -> None:
        """Let the convolutions of every extractor be as they are for good."""
        for extractor in {*self.online, *self.target}:
            extractor.fix()

    # What an automatic freeze measures; see `seer_rl.agents.base.Agent`.

    def eval(self) -> None:
        """Set evaluation mode."""
        self.model.policy.set_training_mode(False)

    def train(self) -> None:
        """Leave evaluation mode as the library does between two updates: it trains in the mode that it sets itself."""

    def values(self, network: Any, obs: Any) -> torch.Tensor:
        """Return expected returns [B, actions] of a network for discrete actions."""
        q: torch.Tensor = network(obs)
        return q.mean(1) if q.dim() == 3 else q  # quantiles

    def policy(self, obs: Any) -> torch.Tensor:
        """Return expected returns [B, actions], or mean actions [B, A], at embeddings `obs`."""
        if isinstance(self.model.action_space, spaces.Discrete):
            return self.values(self.networks[0], obs)
        action: torch.Tensor = self.model.policy._predict(obs, deterministic=True)
        return action

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return temporal differences [B] without entropies or noise: only their ratio is looked at."""
        online, target = self.networks
        if isinstance(self.model.action_space, spaces.Discrete):
            q = self.values(online, batch.obs).gather(1, batch.action[:, None]).squeeze(1)
            after = self.values(target, batch.next_obs).amax(1)
        else:
            q = torch.cat(online(batch.obs, batch.action), 1).mean(1)
            after = torch.cat(target(batch.next_obs, self.policy(batch.next_obs)), 1).amin(1)
        return q - (batch.reward + batch.discount * after)


def shapes(space: spaces.Space[Any]) -> Any:
    """Return the shapes of images (C, H, W) and of vectors (D,) as a replay takes them."""
    if not isinstance(space, spaces.Dict):
        if not is_image_space(space):
            raise ValueError(f"SEER stores images of uint8, channels first, not {space}: use VecNormalize with norm_obs=False")
        return space.shape
    for key, one in space.spaces.items():
        if not isinstance(one, spaces.Box):
            raise ValueError(f"SEER stores images and boxes of numbers: the observation {key!r} is {one}")
    return {k: s.shape if is_image_space(s) else (get_flattened_obs_dim(s),) for k, s in space.spaces.items()}
