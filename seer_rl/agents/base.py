"""State the contract of agents: all that the freeze, a training run and the tools around it ask of an agent.

An agent is a `torch.nn.Module` that meets `Agent`, with a frozen dataclass of settings that inherits `AgentConfig`. One of
yours is a file anywhere, which the command line names: `--agent module:Class`. One that shall come with the library is listed
in `AGENTS` (`agents/__init__.py`), too.
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
    """Configure an agent: these settings every agent has, because a training run reads them."""

    encoder: str = "canonical"
    """Convolutions by name, or module:factory, a PyTorch module from elsewhere."""
    shared_encoder: bool = False
    """One encoder for all images of an observation, as of several cameras; they must have the same shape. Otherwise each image
    has one of its own."""
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
    """Say what `freeze` asks of an agent: two modules and one method."""

    @property
    def lower(self) -> nn.Module:
        """Return the module below the seam. It maps uint8 images [B, C, H, W] to float32 embeddings [B, ...].

        Where observations are dictionaries, it maps a dictionary of images to one of embeddings, with the same keys.
        """

    @property
    def target_lower(self) -> nn.Module:
        """Return the same module of the target network; `lower` itself where the target shares it."""

    def augment(self, obs: Any) -> Any:
        """Augment images [B, C, H, W] uint8 as an update does, to the size that `lower` takes; vectors stay as they are.

        Return `obs` itself, the same object, where the agent augments nothing.
        """


class Modular(Protocol):
    """Stand for whatever is made of modules: a `torch.nn.Module` or an agent."""

    def modules(self) -> Iterator[nn.Module]:
        """Iterate over all modules, as `torch.nn.Module` does."""

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]:
        """Iterate over all modules with their names, as `torch.nn.Module` does."""


class Agent(Freezable, Modular, Protocol):
    """Say what a training run asks of an agent, which is a `torch.nn.Module`.

    An observation is uint8 [B, C, H, W], or what `lower` made of it, float32 [B, ...]: every method below takes both. It may be
    a dictionary of several images, or of what `lower` made of them, and of vectors [B, D], which go to the heads as they are.
    All random numbers come from `generator`. A checkpoint saves the weights, the generator, and every optimizer that is an
    attribute. Whatever else an update or an act changes must be in PyTorch's `get_extra_state`, as plain values: it is saved in
    checkpoints, but not in files of weights. The names of a target network's weights, and only those, begin with "target_".
    """

    name: ClassVar[str]  # the name on the command line
    Config: ClassVar[type[Any]]  # the class of its settings, an AgentConfig
    continuous: ClassVar[bool]  # True: actions are float32 [A] in [-1, 1]. False: they are integers from 0 to `actions` - 1
    compiled: ClassVar[str | None]  # the name of the method that is worth compiling, if any: Batch -> losses [B]
    sharing: ClassVar[int]  # N, the networks that share the encoder, in the paper's count of operations

    config: Any
    obs_shape: Any  # Shapes: (C, H, W) of the images that `lower` takes; in a dictionary also (D,) of vectors
    actions: int  # the number of discrete actions, or the length A of a continuous one
    generator: torch.Generator
    training: bool

    def __init__(self, config: Any, obs_shape: Any, actions: int, seam: int | None = None, seed: int = 0) -> None:
        """Make an agent for images of `obs_shape` (C, H, W), or for a dictionary of such shapes and of vectors' shapes (D,).

        actions: see above. seam: how many layers lie below it; None: all of them. seed: of the generator.
        Raises ValueError for settings and shapes that do not fit together.
        """

    @property
    def encoder(self) -> nn.Module:
        """Return every layer below the heads, on both sides of the seam: all that can be carried to another task."""

    @property
    def target_encoder(self) -> nn.Module:
        """Return those layers of the encoder that the target network has of its own, under the same names."""

    @property
    def period(self) -> int:
        """Return the number of updates in a cycle: 2 where every second update does more than the others."""

    def act(self, obs: Any) -> torch.Tensor:
        """Choose actions [N] int64, or [N, A] float32, at `obs` [N, ...]. In training mode they explore."""

    def policy(self, obs: Any) -> torch.Tensor:
        """Return expected returns [B, actions] float32: the greedy policy takes the largest; or mean actions [B, A] float32."""

    def __call__(self, obs: Any) -> Any:
        """Run every layer of the online network (`forward`) at `obs` [B, ...], prepared as for `act`."""

    def update(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Learn from `batch`; return metrics by name, and the error of each transition [B], which becomes its priority."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the error of each transition [B] without learning from it."""

    # What follows is torch.nn.Module's.

    def train(self, mode: bool = True) -> Any:
        """Set training mode, in which `act` explores."""

    def eval(self) -> Any:
        """Set evaluation mode."""

    def to(self, device: torch.device) -> Any:
        """Move all weights to `device`; return the agent."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over all weights."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return all weights, buffers and the extra state, by name."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on from what `state_dict` returned."""

    def get_extra_state(self) -> Any:
        """Return what an update or an act changes beside weights, optimizers and generator, as plain values."""

    def set_extra_state(self, state: Any) -> None:
        """Go on from what `get_extra_state` returned."""
