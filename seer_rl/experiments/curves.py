"""Pictures of runs: what they scored, what it cost, what they held."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seer_rl.experiments import results
from seer_rl.experiments.results import Result
from seer_rl.text import visible
from seer_rl.training import files
from seer_rl.training.rundir import PICTURE

KINDS = (".png", ".pdf")
LONGEST = 60  # characters of a name in a picture


def text(words: str) -> str:
    """Make words from a file fit for a picture: short, in one line, and with no "$", which would begin a formula."""
    words = visible(words)
    return (words if len(words) <= LONGEST else words[: LONGEST - 3] + "...").replace("$", r"\$")


def write(figure: Any, output: Path, dpi: int = 130) -> None:
    """Write a figure as its name's ending says, in one piece. Raises OSError."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():  # a letter that the font lacks is a box
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        figure.savefig(drawn, dpi=dpi, format=output.suffix[1:].lower())
    files.write_atomically(output, drawn.getvalue())


def draw(runs: Sequence[Path], output: Path) -> None:
    """Draw return over steps and over FLOPs, replay memory and speed of `runs` into a PNG or PDF.

    Runs of an arm (`results.group`) share a colour: thin lines are runs, thick ones the mean of runs evaluated at the same
    steps; a dotted line marks T_f, a dashed one a random player. Raises ValueError for a run that cannot be read or has no
    evaluations, and for runs of several environments; ImportError without the extra [report].
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need the extra [report]: pip install 'seer-rl[report]'") from error
    found = [results.read(run_dir) for run_dir in runs]
    for run in found:
        if not len(run.steps):
            raise ValueError(f"{run.run_dir} has no evaluations yet: there is nothing to draw")
    grouped = results.group(found)
    if len(grouped) > 1:
        several = ", ".join(map(visible, sorted(grouped)))
        raise ValueError(f"these runs are of {several}: draw those of each by themselves, or all with seer report")
    ((env, groups),) = grouped.items()

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        axes = figure.subplots(2, 2)
        panels = [
            (axes[0, 0], "eval/return", "agent steps", "return, evaluation"),
            (axes[0, 1], "eval/return", "FLOPs (multiply-adds, the paper's count)", "return, evaluation"),
            (axes[1, 0], "replay/bytes", "agent steps", "replay, MB in use"),
            (axes[1, 1], "charts/SPS", "agent steps", "agent steps per second"),
        ]
        colours = {label: f"C{i}" for i, label in enumerate(sorted(groups, key=lambda label: _first_freeze(groups[label])))}
        for axis, name, x_label, y_label in panels:
            scale = 1e-6 if name == "replay/bytes" else 1.0
            along: results.Axis = "flops" if x_label.startswith("FLOPs") else "steps"
            for name_of_arm, members in groups.items():
                colour = colours[name_of_arm]
                label = text(name_of_arm) + (f" ({len(members)} runs)" if len(members) > 1 else "")
                lines = []
                for run in members:
                    points = run.metrics.get(name, [])
                    if name == "charts/SPS":  # how fast the replay fills before training is another question
                        points = [(step, value) for step, value in points if step in run.trained]
                    steps = [step for step, _ in points]
                    x = run.along(along, np.array(steps, float)).tolist()
                    y = [scale * value for _, value in points]
                    lines.append((steps, x, y))
                    alone = len(members) == 1
                    style = {"lw": 1.8, "label": label} if alone else {"lw": 0.8, "alpha": 0.5}
                    axis.plot(x, y, color=colour, marker="o" if name == "eval/return" else "", ms=3, **style)
                    if run.freeze_step is not None:
                        at = float(run.along(along, np.array([float(run.freeze_step)]))[0])
                        axis.axvline(at, color=colour, ls=":", lw=1.2)
                if len(members) > 1 and all(steps == lines[0][0] for steps, _, _ in lines):
                    mean_x, mean_y = (np.mean([line[i] for line in lines], axis=0) for i in (1, 2))
                    axis.plot(mean_x, mean_y, color=colour, lw=2.2, label=label)
            axis.set(xlabel=x_label, ylabel=y_label)
            axis.set_xlim(left=0)
            if name == "eval/return":
                random = [x for members in groups.values() for m in members for _, x in m.metrics.get("eval/random_return", [])]
                if random:
                    axis.axhline(float(np.mean(random)), color="0.5", ls="--", lw=1, label="random player")
            else:
                axis.set_ylim(bottom=0)
        axes[0, 0].legend(frameon=False, loc="best")
        title = f"{text(env)}: {len(runs)} run{'s' if len(runs) > 1 else ''}; dotted: the freeze at $T_f$"
        figure.suptitle(title)
        write(figure, output)


def picture(run_dir: Path) -> None:
    """Draw the picture of one run that lies in its directory; otherwise as `draw`."""
    draw([run_dir], run_dir / PICTURE)


def _first_freeze(runs: Sequence[Result]) -> float:
    """The earliest freeze of an arm, in agent steps; infinity where there was none."""
    return min((float(run.freeze_step) for run in runs if run.freeze_step is not None), default=float("inf"))
