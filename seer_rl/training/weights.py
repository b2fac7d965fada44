"""Files of weights: safetensors whose one entry of metadata says what they are, with a checksum over everything in the file.

The checksum is the SHA-256 of the file's header, as JSON with sorted keys and without the checksum itself, and of its numbers.
Files of version 0.1.0 have none.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from seer_rl.training import files

Weights = dict[str, torch.Tensor]
FORMAT = 3  # 2: weights were named by which side of the seam they lay on; 1, of version 0.1.0: the same, without a checksum
OLD_NAMES = (  # of weights in files of agents, before format 3, and how they are called since; the first that fits holds
    (re.compile(r"(target_)?(?:lower|convolutions|rest|upper\.rest)\."), r"\1encoder."),
    (re.compile(r"(target_)?upper\.(?:head\.|(?=hidden\.fc1\.|fc2\.))"), r"\1head."),
    (re.compile(r"(target_)?upper\.(?:hidden\.)?"), r"\1encoder."),
    (re.compile(r"(target_)?embedding\."), r"\1encoder.embedding."),
)


def tensors(module: Any) -> Weights:
    """Give the weights of a `torch.nn.Module` by name, without its extra state."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def renamed(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Call an agent's weights, from before format 3, as they are called since."""

    def new(name: str) -> str:
        return next((old.sub(now, name, count=1) for old, now in OLD_NAMES if old.match(name)), name)

    return {new(name): tensor for name, tensor in weights.items()}


def dump(weights: Mapping[str, torch.Tensor], entry: str, about: Mapping[str, Any]) -> bytes:
    """Make the contents of a file of `weights`; the metadata's `entry` holds `about`, plain values, and the checksum."""
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    told = {**about, "format": FORMAT}
    digest = _digest(safetensors.torch.save(plain, {entry: json.dumps(told)}), entry)
    # One entry: safetensors keeps no order of several, and the same weights shall give the same bytes.
    return safetensors.torch.save(plain, {entry: json.dumps(told | {"sha256": digest})})


def load(path: Path, entry: str, agents: bool = False) -> tuple[Weights, dict[str, Any]]:
    """Read a file of weights, and what its metadata's `entry` says of them.

    agents: they are an agent's, whose names were others once.
    Raises ValueError if the file is damaged or has no such entry, OSError if it cannot be read. Warns where it has no checksum.
    """
    data = files.read(path)
    try:
        weights = safetensors.torch.load(data)
        entries = _header(data).get("__metadata__", {})
        if entry not in entries:
            raise ValueError(f"it has no entry {entry!r} that says whose weights they are")
        about = json.loads(entries[entry])
        if not isinstance(about, dict):
            raise ValueError(f"its {entry!r} is no table")
        digest, written = about.pop("sha256", None), about.pop("format", 1)
        if written not in (1, 2, FORMAT) or (written == 1 and digest is not None):
            raise ValueError(f"it has format {written!r}, this version reads {FORMAT}")
        if written != 1 and digest != _digest(data, entry):
            raise ValueError("its checksum does not match what is in it")
    except (safetensors.SafetensorError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if written == 1:
        # One text for all such files, so that it is said once.
        warnings.warn("files of weights written by version 0.1.0 have no checksum: damage would go unseen", stacklevel=2)
    return (renamed(weights) if agents and written < FORMAT else weights), about


def _header(data: bytes) -> dict[str, Any]:
    """Read the table at the front of a safetensors file: 8 bytes of its length, then JSON."""
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def _digest(data: bytes, entry: str) -> str:
    header = _header(data)
    about = json.loads(header["__metadata__"][entry])
    about.pop("sha256", None)
    header["__metadata__"][entry] = json.dumps(about)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return digest.hexdigest()
