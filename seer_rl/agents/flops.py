"""Operations: of every layer, of an act, an update and a freeze, on either side of it.

Two conventions. The paper's (its appendix B) counts one multiply-add as one operation, a backward pass as two forward passes,
and leaves acting on images out. The true one counts multiplications and additions, acting too, and no gradient that nobody
needs (that of a network's input). Both count convolutions and matrix products only, a noisy layer like a plain one.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from seer_rl.agents.base import Agent, Modular
from seer_rl.agents.networks import ActorCriticEmbedding, NoisyLinear, blank, output_shape
from seer_rl.replay.observation import Shapes
from seer_rl.replay.replay import Batch

WEIGHTED = nn.Conv2d | nn.Linear | NoisyLinear


@dataclass
class Count:
    """What a layer computed, in multiply-adds: forward, and in backward passes for its weights and for its inputs."""

    forward: int = 0
    weights: int = 0
    inputs: int = 0
    inputs_only: int = 0  # of passes in which nobody needed the weights'

    @property
    def paper(self) -> int:
        """Count operations as the paper does: a backward pass is two forward ones, or one where no weight is trained."""
        return self.forward + 2 * self.weights + self.inputs_only

    @property
    def true(self) -> int:
        """Count the multiplications and additions that were really done."""
        return 2 * (self.forward + self.weights + self.inputs)


@contextlib.contextmanager
def counting(network: Modular) -> Iterator[dict[str, Count]]:
    """Count what every convolution and linear layer of `network` computes, forward and backward, by the layer's name.

    Each call of a layer gets its own view of weight and input, and a view whose gradient is computed tells of it.
    """
    found: dict[str, Count] = {}
    hooks: list[RemovableHandle] = []

    def tapped(tensor: torch.Tensor, passes: list[str], what: str) -> torch.Tensor:
        view = tensor.view_as(tensor)
        if view.requires_grad:
            view.register_hook(lambda _: passes.append(what))  # type: ignore[no-untyped-call]
        return view

    def watch(name: str, layer: nn.Module) -> None:
        weight = layer.get_parameter("weight")

        def before(layer: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            passes: list[str] = []
            calls.append((name, passes))
            layer._parameters["weight"] = tapped(weight, passes, "weights")  # type: ignore[assignment]
            return (tapped(inputs[0], passes, "inputs"),)

        def after(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
            layer._parameters["weight"] = weight
            sizes.append(weight.numel() * (output.numel() // len(weight)))

        hooks.extend((layer.register_forward_pre_hook(before), layer.register_forward_hook(after)))

    calls: list[tuple[str, list[str]]] = []  # names, and the passes backward that came of each call
    sizes: list[int] = []  # multiply-adds of each call
    for name, layer in network.named_modules():
        if isinstance(layer, WEIGHTED):
            watch(name, layer)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    for (name, passes), size in zip(calls, sizes, strict=True):
        count = found.setdefault(name, Count())
        count.forward += size
        count.weights += size * passes.count("weights")
        count.inputs += size * passes.count("inputs")
        count.inputs_only += size * ("weights" not in passes and "inputs" in passes)


def layers(module: nn.Module, input_shape: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Give the multiply-adds of every convolution and linear layer of `module`, in the order of execution, on one input.

    Each weight is multiplied once per output of its unit: per pixel of a convolution, once in a linear layer (appendix B).
    """
    device = next(module.parameters(), torch.empty(0)).device
    with counting(module) as found, torch.no_grad():
        module(blank(input_shape, 1, dtype, device))
    return {name: count.forward for name, count in found.items()}


@dataclass(frozen=True)
class Costs:
    """Operations of an agent in both conventions: each method gives (paper, true).

    images, embeddings: of a transition's share of an update, (paper, true). batch_size: of updates on either. acting:
    multiply-adds of the policy above the seam. E: of one forward pass of everything below it. EN: the same, a layer that N
    networks share counted N times. copies: K, embeddings stored per observation. views: images that are embedded per new
    observation once frozen, the one acted on included.
    """

    images: tuple[Fraction, Fraction]
    embeddings: tuple[Fraction, Fraction]
    acting: int
    E: int
    EN: int
    batch_size: tuple[int, int]
    copies: int = 1
    views: int = 1

    @property
    def EKN(self) -> int:
        """Count the operations of one observation's embeddings, as the paper does."""
        return self.copies * self.EN

    def update(self, frozen: bool) -> tuple[int, int]:
        """Count the operations (paper, true) of one gradient step: b F (E + M) + 2 b B (E + M), without E once frozen."""
        paper, true = (self.batch_size[frozen] * one for one in (self.embeddings if frozen else self.images))
        return round(paper), round(true)

    def act(self, frozen: bool) -> tuple[int, int]:
        """Count the operations (paper, true) of one step: acting, which the paper omits, and once frozen E K N to embed it."""
        return (self.EKN if frozen else 0), 2 * (self.acting + self.E * (self.views if frozen else 1))

    def freeze(self, observations: int) -> tuple[int, int]:
        """Count the operations (paper, true) of the freeze: E K N per observation in the replay."""
        return self.EKN * observations, 2 * self.E * self.copies * observations


def measure(agent: Agent, obs_shape: Shapes, batch_size: tuple[int, int], copies: int = 1, views: int = 1) -> Costs:
    """Count the operations of real updates and a real act of a copy of `agent`, on images `obs_shape` and on embeddings.

    A cycle of updates (`Agent.period`) is computed on either side, with as few transitions as there can be. The agent, its
    generator and PyTorch's are as before.
    """
    with torch.random.fork_rng(devices=[]):
        sides = [_counted(agent, obs_shape, frozen) for frozen in (False, True)]
        with counting(copied := _copy(agent)) as acting, torch.no_grad():
            copied.policy(blank(_embedded(agent), 1, torch.float32, _device(agent)))
    below = layers(agent.lower, agent.obs_shape, torch.uint8)
    own = {
        name for name, module in agent.lower.named_modules() if isinstance(module, ActorCriticEmbedding)
    }  # one network's each
    E = sum(below.values())
    once = sum(size for name, size in below.items() if any(name.startswith(f"{one}.") for one in own))
    EN = agent.sharing * (E - once) + once
    return Costs(sides[0], sides[1], sum(count.forward for count in acting.values()), E, EN, batch_size, copies, views)


LEAST = 2  # transitions: of a single one, batch statistics and contrastive losses are nothing


def _counted(agent: Agent, obs_shape: Shapes, frozen: bool) -> tuple[Fraction, Fraction]:
    """Count a transition's share of the operations (paper, true) of an update, averaged over a cycle of updates."""
    copied, device = _copy(agent), _device(agent)
    if frozen:
        for module in (copied.lower, copied.target_lower):
            module.requires_grad_(False)
    obs = blank(_embedded(agent), LEAST, torch.float32, device) if frozen else blank(obs_shape, LEAST, torch.uint8, device)
    ones = torch.ones(LEAST, device=device)
    action = torch.zeros(LEAST, agent.actions, device=device) if agent.continuous else ones.long() * 0
    with counting(copied) as found:
        for _ in range(agent.period):
            copied.update(Batch(obs, action, ones, ones, obs, np.arange(LEAST), ones))
    share = LEAST * agent.period
    counts = found.values()
    return Fraction(sum(count.paper for count in counts), share), Fraction(sum(count.true for count in counts), share)


def _embedded(agent: Agent) -> Shapes:
    """Return the shapes of observations once their images are embedded."""
    z: Shapes = output_shape(agent.lower, agent.obs_shape, torch.uint8)
    return {**agent.obs_shape, **z} if isinstance(agent.obs_shape, Mapping) and isinstance(z, Mapping) else z


def _copy(agent: Agent) -> Agent:
    """Copy all of the agent, with a generator of its own."""
    return copy.deepcopy(agent, {id(agent.generator): torch.Generator().manual_seed(0)})


def _device(agent: Agent) -> torch.device:
    device: torch.device = next(agent.lower.parameters()).device
    return device
