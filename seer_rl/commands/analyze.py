"""`seer analyze`: where an encoder looks, how much each layer still changes, and what an automatic freeze went by."""

import contextlib
from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.bounds import Count

Run = Annotated[Path, tyro.conf.arg(metavar="RUN")]
Output = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]


def attention(
    run: Run, /, output: Output = None, frames: tuple[int, ...] = (), layer: str | None = None, video: Path | None = None
) -> None:
    """Show where an encoder looks: softmax over positions of the mean over channels of a layer's absolute activations.

    Args:
        run: Directory of a run that was trained with --analysis.every.
        output: Picture to write: a row for each frame, a column for each snapshot. None: RUN/attention.png.
        frames: Numbers of observations that were kept with the run, counted from 0. Without any: five of them.
        layer: Convolution, for example conv1. None: the last one whose map is 7x7 or larger.
        video: Film to write as well: a game of the agent as it ended, with what it sees beside where it looks.
    """
    from seer_rl.commands.console import progress
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.film import filming
    from seer_rl.commands.streams import tell
    from seer_rl.experiments import curves, inspect
    from seer_rl.training import checkpoint

    with contextlib.ExitStack() as open_film:
        with mistakes():
            config = checkpoint.load_config(run)
            output = picture(output or run / "attention.png")
        take = open_film.enter_context(filming(video, 15)) if video else None  # before the work: it may not be possible
        with mistakes():
            rows = inspect.attention(run, frames, layer, progress)
            inspect.draw_attention(rows, output, f"Attention of {rows[0].layer}: {curves.text(config.env)}")
        tell(output)
        if take:
            inspect.film_attention(run, rows[0].layer, take)
    if video:
        tell(video)


def similarity(run: Run, /, output: Output = None, lag: Count = 10_000) -> None:
    """Compare every layer with itself some steps earlier, by SVCCA and linear CKA: 1 where it no longer changes.

    Args:
        run: Directory of a run that was trained with --analysis.every.
        output: Picture to write; the numbers go beside it, as NAME.csv. None: RUN/similarity.png.
        lag: Agent steps between a layer and its earlier self.
    """
    from seer_rl.commands.console import progress
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.experiments import inspect
    from seer_rl.training import checkpoint, files

    with mistakes():
        checkpoint.load_config(run)  # is it a run?
        output = picture(output or run / "similarity.png")
        found, notes = inspect.similarity(run, lag, progress)
        files.write_atomically(output.with_suffix(".csv"), inspect.table(found).encode())
        inspect.draw_similarity(run, found, output, lag)
    for note in notes:
        tell(f"note: {note}")
    tell(output.with_suffix(".csv"))
    tell(output)


def signals(runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")], /, output: Output = None) -> None:
    """Draw the signals that an automatic freeze goes by, and the moment that it chose.

    Args:
        runs: Directories of runs that were trained with --seer.freeze auto: each becomes a column.
        output: Picture to write. None: RUN/signals.png, in the directory of the first.
    """
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.experiments.inspect import Column, draw_signals, frozen_at, recorded
    from seer_rl.training import checkpoint

    with mistakes():
        if not runs:
            raise ValueError("name a run: seer analyze signals RUN [RUN ...]")
        columns = [Column(checkpoint.load_config(run).env, recorded(run), frozen_at(run)) for run in runs]
        output = picture(output or runs[0] / "signals.png")
        draw_signals(columns, output)
    tell(output)


def picture(output: Path) -> Path:
    """Return `output`. Raises ValueError if it cannot be a picture, ImportError without the extra [report]."""
    from seer_rl.experiments import curves
    from seer_rl.training.files import writable

    curves.require()  # before the work
    return writable(output, *curves.KINDS)
