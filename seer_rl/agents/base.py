"""The contract of agents: what the freeze, a training run and the tools around it ask of one, and nothing else.

An agent is a `torch.nn.Module` that meets `Agent`, and a frozen dataclass of settings that inherits `AgentConfig`. Adding one
is a file, and its class in `AGENTS` (`agents/__init__.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from seer_rl.bounds import Count, Share, Size, Steps
from seer_rl.replay.replay import Batch


@dataclass(frozen=True)
class AgentConfig:
    """Settings that every agent has, because a training run reads them."""

    encoder: str = "canonical"
    """Convolutions by name, or module:factory, a PyTorch module from elsewhere."""
    batch_size: Size = 32
    """Transitions per update."""
    n_step: Size = 1
    """Rewards summed before bootstrapping."""
    discount: Share = 0.99
    """Gamma, per agent step."""
    learning_starts: Steps = 1000
    """Agent steps before the first update."""
    update_every: Count = 1
    """Agent steps per update."""


class Freezable(Protocol):
    """What `freeze` asks of an agent."""

    @property
    def lower(self) -> nn.Module:
        """Give the module below the seam: uint8 images [B, C, H, W] -> float32 embeddings [B, ...]."""

    @property
    def target_lower(self) -> nn.Module:
        """Give that of the target network; the very same where the target has none of its own."""

    def augment(self, obs: torch.Tensor) -> torch.Tensor:
        """Give images [B, C, H, W] uint8 as an update sees them, of the size that `lower` takes; `obs` itself if as it is."""


class Modular(Protocol):
    """What is made of modules: a `torch.nn.Module`, or an agent."""

    def modules(self) -> Iterator[nn.Module]: ...

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]: ...


class Agent(Freezable, Modular, Protocol):
    """What a training run asks of an agent, which is a `torch.nn.Module`.

    Random numbers come from `generator` alone. Weights, every optimizer that is an attribute, and the generator are saved in
    checkpoints by themselves; whatever else an update or an act changes is for `get_extra_state` and `set_extra_state`, which
    are PyTorch's: plain values, in checkpoints and not in files of weights. Names of weights begin with "target_" where, and
    only where, they are a target network's.
    """

    name: ClassVar[str]  # on the command line
    Config: ClassVar[type[Any]]  # its settings, an AgentConfig
    continuous: ClassVar[bool]  # actions are float32 [A] in [-1, 1]; else whole numbers below `actions`
    compiled: ClassVar[str | None]  # the method that is worth compiling: Batch -> losses [B]
    sharing: ClassVar[int]  # N: networks that share the encoder, in the paper's count of operations

    config: Any
    obs_shape: tuple[int, ...]  # (C, H, W) of the images that `lower` takes
    actions: int  # how many there are, or the length of one
    generator: torch.Generator
    training: bool

    def __init__(self, config: Any, obs_shape: tuple[int, ...], actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make an agent for images `obs_shape` (C, H, W). seam: layers below it (None: all). seed: of the generator."""

    @property
    def encoder(self) -> nn.Module:
        """Give all that can be carried to another task: every layer below the heads, whichever side of the seam it lies on."""

    @property
    def target_encoder(self) -> nn.Module:
        """Give those of its layers that the target has of its own, under the same names."""

    @property
    def period(self) -> int:
        """Give the number of updates after which what an update computes begins again."""

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        """Choose actions [N] int64, or [N, A] float32, at observations [N, ...]: to learn in training mode, else to score."""

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        """Give expected returns [B, actions], of which the greedy policy takes the largest; or the mean actions [B, A]."""

    def __call__(self, obs: torch.Tensor) -> Any:
        """Let every layer of the online network compute (`forward`), at observations [B, ...] as the agent acts on them."""

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Learn from `batch`, of images or of embeddings; give metrics by name, and each transition's error [B]."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Give how wrong the agent is about each transition [B], and learn nothing."""

    # And of torch.nn.Module:

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: torch.device) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...

    def get_extra_state(self) -> Any: ...

    def set_extra_state(self, state: Any) -> None: ...
