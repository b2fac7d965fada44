"""What a run leaves behind: its settings and its agent, written so that a crash leaves the old file or the new one."""

import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from seer_rl.config import TrainConfig, from_toml, name_of, to_toml

CONFIG, AGENT = "config.toml", "agent.safetensors"


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, sync, then rename over it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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
    weights = {name: tensor.contiguous() for name, tensor in agent.state_dict().items()}
    data = safetensors.torch.save(weights, {"agent": name_of(config.agent), "env": config.env})
    write_atomically(run_dir / AGENT, data)


def load_agent(run_dir: Path, agent: nn.Module, config: TrainConfig) -> None:
    """Read the weights into `agent`. Raises ValueError if they are damaged or another agent's; `agent` is then unchanged."""
    path = run_dir / AGENT
    if not path.is_file():
        raise ValueError(f"{run_dir} holds no agent yet: {AGENT} is written at the first evaluation")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    wanted = {name: tensor.shape for name, tensor in agent.state_dict().items()}
    kind = name_of(config.agent)
    if header.get("agent") != kind or {name: tensor.shape for name, tensor in weights.items()} != wanted:
        found = f"a {header.get('agent', 'nameless')} agent for {header.get('env', 'no known environment')}"
        raise ValueError(f"{path} holds {found}, but the settings beside it are those of {kind} for {config.env}")
    agent.load_state_dict(weights)
