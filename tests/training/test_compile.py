"""Compiled losses against the same ones as they are written, and what happens where there is no compiler."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.networks import AutocastSequential
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import SAC, SACConfig
from seer_rl.replay.replay import Batch
from seer_rl.training import loop
from seer_rl.training.compile import compile_losses, uncompile_losses
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Event, Metrics
from seer_rl.training.run import Run

SHORT = TrainConfig(
    "atari/pong",
    steps=120,
    seer=SeerConfig(freeze_step=80),
    replay=ReplayConfig(memory=2_000_000),
    eval=EvalConfig(episodes=1),
    agent=RainbowConfig(learning_starts=60, batch_size=8, hidden=16),
    compile=True,
)


def batch(images: bool, features: int) -> Batch:
    g = torch.Generator().manual_seed(0)

    def obs() -> torch.Tensor:
        if images:
            return torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, generator=g)
        return torch.rand(8, features, generator=g)

    action = torch.randint(0, 6, (8,), generator=g)
    return Batch(obs(), action, torch.randn(8, generator=g), torch.full((8,), 0.8), obs(), np.arange(8), torch.ones(8))


@pytest.mark.parametrize(("kind", "features"), [("rainbow", 576), ("dqn", 576)])
def test_compiled_updates_are_the_same(kind: str, features: int) -> None:
    """Over several updates, each with noise of its own, and new targets: nothing is compiled in that should change."""
    agents: list[Rainbow | DQN] = []
    for _ in range(2):
        torch.manual_seed(0)
        if kind == "rainbow":
            agents.append(Rainbow(RainbowConfig(hidden=16, target_every=2), (4, 84, 84), 6))
        else:
            agents.append(DQN(DQNConfig(hidden=16, target_every=2, encoder="data-efficient"), (4, 84, 84), 6))
    assert compile_losses(agents[1])
    for images in (True, False):
        example = batch(images, features)
        errors = []
        for agent in agents:
            for _ in range(4):
                agent.act(example.obs[:1])  # new noise, or none
                _, error = agent.update(example)
            errors.append(error)
        assert torch.allclose(errors[0], errors[1], atol=1e-5)
        for a, b in zip(agents[0].parameters(), agents[1].parameters(), strict=True):
            assert torch.allclose(a, b, atol=5e-5)
    assert uncompile_losses(agents[1])
    assert not uncompile_losses(agents[1])


def test_agents_without_small_losses_are_left_alone() -> None:
    assert not compile_losses(SAC(SACConfig(hidden=8), (9, 84, 84), 1))


def test_a_compiled_run_tells_what_compiling_took(tmp_path: Path) -> None:
    run = Run(dataclasses.replace(SHORT, run_dir=tmp_path / "run", precision="bfloat16"))
    said: list[Event | Metrics] = []
    loop.train(run, lambda run, event: said.append(event))
    assert Event.COMPILING in said
    clock = (tmp_path / "run" / "clock.csv").read_text("utf-8")
    assert clock.count("charts/compile_seconds") == 2  # on images, on embeddings
    mixed = [module for module in run.agent.modules() if isinstance(module, AutocastSequential)]
    assert {module.precision for module in mixed} == {torch.bfloat16}
    assert {p.dtype for p in run.agent.parameters()} == {torch.float32}


def test_where_nothing_compiles_the_run_goes_on(tmp_path: Path) -> None:
    """Without a compiler, in a process of its own: nothing is in any cache."""
    settings = "--steps 90 --seer.freeze-step 75 --agent.learning-starts 60 --agent.batch-size 8 --eval.episodes 1"
    command = [sys.executable, "-m", "seer_rl", "train", "atari/pong", *settings.split(), "--run-dir", str(tmp_path / "run")]
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("note: compiling the update failed") == 1
    assert "the run goes on without, more slowly" in done.stdout
    assert not done.stderr
