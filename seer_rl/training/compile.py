"""The losses of an agent with a small update, compiled: PyTorch turns their many short operations into few.

What an update of Rainbow spends outside products is dispatch and passes over the noisy weights; compiled they are fused (with
bfloat16 products about half the time, `docs/performance.md`). An update of SAC is nearly all products, and gains nothing.
"""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from seer_rl.agents.base import Agent
from seer_rl.replay.replay import Batch


def compile_losses(agent: Agent) -> bool:
    """Let PyTorch compile the agent's losses (`Agent.compiled`) when they are first needed; whether it has any to compile.

    That takes 10 to 30 seconds, and a few where it was done before: results are kept in the user's cache directory.
    """
    if agent.compiled is None:
        return False
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:  # PyTorch's own lies in /tmp, where others may write
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_directory())
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes that stay
    for noisy in ("torch._dynamo", "torch._inductor", "torch._functorch"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # failures are the caller's to report
    # Nothing in the agent's modules changes but numbers, which are inputs: checking them all costs more than an operation.
    unguarded = torch.compiler.skip_guard_on_all_nn_modules_unsafe
    losses = getattr(agent, agent.compiled)
    setattr(agent, agent.compiled, torch.compile(losses, fullgraph=True, dynamic=False, options={"guard_filter_fn": unguarded}))
    return True


def cache_directory() -> Path:
    """Where compiled losses are kept: in the user's cache, or, where there is none to write to, until this process ends."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seer-rl"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    except (OSError, RuntimeError):  # a user whom the system does not know has no home
        pass
    temporary = tempfile.mkdtemp(prefix="seer-rl-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def rehearse_losses(agent: Agent, obs: torch.Tensor, batch_size: int) -> None:
    """Compute the compiled losses of `batch_size` copies of `obs` [1, ...] and their gradients, for which they are compiled.

    The agent is as it was afterwards. Raises what the compiler raises.
    """
    many, ones = obs.expand(batch_size, *obs.shape[1:]).contiguous(), torch.ones(batch_size, device=obs.device)
    assert agent.compiled
    losses = getattr(agent, agent.compiled)(Batch(many, ones.long(), ones, ones, many, np.arange(batch_size), ones))
    losses.sum().backward()
    agent.zero_grad(set_to_none=True)


def uncompile_losses(agent: Agent) -> bool:
    """Undo `compile_losses`; whether there was anything to undo."""
    return agent.compiled is not None and agent.__dict__.pop(agent.compiled, None) is not None
