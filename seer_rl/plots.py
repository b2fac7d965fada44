"""Pictures of runs: what they scored, what it cost, what they held."""

import io
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seer_rl import files
from seer_rl.envs import plain
from seer_rl.logger import read
from seer_rl.terminal import visible

Series = list[tuple[int, float]]


def _interpolated(series: Series, steps: Sequence[int]) -> list[float]:
    """Values of `series` at `steps`, linear between its points."""
    known_steps, values = zip(*series, strict=True)
    return [float(x) for x in np.interp(steps, known_steps, values)]


def _env(run: Path) -> str:
    """The environment that a run's settings name, as far as they can be read."""
    try:
        name = tomllib.loads(files.read(run / "config.toml").decode()).get("env")
    except (OSError, ValueError):
        return ""
    return visible(name) if isinstance(name, str) else ""


def curves(runs: Sequence[Path], output: Path) -> None:
    """Draw return over steps and over FLOPs, replay memory and speed of `runs` into a PNG.

    Runs that were frozen at the same step share a colour, and so do those that never were: thin lines are runs, thick ones the
    mean of runs evaluated at the same steps; a dotted line marks T_f, a dashed one a random player. Raises ValueError for a run
    without evaluations and for runs of several environments, ImportError without the extra [report].
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need the extra [report]: pip install 'seer-rl[report]'") from error
    if output.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{output} must end in .png, .pdf or .svg")
    games = {plain(name): name for run in runs if (name := _env(run))}  # a game may be spelled in several ways
    names = sorted(games.values())
    if len(names) > 1:
        raise ValueError(f"these runs are of {', '.join(names)}: draw those of each by themselves, or all with seer report")
    groups: dict[float | None, list[dict[str, Series]]] = {}
    for run in runs:
        metrics = read(run)
        if "eval/return" not in metrics:
            raise ValueError(f"{run} has no evaluations yet: there is nothing to draw")
        freeze = metrics.get("seer/freeze_step", [(0, None)])[0][1]
        groups.setdefault(freeze, []).append(metrics)

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        axes = figure.subplots(2, 2)
        panels = [
            (axes[0, 0], "eval/return", "agent steps", "return, evaluation"),
            (axes[0, 1], "eval/return", "FLOPs (multiply-adds, the paper's count)", "return, evaluation"),
            (axes[1, 0], "replay/bytes", "agent steps", "replay, MB in use"),
            (axes[1, 1], "charts/SPS", "agent steps", "agent steps per second"),
        ]
        colours = {freeze: f"C{i}" for i, freeze in enumerate(sorted(groups, key=lambda f: (f is None, f or 0)))}
        for axis, name, x_label, y_label in panels:
            scale = 1e-6 if name == "replay/bytes" else 1.0
            by_flops = x_label.startswith("FLOPs")
            for freeze, members in groups.items():
                label = "never frozen" if freeze is None else f"SEER, frozen at {freeze:,.0f}"
                label += f" ({len(members)} runs)" if len(members) > 1 else ""
                lines = []
                for metrics in members:
                    points = metrics.get(name, [])
                    if name == "charts/SPS":  # how fast the replay fills before training is another question
                        losses = (points for key, points in metrics.items() if key.startswith("losses/"))
                        trained = {step for series in losses for step, _ in series}
                        points = [(step, value) for step, value in points if step in trained]
                    steps = [step for step, _ in points]
                    x = (
                        _interpolated([(0, 0.0), *metrics.get("compute/flops", [])], steps)
                        if by_flops
                        else [float(s) for s in steps]
                    )
                    y = [scale * value for _, value in points]
                    lines.append((steps, x, y))
                    alone = len(members) == 1
                    style = {"lw": 1.8, "label": label} if alone else {"lw": 0.8, "alpha": 0.5}
                    axis.plot(x, y, color=colours[freeze], marker="o" if name == "eval/return" else "", ms=3, **style)
                    if freeze is not None:
                        at = (
                            _interpolated([(0, 0.0), *metrics.get("compute/flops", [])], [int(freeze)])[0]
                            if by_flops
                            else freeze
                        )
                        axis.axvline(at, color=colours[freeze], ls=":", lw=1.2)
                if len(members) > 1 and all(steps == lines[0][0] for steps, _, _ in lines):
                    mean_x, mean_y = (np.mean([line[i] for line in lines], axis=0) for i in (1, 2))
                    axis.plot(mean_x, mean_y, color=colours[freeze], lw=2.2, label=label)
            axis.set(xlabel=x_label, ylabel=y_label)
            axis.set_xlim(left=0)
            if name == "eval/return":
                known = [m["eval/random_return"] for members in groups.values() for m in members if "eval/random_return" in m]
                if known:
                    random = float(np.mean([series[0][1] for series in known]))
                    axis.axhline(random, color="0.5", ls="--", lw=1, label="random player")
            else:
                axis.set_ylim(bottom=0)
        axes[0, 0].legend(frameon=False, loc="best")
        title = ", ".join(names).replace("$", r"\$")  # which would begin a formula
        figure.suptitle(f"{title}: {len(runs)} run{'s' if len(runs) > 1 else ''}; dotted: the freeze at $T_f$")
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=130, format=output.suffix.removeprefix("."))
    files.write_atomically(output, drawn.getvalue())
