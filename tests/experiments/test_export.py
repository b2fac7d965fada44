"""Policies as ONNX files against their agents, on real observations."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.commands.main import main
from seer_rl.envs.base import EnvConfig
from seer_rl.envs.dmc import ControlConfig
from seer_rl.experiments import export
from seer_rl.training import build, loop
from seer_rl.training.config import AGENTS, EvalConfig, TrainConfig
from seer_rl.training.run import Run


@pytest.mark.parametrize(
    ("kind", "env"),
    [("rainbow", "atari/qbert"), ("dqn", "atari/pong"), ("curl", "dmc/cartpole-swingup"), ("drqv2", "dmc/reacher-easy")],
)
def test_the_file_acts_like_the_agent(kind: str, env: str, tmp_path: Path) -> None:
    """At 1,000 observations: the same actions, and outputs within 1e-4."""
    settings = ControlConfig(fast_render=True) if env.startswith("dmc") else EnvConfig()
    config = TrainConfig(env, agent=AGENTS[kind].Config(), environment=settings)
    torch.manual_seed(0)
    built = build.make_env(config, training=False)
    agent = build.make_agent(config, built, seed=0)
    with torch.no_grad():
        for parameter in agent.parameters():  # no longer as it was drawn: biases, too
            parameter.add_(0.01 * torch.randn(parameter.shape))
    path = tmp_path / "policy.onnx"
    export.export(agent, built, path, count=3)
    seen = [obs.copy() for obs in export.observations(built, 1000)]
    built.close()
    assert len(np.unique([obs.sum() for obs in seen])) > 100
    assert len(seen) == 1000
    largest, seconds = export.verify(agent, path, seen)
    assert largest < 1e-4
    assert seconds > 0
    assert {p.name for p in tmp_path.iterdir()} == {"policy.onnx"}  # one file, weights included
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.mul_(1.1)
    with pytest.raises(ValueError, match="does not compute what the agent does"):
        export.verify(agent, path, seen)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = RainbowConfig(learning_starts=20, batch_size=8)
    config = TrainConfig("atari/pong", steps=60, eval=EvalConfig(episodes=1), agent=agent, run_dir=tmp_path / "run")
    loop.train(Run(config))
    assert main(f"export {tmp_path / 'run'} {tmp_path / 'policy.onnx'}".split()) == 0
    said = capsys.readouterr().out
    assert "the agent's actions at 200 observations" in said
    assert "ms an observation on one core" in said
