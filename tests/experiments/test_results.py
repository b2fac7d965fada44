"""Runs read back: interpolation along every axis with known answers, and what is said of runs that cannot be read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.experiments import curves, results
from seer_rl.training import checkpoint
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.logger import CLOCK, HEADER, METRICS


def made(run_dir: Path, config: TrainConfig, metrics: dict[str, list[tuple[int, float]]]) -> results.Result:
    """A run's directory with given metrics."""
    run_dir.mkdir(parents=True)
    checkpoint.save_config(run_dir, config)
    rows = [f"{step},{name},{value}\r\n" for name, series in metrics.items() for step, value in series]
    (run_dir / METRICS).write_text(HEADER + "".join(rows), newline="")
    (run_dir / CLOCK).write_text(HEADER, newline="")
    (result,) = results.find([run_dir], print)
    return result


def flops_at(step: int) -> float:
    """Operations of a run that is frozen at step 100,000, and then takes a quarter of them."""
    return 0.3e9 * min(step, 100_000) + 0.075e9 * max(step - 100_000, 0)


CONFIG = TrainConfig("atari/alien", steps=500_000, seer=SeerConfig(freeze_step=100_000))
EVALUATIONS = range(10_000, 500_001, 10_000)


@pytest.fixture
def run(tmp_path: Path) -> results.Result:
    """Its return is 100 + 2e-12 per operation, logged with the operations every 10,000 steps."""
    metrics = {
        "eval/return": [(step, 100 + 2e-12 * flops_at(step)) for step in EVALUATIONS],
        "compute/flops": [(step, flops_at(step)) for step in range(1_000, 500_001, 1_000)],
        "replay/bytes": [(50_000, 4e8), (100_000, 8e8), (101_000, 2.5e8), (500_000, 9e8)],
        "seer/freeze_step": [(100_000, 100_000.0)],
        "charts/seconds": [(100_000, 1_000.0), (500_000, 3_000.0)],
    }
    return made(tmp_path / "run", CONFIG, metrics)


def test_score_at_45_trillion(run: results.Result) -> None:
    """45T lie at step 300,000, which was evaluated; 45.1T between two evaluations, where the curve is straight."""
    assert flops_at(300_000) == 45e12
    for flops in (45e12, 45.1e12, 30e12, 31.234e12, 3e12):
        assert run.score_at("flops", flops) == pytest.approx(100 + 2e-12 * flops, rel=1e-12)
    assert run.score_at("steps", 305_000) == pytest.approx(100 + 2e-12 * flops_at(305_000), rel=1e-12)


def test_nothing_is_extrapolated(run: results.Result) -> None:
    assert run.score_at("flops", 2.9e12) is None  # before the first evaluation
    assert run.score_at("flops", 60.1e12) is None
    assert run.score_at("steps", 500_000) == pytest.approx(220)
    assert results.scores_at([run, run], "flops", 61e12) == []


def test_other_axes(run: results.Result) -> None:
    steps = np.array([50_000.0, 100_000.0, 101_000.0, 300_000.0])
    assert run.along("seconds", steps).tolist() == [500, 1_000, 1_005, 2_000]
    assert run.along("bytes", steps)[:3].tolist() == [4e8, 8e8, 8e8]  # the most so far
    assert (run.has_ended, run.step, run.freeze_step, run.label) == (True, 500_000, 100_000, "SEER, frozen at 100,000")


def test_speeds_are_of_training(tmp_path: Path) -> None:
    metrics = {
        "losses/loss": [(2_000, 1.0), (3_000, 1.0), (4_000, 1.0)], "seer/freeze_step": [(3_000, 3_000.0)],
        "charts/SPS": [(1_000, 900.0), (2_000, 70.0), (3_000, 80.0), (4_000, 200.0)],
    }  # fmt: skip
    assert made(tmp_path / "a", CONFIG, metrics).speeds() == (80, 200)
    assert made(tmp_path / "b", CONFIG, {"charts/SPS": [(1_000, 900.0)]}).speeds() == (None, None)


def test_bytes_are_shown_in_megabytes(run: results.Result) -> None:
    steps, values = run.series("replay/bytes")
    assert steps.tolist() == [50_000, 100_000, 101_000, 500_000]
    assert values == pytest.approx([400, 800, 250, 900])


def test_means_are_of_the_steps_that_all_runs_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is still going, and another was evaluated half as often: the thick line is where all three were."""
    evaluations = {"a": range(10, 101, 10), "b": range(10, 81, 10), "c": range(20, 101, 20)}
    for i, (name, its) in enumerate(evaluations.items()):
        metrics = {"eval/return": [(step, step + 10.0**i) for step in its], "eval/random_return": [(0, float(i))]}
        made(tmp_path / name, replace(CONFIG, seed=i), metrics)
    runs = [results.read(tmp_path / name) for name in evaluations]
    steps, values = results.common([run.series("eval/return") for run in runs])
    assert steps.tolist() == [20, 40, 60, 80]
    assert values.tolist() == [[21, 41, 61, 81], [30, 50, 70, 90], [120, 140, 160, 180]]
    assert results.random_return(runs) == 1

    drawn: list[Any] = []
    monkeypatch.setattr("seer_rl.experiments.curves.write", lambda figure, output: drawn.append(figure))
    curves.draw([tmp_path / name for name in evaluations], tmp_path / "curves.png")
    (mean,) = (line for line in drawn[0].axes[0].get_lines() if line.get_label() == "SEER, frozen at 100,000 (3 runs)")
    assert mean.get_xdata().tolist() == [20, 40, 60, 80]
    assert mean.get_ydata() == pytest.approx([57, 77, 97, 117])


def test_runs_are_found_below_and_grouped(tmp_path: Path) -> None:
    never = replace(CONFIG, seer=SeerConfig())
    for name, config in {"a/1": CONFIG, "a/2": replace(CONFIG, seed=2), "b": never, "c": replace(never, label="base")}.items():
        made(tmp_path / name, config, {})
    groups = results.group(results.find([tmp_path, tmp_path / "b"], print))
    arms = {label: len(runs) for label, runs in groups["atari/alien"].items()}
    assert arms == {"SEER, frozen at 100,000": 2, "never frozen": 1, "base": 1}


def mixed(tmp_path: Path) -> list[results.Result]:
    """Two seeds of each: never frozen, though one kind had hoped to be; frozen at a step; when converged; in uint4; DER."""
    planned = replace(CONFIG, seer=SeerConfig("auto", earliest=500_001, latest=500_001))
    auto = replace(CONFIG, seer=SeerConfig("auto"))
    kinds = {
        "hoped": (planned, None),
        "step": (CONFIG, 100_000),
        "auto": (auto, 40_000),
        "uint4": (replace(auto, seer=replace(auto.seer, dtype="uint4")), 40_000),
        "der": (replace(CONFIG, seer=SeerConfig(), replay=ReplayConfig(priority_exponent=0.5)), None),
        "short returns": (replace(CONFIG, seer=SeerConfig(), agent=replace(CONFIG.agent, n_step=3)), None),
    }
    for name, (config, frozen) in kinds.items():
        for seed in (1, 2):
            at = None if frozen is None else frozen + (seed * 2_500 if config.seer.freeze_step == "auto" else 0)
            metrics = {"eval/return": [(500_000, 1.0)]} | ({"seer/freeze_step": [(at, float(at))]} if at else {})
            made(tmp_path / f"{name}-{seed}", replace(config, seed=seed, label="ours" if "u" in name else ""), metrics)
    return results.find([tmp_path], print)


def test_arms_are_told_apart_whatever_they_are_called(tmp_path: Path) -> None:
    groups = results.group(mixed(tmp_path))["atari/alien"]
    held = {label: sorted(run.run_dir.name for run in runs) for label, runs in groups.items()}
    assert sorted(held.values()) == [
        ["auto-1", "auto-2"], ["der-1", "der-2"], ["hoped-1", "hoped-2"],
        ["short returns-1", "short returns-2"], ["step-1", "step-2"], ["uint4-1", "uint4-2"],
    ]  # fmt: skip
    assert {run.frozen for run in groups["never frozen, images, priority 0, 20-step returns"]} == {"never"}


def test_a_copy_is_no_second_measurement(tmp_path: Path) -> None:
    """Of a seed and an arm, the run that came farthest counts, wherever it lies; other seeds and arms stay."""
    far: dict[str, list[tuple[int, float]]] = {"eval/return": [(500_000, 1.0)], "seer/freeze_step": [(100_000, 100_000.0)]}
    near = {"eval/return": [(90_000, 1.0)]}  # it has still to be frozen
    never = replace(CONFIG, seer=SeerConfig())
    made(tmp_path / "a" / "first", CONFIG, near)
    made(tmp_path / "b" / "again", CONFIG, far)
    made(tmp_path / "c" / "copied", CONFIG, far)
    made(tmp_path / "seed", replace(CONFIG, seed=1), near)
    made(tmp_path / "arm", never, near)
    said: list[str] = []
    found = results.once(results.find([tmp_path], said.append), said.append)
    assert [run.run_dir.name for run in found] == ["arm", "again", "seed"]
    assert [str(tmp_path / name) for name in ("a/first", "c/copied")] == [one.split()[2] for one in said]
    assert all(one.endswith(f"has the settings and the seed of {tmp_path / 'b' / 'again'}") for one in said)


def test_arms_differ_in_every_setting_that_changes_what_is_learnt(tmp_path: Path) -> None:
    agent = RainbowConfig()
    never = replace(CONFIG, seer=SeerConfig(), agent=agent)
    kinds = {
        "plain": never,
        "faster": replace(never, agent=replace(agent, learning_rate=0.01)),
        "longer": replace(never, steps=never.steps + 10),
        "same": replace(never, seer=SeerConfig(copies=7), threads=3, checkpoint_every=9, eval=EvalConfig(every=7)),
    }
    for name, config in kinds.items():
        for seed in (1, 2):
            made(tmp_path / f"{name}-{seed}", replace(config, seed=seed), {})
    groups = results.group(results.find([tmp_path], print))["atari/alien"]
    rate = agent.learning_rate
    assert {label: {run.run_dir.name.partition("-")[0] for run in runs} for label, runs in groups.items()} == {
        f"never frozen, steps {never.steps}, agent.learning_rate {rate}": {"plain", "same"},
        f"never frozen, steps {never.steps}, agent.learning_rate 0.01": {"faster"},
        f"never frozen, steps {never.steps + 10}, agent.learning_rate {rate}": {"longer"},
    }


def test_what_happened_counts_not_what_was_hoped_for(tmp_path: Path) -> None:
    auto = replace(CONFIG, seer=SeerConfig("auto"))
    frozen, ended = {"seer/freeze_step": [(60_000, 60_000.0)]}, {"eval/return": [(500_000, 1.0)]}
    for i, (config, metrics, expected) in enumerate(
        [
            (CONFIG, {}, "at 100,000"),  # it is still to come
            (CONFIG, ended, "never"),
            (CONFIG, frozen, "at 60,000"),
            (auto, {}, "when converged"),
            (auto, frozen | ended, "when converged"),
            (auto, ended, "never"),
            (replace(CONFIG, seer=SeerConfig()), {}, "never"),
        ]
    ):
        assert made(tmp_path / str(i), config, metrics).frozen == expected


def test_differing_settings(tmp_path: Path) -> None:
    one = made(tmp_path / "1", CONFIG, {})
    other = made(tmp_path / "2", replace(CONFIG, seed=3, agent=replace(CONFIG.agent, batch_size=64)), {})
    same, differing = results.differing([one, other])
    assert differing == [{"seed": 0, "agent.batch_size": 32}, {"seed": 3, "agent.batch_size": 64}]
    assert same["agent.name"] == "rainbow"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    made(tmp_path / "good", CONFIG, {"eval/return": [(10_000, 5.0)]})
    made(tmp_path / "bad", CONFIG, {})
    (tmp_path / "bad" / METRICS).write_text("step,name,value\r\n10,eval/return,ten\r\n")
    made(tmp_path / "worse", CONFIG, {})
    (tmp_path / "worse" / checkpoint.CONFIG).write_text("env = 3")
    said: list[str] = []
    (found,) = results.find([tmp_path], said.append)
    assert found.run_dir.name == "good"
    assert not found.has_ended
    assert len(said) == 2
    assert all(text.startswith("left out: ") and "\n" not in text for text in said)
    with pytest.raises(ValueError, match="none of the runs could be read"):
        results.find([tmp_path / "bad"], said.append)
    with pytest.raises(ValueError, match="no directory of runs"):
        results.find([tmp_path / "nowhere"], print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no runs"):
        results.find([tmp_path / "empty"], print)
