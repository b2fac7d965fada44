"""Draws pictures of runs: what they scored, what it cost, what they held."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seer_rl.experiments import results
from seer_rl.experiments.results import Result
from seer_rl.text import install, visible
from seer_rl.training import files
from seer_rl.training.rundir import PICTURE

KINDS = (".png", ".pdf")
LONGEST = 60  # characters of a name in a picture


def text(words: str) -> str:
    """Make words from a file fit for a picture: short, in one line, and with no "$", which would begin a formula."""
    words = visible(words)
    return (words if len(words) <= LONGEST else words[: LONGEST - 3] + "...").replace("$", r"\$")


def write(figure: Any, output: Path, dpi: int = 130) -> None:
    """Write a figure in the format that the file's ending names, in one piece. dpi: dots per inch. Raises OSError."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():  # a letter that the font lacks is a box
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        figure.savefig(drawn, dpi=dpi, format=output.suffix[1:].lower())
    files.write_atomically(output, drawn.getvalue())


def require() -> None:
    """Raise ImportError, in a sentence, where nothing can be drawn: without the extra [report]."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"pictures need the extra [report]: {install('report')}") from error


@contextlib.contextmanager
def canvas(width: float, height: float, font: float = 9) -> Iterator[Any]:
    """Give an empty matplotlib figure in the style of all our pictures, to be drawn and written while this holds.

    width, height: in inches. font: size of the letters, in points. Raises ImportError without the extra [report].
    """
    require()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": font, "axes.spines.top": False, "axes.spines.right": False}):
        yield Figure(figsize=(width, height), layout="constrained")


def draw(runs: Sequence[Path], output: Path) -> None:
    """Draw return over steps and over FLOPs, replay memory and speed of `runs` into a PNG or PDF.

    Runs of an arm (`results.group`) share a colour: thin lines are runs, a thick one is their mean, where all of them were
    measured; a dotted line marks T_f, a dashed one a random player. Raises ValueError for a run that cannot be read or has no
    evaluations, and for runs of several environments; ImportError without the extra [report].
    """
    require()
    found = [results.read(run_dir) for run_dir in runs]
    for run in found:
        if not len(run.steps):
            raise ValueError(f"{run.run_dir} has no evaluations yet: there is nothing to draw")
    grouped = results.group(found)
    if len(grouped) > 1:
        several = ", ".join(map(visible, sorted(grouped)))
        raise ValueError(f"these runs are of {several}: draw those of each by themselves, or all with seer report")
    ((env, groups),) = grouped.items()

    with canvas(11, 6.4) as figure:
        axes = figure.subplots(2, 2)
        panels: list[tuple[Any, str, results.Axis, str, str]] = [
            (axes[0, 0], "eval/return", "steps", "agent steps", "return, evaluation"),
            (axes[0, 1], "eval/return", "flops", "FLOPs (multiply-adds, the paper's count)", "return, evaluation"),
            (axes[1, 0], "replay/bytes", "steps", "agent steps", "replay, MB in use"),
            (axes[1, 1], "charts/SPS", "steps", "agent steps", "agent steps per second"),
        ]
        colours = {label: f"C{i}" for i, label in enumerate(sorted(groups, key=lambda label: _first_freeze(groups[label])))}
        for axis, metric, along, x_label, y_label in panels:
            for arm, members in groups.items():
                label = text(arm) + (f" ({len(members)} runs)" if len(members) > 1 else "")
                lines = [run.series(metric) for run in members]
                for run, (steps, values) in zip(members, lines, strict=True):
                    style = {"lw": 1.8, "label": label} if len(members) == 1 else {"lw": 0.8, "alpha": 0.5}
                    marker = "o" if metric == "eval/return" else ""
                    axis.plot(run.along(along, steps), values, color=colours[arm], marker=marker, ms=3, **style)
                    if run.freeze_step is not None:
                        axis.axvline(run.at(along, run.freeze_step), color=colours[arm], ls=":", lw=1.2)
                if len(members) > 1:
                    steps, table = results.common(lines)
                    x = results.mean_along(members, along, steps)
                    axis.plot(x, table.mean(0), color=colours[arm], lw=2.2, label=label)
            axis.set(xlabel=x_label, ylabel=y_label)
            axis.set_xlim(left=0)
            if metric == "eval/return":
                random = results.random_return(run for members in groups.values() for run in members)
                if random is not None:
                    axis.axhline(random, color="0.5", ls="--", lw=1, label="random player")
            else:
                axis.set_ylim(bottom=0)
        axes[0, 0].legend(facecolor="white", edgecolor="none", loc="best")
        title = f"{text(env)}: {len(runs)} run{'s' if len(runs) > 1 else ''}; dotted: the freeze at $T_f$"
        figure.suptitle(title)
        write(figure, output)


def picture(run_dir: Path) -> None:
    """Draw one run into the picture in its directory. Raises what `draw` does."""
    draw([run_dir], run_dir / PICTURE)


def _first_freeze(runs: Sequence[Result]) -> float:
    """Return the earliest freeze of an arm, in agent steps; infinity where there was none."""
    return min((float(run.freeze_step) for run in runs if run.freeze_step is not None), default=float("inf"))
