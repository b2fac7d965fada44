"""What a run leaves behind, so that a crash at any instant leaves the old state or the new one.

`config.toml` and `agent.safetensors` are single files, written beside and renamed. A checkpoint holds the whole run. It is a
manifest, `checkpoints/STEP.json`, that names blobs in the same directory by their SHA-256. A blob never changes: what is as it
was in the checkpoint before is not written again, a manifest is complete or not there, and damage is found. Nothing is code.

Only files named by 64 hex digits or STEP.json are ever removed from `checkpoints/`; what else lies there is left alone, and so
is every link. A damaged file is moved aside, not removed.
"""

import contextlib
import hashlib
import json
import re
import secrets
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from seer_rl import outside
from seer_rl.agents.base import Agent
from seer_rl.agents.networks import scale_of, set_scale
from seer_rl.training import files, weights
from seer_rl.training.config import FORMER, TrainConfig, from_toml, identity, name_of, to_toml
from seer_rl.training.files import Bytes, Folder, Refused
from seer_rl.training.transfer import receive_all

CONFIG, AGENT, CHECKPOINTS, ANALYSIS = "config.toml", "agent.safetensors", "checkpoints", "analysis"
HEADER = "seer-rl"  # of agent files: the entry that says whose weights they are
FORMAT = 3  # of manifests
BLOB = re.compile(r"[0-9a-f]{64}")  # the name of a blob: the SHA-256 of what is in it; or of one that is being written
MANIFEST = re.compile(r"[0-9]{12,18}\.json")
FIRST_SCALE = "uint8 / 255"  # of pixels, in files that say nothing of it: those of version 0.1.0
ASIDE = ".damaged"  # behind the name of a file that is not what was written


def save_config(run_dir: Path, config: TrainConfig) -> None:
    files.write_atomically(run_dir / CONFIG, to_toml(config).encode())


def load_config(run_dir: Path) -> TrainConfig:
    """Read the settings of the run in `run_dir`. Raises ValueError if it is none."""
    path = run_dir / CONFIG
    try:
        return from_toml(files.read(path).decode())
    except FileNotFoundError:
        raise ValueError(f"{run_dir} is no run: there is no {CONFIG} in it") from None
    except NotADirectoryError:
        raise ValueError(f"{run_dir} is no run: it is no directory") from None
    except outside.Unavailable as error:
        raise ValueError(f"{run_dir} needs code of others: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def save_agent(run_dir: Path, agent: Agent, config: TrainConfig, frozen: bool = False) -> None:
    """Write all weights of the agent, online and target, as safetensors; the header says of what run they are.

    frozen: whether the encoder is.
    """
    files.write_atomically(run_dir / AGENT, _weights_file(weights.tensors(agent), agent, config, frozen))


def save_snapshot(run_dir: Path, step: int, agent: Agent, config: TrainConfig, frozen: bool = False) -> None:
    """Write the online network's weights as of `step`, for looking inside; otherwise as `save_agent`."""
    online = {name: tensor for name, tensor in weights.tensors(agent).items() if not name.startswith("target_")}
    with Folder(run_dir) as run, run.inner(ANALYSIS, create=True) as folder:
        folder.write(snapshot(run_dir, step).name, _weights_file(online, agent, config, frozen))


def snapshot(run_dir: Path, step: int) -> Path:
    """Return the path of the snapshot of `step`."""
    return run_dir / ANALYSIS / f"{step:012d}.safetensors"


def snapshots(run_dir: Path) -> list[int]:
    """Return the steps that a run has snapshots of, in order. Raises ValueError if it has none."""
    found = (re.fullmatch(r"([0-9]{12,18})\.safetensors", path.name) for path in (run_dir / ANALYSIS).glob("*.safetensors"))
    steps = sorted(int(match[1]) for match in found if match)
    if not steps:
        raise ValueError(f"{run_dir} has no snapshots to look into: train it with --analysis.every 10000")
    return steps


def _weights_file(state: dict[str, torch.Tensor], agent: Agent, config: TrainConfig, frozen: bool) -> bytes:
    about = {"agent": name_of(config.agent), "env": config.env, "scale": scale_of(agent), "settings": identity(config, frozen)}
    return weights.dump(state, HEADER, about)


def load_agent(run_dir: Path, agent: Agent, config: TrainConfig) -> None:
    """Read the weights into `agent`. Raises ValueError if they are damaged or another agent's; `agent` is then unchanged."""
    try:
        _load_weights(run_dir / AGENT, agent, config, weights.tensors(agent))
    except FileNotFoundError:
        raise ValueError(f"{run_dir} holds no agent yet: {AGENT} is written at the first evaluation") from None


def load_snapshot(run_dir: Path, step: int, agent: Agent, config: TrainConfig) -> None:
    """Read the online weights of `step` into `agent`; otherwise as `load_agent`."""
    online = {name: tensor for name, tensor in weights.tensors(agent).items() if not name.startswith("target_")}
    _load_weights(snapshot(run_dir, step), agent, config, online)


def _load_weights(path: Path, agent: Agent, config: TrainConfig, wanted: dict[str, torch.Tensor]) -> None:
    found, about = weights.load(path, HEADER, agents=True)
    kind, shapes = name_of(config.agent), {name: tensor.shape for name, tensor in wanted.items()}
    theirs, ours = about.get("settings", {}), identity(config, frozen=True)  # version 0.1.0 wrote none
    if not isinstance(theirs, dict):
        raise ValueError(f"{path} is damaged: its settings are no table")
    if about.get("agent") == kind:
        for name in sorted(theirs.keys() - ({f"environment.{former}" for former in FORMER} - ours.keys())):
            if theirs[name] != ours.get(name):
                raise ValueError(
                    f"{path} is of a run whose {name} is {theirs[name]!r}, but the settings beside it say {ours.get(name)!r}: "
                    "put the files of one run together again"
                )
    if about.get("agent") != kind or {name: tensor.shape for name, tensor in found.items()} != shapes:
        whose = f"a {about.get('agent', 'nameless')} agent for {about.get('env', 'no known environment')}"
        raise ValueError(f"{path} holds {whose}, but the settings beside it are those of {kind} for {config.env}")
    try:
        set_scale(agent, about.get("scale", FIRST_SCALE))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    agent.load_state_dict(agent.state_dict() | found)


# ---- whole runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: its step, its state, and its larger pieces by name."""

    step: int
    state: dict[str, Any]
    blobs: dict[str, str]  # names of the pieces' blobs
    piece: Callable[[str], bytes]


class Other(ValueError):
    """A checkpoint that another version wrote, in a sentence."""


class Damage(Exception):
    """A checkpoint that is not what was written, in a sentence; the file that is to be moved aside, if there is one."""

    def __init__(self, sentence: str, name: str | None = None) -> None:
        super().__init__(sentence)
        self.name = name


def save(
    run_dir: Path, step: int, state: dict[str, Any], pieces: Iterable[tuple[str, Bytes | str]], keep: int
) -> dict[str, str]:
    """Write a checkpoint of `step`; then forget all but the newest `keep`. Returns the names of the pieces' blobs.

    state: a tree of dicts and lists with numbers, text, arrays and tensors. pieces: by name, bytes or the name of a
    blob that was written before and holds the same. An OSError leaves the checkpoints that were there.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain = _flatten(state, arrays)
    with Folder(run_dir) as run, run.inner(CHECKPOINTS, create=True) as folder:
        blobs = {"arrays": _blob(folder, safetensors.numpy.save(arrays))}
        names = {name: data if isinstance(data, str) else _blob(folder, data) for name, data in pieces}
        text = json.dumps({"format": FORMAT, "step": step, "state": plain, "blobs": blobs | names})
        run.sync()  # the directory's name is on disk,
        folder.sync()  # and the blobs' names, before the manifest's
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder.write(f"{step:012d}.json", f"{digest}\n{text}".encode(), beside=secrets.token_hex(32))
        folder.sync()
        _forget(folder, keep)
    return names


def load(run_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest checkpoint of a run that is whole; None if there never was one.

    Damaged ones are named through `say` and moved aside. Raises ValueError if all of them are, or were the last time, and for
    one of another format; OSError where one cannot be read: it may be whole.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(stack.enter_context(Folder(run_dir)).inner(CHECKPOINTS))
        except FileNotFoundError:
            return None
        manifests = _manifests(folder)
        lists = [_listed(folder, manifest) for manifest in manifests]
        blobs = {name for name in folder.names() if BLOB.fullmatch(name)}
        if None not in lists and not blobs <= {name for names in lists for name in names or ()}:
            say(f"{run_dir} has parts of a checkpoint without its list: it was killed while it wrote them, or the list is lost")
        for manifest in manifests:
            try:
                return _read(folder, manifest)
            except Damage as damage:
                say(f"{damage}: going back to the checkpoint before")
                for name in {damage.name or manifest, manifest}:
                    folder.rename(name, name + ASIDE)
            except Refused:
                raise
            except OSError as error:
                what = f"{error.filename or folder.path / manifest} cannot be read ({error.strerror})"
                raise OSError(f"{what}; nothing was changed: make it readable, then resume again") from error
        if manifests or any(MANIFEST.fullmatch(name.removesuffix(ASIDE)) for name in folder.names()):
            raise ValueError(f"every checkpoint of {run_dir} is damaged: begin anew with another --run-dir, or remove it")
        return None


def listed(manifest: Path) -> set[str] | None:
    """Return the blobs that a manifest names, or None if it cannot be read."""
    try:
        with Folder(manifest.parent) as folder:
            return _listed(folder, manifest.name)
    except OSError:
        return None


def newest(run_dir: Path) -> int | None:
    """Return the step of the newest checkpoint of `run_dir`, looking at names only."""
    try:
        with Folder(run_dir) as run, run.inner(CHECKPOINTS) as folder:
            return max((int(name.partition(".")[0]) for name in _manifests(folder)), default=None)
    except OSError:
        return None


def tidy(run_dir: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a run, and what no checkpoint needs. Warns of what cannot be removed."""
    try:
        with Folder(run_dir) as run:
            with run.inner(CHECKPOINTS) as folder:
                _forget(folder, keep)
            if not keep:
                with contextlib.suppress(OSError):  # what is not ours lies in it
                    run.remove_inner(CHECKPOINTS)
    except FileNotFoundError:
        pass
    except OSError as error:
        warnings.warn(f"{run_dir / CHECKPOINTS} could not be tidied up ({error})", stacklevel=2)


def _manifests(folder: Folder) -> list[str]:
    """Return the names of the manifests in a folder, the newest first."""
    return sorted((name for name in folder.names() if MANIFEST.fullmatch(name) and folder.size(name) is not None), reverse=True)


def _listed(folder: Folder, manifest: str) -> set[str] | None:
    try:
        return set(json.loads(folder.read(manifest).partition(b"\n")[2])["blobs"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        return None


def _read(folder: Folder, manifest: str) -> Checkpoint:
    """Read a checkpoint, all of whose blobs must be there and whole."""
    path = folder.path
    digest, _, text = folder.read(manifest).partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise Damage(f"{path / manifest} is damaged")

    def piece(name: str) -> bytes:
        blob = body["blobs"][name]
        if not BLOB.fullmatch(blob):
            raise Damage(f"{path / manifest} names {blob!r}, which is no part of a checkpoint")
        with Folder(path.parent) as run, run.inner(path.name) as folder:
            try:
                data = folder.read(blob)
            except FileNotFoundError:
                raise Damage(f"{path / blob} is missing") from None
        if hashlib.sha256(data).hexdigest() != blob:
            raise Damage(f"{path / blob} is damaged", blob)
        return data

    try:
        body = json.loads(text)  # what has its checksum was written by `save`, or by someone who wants to be read
        if body["format"] != FORMAT:
            raise Other(
                f"{path / manifest} is of format {body['format']!r:.20}, and this version of seer-rl reads {FORMAT}: resume it "
                "with the version that wrote it; nothing was changed"
            )
        for name in body["blobs"]:  # one at a time: all of them may be more than fits
            piece(name)
        state = _unflatten(body["state"], safetensors.numpy.load(piece("arrays")))
        return Checkpoint(body["step"], state, body["blobs"], piece)
    except Other:
        raise
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise Damage(f"{path / manifest} is no checkpoint ({error})") from error


def _blob(folder: Folder, data: Bytes) -> str:
    """Write `data` under its own checksum, unless it is there already; return that name."""
    name = hashlib.sha256(data).hexdigest()
    if folder.size(name) != memoryview(data).nbytes:
        folder.write(name, data, beside=secrets.token_hex(32))  # which is tidied up like a blob after a kill
    return name


def _forget(folder: Folder, keep: int) -> None:
    """Remove all but the newest `keep` manifests, and the blobs that none of the kept ones names."""
    manifests = _manifests(folder)
    lists = [_listed(folder, manifest) for manifest in manifests[:keep]]
    unneeded = manifests[keep:]
    if None not in lists:  # one that cannot be read may name any blob
        used = {name for names in lists for name in names or ()}
        unneeded += [n for n in folder.names() if BLOB.fullmatch(n) and n not in used and folder.size(n) is not None]
    for name in unneeded:
        try:
            folder.remove(name)
        except OSError as error:
            warnings.warn(f"{folder.path / name} could not be removed ({error.strerror})", stacklevel=2)


def _flatten(tree: Any, arrays: dict[str, np.ndarray[Any, Any]], path: str = "") -> Any:
    """Move the arrays and tensors of a tree into `arrays`, by their path; return what is left, which is JSON."""
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
    """Undo `_flatten`, but for tensors and tuples, which are arrays and lists now."""
    if isinstance(tree, dict):
        if tree.keys() == {"array", "shape"} and str(tree["array"]).startswith("/"):  # environments may have such names, too
            return arrays[tree["array"]].reshape(tree["shape"])
        return {key: _unflatten(value, arrays) for key, value in tree.items()}
    return [_unflatten(value, arrays) for value in tree] if isinstance(tree, list) else tree


# ---- agents ------------------------------------------------------------------------------------------------------


def agent_state(agent: Agent) -> dict[str, Any]:
    """Return weights, optimizers, whatever else the agent calls its state, and its random numbers."""
    return {
        "weights": weights.tensors(agent),
        "extra": {name: value for name, value in agent.state_dict().items() if not isinstance(value, torch.Tensor)},
        "optimizers": {name: _moments(optimizer) for name, optimizer in _optimizers(agent).items()},
        "scale": scale_of(agent),
        "generator": agent.generator.get_state(),
    }


def not_finite(agent: Agent) -> str | None:
    """Return the name of the first weight or moment of an optimizer that holds NaN or infinity; None if all are finite."""
    moments = {
        f"{name}'s {key} of parameter {i}": tensor
        for name, optimizer in _optimizers(agent).items()
        for i, state in _moments(optimizer).items()
        for key, tensor in state.items()
    }
    return next((name for name, tensor in (weights.tensors(agent) | moments).items() if not tensor.isfinite().all()), None)


def set_agent_state(agent: Agent, state: dict[str, Any]) -> None:
    """Restore what `agent_state` gave, wherever the seam was then. Raises ValueError for the state of another agent."""
    saved = {name: torch.from_numpy(value.copy()) for name, value in state["weights"].items()}
    extra = state.get("extra")
    if extra is None:  # written before format 3 of weights
        saved = weights.renamed(saved)
        extra = {"_extra_state": agent.get_extra_state() | state["counters"]}
    own = {name for name, value in agent.state_dict().items() if not isinstance(value, torch.Tensor)}
    if extra.keys() != own:
        raise ValueError(f"the checkpoint holds the state {sorted(extra)} beside the weights, this agent has {sorted(own)}")
    receive_all(agent, saved)
    agent.load_state_dict(agent.state_dict() | extra)
    for name, optimizer in _optimizers(agent).items():
        moments = {int(i): {k: torch.from_numpy(v.copy()) for k, v in m.items()} for i, m in state["optimizers"][name].items()}
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    set_scale(agent, state.get("scale", FIRST_SCALE))
    agent.generator.set_state(torch.from_numpy(state["generator"].copy()))


def _optimizers(agent: Agent) -> dict[str, torch.optim.Optimizer]:
    return {name: value for name, value in vars(agent).items() if isinstance(value, torch.optim.Optimizer)}


def _moments(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    moments: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return moments
