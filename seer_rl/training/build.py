"""What a run is built from: the agent, the environment and the replay that its settings name, and what they cost together."""

import functools
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from seer_rl import envs, outside
from seer_rl.agents.base import Agent
from seer_rl.agents.flops import Costs, measure
from seer_rl.agents.networks import AutocastSequential, blank, output_shape, scale_of
from seer_rl.envs.base import EnvConfig, frames_in, max_episode_steps, obs_shape
from seer_rl.envs.vector import VectorEnv
from seer_rl.replay.observation import Obs, Shapes
from seer_rl.replay.replay import Replay
from seer_rl.seer import copies_of, views
from seer_rl.training import checkpoint, rundir, trial
from seer_rl.training.config import AGENTS, TrainConfig, TransferConfig, agent_called, check_numbers, name_of
from seer_rl.training.transfer import load_encoder, receive_all, receive_encoder
from seer_rl.training.weights import tensors


def choose_device(name: str) -> torch.device:
    """Return the device to train on: auto, cpu or cuda. Raises ValueError if it is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"there is no device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "PyTorch finds no CUDA device here: train with --device cpu, or go on with such a run where there is one"
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def env_settings(config: TrainConfig) -> EnvConfig:
    """Return those of `config`, with frames of the size that its agent is made for: 84, which others crop from 100."""
    if getattr(config.environment, "size", 0) is not None:  # chosen, or no setting of the family
        return config.environment
    size: Any = {"size": 100 if hasattr(config.agent, "crop") else 84}
    return replace(config.environment, **size)


def make_env(config: TrainConfig, training: bool, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make the environment that `config` names."""
    return envs.make(config.env, training, env_settings(config), render_mode)


def start_env(config: TrainConfig) -> VectorEnv:
    """Make the environments to train in, in processes of their own."""
    return VectorEnv(config.env, env_settings(config), config.environment.num_envs)


def make_agent(config: TrainConfig, env: gym.Env[Any, Any], seed: int) -> Agent:
    """Make the agent that `config` names, for the spaces of `env`; its initial weights follow from the settings' seed.

    seed: of the agent's own generator. Raises ValueError where agent and environment do not go together.
    """
    kind, space = agent_called(name_of(config.agent)), env.action_space
    continuous = not isinstance(space, gym.spaces.Discrete)
    if kind.continuous != continuous:
        fitting = " or ".join(name for name, one in AGENTS.items() if one.continuous == continuous)
        raise ValueError(
            f"the actions of {config.env} are {'continuous' if continuous else 'discrete'}, which {kind.name} cannot choose: "
            f"use --agent {fitting}"
        )
    actions = int(space.n) if isinstance(space, gym.spaces.Discrete) else (space.shape or (0,))[0]
    with torch.random.fork_rng(devices=[]):  # PyTorch draws initial weights from the process's generator
        torch.default_generator.manual_seed(config.seed)
        agent = _made(kind, config, obs_shape(env), actions, seed)
    for module in agent.modules():
        if isinstance(module, AutocastSequential):
            module.set_precision(getattr(torch, config.precision))
    return agent


def _made(kind: type[Agent], config: TrainConfig, shapes: Shapes, actions: int, seed: int) -> Agent:
    """Make the agent. Raises ValueError, in a sentence, where code from elsewhere fails to."""
    try:
        return kind(config.agent, shapes, actions, config.seer.layers, seed)
    except Exception as error:  # of many kinds, where it is code of others
        if not outside.is_outside(name_of(config.agent)):
            raise
        raise _unable(config, error) from error


def require_contract(agent: Agent, env: gym.Env[Any, Any], config: TrainConfig) -> None:
    """Try an agent from elsewhere once. Raises ValueError, in a sentence, where it is not as `agents.base.Agent` says."""
    if outside.is_outside(name_of(config.agent)):
        try:
            trial.check(agent, obs_shape(env), config.environment.num_envs, config.agent.batch_size)
        except Exception as error:
            raise _unable(config, error) from error


def _unable(config: TrainConfig, error: Exception) -> Exception:
    """Return what to raise where an agent from elsewhere cannot be made or tried: `error` itself where memory was lacking."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "alloc" in outside.told(error)):
        return error
    said = str(error) if isinstance(error, ValueError) and not outside.place(error) else outside.told(error)
    return ValueError(f"the agent {name_of(config.agent)} cannot learn in {config.env}: {said}")


def make_replay(config: TrainConfig, env: gym.Env[Any, Any], agent: Agent, seed: int) -> Replay:
    """Make the replay that `config` asks for. Without a limit it holds every step of the run, before and after the freeze."""
    capacity, memory = config.replay.capacity, config.replay.memory
    if memory == "auto":
        raise ValueError("how much memory is left for the replay is for seer_rl.training.rehearsal.settle to find out")
    build = functools.partial(
        Replay, obs_shape(env), env.action_space.shape or (), action_dtype(env.action_space),
        lanes=config.environment.num_envs, stack=frames_in(env), n_step=config.agent.n_step, discount=config.agent.discount,
        priority_exponent=config.replay.priority_exponent, seed=seed,
    )  # fmt: skip
    if capacity is not None or memory is not None:
        return build(memory=memory, capacity=capacity)
    steps = every_step(config, env)
    replay = build(capacity=steps)
    if config.seer.freeze_step is not None:
        z = output_shape(agent.lower, agent.obs_shape, torch.uint8)
        embedded = replay.bytes_for(config.seer.dtype, embeddings_of(agent, env, config)[0], z)
        if embedded > replay.bytes_per_step:  # larger than the frames: room for as many
            replay = build(memory=steps * embedded)
    return replay


def require_batch(config: TrainConfig, capacity: int, stack: int, batch_size: int) -> None:
    """Raise ValueError if a batch of different steps cannot be drawn from a replay of `capacity` steps."""
    agent, budget = config.agent, config.replay
    if capacity < (least := batch_size + config.environment.num_envs * (agent.n_step + stack)):
        given = f"{budget.memory:,} bytes" if budget.memory else f"{budget.capacity or config.steps:,} steps of frames"
        raise ValueError(
            f"a replay of {given} would hold {capacity} steps{'' if stack > 1 else ' of embeddings'}, too few for batches of "
            f"{batch_size} {agent.n_step}-step returns: it must hold at least {least}"
        )


def action_dtype(space: gym.Space[Any]) -> np.dtype[Any]:
    """Return the smallest type that holds an action."""
    return np.min_scalar_type(int(space.n) - 1) if isinstance(space, gym.spaces.Discrete) else np.dtype(np.float32)


def every_step(config: TrainConfig, env: gym.Env[Any, Any]) -> int:
    """Count the records that hold every step of a run: one each, one for the newest observation, one for each truncation."""
    longest, lanes = max_episode_steps(env), config.environment.num_envs
    steps = config.steps // lanes
    truncations = steps // longest if longest else 0
    return lanes * (steps + truncations + config.agent.n_step + frames_in(env) + 1)  # the least a replay needs


def embeddings_of(agent: Agent, env: gym.Env[Any, Any], config: TrainConfig) -> tuple[int, int]:
    """Count the embeddings that are stored of an observation (K), and all that are made of it, the one to act on included.

    An agent that augments draws random numbers for it, as it does for every observation.
    """
    obs: Obs = blank(obs_shape(env), 1, torch.uint8)
    obs = {key: x for key, x in obs.items() if x.dtype == torch.uint8} if isinstance(obs, dict) else obs
    copies = copies_of(agent, obs, config.seer.copies)
    return copies, len(views(agent, obs, copies, current=True))


def costs(agent: Agent, env: gym.Env[Any, Any], config: TrainConfig) -> Costs:
    """Count the operations of `agent` on the observations of `env`."""
    batch_sizes = config.agent.batch_size, config.seer.batch_size or config.agent.batch_size
    return measure(agent, obs_shape(env), batch_sizes, *embeddings_of(agent, env, config))


def default_run_dir(config: TrainConfig) -> Path:
    """Return runs/ENV__AGENT__SEED__TIME, with a number behind it if that is taken."""
    agent = agent_called(name_of(config.agent)).name
    env = re.sub(r"[/:]", "-", config.env)
    name = f"{env}__{agent}__{config.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    taken = (Path("runs") / (name + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for path in taken if not os.path.lexists(path))


def trained(
    run_dir: Path, config: TrainConfig, render_mode: str | None = None, single: bool = False
) -> tuple[Agent, gym.Env[Any, Any]]:
    """Load the agent that a run with these settings saved last, and make its environment. Raises ValueError without either.

    single: the caller needs observations that are one image; raises ValueError for dictionaries.
    """
    check_numbers(config)  # the file may have been edited
    env = make_env(config, training=False, render_mode=render_mode)
    try:
        if single and isinstance(shapes := obs_shape(env), Mapping):
            raise ValueError(
                f"the observations of {config.env} are dictionaries of {', '.join(shapes)}: this needs a single image"
            )
        agent = make_agent(config, env, seed=0)
        checkpoint.load_agent(run_dir, agent, config)
        rundir.require_result(run_dir, checkpoint.AGENT, config.steps)
    except BaseException:
        env.close()
        raise
    return agent, env


def receive(agent: Agent, settings: TransferConfig) -> None:
    """Give `agent` the weights that `settings` name. Raises ValueError where there are none, or they don't fit."""
    source = settings.source
    assert source
    if source.is_file():
        if settings.only != "encoder":
            raise ValueError(f"{source} is a file with an encoder at most: add --transfer.only encoder")
        weights, about = load_encoder(source)
        shape: Shapes = tuple(about["images"])
        scale = about.get("scale", checkpoint.FIRST_SCALE)
    else:
        config = checkpoint.load_config(source)
        donor, env = trained(source, config)
        env.close()
        if settings.only == "all" and donor.name != agent.name:
            raise ValueError(
                f"{source} is of {donor.name}, not {agent.name}: its encoder alone may fit: --transfer.only encoder"
            )
        shape, scale = donor.obs_shape, scale_of(donor)
        weights = tensors(donor.encoder if settings.only == "encoder" else donor)
    if shape != agent.obs_shape:
        theirs, ours = ("x".join(map(str, one)) if isinstance(one, tuple) else one for one in (shape, agent.obs_shape))
        raise ValueError(f"{source} has learnt from images of {theirs}, here they are {ours}")
    if scale != scale_of(agent):
        raise ValueError(f"{source} has learnt from pixels as {scale!r}, {agent.name} makes {scale_of(agent)!r} of them")
    try:
        (receive_encoder if settings.only == "encoder" else receive_all)(agent, weights)
    except ValueError as error:
        raise ValueError(f"{source} does not fit: {error}") from error
