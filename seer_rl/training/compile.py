"""The losses of an agent with a small update, compiled: PyTorch turns their many short operations into few.

What an update of Rainbow spends outside products is dispatch and passes over the noisy weights; compiled they are fused (with
bfloat16 products about half the time, `docs/performance.md`). An update of SAC is nearly all products, and gains nothing.
"""

import numpy as np
import torch

from seer_rl.agents.base import Agent
from seer_rl.replay.observation import Obs, each, keyed
from seer_rl.replay.replay import Batch


def compile_losses(agent: Agent) -> bool:
    """Let PyTorch compile the agent's losses (`Agent.compiled`) when they are first needed; whether it has any to compile.

    That takes 10 to 30 seconds, and a few where it was done before: results are kept in the user's cache directory.
    """
    if agent.compiled is None:
        return False
    # Nothing in the agent's modules changes but numbers, which are inputs: checking them all costs more than an operation.
    unguarded = getattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", None)  # older releases always check
    options = {"guard_filter_fn": unguarded} if unguarded else {}
    losses = getattr(agent, agent.compiled)
    setattr(agent, agent.compiled, torch.compile(losses, fullgraph=True, dynamic=False, options=options))
    return True


def rehearse_losses(agent: Agent, obs: Obs, batch_size: int) -> None:
    """Compute the compiled losses of `batch_size` copies of `obs` [1, ...] and their gradients, for which they are compiled.

    The agent is as it was afterwards. Raises what the compiler raises.
    """
    many = each(lambda x: x.expand(batch_size, *x.shape[1:]).contiguous(), obs)
    ones = torch.ones(batch_size, device=next(iter(keyed(obs).values())).device)
    assert agent.compiled
    losses = getattr(agent, agent.compiled)(Batch(many, ones.long(), ones, ones, many, np.arange(batch_size), ones))
    losses.sum().backward()
    agent.zero_grad(set_to_none=True)


def uncompile_losses(agent: Agent) -> bool:
    """Undo `compile_losses`; whether there was anything to undo."""
    return agent.compiled is not None and agent.__dict__.pop(agent.compiled, None) is not None
