"""Signals of convergence against independent calculations; measuring disturbs nothing; the rule on recorded signals."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image as mpimg
import numpy as np
import pytest
import torch

from seer_rl import convergence
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.commands import analyze, display
from seer_rl.commands.console import Screen
from seer_rl.convergence import ConvergenceMonitor, Signals, agreement, converged, linear_cka, novelty, progress
from seer_rl.envs.dmc import ControlConfig
from seer_rl.experiments import inspect
from seer_rl.replay.replay import Replay
from seer_rl.seer import WhenConverged
from seer_rl.training import loop
from seer_rl.training.arguments import Mistake
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Event, Metrics
from seer_rl.training.logger import read
from seer_rl.training.play import random_scores
from seer_rl.training.run import Run, Stopped

AGENTS: dict[str, tuple[Callable[[], Any], int]] = {
    "rainbow": (lambda: Rainbow(RainbowConfig(hidden=16), (4, 84, 84), 4), 4),
    "rainbow, one layer": (lambda: Rainbow(RainbowConfig(hidden=16), (4, 84, 84), 4, 1), 4),
    "dqn": (lambda: DQN(DQNConfig(hidden=16, encoder="data-efficient"), (4, 84, 84), 4), 4),
    "curl": (lambda: CURL(CURLConfig(hidden=16, crop=30), (3, 36, 36), 2), 1),
    "drqv2": (lambda: DrQv2(DrQv2Config(hidden=16), (3, 32, 32), 2), 1),
}


def filled(name: str) -> tuple[Any, Replay]:
    """An agent and a replay of random images."""
    torch.manual_seed(0)
    make, stack = AGENTS[name]
    agent = make()
    shape = {"curl": (3, 36, 36), "drqv2": (3, 32, 32)}.get(name, (4, 84, 84))
    discrete = stack == 4
    replay = Replay(shape, () if discrete else (2,), "u1" if discrete else "f4", capacity=400, stack=stack, seed=5)
    rng = np.random.default_rng(1)
    replay.begin(rng.integers(256, size=shape, dtype=np.uint8)[None])
    for i in range(300):
        action: Any = i % 4 if discrete else rng.uniform(-1, 1, 2).astype(np.float32)
        replay.add([action], [rng.normal()], [False], [False], rng.integers(256, size=shape, dtype=np.uint8)[None])
    return agent, replay


@pytest.mark.parametrize("name", AGENTS)
def test_an_encoder_that_stays_scores_so(name: str) -> None:
    agent, replay = filled(name)
    before = agent.generator.get_state(), str(replay.rng.bit_generator.state)
    signals = ConvergenceMonitor(agent).measure(agent, replay, 2_500)
    assert signals.cka == pytest.approx(1)
    assert signals.moved == pytest.approx(0, abs=1e-6)
    assert (signals.drift, signals.travel, signals.error) == (0, 0, 1)
    assert signals.agreement == (0 if name.startswith("rainbow") else 1)  # nothing learnt yet: it does the same everywhere
    assert torch.equal(agent.generator.get_state(), before[0])
    assert str(replay.rng.bit_generator.state) == before[1]
    assert agent.training


@pytest.mark.parametrize("name", AGENTS)
def test_an_encoder_that_changes(name: str) -> None:
    """Each signal by itself, from the same batch."""
    agent, replay = filled(name)
    watch = ConvergenceMonitor(agent)
    old = {key: tensor.clone() for key, tensor in agent.lower.state_dict().items()}
    with torch.no_grad():
        for parameter in agent.lower.parameters():
            parameter.add_(
                0.5 * parameter.abs().mean() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            )
    new = {key: tensor.clone() for key, tensor in agent.lower.state_dict().items()}
    state = replay.rng.bit_generator.state
    batch = replay.sample(convergence.SAMPLES)
    replay.rng.bit_generator.state = state
    signals = watch.measure(agent, replay, 2_500)
    assert signals.step == 2_500
    size = agent.obs_shape[-1]
    edge = (batch.obs.shape[-1] - size) // 2
    images = batch.obs[:, :, edge : edge + size, edge : edge + size]

    def embedded(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        agent.lower.load_state_dict(weights)
        with torch.no_grad():
            z: torch.Tensor = agent.lower(images)
            return z

    then, now = embedded(old), embedded(new)
    a, b = now.flatten(1).double().numpy(), then.flatten(1).double().numpy()
    spread = np.sqrt(((b - b.mean(0)) ** 2).sum())
    assert signals.drift == pytest.approx(np.sqrt(((a - b) ** 2).sum()) / spread, rel=1e-4)
    assert signals.cka == pytest.approx(linear_cka(now.flatten(1), then.flatten(1)), abs=1e-6)
    assert signals.moved == pytest.approx(1 - signals.cka, abs=1e-6)  # the first reference is the first encoder
    distance = np.sqrt(sum(float((new[key] - old[key]).double().square().sum()) for key in new))
    assert signals.travel == pytest.approx(
        distance / np.sqrt(sum(float(old[key].double().square().sum()) for key in old)), rel=1e-4
    )
    agent.eval()
    with torch.no_grad():
        first, second = agent.policy(now), agent.policy(then)
    if batch.action.dim() == 1:
        first, second = (torch.eye(4)[one.argmax(1)] for one in (first, second))
    assert signals.agreement == pytest.approx(agreement(first, second), abs=1e-6)
    assert signals.error != 1
    assert watch.measure(agent.train(), replay, 5_000).cka == pytest.approx(1)  # nothing changed since
    assert watch.history[1].moved == pytest.approx(signals.moved, abs=1e-6)


def test_agreement() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):  # Cohen's kappa, from its table
        a, b = rng.integers(3, size=40), rng.integers(3, size=40)
        b = np.where(rng.random(40) < 0.6, a, b)
        table = np.zeros((3, 3))
        np.add.at(table, (a, b), 1 / 40)
        chance = table.sum(0) @ table.sum(1)
        kappa = (table.trace() - chance) / (1 - chance)
        codes = (torch.eye(3)[torch.from_numpy(one)] for one in (a, b))
        assert agreement(*codes) == pytest.approx(kappa, abs=1e-6)
    x = torch.from_numpy(rng.uniform(-1, 1, (2_000, 2)))
    assert agreement(x, x) == 1
    assert agreement(x, x[torch.from_numpy(rng.permutation(2_000))]) == pytest.approx(0, abs=0.05)
    assert agreement(x, x + 0.1) == pytest.approx(1 - 0.1 / (2 / 3), abs=0.02)  # two uniform numbers in [-1, 1] are 2/3 apart
    assert agreement(x[:1].expand(50, 2), x[:1].expand(50, 2)) == 0  # the same whatever the state


def test_novelty() -> None:
    known = torch.stack(torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij"), -1).view(-1, 2)  # one apart
    older = known + torch.tensor([0.0, 2.0])  # two of ten rows are 1 and 2 away from it
    new = torch.tensor([[20.0, 5.0], [5.0, -3.0], [4.0, 4.0]])
    assert novelty(new, known, older) == pytest.approx((11 + 3 + 0) / 3 / 0.3)
    assert novelty(known[:7], known, older) == 0  # seen before
    zeros = torch.zeros(5, 2)
    assert novelty(torch.zeros(3, 2), zeros, zeros) == 1
    assert novelty(torch.ones(3, 2), zeros, zeros) == float("inf")


@pytest.mark.parametrize("size", [1_000, 2_000, 8_000])
def test_novelty_of_what_does_not_change_is_1_however_long_the_memory(size: int) -> None:
    """A walk around one place, whose steps look like their neighbours for 50 of them; another that then goes elsewhere."""
    rng = np.random.default_rng(size)
    found = []
    for _ in range(20):
        walk = np.zeros((3 * size, 8))
        for i in range(1, 3 * size):
            walk[i] = 0.98 * walk[i - 1] + rng.normal(size=8)
        older, known, new = torch.from_numpy(walk).float().chunk(3)
        found.append(novelty(*(stretch[:: size // 250] for stretch in (new, known, older))))
    assert np.median(found) == pytest.approx(1, abs=0.15)
    assert novelty(*(stretch[:: size // 250] for stretch in (new + 20, known, older))) > 2


def test_progress() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(5, size=10).tolist(), rng.integers(4, size=12).tolist()
    assert progress(a, b) == pytest.approx(np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]))
    assert (progress([1, 2], [0]), progress([0], [0]), progress([-1], [0])) == (1, 0.5, 0)
    assert progress([], [1.0]) == progress([1.0], []) == 0


RUN = TrainConfig(
    "atari/qbert",
    steps=400,
    seed=3,
    replay=ReplayConfig(memory=1_500_000, priority_exponent=0.5),
    eval=EvalConfig(every=200, episodes=1),
    agent=RainbowConfig(learning_starts=60, batch_size=8, hidden=16),
    checkpoint_every=100_000,
)
AUTO = dataclasses.replace(RUN, seer=SeerConfig("auto", earliest=0, latest=300))


def test_measuring_disturbs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is measured and never frozen is the run that is not measured, bit for bit."""
    monkeypatch.setattr("seer_rl.seer.EVERY", 50)
    watched = dataclasses.replace(AUTO, seer=SeerConfig("auto", earliest=0, latest=10_000), run_dir=tmp_path / "watched")
    monkeypatch.setattr(convergence, "MIN_CKA", 2.0)
    loop.train(Run(watched))
    loop.train(Run(dataclasses.replace(RUN, run_dir=tmp_path / "plain")))
    one, other = read(tmp_path / "watched"), read(tmp_path / "plain")
    assert [step for step, _ in one["seer/cka"]] == list(range(100, 400, 50))
    for name, values in other.items():
        if name == "eval/random_return":  # played where it is first needed: a measurement, or an evaluation
            assert [value for _, value in one[name]] == [value for _, value in values]
        elif not name.startswith(("charts/", "compute/")) or name == "charts/episodic_return":
            assert one[name] == values, name
    assert (tmp_path / "watched" / "agent.safetensors").read_bytes() == (tmp_path / "plain" / "agent.safetensors").read_bytes()


def test_an_automatic_freeze_in_pieces_is_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_rl.seer.EVERY", 50)
    monkeypatch.setattr(convergence, "MIN_CKA", 2.0)
    loop.train(Run(dataclasses.replace(AUTO, run_dir=tmp_path / "straight")))
    run = Run(dataclasses.replace(AUTO, run_dir=tmp_path / "pieces"))
    for stop in (120, 150, 299, 300, 350):

        def until(run: Run, event: Event | Metrics, stop: int = stop) -> None:
            run.stopping = run.step >= stop

        with pytest.raises(Stopped):
            loop.train(run, until)
        run = loop.resume(tmp_path / "pieces", pytest.fail)
    loop.train(run)
    metrics = read(tmp_path / "pieces")
    assert metrics["seer/freeze_step"] == [(300, 300.0)]
    assert (tmp_path / "straight" / "metrics.csv").read_bytes() == (tmp_path / "pieces" / "metrics.csv").read_bytes()
    assert (tmp_path / "straight" / "agent.safetensors").read_bytes() == (
        tmp_path / "pieces" / "agent.safetensors"
    ).read_bytes()


def test_the_rule_freezes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second measurement that it likes, with the grid of the dtype, by the numbers that the metrics have."""
    monkeypatch.setattr("seer_rl.seer.EVERY", 50)
    for threshold in ("MIN_CKA", "MIN_AGREEMENT", "MIN_PROGRESS"):
        monkeypatch.setattr(convergence, threshold, -1.0)
    monkeypatch.setattr(convergence, "NOVELTY", (0.0, float("inf")))
    seer = SeerConfig("auto", earliest=130, latest=333, dtype="uint4")
    monkeypatch.setattr(display, "LINE_EVERY", 0.0)
    shown = Screen(file=io.StringIO())
    loop.train(Run(dataclasses.replace(AUTO, seer=seer, run_dir=tmp_path / "run")), display.Display(shown))
    assert isinstance(shown.file, io.StringIO)
    lines = shown.file.getvalue()
    metrics = read(tmp_path / "run")
    assert [step for step, _ in metrics["seer/cka"]] == [100, 150]
    assert f"encoder cka {metrics['seer/cka'][0][1]:.3f}, agreement {metrics['seer/agreement'][0][1]:.3f}" in lines
    assert f"{metrics['seer/clipped'][-1][1]:.2%} of new numbers clipped" in lines
    assert metrics["seer/freeze_step"] == [(150, 150.0)]
    assert metrics["replay/bytes_per_step"][-1][1] == 296 + 16  # and a priority
    assert 0 <= metrics["seer/clipped"][-1][1] < 0.5
    scores = [score for step, score in metrics["charts/episodic_return"] if step <= 150]
    run = Run(dataclasses.replace(AUTO, run_dir=tmp_path / "random"))
    random = random_scores(run.eval_env, AUTO.eval.episodes, run.eval_seed)
    run.close()
    assert metrics["seer/progress"][-1][1] == progress(scores[-convergence.GAMES :], random)


def test_the_latest_is_met_to_the_step_and_never_before_the_earliest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_rl.seer.EVERY", 50)
    monkeypatch.setattr(convergence, "MIN_CKA", 2.0)
    for seer, expected in ((SeerConfig("auto", earliest=0, latest=113), 113), (SeerConfig("auto", earliest=230), 230)):
        run = Run(dataclasses.replace(AUTO, seer=seer, run_dir=tmp_path / str(expected)))
        loop.train(run)
        assert run.frozen_at == expected


def test_the_same_settings_freeze_curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_rl.seer.EVERY", 40)
    monkeypatch.setattr(convergence, "MIN_CKA", 2.0)
    config = TrainConfig(
        "dmc/cartpole-swingup",
        steps=150,
        environment=ControlConfig(size=24, fast_render=True, action_repeat=20),
        seer=SeerConfig("auto", earliest=0, latest=100, dtype="uint8", copies=3, replay_ratio=2),
        replay=ReplayConfig(memory=500_000),
        eval=EvalConfig(every=150, episodes=1),
        agent=CURLConfig(crop=20, hidden=32, learning_starts=40, batch_size=12),
    )
    run = Run(dataclasses.replace(config, run_dir=tmp_path / "run"))
    loop.train(run)
    assert run.frozen_at == 100
    metrics = read(tmp_path / "run")
    assert [step for step, _ in metrics["seer/agreement"]] == [40, 80, 100]
    assert metrics["replay/bytes_per_step"][-1][1] == run.replay.bytes_for("uint8", 3, (100,)) == 3 * 100 + 12
    assert run.agent.updates == 61 + 2 * 50


def test_guard_rails() -> None:
    assert SeerConfig("auto").between(100_000) == (10_000, 50_000)
    assert SeerConfig("auto").between(15_000) == (10_000, 10_000)
    assert SeerConfig("auto", earliest=30_000).between(40_000) == (30_000, 30_000)
    assert SeerConfig("auto", latest=6_000).between(40_000) == (6_000, 6_000)
    assert SeerConfig("auto", earliest=0, latest=60_000).between(40_000) == (0, 60_000)


def test_a_picture_of_the_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("seer_rl.seer.EVERY", 50)
    monkeypatch.setattr(convergence, "MIN_CKA", 2.0)
    run = tmp_path / "run"
    seen: list[list[Signals]] = []

    def watch(run: Run, event: Event | Metrics) -> None:
        if isinstance(run.when, WhenConverged):
            seen.append(run.when.monitor.history)

    loop.train(Run(dataclasses.replace(AUTO, run_dir=run)), watch)
    assert inspect.recorded(run) == seen[-1]
    assert inspect.frozen_at(run) == {"frozen": 300}
    analyze.signals((run, run))
    assert capsys.readouterr().out == f"{run / 'signals.png'}\n"
    plain = tmp_path / "plain.png"
    inspect.draw_signals([inspect.Column(RUN.env, seen[-1], {})] * 2, plain)
    marked = mpimg.imread(run / "signals.png")
    assert marked.std() > 0.05
    assert (abs(marked[..., :3] - (0x1F / 255, 0x77 / 255, 0xB4 / 255)).max(axis=2) < 0.02).sum() > 100  # the line of T_f
    assert (abs(mpimg.imread(plain)[..., :3] - (0x1F / 255, 0x77 / 255, 0xB4 / 255)).max(axis=2) < 0.02).sum() == 0


def test_no_signals_to_draw(tmp_path: Path) -> None:
    loop.train(Run(dataclasses.replace(RUN, steps=70, run_dir=tmp_path / "run")))
    for runs, words in (((), "name a run"), ((tmp_path / "run",), "--seer.freeze auto"), ((tmp_path,), "run")):
        with pytest.raises(Mistake, match=words):
            analyze.signals(runs)


def signals(step: int, **changes: float) -> Signals:
    calm = Signals(step, cka=1.0, drift=0.1, travel=0.01, moved=0.5, agreement=1.0, error=1.0, novelty=1.0, progress=1.0)
    return dataclasses.replace(calm, **changes)  # type: ignore[arg-type]


def test_the_rule() -> None:
    calm = [signals(2_500 * i) for i in range(1, 9)]
    assert [converged(calm[:i], 10_000, 20_000) for i in range(1, 9)] == [False] * 3 + [True] * 5
    assert not converged(calm[:1], 0, 20_000)  # once is not enough
    for restless in ({"cka": 0.9}, {"agreement": 0.5}, {"novelty": 3.0}, {"novelty": 0.3}, {"progress": 0.5}):
        for late in (-1, -2):
            history = list(calm)
            history[late] = signals(history[late].step, **restless)
            assert not converged(history, 10_000, 30_000)
    assert converged([signals(20_000, cka=0.1)], 10_000, 20_000)  # the latest
    assert not converged([signals(17_500, cka=float("nan"))] * 2, 10_000, 20_000)
