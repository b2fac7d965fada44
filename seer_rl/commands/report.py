"""`seer report`: one page about many runs."""

import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from seer_rl.bounds import Within

DAY = 86_400  # seconds


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")],
    /,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html"),
    film: bool = True,
    watch: bool = False,
    every: Annotated[int, Within(1, DAY)] = 60,
) -> None:
    """Write one page about runs that opens anywhere without a network: curves, intervals, costs, settings and pictures.

    Args:
        runs: Run directories, or directories of runs.
        output: Page to write.
        film: Let an agent of each kind play a game, and show pictures of it.
        watch: Write the page again and again until all runs are done. An open page reloads itself.
        every: Seconds between two writings, with --watch.
    """
    from seer_rl.commands.console import Screen
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.experiments import report as page
    from seer_rl.experiments import results
    from seer_rl.training.files import writable

    def note(text: str) -> None:
        Screen(stderr=True).say(f"note: {text}")

    with mistakes():
        if not runs:
            raise ValueError("name at least one directory of runs")
        writable(output)
        while True:
            found = results.once(results.find(runs, note), note)
            going = watch and not all(result.has_ended for result in found)
            page.write(found, output, sys.argv[1:], note, film and not going, every if going else None)
            tell(f"{output}: {sum(r.has_ended for r in found)} of {len(found)} runs done")
            if not going:
                return
            time.sleep(every)
