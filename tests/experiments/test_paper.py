"""The paper's tables and figures: published digits, known scores, sweeps that fill them, and what is refused."""

import shutil
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seer_rl.commands.main import main
from seer_rl.experiments import results, sweep
from seer_rl.experiments.paper import experiments, figures, published, tables
from seer_rl.experiments.paper.experiments import FIGURES, _most
from seer_rl.training import build
from seer_rl.training.config import TrainConfig
from tests.experiments.test_results import flops_at, made


def of(figure: str, arm: int, env: str) -> TrainConfig:
    return experiments.config(FIGURES[figure], env, FIGURES[figure].arms[arm][0])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Alien with SEER, three seeds of 450, 460 and 470 at 45T; without, one that came to 30T only; and one in little memory."""
    seer, never, limited = of("figure3", 1, "atari/alien"), of("figure3", 0, "atari/alien"), of("figure4", 1, "atari/alien")
    flops = {"compute/flops": [(step, flops_at(step)) for step in range(10_000, 500_001, 10_000)]}
    for seed in (0, 1, 2):
        curve = [(step, 10 * seed + 1e-11 * flops_at(step)) for step in range(10_000, 500_001, 10_000)]
        metrics = {"eval/return": curve, "seer/freeze_step": [(50_000, 50_000.0)]}
        made(tmp_path / f"runs/seer-{seed}", replace(seer, seed=seed), metrics | flops)
    made(tmp_path / "runs/never", replace(never, steps=100_000), {"eval/return": [(10_000, 1.0), (100_000, 9.0)]} | flops)
    frozen = {"seer/freeze_step": [(100_000, 100_000.0)]}
    made(tmp_path / "runs/little", limited, {"eval/return": [(10_000, 2.0), (500_000, 77.0)]} | frozen | flops)
    return tmp_path / "runs"


def test_operations_by_layer_have_the_papers_digits() -> None:
    for table, rows in ((tables.table2(), 12), (tables.table3(), 6)):
        assert len(table.rows) == rows
        assert {row[-1] for row in table.rows} == {"yes"}


def test_table1(runs: Path) -> None:
    table = tables.table1(results.find([runs], print))
    (alien,) = [row for row in table.rows if row[0] == "Alien"]
    assert alien[1] == "992.0 ± 152.7"
    assert alien[2] == "- (1, to 30T)"
    assert alien[4].startswith("460.0 ± 8.2 [450, 470] (3)")
    assert alien[6] == "-"
    assert alien[8] == "77.0 (1)"
    assert {row[0] for row in table.rows} == {*published.SCORES, "RoadRunner"}
    assert all(row[2::2] == ["-"] * 4 for row in table.rows if row[0] != "Alien")
    earlier = tables.table1(results.find([runs], print), flops=30e12)
    (alien,) = [row for row in earlier.rows if row[0] == "Alien"]
    assert alien[2] == "9.0 (1)"
    (over,) = [note for note in earlier.notes if "that both have" in note]  # in little memory one arm has no run
    assert over.startswith("At 30T, over the 1 game that both have, 1 seed each: Rainbow has a mean of")
    assert over.endswith(", and scores more in 1 of 1.")
    assert any("steps 100000 (500000)" in note for note in earlier.notes)


def test_arms_are_compared_by_the_definitions() -> None:
    """A quarter of the scores is left out at either end, and every run meets every other run of its game."""
    never, seer = [[0.1, 0.7, 9.0], [0.3, 0.5]], [[0.2, 0.7], [0.4, 0.35]]  # of two games; one has a run more
    means = [sum(sorted(x for game in arm for x in game[:2])[1:3]) / 2 for arm in (never, seer)]
    pairs = [(a, b) for game in (0, 1) for a in seer[game] for b in never[game][:2]]
    won = sum(a > b for a, b in pairs) + sum(a == b for a, b in pairs) / 2
    said = tables.compared(("A", "B"), never, seer)
    assert said.startswith("over the 2 games that both have, 2 seeds each: ")
    assert f"A has an interquartile mean of human-normalised scores of {means[0]:.3f} [" in said
    assert f", B of {means[1]:.3f} [" in said
    assert f"a run of B scores more with a probability of {won / len(pairs):.2f} [" in said


def test_what_is_compared(runs: Path) -> None:
    """The paper's games only, each seed once, and only seeds that both arms have; scores on the scale of humans."""
    for game in ("alien", "road_runner"):
        for i, arm in enumerate(("never", "seer")):
            for seed in (1, 2, 7 + i):
                flops = [(step, flops_at(step)) for step in range(10_000, 500_001, 10_000)]
                losses = [(step, 0.5 + (step > 50_000) * (i + 1)) for step, _ in flops]
                curve = [(step, 1000.0 * (i + 1) + 10 * seed) for step, _ in flops]
                metrics = {"eval/return": curve, "compute/flops": flops, "losses/loss": losses}
                config = replace(of("figure3", i, f"atari/{game}"), seed=seed)
                made(runs / f"{game}-{arm}-{seed}", config, metrics | ({"seer/freeze_step": [(50_000, 5e4)]} if i else {}))
    shutil.copytree(runs / "alien-seer-1", runs / "copy")
    for directory in runs.glob("seer-*"):
        shutil.rmtree(directory)
    table = tables.table1(results.find([runs], print))
    (alien,) = [row for row in table.rows if row[0] == "Alien"]
    assert alien[2].startswith("1,033.3 ±")
    assert alien[4].endswith("(3)"), "the copy is no fourth run"
    (said,) = [note for note in table.notes if "that both have" in note]
    normalised = [(1000.0 * i + 15 - 227.8) / (7127.7 - 227.8) for i in (1, 2)]
    assert said.startswith(
        "At 45T, over the 1 game that both have, 2 seeds each: Rainbow has a mean of human-normalised scores of "
    )
    assert f"scores of {normalised[0]:.3f} [" in said
    assert f"Rainbow+SEER of {normalised[1]:.3f} [" in said
    assert "with a probability of 1.00 [1.00, 1.00]" in said
    assert said.endswith("So few seeds may differ by chance.")
    assert any(note.startswith("Arms that are one training up to the freeze are compared") for note in table.notes)


def test_of_settings_with_as_many_seeds_the_first_count() -> None:
    """Whatever their strings hash to, which differs from process to process."""
    for names in ("ab", "ba"):
        assert _most([(name, seed) for name in names for seed in (1, 2, 2)], "c") == names[0]


def test_arms_of_a_figure_are_not_mixed(tmp_path: Path) -> None:
    """Runs of little memory: the paper's two arms; and beside them others of the same agent, which are of neither."""
    seer, never = of("figure4", 1, "atari/alien"), of("figure4", 0, "atari/alien")
    auto = replace(seer.seer, freeze_step="auto")
    frozen = {"seer/freeze_step": [(100_000, 100_000.0)], "eval/return": [(500_000, 3.0)]}
    unfrozen = {"eval/return": [(500_000, 2.0)]}
    made(tmp_path / "seer", seer, frozen)
    made(tmp_path / "never", never, unfrozen)
    made(tmp_path / "hoped", replace(seer, seer=replace(auto, earliest=500_001, latest=500_001), seed=5), unfrozen)
    made(tmp_path / "auto", replace(seer, seer=auto), frozen)
    made(tmp_path / "uint4", replace(seer, seer=replace(seer.seer, dtype="uint4")), frozen)
    made(tmp_path / "der", replace(never, replay=replace(never.replay, priority_exponent=0.5)), unfrozen)
    made(tmp_path / "short", replace(never, agent=replace(never.agent, n_step=3)), unfrozen)
    for at in (50_000, 60_000):
        earlier = {"seer/freeze_step": [(at, float(at))], "eval/return": [(500_000, 3.0)]}
        made(tmp_path / str(at), replace(seer, seer=replace(seer.seer, freeze_step=at)), earlier)

    made(tmp_path / "begun", replace(seer, seed=9), {})
    made(tmp_path / "planned", replace(never, seed=9), {})
    for i in (11, 12, 13):  # more than have the paper's settings
        larger = replace(never, seed=i, replay=replace(never.replay, memory=2 * 10_000 * 84 * 84))
        made(tmp_path / f"larger-{i}", larger, unfrozen)

    def names(*left_out: str) -> list[list[str]]:
        found = [run for run in results.find([tmp_path], print) if run.run_dir.name not in left_out]
        arms = FIGURES["figure4"].arms
        members = [experiments.members(FIGURES["figure4"], "atari/alien", arm, found) for arm, _ in arms]
        return [[run.run_dir.name for run in runs] for runs in members]

    assert names() == [["never", "hoped", "planned"], ["seer", "begun"]]
    # With a note that its step is not the paper's: one that only plans the paper's step has no say.
    assert names("seer", "60000") == [["never", "hoped", "planned"], ["50000"]]
    assert names("never", "hoped")[0] == ["larger-11", "larger-12", "larger-13"]


def test_marks_at_the_end_of_an_empty_panel_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published scores of a figure without runs lie at the last step, and are drawn with room on their right."""
    drawn: list[Any] = []
    monkeypatch.setattr("seer_rl.experiments.curves.write", lambda figure, output: drawn.append(figure))
    figures.draw("figure4", [], tmp_path / "figure4.png")
    for axis in drawn[0].axes:
        ends = [line.get_xdata()[-1] for line in axis.get_lines() if len(line.get_xdata())]
        assert max(ends) == published.STEPS
        assert axis.get_xlim() == (0, pytest.approx(1.05 * published.STEPS))


def test_a_figure_shows_means_over_operations(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alien's panel: three seeds of which the middle one is the mean, and both published scores, side by side."""
    drawn: list[Any] = []
    monkeypatch.setattr("seer_rl.experiments.curves.write", lambda figure, output: drawn.append(figure))
    figures.draw("figure3", results.find([runs], print), tmp_path / "figure3.png")
    axis = drawn[0].axes[0]
    assert axis.get_title() == "atari/alien"
    lines = {line.get_label(): line for line in axis.get_lines()}
    steps = range(10_000, 500_001, 10_000)
    assert list(lines["Rainbow+SEER"].get_xdata()) == pytest.approx([flops_at(step) for step in steps])
    assert list(lines["Rainbow+SEER"].get_ydata()) == pytest.approx([10 + 1e-11 * flops_at(step) for step in steps])
    assert list(lines["Rainbow"].get_ydata()) == [1.0, 9.0]
    marks = {one.get_label(): one.lines[0] for one in axis.containers}
    for i, arm in enumerate(("Rainbow", "Rainbow+SEER")):
        assert list(marks[f"paper, {arm}"].get_ydata()) == [published.SCORES["Alien"][i].mean]
        assert float(marks[f"paper, {arm}"].get_xdata()[0]) == pytest.approx(published.BUDGET, rel=0.03)


def test_commands(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "table1", "--runs", str(runs), "-o", str(tmp_path / "t.md")]) == 0
    assert (tmp_path / "t.md").read_text("utf-8").count("\n| ") == 11
    assert main(["paper", "table3"]) == 0
    assert "8.19e5" in capsys.readouterr().out
    for figure in ("figure3", "figure4"):
        assert main(["paper", figure, "--runs", str(runs), "-o", str(tmp_path / f"{figure}.png")]) == 0
        assert (tmp_path / f"{figure}.png").stat().st_size > 20_000
    assert main(["paper", "figure6", "--runs", str(runs), "-o", str(tmp_path / "six.png")]) == 0  # none of these runs is of it
    assert {path.name for path in tmp_path.glob("six*")} == {"sixa.png", "sixb.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("table9", "there is no 'table9'"),
        ("figure7b", "is made from runs"),
        ("table1", "name their directories with --runs"),
        ("table1 --runs .", "holds no runs"),
        ("table1 --runs nowhere", "no directory of runs"),
        ("table1 --runs . --flops 0", "more than 0"),
        ("figure3 --runs RUNS -o x.bmp", "must end in .png or .pdf"),
        ("plan figure1", "there is no 'figure1'"),
        ("plan", "WHAT"),
    ],
)
def test_refusals(arguments: str, words: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["paper", *arguments.replace("RUNS", str(runs)).split()]) == 2
    said = capsys.readouterr().err
    assert words.lower() in said.lower()
    assert said.count("\n") == 1


@pytest.mark.parametrize("figure", FIGURES)
def test_plans_are_sweeps_whose_runs_fill_the_figure(figure: str, tmp_path: Path) -> None:
    experiment = replace(FIGURES[figure], envs=FIGURES[figure].envs[:1])  # every environment is the same text again
    planned = sweep.configs(tomllib.loads(experiments.plan(experiment)), tmp_path)
    assert len(planned) == len(experiment.arms) * 5
    found = [results.Result(run_dir, config, {}) for run_dir, config in planned.items()]
    for arm, _ in experiment.arms:
        matching = experiments.members(experiment, experiment.envs[0], arm, found)
        assert [run.config.seed for run in matching] == [0, 1, 2, 3, 4]
        assert experiments.departures(experiment, experiment.envs[0], arm, matching) == set()


def test_estimate_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Rainbow's runs of figure 4 on all games: operations by the formulas, and a time that this machine was measured for."""
    assert main(["paper", "plan", "figure4"]) == 0
    said = capsys.readouterr().out
    assert "80 runs" in said
    experiment = replace(FIGURES["figure4"], envs=("atari/alien",))
    cost = experiments.estimate(experiment)
    M, E, K = 2 * (147_456) + 13_056 * 19, 1_280_000, 32 * 5  # 18 actions; 3 passes and 2 x 1
    updates = 500_000 - 1_600
    never = updates * K * (E + M)
    frozen = (100_000 - 1_600) * K * (E + M) + 400_000 * (K * M + E)
    assert cost.flops == pytest.approx(5 * (never + frozen), rel=1e-9)
    assert cost.seconds > 60


def test_estimate_of_runs_that_begin_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another run's encoder all acts are on embeddings, and all updates, which begin after a thousand steps."""
    monkeypatch.setattr(experiments, "measure", lambda _: {False: (0.1, 10.0), True: (0.001, 10.0)})
    experiment = FIGURES["figure8"]
    experiment = replace(experiment, envs=experiment.envs[:1])
    expected = 0.0
    for arm, _ in experiment.arms:
        config = experiments.config(experiment, experiment.envs[0], arm)
        freeze = config.steps if config.seer.freeze_step is None else config.seer.freeze_step
        assert isinstance(freeze, int)
        with closing(build.make_env(config, training=False)) as env:
            costs = build.costs(build.make_agent(config, env, 0), env, config)
        for step in range(0, config.steps, 1000):
            expected += 1000 * costs.act(step >= freeze)[0]
            expected += 1000 * costs.update(step >= freeze)[0] * (step >= config.agent.learning_starts)
    cost = experiments.estimate(experiment)
    assert cost.flops == pytest.approx(len(experiments.SEEDS) * expected, rel=1e-9)
    assert cost.seconds > 0
