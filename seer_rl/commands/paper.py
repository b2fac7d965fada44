"""`seer paper`: make the paper's tables and figures from our runs, and print the sweeps that train those runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from seer_rl.bounds import Count, Within
from seer_rl.commands.errors import Mistake, mistakes
from seer_rl.commands.streams import tell
from seer_rl.experiments.paper import published

if TYPE_CHECKING:
    from seer_rl.experiments.paper.tables import Table

TABLES = ("table1", "table2", "table3")
GROUPS = {
    "figure6": ("figure6a", "figure6b"),
    "figure7": ("figure7a", "figure7b", "figure7c"),
    "figure9": ("figure9a", "figure9b"),
}


def paper(
    what: Annotated[str, tyro.conf.arg(metavar="WHAT")],
    /,
    runs: tuple[Path, ...] = (),
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    flops: Annotated[float, Within(0, 1e18, beyond=True)] = published.BUDGET,
    steps: Count = published.STEPS,
) -> None:
    """Make a table or figure of the paper from your runs, with the published numbers beside yours.

    To train the runs of figure 4, say, give the sweep that `seer paper plan figure4` prints to `seer sweep`.

    Args:
        what: table1 (scores), table2 or table3 (operations by layer), or figure2 to figure13.
        runs: Directories of runs. table2 and table3 need none.
        output: File to write. A table becomes Markdown (None: it is printed), a figure a PNG or PDF (None: NAME.png).
        flops: For table1: operations at which scores are read.
        steps: For table1: agent steps at which scores in little memory are read.
    """
    from seer_rl.commands.console import Screen, progress
    from seer_rl.experiments import results
    from seer_rl.experiments.paper.experiments import FIGURES
    from seer_rl.experiments.paper.figures import draw
    from seer_rl.experiments.paper.tables import table1, table2, table3
    from seer_rl.experiments.results import Result
    from seer_rl.training import files

    known(what, (*TABLES, *FIGURES, *GROUPS))
    with mistakes():
        if what in TABLES and output:
            files.writable(output)
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
            return
        for name, path in paths.items():
            for note in draw(name, found, path, progress):
                tell(note)
            tell(path)


def plan(what: Annotated[str, tyro.conf.arg(metavar="WHAT")], /, estimate: bool = True) -> None:
    """Print the sweep that fills a figure, for `seer sweep`, with what it will cost.

    Args:
        what: table1, or figure2 to figure13.
        estimate: Measure some steps on this machine to tell how long the sweep would take.
    """
    from seer_rl.experiments.paper import experiments
    from seer_rl.experiments.paper.experiments import FIGURES, SEEDS
    from seer_rl.text import duration

    known(what, ("table1", *FIGURES, *GROUPS))
    for name in {"table1": ("figure3", "figure4"), **GROUPS}.get(what, (what,)):
        experiment = FIGURES[name]
        runs = len(experiment.envs) * len(experiment.arms) * len(SEEDS)
        print(f"# {name}: {experiment.title}; {runs} runs. Save as {name}.toml, then: seer sweep {name}.toml")
        if estimate:
            with mistakes():
                cost = experiments.estimate(experiment)
            spent = f"{cost.flops / 1e12:,.0f}T FLOPs (the paper's count), {duration(cost.seconds)} on one core of this machine"
            print(f"# about {spent},\n# by a measurement of some steps, without compiling")
        print(experiments.plan(experiment))


def pictures(what: str, output: Path | None) -> dict[str, Path]:
    """Return the file of each part of a figure, by the part's name. Raises ValueError where one cannot be written."""
    from seer_rl.experiments.curves import KINDS
    from seer_rl.training.files import writable

    names = GROUPS.get(what, (what,))
    if output is None:
        paths = {name: Path(f"{name}.png") for name in names}
    else:
        paths = {name: output if name == what else output.with_stem(f"{output.stem}{name[-1]}") for name in names}
    return {name: writable(path, *KINDS) for name, path in paths.items()}


def known(what: str, names: tuple[str, ...]) -> None:
    """Raise Mistake unless `what` is one of `names`."""
    if what not in names:
        raise Mistake(f"there is no {what!r}: choose {', '.join(names)}")


def show(table: "Table") -> None:
    """Print a table for people."""
    from rich.table import Table as RichTable

    from seer_rl.commands.console import Screen

    console = Screen(width=None if sys.stdout.isatty() else 200)
    rich = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(table.heading):
        rich.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*row)
    console.print(rich)
    for note in table.notes:
        console.say(note)
