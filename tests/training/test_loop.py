"""Whole short runs on a real game."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

from seer_rl.agents.curl import CURLConfig
from seer_rl.agents.dqn import DQNConfig
from seer_rl.agents.drqv2 import DrQv2Config
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.agents.sac import RADConfig, SACConfig
from seer_rl.envs.dmc import ControlConfig
from seer_rl.experiments import curves
from seer_rl.training import checkpoint, loop
from seer_rl.training.build import every_step, make_agent
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig, from_toml, to_toml
from seer_rl.training.logger import read
from seer_rl.training.presets import PRESETS, configure
from seer_rl.training.run import Run
from seer_rl.training.sizes import parse_size
from tests.replay.saved import held

SHORT = TrainConfig(
    "atari/qbert",
    steps=240,
    seed=3,
    seer=SeerConfig(freeze_step=150),
    replay=ReplayConfig(memory=2_000_000),
    eval=EvalConfig(every=120, episodes=1),
    agent=RainbowConfig(learning_starts=60, batch_size=8, hidden=16),
)


def trained(config: TrainConfig, run_dir: Path) -> Run:
    run = Run(dataclasses.replace(config, run_dir=run_dir))
    loop.train(run)
    return run


def rows(run: Run) -> str:
    """Metrics but for those of the clock and of the process, which have a file of their own."""
    return (run.run_dir / "metrics.csv").read_text("utf-8")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(SHORT, tmp_path_factory.mktemp("runs") / "short")


def test_the_same_seed_gives_the_same_run_bit_for_bit(short: Run, tmp_path: Path) -> None:
    again = trained(SHORT, tmp_path / "again")
    assert rows(short) == rows(again)
    assert all(torch.equal(a, b) for a, b in zip(short.agent.parameters(), again.agent.parameters(), strict=True))
    assert held(short.replay) == held(again.replay)
    other = trained(dataclasses.replace(SHORT, seed=4), tmp_path / "other")
    assert rows(short) != rows(other)


def test_evaluation_does_not_disturb_training(short: Run, tmp_path: Path) -> None:
    rarely = trained(dataclasses.replace(SHORT, eval=EvalConfig(every=240, episodes=2)), tmp_path / "rarely")
    assert all(torch.equal(a, b) for a, b in zip(short.agent.parameters(), rarely.agent.parameters(), strict=True))


def test_a_run_passes_its_phases_and_counts_what_it_does(short: Run) -> None:
    assert [(p.name, p.steps) for p in short.account.phases] == [("fill", 59), ("images", 91), ("embeddings", 90)]
    images, embeddings = short.account.phases[1:]
    assert (images.bytes_per_step, embeddings.bytes_per_step) == (7064, 2312)
    assert (images.replay_capacity, embeddings.replay_capacity) == (283, every_step(SHORT, short.eval_env))
    costs = short.costs
    for convention in (0, 1):
        expected = 91 * costs.update(False)[convention] + 90 * costs.update(True)[convention]
        expected += 150 * costs.act(False)[convention] + 90 * costs.act(True)[convention]
        assert short.account.operations[convention] == expected + costs.freeze(short.account.phases[1].replay_steps)[convention]


def test_metrics_of_updates_are_named_as_losses(short: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports tell by these names from when on a run learnt; agents from elsewhere may leave out the prefix."""
    monkeypatch.setattr(short, "losses", {"losses/loss": 1.0, "entropy": 2.0})
    named = {name: value for name, value in short.metrics().items() if name.startswith("losses/")}
    assert named == {"losses/loss": 1.0, "losses/entropy": 2.0}


def test_what_an_update_costs_less_can_be_spent_on_more_of_them(tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, seer=dataclasses.replace(SHORT.seer, replay_ratio=3))
    run = trained(config, tmp_path / "run")
    assert run.agent.updates == 91 + 3 * 90
    costs = run.costs
    expected = 91 * costs.update(False)[0] + 3 * 90 * costs.update(True)[0] + 90 * costs.act(True)[0]
    assert run.account.operations[0] == expected + costs.freeze(run.account.phases[1].replay_steps)[0]
    assert run.account.phases[2].operations[1] == costs.act(True)[1] + 3 * costs.update(True)[1]


def test_a_run_leaves_its_settings_metrics_agent_and_picture(short: Run, tmp_path: Path) -> None:
    config = checkpoint.load_config(short.run_dir)
    assert config == short.config
    metrics = read(short.run_dir)
    assert metrics["seer/freeze_step"] == [(150, 150.0)]
    assert [step for step, _ in metrics["eval/return"]] == [120, 240]
    assert {"eval/random_return", "charts/SPS", "replay/bytes", "losses/loss", "compute/flops"} <= metrics.keys()
    assert metrics["compute/flops"][-1] == (240, short.account.operations[0])
    assert list(short.run_dir.glob("events.out.tfevents*"))
    agent = make_agent(config, short.eval_env, seed=99)
    checkpoint.load_agent(short.run_dir, agent, config)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), short.agent.parameters(), strict=True))
    curves.draw([short.run_dir, short.run_dir], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_limit_no_step_is_lost_even_if_embeddings_are_larger(tmp_path: Path) -> None:
    """Nature's encoder gives 12,544 bytes for a frame's 7,056."""
    config = dataclasses.replace(SHORT, agent=DQNConfig(learning_starts=60, batch_size=8, hidden=16), replay=ReplayConfig())
    run = trained(config, tmp_path / "run")
    assert run.replay.bytes_per_step > 12_544
    assert run.replay.capacity == every_step(config, run.eval_env)
    assert run.replay.size >= 240


@pytest.mark.parametrize(
    "changes",
    [
        {"seer": SeerConfig(freeze_step=0)},
        {"seer": SeerConfig(freeze_step=50)},
        {"seer": SeerConfig()},
        {"seer": SeerConfig(freeze_step=150, layers=1)},
        {"seer": SeerConfig(freeze_step=150, layers=1, dtype="uint4")},
        {"replay": ReplayConfig(capacity=100, priority_exponent=0.5)},
        {"replay": ReplayConfig()},
        {"agent": DQNConfig(learning_starts=60, batch_size=8, hidden=16)},
    ],
    ids=[
        "frozen from the start",
        "frozen before learning",
        "baseline",
        "first layer",
        "first layer, uint4",
        "prioritized",
        "unlimited",
        "dqn",
    ],
)
def test_every_kind_of_run_ends_well(changes: dict[str, object], tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="an embedding takes more memory")
        run = trained(config, tmp_path / "run")
    assert run.step == 240
    assert run.frozen == (config.seer.freeze_step is not None)
    assert run.account.phases[-1].name == ("embeddings" if run.frozen else "images")
    if config.replay == ReplayConfig():
        assert run.replay.size == (240 if run.replay._store.flags[240] & 2 else 241)  # every step, and the newest observation


CONTROL = TrainConfig(
    "dmc/cartpole-swingup",
    steps=150,
    environment=ControlConfig(size=24, fast_render=True, action_repeat=20),
    seer=SeerConfig(freeze_step=90, copies=3, batch_size=24),
    replay=ReplayConfig(memory=500_000),
    eval=EvalConfig(every=150, episodes=1),
    agent=CURLConfig(crop=20, hidden=32, learning_starts=40, batch_size=12),
)


@pytest.mark.parametrize("kind", [CURLConfig, RADConfig, SACConfig, DrQv2Config])
def test_control_runs_pass_their_phases_repeatably(kind: type, tmp_path: Path) -> None:
    crop = {"crop": 20} if issubclass(kind, RADConfig) else {}
    agent = kind(hidden=32, learning_starts=40, batch_size=12, update_every=1, **crop)
    config = dataclasses.replace(CONTROL, agent=agent)
    run, again = (trained(config, tmp_path / name) for name in ("run", "again"))
    assert rows(run) == rows(again)
    assert all(torch.equal(a, b) for a, b in zip(run.agent.parameters(), again.agent.parameters(), strict=True))
    assert [(p.name, p.steps) for p in run.account.phases] == [("fill", 39), ("images", 51), ("embeddings", 60)]
    images, embeddings = run.account.phases[1:]
    copies = 1 if kind is SACConfig else 3
    assert (images.bytes_per_step, embeddings.bytes_per_step) == (3 * 24 * 24 + 12, copies * 400 + 12)
    assert (run.costs.copies, run.costs.views, run.batch_size) == (copies, 1 if copies == 1 else 4, 24)
    assert [length for _, length in read(run.run_dir)["charts/episodic_length"]] == [50, 50, 50]
    assert checkpoint.load_config(run.run_dir) == run.config


def test_bfloat16_changes_the_encoder_a_little_and_nothing_else(tmp_path: Path) -> None:
    runs = [Run(dataclasses.replace(CONTROL, run_dir=tmp_path / p, precision=p)) for p in ("float32", "bfloat16")]
    obs = torch.randint(0, 256, (5, 9, 20, 20), dtype=torch.uint8)
    exact, fast = (run.agent.lower(obs) for run in runs)
    assert fast.dtype == torch.float32
    assert not torch.equal(exact, fast)
    torch.testing.assert_close(fast, exact, atol=0.05, rtol=0.05)
    assert all(p.dtype == torch.float32 for run in runs for p in run.agent.parameters())


def test_settings_survive_their_file() -> None:
    for config in (
        SHORT,
        TrainConfig("atari/pong", agent=DQNConfig()),
        TrainConfig("dmc/walker-walk", environment=ControlConfig(2, 90, True), agent=CURLConfig()),
        *(configure("atari/alien", preset=preset) for preset in PRESETS),
    ):
        assert from_toml(to_toml(config)) == config
    for text in ("", "x = 1", "= 3", '[agent]\nname = "ppo"', 'env = "a"\n[agent]\nname = "dqn"\nfoo = 1'):
        with pytest.raises(ValueError, match="not the settings of a run"):
            from_toml(text)


def test_presets_are_the_papers() -> None:
    for game, compute, memory in (
        ("bank_heist", 50_000, 50_000),
        ("Alien", 50_000, 100_000),
        ("private_eye", 100_000, 150_000),
    ):
        assert configure(f"atari/{game}", preset="paper").seer.freeze_step == compute
        assert configure(f"atari/{game}", preset="paper-memory").seer.freeze_step == memory
    config = configure("atari/alien", preset="paper-memory")
    assert (config.steps, config.replay.memory) == (500_000, 70_560_000)
    assert config.agent == RainbowConfig()

    for task, compute, memory, size in (
        ("cartpole-swingup", 10_000, 10_000, 0.03),
        ("finger-spin", 50_000, 50_000, 0.03),
        ("reacher-easy", 50_000, 30_000, 0.06),
        ("cheetah-run", 80_000, 80_000, 0.03),
        ("walker-walk", 60_000, 80_000, 0.06),
    ):
        config = configure(f"dmc/{task}", preset="paper")
        limited = configure(f"dmc/{task}", preset="paper-memory")
        assert (config.seer.freeze_step, limited.seer.freeze_step) == (compute, memory)
        assert (config.replay.memory, limited.replay.memory) == (None, size * 1e9)
        fast = task == "cheetah-run"
        assert config.agent == CURLConfig(learning_rate=2e-4 if fast else 1e-3, batch_size=512 if fast else 128)
        assert config.seer.copies == 4
    config = configure("dmc/cheetah-run", preset="paper-batch")
    assert (config.agent.batch_size, config.seer.batch_size) == (128, 512)
    assert configure("dmc/walker-walk", "rad", "paper-impala").agent == RADConfig(encoder="impala")
    assert configure("dmc/walker-walk").agent == CURLConfig()
    assert configure("atari/alien").agent == RainbowConfig()


def test_presets_of_others_are_theirs() -> None:
    for task, noise, n_step, batch_size, camera in (
        ("walker-walk", 100_000, 1, 512, 0),
        ("walker-run", 500_000, 1, 512, 0),
        ("cartpole-swingup", 100_000, 3, 256, 0),
        ("cheetah-run", 500_000, 3, 256, 0),
        ("quadruped_walk", 500_000, 3, 256, 2),
        ("humanoid-stand", 2_000_000, 3, 256, 0),
    ):
        for preset in (None, "paper"):
            config = configure(f"dmc/{task}", "drqv2", preset)
            assert config.agent == DrQv2Config(noise_steps=noise, n_step=n_step, batch_size=batch_size)
            assert config.environment == ControlConfig(camera=camera)
    config = configure("atari/alien", preset="der")
    assert config.agent == RainbowConfig(random_steps=1600)
    assert (config.steps, config.replay, config.seer) == (100_000, ReplayConfig(priority_exponent=0.5), SeerConfig())
    with pytest.raises(ValueError, match="there is no preset 'der' for dmc/ environments: choose paper or"):
        configure("dmc/walker-walk", preset="der")
    with pytest.raises(ValueError, match="der is Rainbow's"):
        configure("atari/alien", "dqn", "der")


def test_sizes_are_read_as_people_write_them() -> None:
    for text, size in (("70MB", 70_000_000), ("0.07 GB", 70_000_000), ("64MiB", 2**26), ("512k", 512_000), ("7056", 7056)):
        assert parse_size(text) == size
    for text in ("", "MB", "-5MB", "1e6", "70 apples", "5i"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)
