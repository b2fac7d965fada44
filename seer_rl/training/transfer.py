"""Carrying what was learnt to another task: the encoder (domain transfer) or the whole network (task transfer, section 5.4).

An encoder's weights are named by layer (conv1.weight, embedding.critic.fc1.weight), wherever the seam of its agent lies. Its
file is safetensors with one header entry: where it comes from, and what images it takes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seer_rl.training import weights
from seer_rl.training.weights import Weights

HEADER = "seer-rl encoder"
LAYER = re.compile(r"(?:^|\.)((?:conv\d+|residual\d+[ab]|embedding|given)\..+)$")


def layer_of(name: str) -> str | None:
    """The encoder's layer that a parameter of an agent belongs to, without where the agent keeps it; None above the encoder."""
    found = LAYER.search(name.removeprefix("target_"))
    return found[1] if found else None


def encoder_weights(agent: Mapping[str, torch.Tensor]) -> Weights:
    """The online encoder's among the weights of an agent, by layer."""
    layers = {name: layer_of(name) for name in agent if not name.startswith("target_")}
    return {layer: agent[name] for name, layer in layers.items() if layer}


def receive_encoder(agent: nn.Module, donor: Mapping[str, torch.Tensor]) -> None:
    """Give `agent` the encoder weights `donor`, online and target. Raises ValueError, with nothing changed, for another."""
    own = agent.state_dict()
    layers = {name: layer for name in own if (layer := layer_of(name))}
    if set(layers.values()) != set(donor):
        here, there = len(set(layers.values())), len(donor)
        raise ValueError(
            f"that is another encoder: it has {there} arrays ({', '.join(sorted(donor)[:2])}, ...), this agent's {here}"
        )
    for name, layer in layers.items():
        if own[name].shape != donor[layer].shape:
            theirs, ours = tuple(donor[layer].shape), tuple(own[name].shape)
            raise ValueError(f"that encoder is for other images: its {layer} is {theirs}, here it is {ours}")
    agent.load_state_dict(own | {name: donor[layer] for name, layer in layers.items()})


def receive_all(agent: nn.Module, donor: Mapping[str, torch.Tensor]) -> None:
    """Give `agent` all weights of another of its kind, wherever either's seam lies. Raises ValueError if they don't fit."""

    def plain(name: str) -> str:
        target = "target_" if name.startswith("target_") else ""
        layer = layer_of(name)
        return target + layer if layer else name

    theirs = {plain(name): tensor for name, tensor in donor.items()}
    own = agent.state_dict()
    for name, tensor in own.items():
        if plain(name) not in theirs or theirs[plain(name)].shape != tensor.shape:
            found = tuple(theirs[plain(name)].shape) if plain(name) in theirs else "not there"
            raise ValueError(
                f"that network is of another make: {plain(name)} is {found}, here it is {tuple(tensor.shape)}; "
                "its encoder alone may fit: --transfer.only encoder"
            )
    agent.load_state_dict({name: theirs[plain(name)] for name in own})


def encoder_file(encoder: Weights, about: Mapping[str, Any]) -> bytes:
    """Make the contents of an encoder's file.

    about: plain values: "images", the shape that it takes, "scale", to which it brings their pixels (one of `SCALES`), and
    whatever else is known.
    """
    return weights.dump(encoder, HEADER, about)


def load_encoder(path: Path) -> tuple[Weights, dict[str, Any]]:
    """The weights of an encoder's file, and what is known of it. Raises ValueError for any other file."""
    try:
        encoder, about = weights.load(path, HEADER)
        images = about.get("images")
        if not (isinstance(images, list) and all(type(size) is int for size in images)):
            raise ValueError(f"it takes images of {images!r}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no encoder: {error}") from error
    return encoder, about
