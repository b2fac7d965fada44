"""An agent from outside, in one file: its loss against a loop, and every command with it."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from examples.iqn import IQN, IQNConfig
from seer_rl import outside
from seer_rl.commands.main import main
from seer_rl.experiments import inspect, sweep
from seer_rl.replay.replay import Batch
from seer_rl.training import checkpoint, loop, trial
from seer_rl.training.config import AGENTS, from_toml
from seer_rl.training.events import Event, Metrics
from seer_rl.training.run import Run, Stopped
from seer_rl.training.weights import tensors

NAME = "examples.iqn:IQN"
SETTINGS = (
    f"atari/qbert --agent {NAME} --agent.learning-starts 20 --agent.batch-size 4 --agent.hidden 16 --agent.target-every 7 "
    "--seer.freeze-step 60 --checkpoint-every 20 --eval.episodes 1 --analysis.every 40 --steps 100"
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("iqn") / "straight"
    before = os.environ.get(outside.TRUSTED, "")
    assert main(["train", *SETTINGS.split(), "--run-dir", str(run_dir)]) == 0
    os.environ[outside.TRUSTED] = before
    return run_dir


def test_the_loss_is_the_definition() -> None:
    """Equations 2 and 3, a pair of levels at a time, in float64."""
    torch.manual_seed(0)
    agent = IQN(IQNConfig(hidden=8, quantiles=3, encoder="data-efficient"), (4, 84, 84), 5)
    obs, next_obs = torch.randint(0, 256, (2, 2, 4, 84, 84), dtype=torch.uint8)
    action, reward, discount = torch.tensor([1, 4]), torch.tensor([0.5, -3.0]), torch.tensor([0.9, 0.0])
    for p in agent.target_head.parameters():
        p.data += 0.1
    agent.generator.manual_seed(5)
    found = agent.errors(Batch(obs, action, reward, discount, next_obs, np.arange(2), torch.ones(2)))
    generator = torch.Generator().manual_seed(5)
    tau, tau_next = torch.rand(2, 3, generator=generator).double(), torch.rand(2, 3, generator=generator).double()

    def returns(agent_encoder: torch.nn.Module, head: torch.nn.Module, image: torch.Tensor, level: float) -> torch.Tensor:
        w = {name: tensor.detach().double() for name, tensor in head.state_dict().items()}
        x = agent_encoder(image[None])[0].detach().double()
        waves = torch.tensor([math.cos(math.pi * i * level) for i in range(64)], dtype=torch.float64)
        y = x * (w["phi.weight"] @ waves + w["phi.bias"]).clamp(min=0)
        z: torch.Tensor = w["fc2.weight"] @ (w["fc1.weight"] @ y + w["fc1.bias"]).clamp(min=0) + w["fc2.bias"]
        return z

    for b in range(2):
        levels = [(k + 0.5) / 32 for k in range(32)]
        mean = sum(returns(agent.encoder, agent.head, next_obs[b], level) for level in levels)
        assert isinstance(mean, torch.Tensor)
        best, expected = int(mean.argmax()), 0.0
        for i in range(3):
            for j in range(3):
                goal = (
                    reward[b]
                    + discount[b] * returns(agent.target_encoder, agent.target_head, next_obs[b], float(tau_next[b, j]))[best]
                )
                u = float(goal - returns(agent.encoder, agent.head, obs[b], float(tau[b, i]))[action[b]])
                huber = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
                expected += abs(float(tau[b, i]) - (u < 0)) * huber / 3
        assert found[b].item() == pytest.approx(expected, rel=1e-4)


def test_it_is_trained_frozen_stopped_and_resumed_bit_for_bit(straight: Path, tmp_path: Path) -> None:
    text = (straight / checkpoint.CONFIG).read_text()
    assert f'name = "{NAME}"' in text
    outside.trust(NAME)
    config = from_toml(text.replace(str(straight), str(tmp_path / "pieces")))
    for stop in (30, 80):  # before the freeze, and after it

        def show(run: Run, event: Event | Metrics, stop: int = stop) -> None:
            run.stopping = run.step >= stop

        run = Run(config) if stop == 30 else loop.resume(tmp_path / "pieces", pytest.fail)
        with pytest.raises(Stopped):
            loop.train(run, show)
    loop.train(loop.resume(tmp_path / "pieces", pytest.fail))
    for name in ("metrics.csv", "agent.safetensors"):
        assert (straight / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()
    weights = safetensors.torch.load_file(straight / checkpoint.AGENT)
    assert torch.equal(weights["encoder.conv1.weight"], weights["target_encoder.conv1.weight"])  # frozen together


def test_every_command_knows_it_once_the_user_has_named_it(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect, "OBSERVATIONS", 200)
    monkeypatch.setattr(inspect, "ROWS", 400)  # a layer of this agent has 3,136 units
    run, out = str(straight), str(tmp_path)
    commands = [
        f"eval {run} --episodes 1",
        f"play {run} --video {out}/film.mp4",
        f"export {run} {out}/encoder.safetensors",
        f"export {run} {out}/policy.onnx",
        f"plot {run} --output {out}/curves.png",
        f"report {run} --no-film --output {out}/report.html",
        f"analyze similarity {run} --lag 40 --output {out}/similarity.png",
        f"analyze attention {run} --output {out}/attention.png",
    ]
    for command in commands:
        assert main(command.split()) in (1, 2), command
        assert f"{outside.TRUSTED}={NAME} before the command" in capsys.readouterr().err
    outside.trust(NAME)
    for command in commands:
        assert main(command.split()) == 0, (command, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("examples.iqn:Nothing", "has no attribute 'Nothing'"),
        ("examples.nowhere:IQN", "No module named"),
        ("examples.iqn:Quantiles", "the agent examples.iqn:Quantiles has no name: seer_rl/agents/base.py says"),
        ("ppo", "there is no agent 'ppo': choose rainbow or dqn"),
    ],
)
def test_what_is_no_agent_is_refused(name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "atari/pong", "--agent", name, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


class Half(IQN):
    """Tells no errors."""

    def update(self, batch: Batch) -> Any:
        return super().update(batch)[0]


class Short(IQN):
    """Acts with numbers of another type."""

    def act(self, obs: Any) -> torch.Tensor:
        return super().act(obs).int()


class Beyond(IQN):
    """Chooses actions that are not there."""

    def act(self, obs: Any) -> torch.Tensor:
        return super().act(obs) + self.actions


class Double(IQN):
    """Gives values of another type."""

    def policy(self, obs: Any) -> torch.Tensor:
        return super().policy(obs).double()


class Forgetful(IQN):
    """Looks for what is not there, after a while."""

    steps = 0

    def act(self, obs: Any) -> torch.Tensor:
        self.steps += 1
        return self.missing if self.steps > 12 else super().act(obs)  # type: ignore[return-value]


class Unfinished(IQN):
    """Cannot be made."""

    def __init__(self, *given: Any) -> None:
        raise KeyError("hidden")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Half, "update gives {'losses/loss': tensor("),
        (Short, "act gives int32 [1], where it must give int64 [1]: seer_rl/agents/base.py says"),
        (Beyond, "act gives int64 [1], where it must give 0 to 5 only: seer_rl/agents/base.py says"),
        (Double, "policy gives float64 [1, 6], where it must give float32 [1, 6]"),
        (Unfinished, "KeyError: 'hidden' (tests/examples/test_iqn.py, line "),
    ],
)
def test_what_breaks_the_contract_is_told_before_the_run_begins(
    kind: type[IQN], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words_given = SETTINGS.replace(NAME, f"tests.examples.test_iqn:{kind.__name__}").split()
    assert main(["train", *words_given, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith(f"seer: the agent tests.examples.test_iqn:{kind.__name__} cannot learn in atari/qbert: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_code_that_fails_in_a_run_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, run_dir = "tests.examples.test_iqn:Forgetful", tmp_path / "run"
    words = SETTINGS.replace(NAME, name).replace("--checkpoint-every 20", "--checkpoint-every 5").split()
    assert main(["train", *words, "--run-dir", str(run_dir)]) == 1
    said = capsys.readouterr().err
    lines = Path(__file__).read_text("utf-8").splitlines()
    line = 1 + next(i for i, text in enumerate(lines) if "return self.missing" in text)
    assert "seer: code of yours failed at step 13: AttributeError: 'Forgetful' object has no attribute 'missing' " in said
    assert f"(tests/examples/test_iqn.py, line {line}); the checkpoint of step 10 in {run_dir} is from before it" in said
    assert main(["eval", str(run_dir), "--episodes", "1"]) == 2  # it has saved no weights yet


def test_a_trial_changes_nothing() -> None:
    """Not the agent, and not the process's random numbers."""
    shapes = {"front": (3, 40, 40), "wrist": (3, 36, 36), "joints": (5,)}
    agent = IQN(IQNConfig(hidden=8, encoder="data-efficient"), shapes, 4)
    before = (
        {name: tensor.clone() for name, tensor in tensors(agent).items()},
        agent.generator.get_state(),
        torch.get_rng_state(),
    )
    trial.check(agent, shapes, 2, 3)
    assert all(torch.equal(before[0][name], tensor) for name, tensor in tensors(agent).items())
    assert torch.equal(before[1], agent.generator.get_state())
    assert torch.equal(before[2], torch.get_rng_state())
    assert (agent.updates, agent.lower.training, all(p.requires_grad for p in agent.encoder.parameters())) == (0, True, True)


@pytest.mark.parametrize("name", list(AGENTS))
def test_the_librarys_agents_pass(name: str) -> None:
    """With several cameras and a vector, before the freeze and after it."""
    kind = AGENTS[name]
    size = 100 if hasattr(kind.Config, "crop") else 84
    shapes = {"front": (3, size, size), "wrist": (3, size, size), "joints": (5,)}
    trial.check(kind(kind.Config(), shapes, 4), shapes, 2, 8)


def test_a_sweep_takes_it_by_the_users_word_and_not_by_a_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text(f'envs = ["atari/pong"]\nagents = ["{NAME}"]\n')
    assert main(["sweep", str(tmp_path / "plan.toml"), "--output", str(tmp_path / "runs")]) == 2
    assert f"{outside.TRUSTED}={NAME} before the command" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    grid = {"envs": ["atari/pong"], "agents": [NAME]}
    (config,) = sweep.configs(grid, tmp_path / "runs", trusting=True).values()
    assert isinstance(config.agent, IQNConfig)
