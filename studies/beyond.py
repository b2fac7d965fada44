"""The tables and the picture of docs/beyond.md, from the runs of its study, finished or not.

    seer sweep studies/beyond.toml --jobs 2
    python -m studies.beyond runs/beyond --output docs/beyond.png
    seer sweep studies/spend.toml --jobs 2
    python -m studies.beyond runs/beyond runs/spend --reference ratio-3

Returns are those of the last evaluation of runs that have ended; the mean of all evaluations in their second half, because one,
ten games, says little; and those at the operations of the cheapest run of the game. A last table has each arm beside the
reference at equal operations. Intervals are rliable's, over seeds.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from seer_rl.convergence import converged
from seer_rl.experiments import curves, stats
from seer_rl.experiments.inspect import recorded
from seer_rl.experiments.results import Result, common, find, group, mean_along, scores_at
from seer_rl.text import count

Arms = dict[str, list[Result]]
FloatArray = NDArray[np.float64]


def row(cells: Sequence[str]) -> None:
    """A line of a Markdown table."""
    print(f"| {' | '.join(cells)} |")


def head(cells: Sequence[str]) -> None:
    print()
    row(cells)
    row(["---", *["---:"] * (len(cells) - 1)])


def estimate(scores: Sequence[float]) -> str:
    """Mean, and its interval where there are several."""
    return f"{np.mean(scores):,.0f}" if len(scores) < 2 else stats.mean(scores).words(0)


def total(run: Result) -> float:
    """Operations of the whole run, as the paper counts them."""
    return run.at("flops", run.steps[-1])


def last_return(run: Result) -> float:
    """Of the evaluation at the run's end."""
    return float(run.returns[-1])


def second_half(run: Result) -> float:
    """Mean of the evaluations after half of the run."""
    return float(run.returns[run.steps > run.config.steps / 2].mean())


def of_game(env: str, arms: Arms) -> None:
    """Returns and costs of every arm. An automatic freeze at its latest moment is marked with *: the rule never held."""
    least = min(total(run) for runs in arms.values() for run in runs)
    columns = ("return [95%]", "each seed", "second half [95%]", f"at {count(least)}FLOPs", "T_f", "FLOPs", "minutes")
    head([env, *columns, "steps held", "bytes a step"])
    for name, runs in arms.items():
        returns = list(map(last_return, runs))
        then = scores_at(runs, "flops", least)
        flops, seconds = (np.mean([run.at(axis, run.config.steps) for run in runs]) for axis in ("flops", "seconds"))
        held, size = (np.mean([run.metrics[f"replay/{which}"][-1][1] for run in runs]) for which in ("steps", "bytes_per_step"))
        each = " ".join(f"{one:,.0f}" for one in returns)
        scores = [estimate(returns), each, estimate(list(map(second_half, runs))), estimate(then)]
        costs = [count(float(flops)), f"{seconds / 60:.0f}", f"{held:,.0f}", f"{size:,.0f}"]
        row([name, *scores, " ".join(map(freeze, runs)), *costs])


def freeze(run: Result) -> str:
    """T_f."""
    step, seer = run.freeze_step, run.config.seer
    if step is None:
        return "never"
    forced = seer.freeze_step == "auto" and not converged(recorded(run.run_dir), seer.between(run.config.steps)[0], sys.maxsize)
    return f"{step:,}{'*' if forced else ''}"


def across(games: dict[str, Arms], names: list[str], reference: str) -> dict[str, stats.Estimate]:
    """IQM of human-normalised returns over the games that every arm has finished, and comparisons with `reference`.

    Twice: of the last evaluation, and of the second half's.
    """
    whole = {env: arms for env, arms in games.items() if all(name in arms for name in names)}
    if len(whole) < 2:
        return {}
    seeds = min(len(runs) for arms in whole.values() for runs in arms.values())

    def normalised(name: str, of: Callable[[Result], float]) -> FloatArray:
        """[seeds, games]"""
        scores = [[stats.normalised(env, of(arms[name][i])) for env, arms in whole.items()] for i in range(seeds)]
        return np.array(scores, float)

    def better(name: str, of: Callable[[Result], float]) -> str:
        known = reference in names and name != reference
        return stats.improvement(normalised(name, of), normalised(reference, of)).words(2) if known else ""

    than = f"better than {reference} [95%]"
    head([f"{len(whole)} games, {seeds} seeds", "IQM [95%]", "mean [95%]", than, "second half: IQM [95%]", than])
    found = {}
    for name in names:
        last, later = (stats.aggregates(normalised(name, of)) for of in (last_return, second_half))
        found[name] = last["IQM"]
        row([name, last["IQM"].words(), last["mean"].words(), better(name, last_return),
             later["IQM"].words(), better(name, second_half)])  # fmt: skip
    return found


def equal(games: dict[str, Arms], reference: str) -> None:
    """Returns of every arm and of `reference`, both at the operations of the cheapest run of the two."""
    whole = {env: arms for env, arms in games.items() if reference in arms and len(arms) > 1}
    if not whole:
        return
    head(["at equal operations", "FLOPs", "return [95%]", f"{reference} [95%]"])
    for env, arms in whole.items():
        for name, runs in arms.items():
            if name != reference:
                flops = min(map(total, [*runs, *arms[reference]]))
                scores = (estimate(scores_at(which, "flops", flops)) for which in (runs, arms[reference]))
                row([f"{env}, {name}", count(flops), *scores])


def draw(games: dict[str, Arms], names: list[str], iqm: dict[str, stats.Estimate], output: Path) -> None:
    """Returns along steps and along operations of every game, mean and interval; ticks: T_f. To the right the IQM."""
    with curves.canvas(3.2 * len(games) + 2.4, 5.2, font=8) as figure:
        axes = figure.subplots(2, len(games) + 1, squeeze=False, width_ratios=[1] * len(games) + [0.7])
        for j, (env, arms) in enumerate(games.items()):
            for name, runs in arms.items():
                colour, (steps, table) = f"C{names.index(name)}", common([run.series("eval/return") for run in runs])
                mean, low, high = stats.curve(table[:, None])
                flops = mean_along(runs, "flops", steps)
                for axis, x in ((axes[0, j], steps / 1e3), (axes[1, j], flops / 1e12)):
                    axis.plot(x, mean, color=colour, marker="o", ms=3, lw=1.3, label=name)
                    axis.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
                for run in runs:
                    if run.freeze_step is not None:
                        height = 0.02 + 0.035 * names.index(name)  # arms often freeze together
                        axes[0, j].plot(run.freeze_step / 1e3, height, marker="|", ms=7, mew=1.6, color=colour,
                                        transform=axes[0, j].get_xaxis_transform())  # fmt: skip
            axes[0, j].set_title(env, fontsize=9)
            axes[0, j].set_xlabel("thousand agent steps (ticks: T_f)")
            axes[1, j].set_xlabel("TFLOPs, the paper's count")
        axes[0, 0].set_ylabel("return")
        axes[1, 0].set_ylabel("return")
        for i, (name, one) in enumerate(iqm.items()):
            axes[0, -1].plot([one.low, one.high], [-i, -i], color=f"C{names.index(name)}", lw=4, alpha=0.4)
            axes[0, -1].plot(one.point, -i, "o", color=f"C{names.index(name)}")
        axes[0, -1].set_yticks([-i for i in range(len(iqm))], list(iqm))
        axes[0, -1].set_title("IQM, human-normalised" if iqm else "", fontsize=9)
        if not iqm:
            axes[0, -1].set_axis_off()
        axes[1, -1].set_axis_off()
        lines = {arm: line for axis in axes[0, :-1] for line, arm in zip(*axis.get_legend_handles_labels(), strict=True)}
        axes[1, -1].legend(lines.values(), lines.keys(), frameon=False, loc="center left")
        curves.write(figure, output)


def main(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path | None = None, reference: str = "fixed") -> None:
    """Print the tables, and draw.

    Args:
        runs: Directories of runs.
        output: Picture.
        reference: The arm that the others are compared with.
    """
    found = [run for run in find(runs, lambda text: print(text, file=sys.stderr)) if run.has_ended]
    if not found:
        sys.exit(f"none of the runs in {', '.join(map(str, runs))} has ended yet")
    games = {env: dict(sorted(arms.items())) for env, arms in group(found).items()}
    names = sorted({name for arms in games.values() for name in arms})  # one order and colours, whichever games there are
    if reference not in names:
        print(f"no run of the arm {reference!r} has ended: nothing is compared with it", file=sys.stderr)
    for env, arms in games.items():
        of_game(env, arms)
    iqm = across(games, names, reference)
    equal(games, reference)
    if output:
        draw(games, names, iqm, output)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ValueError as error:
        sys.exit(str(error))
