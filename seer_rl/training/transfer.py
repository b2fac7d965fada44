"""Carrying what was learnt to another task: the encoder (domain transfer) or the whole network (task transfer, section 5.4).

An encoder's weights are named by layer (conv1.weight, embedding.critic.fc1.weight), wherever the seam of its agent lies. Its
file is safetensors with one header entry: where it comes from, and what images it takes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seer_rl.agents.base import Agent
from seer_rl.training import weights
from seer_rl.training.weights import Weights, tensors

HEADER = "seer-rl encoder"


def receive_encoder(agent: Agent, donor: Mapping[str, torch.Tensor]) -> None:
    """Give `agent` the encoder weights `donor`, online and target. Raises ValueError, with nothing changed, for another."""
    own = tensors(agent.encoder)
    if own.keys() != donor.keys():
        raise ValueError(
            f"that is another encoder: it has {len(donor)} arrays ({', '.join(sorted(donor)[:2])}, ...), "
            f"this agent's {len(own)}"
        )
    for name, tensor in own.items():
        if tensor.shape != donor[name].shape:
            theirs, ours = tuple(donor[name].shape), tuple(tensor.shape)
            raise ValueError(f"that encoder is for other images: its {name} is {theirs}, here it is {ours}")
    agent.encoder.load_state_dict(agent.encoder.state_dict() | dict(donor))
    agent.target_encoder.load_state_dict({name: donor.get(name, x) for name, x in agent.target_encoder.state_dict().items()})


def receive_all(agent: Agent, donor: Mapping[str, torch.Tensor]) -> None:
    """Give `agent` all weights of another of its kind, wherever either's seam lies. Raises ValueError if they don't fit."""
    own = tensors(agent)
    for name, tensor in own.items():
        if name not in donor or donor[name].shape != tensor.shape:
            found = tuple(donor[name].shape) if name in donor else "not there"
            raise ValueError(
                f"that network is of another make: {name} is {found}, here it is {tuple(tensor.shape)}; "
                "its encoder alone may fit: --transfer.only encoder"
            )
    agent.load_state_dict(agent.state_dict() | {name: donor[name] for name in own})


def encoder_file(encoder: Weights, about: Mapping[str, Any]) -> bytes:
    """Make the contents of an encoder's file.

    about: plain values: "images", the shape that it takes, "scale", to which it brings their pixels (one of `SCALES`), and
    whatever else is known.
    """
    return weights.dump(encoder, HEADER, about)


def load_encoder(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Read the weights of an encoder's file, and what is known of it. Raises ValueError for any other file."""
    try:
        encoder, about = weights.load(path, HEADER)
        images = about.get("images")
        if not (isinstance(images, list) and all(type(size) is int for size in images)):
            raise ValueError(f"it takes images of {images!r}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no encoder: {error}") from error
    return encoder, about
