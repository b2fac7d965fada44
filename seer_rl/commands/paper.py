"""`seer paper`: the paper's tables and figures from our runs, and the sweeps that would fill them."""

import math
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table as RichTable

from seer_rl.bounds import MOST
from seer_rl.commands.console import Screen, progress, tell
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import results
from seer_rl.experiments.curves import KINDS
from seer_rl.experiments.paper import published
from seer_rl.experiments.paper.experiments import FIGURES, SEEDS, estimate, plan
from seer_rl.experiments.paper.figures import draw
from seer_rl.experiments.paper.tables import MISSING, Table, table1, table2, table3
from seer_rl.experiments.results import Result
from seer_rl.text import duration
from seer_rl.training import files
from seer_rl.training.arguments import Mistake, read
from seer_rl.training.files import writable

TABLES = ("table1", "table2", "table3")


GROUPS = {
    "figure6": ("figure6a", "figure6b"),
    "figure7": ("figure7a", "figure7b", "figure7c"),
    "figure9": ("figure9a", "figure9b"),
}


def command(arguments: list[str]) -> None:
    """`seer paper`."""
    if arguments[:1] == ["plan"]:
        return plan_(arguments[1:])

    def settings(
        what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")],
        runs: tuple[Path, ...] = (),
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
        flops: float = published.BUDGET,
        steps: int = published.STEPS,
    ) -> tuple[str, tuple[Path, ...], Path | None, float, int]:
        """A table or figure of the paper from runs, published numbers beside ours; `seer paper plan figure4` says what to run.

        Args:
            what: table1 (scores), table2, table3 (operations by layer), figure2 to figure13.
            runs: Directories of runs.
            output: File to write: Markdown for a table (none: it is printed), PNG or PDF for a figure (none: NAME.png).
            flops: table1: operations at which scores are read.
            steps: table1: agent steps at which scores in little memory are read.
        """
        return what, runs, output, flops, steps

    what, runs, output, flops, steps = read(settings, "paper", arguments)
    known(what, (*TABLES, *FIGURES, *GROUPS))
    with mistakes():
        if not 0 < flops < math.inf or not 0 < steps <= MOST:
            raise ValueError(f"--flops must be more than 0, and --steps from 1 to {MOST:.0e}")
        if what in TABLES and output:
            writable(output)
        paths = {} if what in TABLES else pictures(what, output)
        found: list[Result] = []
        if what not in ("table2", "table3"):
            if not runs:
                raise ValueError(f"{what} is made from runs: name their directories with --runs")
            found = results.find(runs, lambda text: Screen(stderr=True).say(f"note: {text}"))
        if what in TABLES:
            table = {"table1": lambda: table1(found, flops, steps), "table2": table2, "table3": table3}[what]()
            if output:
                files.write_atomically(output, table.markdown().encode())
                tell(output)
            else:
                show(table)
            return None
        for name, path in paths.items():
            for note in draw(name, found, path, progress):
                tell(note)
            tell(path)
    return None


def pictures(what: str, output: Path | None) -> dict[str, Path]:
    """Say where each part of a figure goes. Raises ValueError where one cannot."""
    names = GROUPS.get(what, (what,))
    if output is None:
        paths = {name: Path(f"{name}.png") for name in names}
    else:
        paths = {name: output if name == what else output.with_stem(f"{output.stem}{name[-1]}") for name in names}
    return {name: writable(path, *KINDS) for name, path in paths.items()}


def plan_(arguments: list[str]) -> None:
    """`seer paper plan`."""

    def settings(
        what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")], estimate: bool = True
    ) -> tuple[str, bool]:
        """Print the sweep that fills a figure, for `seer sweep`, with what it will cost.

        Args:
            what: figure2 to figure13; table1.
            estimate: Measure this machine for the time that it would take.
        """
        return what, estimate

    what, measured = read(settings, "paper plan", arguments)
    known(what, ("table1", *FIGURES, *GROUPS))
    for name in {"table1": ("figure3", "figure4"), **GROUPS}.get(what, (what,)):
        experiment = FIGURES[name]
        runs = len(experiment.envs) * len(experiment.arms) * len(SEEDS)
        print(f"# {name}: {experiment.title}; {runs} runs. Save as {name}.toml, then: seer sweep {name}.toml")
        if measured:
            with mistakes():
                cost = estimate(experiment)
            spent = f"{cost.flops / 1e12:,.0f}T FLOPs (the paper's count), {duration(cost.seconds)} on one core of this machine"
            print(f"# about {spent},\n# by a measurement of some steps, without compiling")
        print(plan(experiment))


def known(what: str, names: tuple[str, ...]) -> None:
    """Raise Mistake unless `what` is one of `names`."""
    if what not in names:
        raise Mistake(f"there is no {what!r}: choose {', '.join(names)}")


def show(table: Table) -> None:
    """Print a table for people."""
    console = Screen(width=None if sys.stdout.isatty() else 200)
    rich = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(table.heading):
        rich.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*row)
    console.print(rich)
    if any(MISSING in cell for row in table.rows for cell in row):
        console.print(f"{MISSING}: no run has come that far")
    for note in table.notes:
        console.say(note)
