"""Writes an agent's policy as one ONNX file, for machines without PyTorch: it takes images and gives actions."""

import itertools
import logging
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_rl.agents.base import Agent
from seer_rl.experiments.inspect import met
from seer_rl.text import install
from seer_rl.training import files

TOLERANCE = 1e-4  # between the file's outputs and the agent's


class Policy(nn.Module):
    """Computes what the file does with images [1, C, H, W] uint8.

    Discrete actions give (action [1], expected returns [1, actions]), continuous ones (action [1, A],).
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent, self.discrete = agent, not agent.continuous

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.agent.policy(obs)
        return (result.argmax(dim=-1), result) if self.discrete else (result,)


def export(agent: Agent, env: gym.Env[Any, Any], path: Path, count: int = 200) -> tuple[float, float]:
    """Write the policy of `agent` (on the CPU) for the observations of `env`, once it was right at `count` of them.

    Returns what `verify` does. Raises ImportError without the extra [onnx], ValueError if the file computes something else.
    """
    try:
        import onnxscript  # noqa: F401 (PyTorch's exporter needs it, and says so at length)
    except ImportError as error:
        raise ImportError(f"ONNX files need the extra [onnx]: {install('onnx')}") from error
    policy = Policy(agent).eval()
    names = ["action", "values"] if policy.discrete else ["action"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about itself
        example = torch.zeros(1, *(env.observation_space.shape or ()), dtype=torch.uint8)
        program = torch.onnx.export(policy, (example,), dynamo=True, input_names=["obs"], output_names=names, verbose=False)
    assert program
    with files.beside(path) as part:
        program.save(part)
        return verify(agent, part, observations(env, count))


def verify(agent: Agent, path: Path, observations: Iterable[NDArray[np.uint8]]) -> tuple[float, float]:
    """Compare a file with its agent on observations [C, H, W] uint8.

    Returns the largest difference of outputs, and the seconds that the file takes for one observation on one core.
    Raises ValueError where an action differs, or an output by more than `TOLERANCE`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    policy = Policy(agent).eval()
    count, largest, seconds = 0, 0.0, 0.0
    for obs in observations:
        with torch.no_grad():
            ours = [output.numpy() for output in policy(torch.from_numpy(obs)[None])]
        begun = time.perf_counter()
        theirs: list[Any] = session.run(None, {"obs": obs[None]})
        seconds += time.perf_counter() - begun
        count, largest = count + 1, max(largest, float(np.abs(ours[-1] - theirs[-1]).max()))
        if largest > TOLERANCE or (policy.discrete and ours[0] != theirs[0]):
            raise ValueError(f"the file does not compute what the agent does: outputs differ by {largest:.2g}")
    return largest, seconds / max(count, 1)


def observations(env: gym.Env[Any, Any], count: int, seed: int = 0) -> Iterable[NDArray[np.uint8]]:
    """Give `count` observations [C, H, W] uint8 of a random player."""
    env.action_space.seed(seed)
    return itertools.islice(met(lambda _: env.action_space.sample(), env, seed), count)
