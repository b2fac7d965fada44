"""`seer analyze`: where an encoder looks, how much each layer still changes, and what an automatic freeze went by."""

from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.commands.console import progress, tell
from seer_rl.commands.errors import mistakes
from seer_rl.commands.film import filming
from seer_rl.experiments import curves
from seer_rl.experiments.inspect import (
    Column,
    attention,
    draw_attention,
    draw_signals,
    draw_similarity,
    film_attention,
    frozen_at,
    recorded,
    similarity,
    table,
)
from seer_rl.training import checkpoint, files
from seer_rl.training.arguments import Mistake, read
from seer_rl.training.files import writable


def command(arguments: list[str]) -> None:
    """`seer analyze`."""
    kinds = {"attention": attention_, "similarity": similarity_, "signals": signals_}
    if not arguments or arguments[0] not in kinds:
        given = f"there is no analysis {arguments[0]!r}" if arguments else "say which analysis"
        raise Mistake(f"{given}: seer analyze {' | '.join(kinds)} RUN")
    kinds[arguments[0]](arguments[1:])


def attention_(arguments: list[str]) -> None:
    def settings(
        run: tyro.conf.Positional[Path],
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
        frames: tuple[int, ...] = (),
        layer: str | None = None,
        video: Path | None = None,
    ) -> tuple[Path, Path | None, tuple[int, ...], str | None, Path | None]:
        """Show where an encoder looks: softmax over positions of the mean over channels of a layer's absolute activations.

        Args:
            run: Run directory, of a training with --analysis.every.
            output: Picture to write, a row per frame, a column per snapshot. None: RUN/attention.png.
            frames: Which of the observations kept with the run, from 0. None: five.
            layer: Convolution, for example conv1. None: the last one whose map is 7x7 or larger.
            video: Film to write: a game of the agent as it ended, what it sees beside where it looks.
        """
        return run, output, frames, layer, video

    run, output, frames, layer, video = read(settings, "analyze attention", arguments)
    with mistakes():
        config = checkpoint.load_config(run)
        output = picture(output or run / "attention.png")
        rows = attention(run, frames, layer, progress)
        draw_attention(rows, output, f"Attention of {rows[0].layer}: {curves.text(config.env)}")
    tell(output)
    if video:
        with filming(video, 15) as take:
            film_attention(run, rows[0].layer, take)
        tell(video)


def similarity_(arguments: list[str]) -> None:
    def settings(
        run: tyro.conf.Positional[Path],
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
        lag: int = 10_000,
    ) -> tuple[Path, Path | None, int]:
        """Compare every layer with itself some steps earlier, by SVCCA and linear CKA: 1 where it no longer changes.

        Args:
            run: Run directory, of a training with --analysis.every.
            output: Picture to write; the numbers go beside it, as NAME.csv. None: RUN/similarity.png.
            lag: Agent steps earlier.
        """
        return run, output, lag

    run, output, lag = read(settings, "analyze similarity", arguments)
    with mistakes():
        checkpoint.load_config(run)  # is it a run?
        output = picture(output or run / "similarity.png")
        found, notes = similarity(run, lag, progress)
        files.write_atomically(output.with_suffix(".csv"), table(found).encode())
        draw_similarity(run, found, output, lag)
    for note in notes:
        tell(f"note: {note}")
    tell(output.with_suffix(".csv"))
    tell(output)


def signals_(arguments: list[str]) -> None:
    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    ) -> tuple[tuple[Path, ...], Path | None]:
        """Draw the signals that an automatic freeze goes by, and the moment that it chose.

        Args:
            runs: Run directories, of trainings with --seer.freeze auto: a column each.
            output: Picture to write. None: RUN/signals.png, in the first one's directory.
        """
        return runs, output

    runs, output = read(settings, "analyze signals", arguments)
    with mistakes():
        if not runs:
            raise ValueError("name a run: seer analyze signals RUN [RUN ...]")
        columns = [Column(checkpoint.load_config(run).env, recorded(run), frozen_at(run)) for run in runs]
        output = picture(output or runs[0] / "signals.png")
        draw_signals(columns, output)
    tell(output)


def picture(output: Path) -> Path:
    """Give `output` back. Raises ValueError if it cannot be a picture, ImportError without the extra [report]."""
    try:
        import matplotlib  # noqa: F401 (to say so before the work)
    except ImportError as error:
        raise ImportError("pictures need the extra [report]: pip install 'seer-rl[report]'") from error
    return writable(output, *curves.KINDS)
