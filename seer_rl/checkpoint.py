"""What a run leaves behind, so that a crash at any instant leaves the old state or the new one.

`config.toml` and `agent.safetensors` are single files, written beside and renamed. A checkpoint holds the whole run. It is a
manifest, `checkpoints/STEP.json`, that names blobs in the same directory by their SHA-256. A blob never changes: what is as it
was in the checkpoint before is not written again, a manifest is complete or not there, and damage is found. Nothing is code.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from seer_rl.config import TrainConfig, from_toml, name_of, to_toml

CONFIG, AGENT, CHECKPOINTS, ANALYSIS = "config.toml", "agent.safetensors", "checkpoints", "analysis"
HEADER = "seer-rl"  # of agent files: the entry that says whose weights they are
FORMAT = 3  # of manifests
COUNTERS = ("acts", "updates", "updated_at")  # of agents, as far as they have them
DIGEST = 64  # letters of the name of a blob: the SHA-256 of what is in it
Bytes = bytes | memoryview


def write_atomically(path: Path, data: Bytes) -> None:
    """Write beside `path`, sync, then rename over it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def save_config(run_dir: Path, config: TrainConfig) -> None:
    write_atomically(run_dir / CONFIG, to_toml(config).encode())


def load_config(run_dir: Path) -> TrainConfig:
    """Settings of the run in `run_dir`. Raises ValueError if it is none."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise ValueError(f"{run_dir} is no run: there is no {CONFIG} in it")
    try:
        return from_toml(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def save_agent(run_dir: Path, agent: nn.Module, config: TrainConfig) -> None:
    """All weights of the agent, online and target, as safetensors; the header names the agent and its environment."""
    write_atomically(run_dir / AGENT, _weights_file(agent.state_dict(), config))


def save_snapshot(run_dir: Path, step: int, agent: nn.Module, config: TrainConfig) -> None:
    """The online network's weights as of `step`, for looking inside."""
    (run_dir / ANALYSIS).mkdir(exist_ok=True)
    online = {name: tensor for name, tensor in agent.state_dict().items() if not name.startswith("target_")}
    write_atomically(snapshot(run_dir, step), _weights_file(online, config))


def snapshot(run_dir: Path, step: int) -> Path:
    """Where the one of `step` is."""
    return run_dir / ANALYSIS / f"{step:012d}.safetensors"


def snapshots(run_dir: Path) -> list[int]:
    """The steps that a run has snapshots of, in order. Raises ValueError if it has none."""
    steps = sorted(int(path.stem) for path in (run_dir / ANALYSIS).glob("*.safetensors") if path.stem.isdigit())
    if not steps:
        raise ValueError(f"{run_dir} has no snapshots to look into: train it with --analysis.every 10000")
    return steps


def _weights_file(weights: dict[str, torch.Tensor], config: TrainConfig) -> bytes:
    header = json.dumps({"agent": name_of(config.agent), "env": config.env})  # one entry: safetensors keeps no order of several
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()}, {HEADER: header})


def load_agent(run_dir: Path, agent: nn.Module, config: TrainConfig) -> None:
    """Read the weights into `agent`. Raises ValueError if they are damaged or another agent's; `agent` is then unchanged."""
    path = run_dir / AGENT
    if not path.is_file():
        raise ValueError(f"{run_dir} holds no agent yet: {AGENT} is written at the first evaluation")
    _load_weights(path, agent, config, agent.state_dict())


def load_snapshot(run_dir: Path, step: int, agent: nn.Module, config: TrainConfig) -> None:
    """Read the online weights of `step` into `agent`; otherwise as `load_agent`."""
    online = {name: tensor for name, tensor in agent.state_dict().items() if not name.startswith("target_")}
    _load_weights(snapshot(run_dir, step), agent, config, online)


def _load_weights(path: Path, agent: nn.Module, config: TrainConfig, wanted: dict[str, torch.Tensor]) -> None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    shapes, kind = {name: tensor.shape for name, tensor in wanted.items()}, name_of(config.agent)
    if header.get("agent") != kind or {name: tensor.shape for name, tensor in weights.items()} != shapes:
        found = f"a {header.get('agent', 'nameless')} agent for {header.get('env', 'no known environment')}"
        raise ValueError(f"{path} holds {found}, but the settings beside it are those of {kind} for {config.env}")
    agent.load_state_dict(agent.state_dict() | weights)


# ---- whole runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: its step, its state, and its larger pieces by name."""

    step: int
    state: dict[str, Any]
    blobs: dict[str, str]  # names of the pieces' blobs
    piece: Callable[[str], bytes]


class Damage(Exception):
    """A file of a checkpoint that is not what was written, in a sentence."""


def save(run_dir: Path, step: int, state: dict[str, Any], pieces: dict[str, Bytes | str], keep: int) -> dict[str, str]:
    """Write a checkpoint of `step`; then forget all but the newest `keep`. Returns the names of the pieces' blobs.

    state: a tree of dicts and lists with numbers, text, arrays and tensors. pieces: bytes, or the name of a blob that was
    written before and holds the same. An OSError leaves the checkpoints that were there.
    """
    directory = run_dir / CHECKPOINTS
    directory.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain = _flatten(state, arrays)
    blobs = {"arrays": _blob(directory, safetensors.numpy.save(arrays))}
    names = {name: data if isinstance(data, str) else _blob(directory, data) for name, data in pieces.items()}
    body = {"format": FORMAT, "step": step, "state": plain, "blobs": blobs | names}
    text = json.dumps(body)
    _sync(directory)  # the blobs' names are on disk before the manifest's
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(directory / f"{step:012d}.json", f"{digest}\n{text}".encode())
    _sync(directory)
    _forget(directory, keep)
    return names


def load(run_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole, or None if there never was one.

    Damaged ones are named through `say` and removed. Raises ValueError if all of them are damaged.
    """
    manifests = sorted((run_dir / CHECKPOINTS).glob("*.json"), reverse=True)
    lists = [listed(manifest) for manifest in manifests]
    blobs = {path.name for path in (run_dir / CHECKPOINTS).glob("*") if len(path.name) == DIGEST}
    if None not in lists and not blobs <= {name for names in lists for name in names or ()}:
        say(f"{run_dir} has parts of a checkpoint without its list: it was killed while it wrote them, or the list is lost")
    for manifest in manifests:
        try:
            return _read(manifest)
        except Damage as damage:
            say(f"{damage}: going back to the checkpoint before")
            manifest.unlink(missing_ok=True)
    if manifests:
        raise ValueError(f"every checkpoint of {run_dir} is damaged: start again with another --run-dir")
    return None


def listed(manifest: Path) -> set[str] | None:
    """The blobs that a manifest names, or None if it cannot be read."""
    try:
        return set(json.loads(manifest.read_bytes().partition(b"\n")[2])["blobs"].values())
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None


def newest(run_dir: Path) -> int | None:
    """The step of the newest checkpoint of `run_dir`, looking at names only."""
    steps = [int(path.stem) for path in (run_dir / CHECKPOINTS).glob("*.json") if path.stem.isdigit()]
    return max(steps, default=None)


def _read(manifest: Path) -> Checkpoint:
    """A checkpoint all of whose blobs are there and whole."""
    try:
        digest, _, text = manifest.read_bytes().partition(b"\n")
    except OSError as error:
        raise Damage(f"{manifest} cannot be read ({error.strerror})") from error
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise Damage(f"{manifest} is damaged")
    body = json.loads(text)  # what has its checksum was written by `save`, or by someone who wants to be read
    if body["format"] != FORMAT:
        raise ValueError(f"{manifest} has format {body['format']}: this version of seer-rl reads {FORMAT}")

    def piece(name: str) -> bytes:
        path = manifest.with_name(body["blobs"][name])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Damage(f"{path} cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != path.name:
            path.unlink()  # or the same content, written again, would be taken for already there
            raise Damage(f"{path} is damaged")
        return data

    for name in body["blobs"]:  # one at a time: all of them may be more than fits
        piece(name)
    try:
        state = _unflatten(body["state"], safetensors.numpy.load(piece("arrays")))
        return Checkpoint(body["step"], state, body["blobs"], piece)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Damage(f"{manifest} is no checkpoint ({error})") from error


def _blob(directory: Path, data: Bytes) -> str:
    """Write `data` under its own checksum, unless it is there already; return that name."""
    name = hashlib.sha256(data).hexdigest()
    path = directory / name
    if not (path.exists() and path.stat().st_size == memoryview(data).nbytes):
        write_atomically(path, data)
    return name


def _forget(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` manifests, and the blobs that none of the kept ones names."""
    manifests = sorted(directory.glob("*.json"), reverse=True)
    used = {name for manifest in manifests[:keep] for name in listed(manifest) or ()}
    for manifest in manifests[keep:]:
        manifest.unlink()
    for path in directory.iterdir():
        if path.suffix != ".json" and path.name not in used:
            path.unlink()


def remove(run_dir: Path) -> None:
    """Remove every checkpoint of a run that has ended."""
    directory = run_dir / CHECKPOINTS
    if directory.is_dir():
        _forget(directory, 0)
        directory.rmdir()


def _sync(directory: Path) -> None:
    """Make the names in a directory durable, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _flatten(tree: Any, arrays: dict[str, np.ndarray[Any, Any]], path: str = "") -> Any:
    """The tree with its arrays and tensors moved into `arrays`, by their path; what is left is JSON."""
    if isinstance(tree, dict):
        return {str(key): _flatten(value, arrays, f"{path}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_flatten(value, arrays, f"{path}/{i}") for i, value in enumerate(tree)]
    if isinstance(tree, torch.Tensor | np.ndarray):
        array = tree.numpy(force=True) if isinstance(tree, torch.Tensor) else tree
        arrays[path] = np.ascontiguousarray(array)
        return {"array": path, "shape": list(array.shape)}  # ascontiguousarray makes a number a row of one
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def _unflatten(tree: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The inverse of `_flatten`, but for tensors and tuples, which are arrays and lists now."""
    if isinstance(tree, dict):
        if tree.keys() == {"array", "shape"}:
            return arrays[tree["array"]].reshape(tree["shape"])
        return {key: _unflatten(value, arrays) for key, value in tree.items()}
    return [_unflatten(value, arrays) for value in tree] if isinstance(tree, list) else tree


# ---- agents ------------------------------------------------------------------------------------------------------


def agent_state(agent: nn.Module) -> dict[str, Any]:
    """Weights, optimizers, counters and random state of an agent."""
    return {
        "weights": agent.state_dict(),
        "optimizers": {name: _moments(optimizer) for name, optimizer in _optimizers(agent).items()},
        "counters": {name: getattr(agent, name) for name in COUNTERS if hasattr(agent, name)},
        "generator": agent.generator.get_state(),  # type: ignore[operator, union-attr]
    }


def set_agent_state(agent: nn.Module, state: dict[str, Any]) -> None:
    """The inverse of `agent_state`."""
    agent.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state["weights"].items()})
    for name, optimizer in _optimizers(agent).items():
        moments = {int(i): {k: torch.from_numpy(v.copy()) for k, v in m.items()} for i, m in state["optimizers"][name].items()}
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    agent.generator.set_state(torch.from_numpy(state["generator"].copy()))  # type: ignore[operator, union-attr]


def _optimizers(agent: nn.Module) -> dict[str, torch.optim.Optimizer]:
    return {name: value for name, value in vars(agent).items() if isinstance(value, torch.optim.Optimizer)}


def _moments(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    moments: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return moments
