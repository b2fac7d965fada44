"""The paper's figures, drawn from runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seer_rl import envs
from seer_rl.experiments import curves, inspect, results, stats
from seer_rl.experiments.paper import published
from seer_rl.experiments.paper.experiments import FIGURES, departures, members, told
from seer_rl.experiments.results import Axis, Result
from seer_rl.training import checkpoint

LABELS = {"flops": "FLOPs (multiply-adds)", "steps": "agent steps"}
INSIDE = ("figure7b", "figure7c")
LAG = 10_000  # agent steps, of figure 7c
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # the baseline, SEER


def draw(name: str, found: Sequence[Result], output: Path, progress: inspect.Progress = inspect.silent) -> list[str]:
    """Draw a figure into a PNG or PDF; returns sentences to say with it. Panels without runs say so.

    Lines are means over seeds where all runs of an arm were evaluated, shades 95% bootstrap intervals of the mean; dotted: T_f.
    Where the paper's table 1 has a score for the end of a panel's axis, it is a mark with its standard deviation.
    Raises ImportError without the extra [report].
    """
    experiment = FIGURES[name]
    if name in INSIDE:
        return draw_inside(name, found, output, progress)
    columns = min(4, len(experiment.envs))
    rows = -(-len(experiment.envs) // columns)
    departing: dict[str, list[str]] = {}
    with curves.canvas(3.2 * columns + 1, 2.6 * rows + 0.8) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(experiment.envs) :]:
            axis.set_axis_off()
        for axis, env in zip(axes.flat, experiment.envs, strict=False):
            axis.set_title(env)
            counts = []
            for i, (arm, _) in enumerate(experiment.arms):
                runs = [run for run in members(experiment, env, arm, found) if len(run.steps)]
                counts.append(f"{arm}: {len(runs)}")
                if runs:
                    _line(axis, runs, experiment.axis, arm, COLOURS[i])
                    for setting in departures(experiment, env, arm, runs):
                        departing.setdefault(setting, []).append(f"{arm} in {env}")
                _published(axis, name, env, i)
            if all(count.endswith(": 0") for count in counts):
                axis.text(0.5, 0.5, "no runs", ha="center", va="center", color="0.5", transform=axis.transAxes)
            axis.set_xlabel(f"{LABELS[experiment.axis]}\n{'; '.join(counts)} runs", fontsize=7)
            axis.set_xlim(0, 1.05 * axis.dataLim.x1 if np.isfinite(axis.dataLim.x1) else None)  # marks at the end are whole
        axes[0, 0].set_ylabel("return, evaluation")
        entries = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        if entries:
            figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{name}: {experiment.title}")
        curves.write(figure, output)
    notes = [
        "Lines are means over seeds where all runs of an arm were evaluated, shades 95% bootstrap intervals of the mean (of "
        "two or three runs, their range), dotted lines the freeze."
    ]
    return [*notes, *told(departing)]


def draw_inside(name: str, found: Sequence[Result], output: Path, progress: inspect.Progress) -> list[str]:
    """Draw figures 7b and 7c, of the first run with snapshots in each environment. Raises ValueError where there is none."""
    experiment = FIGURES[name]
    inside = [run for run in found if any((run.run_dir / checkpoint.ANALYSIS).glob("*.safetensors"))]
    runs = [run for env in experiment.envs for run in members(experiment, env, experiment.arms[0][0], inside)[:1]]
    if not runs:
        raise ValueError(f"{name} needs runs with snapshots: seer paper plan {name} says which")
    if name == "figure7b":
        rows = [row for run in runs for row in inspect.attention(run.run_dir, progress=progress)[1::2]]
        inspect.draw_attention(rows, output, f"{name}: {experiment.title}")
        return ["Left the frame, then where the last convolution with a map of 7x7 or finer looked, on the way."]
    similarity, notes = inspect.similarity(runs[0].run_dir, LAG, progress)
    inspect.draw_similarity(runs[0].run_dir, similarity, output, LAG)
    return notes


def _line(axis: Any, runs: Sequence[Result], along: Axis, label: str, colour: str) -> None:
    steps, table = results.common([run.series("eval/return") for run in runs])
    if not len(steps):
        return
    x = results.mean_along(runs, along, steps)
    axis.plot(x, table.mean(0), color=colour, lw=1.8, marker="o", ms=3, label=label)
    if len(runs) > 1:
        _, low, high = stats.curve(table[:, None])
        axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    for freeze in {run.freeze_step for run in runs if run.freeze_step is not None}:
        axis.axvline(runs[0].at(along, freeze), color=colour, ls=":", lw=1)


def _published(axis: Any, name: str, env: str, arm: int) -> None:
    column = {"figure3": 0, "figure4": 2}.get(name)
    scores = {envs.plain(f"atari/{game}"): score for game, score in published.SCORES.items()}
    if column is None or envs.plain(env) not in scores:
        return
    score = scores[envs.plain(env)][column + arm]
    at = (published.BUDGET if name == "figure3" else published.STEPS) * (0.98 + 0.02 * arm)  # side by side
    label = f"paper, {FIGURES[name].arms[arm][0]}"
    axis.errorbar([at], [score.mean], yerr=[score.std], color=COLOURS[arm], fmt="s", ms=4, mfc="none", capsize=2, label=label)
