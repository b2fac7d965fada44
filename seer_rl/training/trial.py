"""Tries an agent from elsewhere before it is trained, so that what is not as `agents.base.Agent` says is told in a sentence."""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from seer_rl.agents.base import Agent
from seer_rl.agents.networks import blank
from seer_rl.replay.observation import Obs, Shapes, keyed, length
from seer_rl.replay.replay import Batch
from seer_rl.seer import embedder


def check(agent: Agent, shapes: Shapes, acting: int, learning: int) -> None:
    """Act and learn once from images and once from embeddings of them, with a copy of `agent`; itself, it stays as it is.

    shapes: of the environment's observations, by key where they are dictionaries. acting, learning: observations to act on at
    once, and transitions to learn from. Raises ValueError, in a sentence, where a method gives something else than the
    contract says. What the agent's own code raises passes.
    """
    _require(isinstance(agent, nn.Module), "the agent", "a torch.nn.Module", agent)
    for name in ("encoder", "target_encoder", "lower", "target_lower"):
        _require(isinstance(getattr(agent, name), nn.Module), name, "a torch.nn.Module", getattr(agent, name))
    _require(isinstance(agent.generator, torch.Generator), "generator", "a torch.Generator", agent.generator)
    with torch.random.fork_rng(devices=[]):
        tried = copy.deepcopy(agent)
        where = next(itertools.chain(tried.lower.parameters(), tried.encoder.parameters(), [torch.empty(0)])).device
        seen: Obs = blank(shapes, learning, torch.uint8, where)
        _act(tried, blank(shapes, acting, torch.uint8, where))
        _act(tried, seen)
        _learn(tried, seen)
        images = {key: x for key, x in seen.items() if x.dtype == torch.uint8} if isinstance(seen, dict) else seen
        embedded, _ = embedder(tried, copies=1)(images, current=True)
        mixed: Obs = {**seen, **embedded} if isinstance(seen, dict) and isinstance(embedded, dict) else embedded
        _act(tried, mixed)
        _learn(tried, mixed)


def _act(agent: Agent, obs: Obs) -> None:
    """Look at the actions at `obs` [N, ...], and at what the policy gives."""
    n = length(obs)
    actions = agent.act(obs)
    with torch.no_grad():
        values = agent.policy(obs)
    if agent.continuous:
        _require_tensor(actions, "act", torch.float32, (n, agent.actions))
        _require(bool(actions.abs().max() <= 1), "act", "numbers within [-1, 1]", actions)
    else:
        _require_tensor(actions, "act", torch.int64, (n,))
        _require(bool(actions.min() >= 0 and actions.max() < agent.actions), "act", f"0 to {agent.actions - 1} only", actions)
    _require_tensor(values, "policy", torch.float32, (n, agent.actions))


def _learn(agent: Agent, obs: Obs) -> None:
    """Look at the errors of a batch with `obs` [B, ...], and at what an update gives."""
    one = torch.ones(length(obs))
    shape, dtype = ((agent.actions,), torch.float32) if agent.continuous else ((), torch.int64)
    batch = Batch(obs, torch.zeros(len(one), *shape, dtype=dtype), 0 * one, 0.5 * one, obs, np.arange(len(one)), one)
    batch = batch.to(next(iter(keyed(obs).values())).device)
    _require_tensor(agent.errors(batch), "errors", torch.float32, (len(one),))
    learnt: Any = agent.update(batch)
    _require(isinstance(learnt, tuple) and len(learnt) == 2, "update", "metrics and errors", learnt)
    metrics, errors = learnt
    named = isinstance(metrics, Mapping) and all(isinstance(name, str) and _is_number(x) for name, x in metrics.items())
    _require(named, "update", "metrics: a number by name", metrics)
    _require_tensor(errors, "update", torch.float32, (len(one),))


def _require_tensor(found: Any, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    fits = isinstance(found, torch.Tensor) and found.dtype == dtype and found.shape == shape
    _require(fits, name, f"{str(dtype).removeprefix('torch.')} {list(shape)}", found)


def _require(holds: bool, name: str, wanted: str, found: Any) -> None:
    if not holds:
        tensor = isinstance(found, torch.Tensor)
        is_a = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}" if tensor else f"{found!r:.80}"
        raise ValueError(f"{name} gives {is_a}, where it must give {wanted}: seer_rl/agents/base.py says what an agent needs")


def _is_number(x: Any) -> bool:
    return x.numel() == 1 if isinstance(x, torch.Tensor) else isinstance(x, int | float | np.number)
