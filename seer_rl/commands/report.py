"""`seer report`: one page about many runs."""

import time
from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.commands.console import Screen, tell
from seer_rl.commands.errors import mistakes
from seer_rl.experiments import report, results
from seer_rl.training.arguments import read
from seer_rl.training.files import writable

DAY = 86_400  # seconds


def command(arguments: list[str]) -> None:
    """Write one page about runs."""

    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html"),
        film: bool = True,
        watch: bool = False,
        every: int = 60,
    ) -> tuple[tuple[Path, ...], Path, bool, bool, int]:
        """Write one page about runs, that opens anywhere without a network: curves, intervals, cost, settings, pictures.

        Args:
            runs: Run directories, or directories of runs.
            output: File to write.
            film: Let an agent of each kind play a game, and show pictures of it.
            watch: Write it again and again until all runs are done; an open page reloads itself.
            every: Seconds between two writings.
        """
        return runs, output, film, watch, every

    runs, output, film, watch, every = read(settings, "report", arguments)

    def note(text: str) -> None:
        Screen(stderr=True).say(f"note: {text}")

    with mistakes():
        if not runs:
            raise ValueError("name at least one directory of runs")
        if not 1 <= every <= DAY:
            raise ValueError(f"--every must be from 1 to {DAY:,}, not {every}")
        writable(output)
        while True:
            found = results.find(runs, note)
            going = watch and not all(result.has_ended for result in found)
            report.write(found, output, ["report", *arguments], note, film and not going, every if going else None)
            tell(f"{output}: {sum(r.has_ended for r in found)} of {len(found)} runs done")
            if not going:
                return
            time.sleep(every)
