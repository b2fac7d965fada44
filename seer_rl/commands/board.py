"""Shows a table of a sweep's runs in the terminal."""

import math
import time
from pathlib import Path

from rich.live import Live
from rich.table import Table

from seer_rl.commands.console import Screen
from seer_rl.experiments import worker
from seer_rl.experiments.sweep import State
from seer_rl.text import duration, score, size

LINE_EVERY = 60.0  # seconds between lines about all runs where the output is no terminal


class Board:
    """Shows all runs: as a live table in a terminal; elsewhere by a line where one begins or ends, and one a minute."""

    def __init__(self, console: Screen) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._said: dict[Path, str] = {}
        self._last_line = -math.inf

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, states: list[State]) -> None:
        """Show how it stands with the runs now."""
        if self._live:
            self._live.update(board(states))
        due = time.monotonic() - self._last_line > LINE_EVERY
        for state in states:
            words = state.words()
            if words != self._said.get(state.run_dir, "waiting") or (due and words == "running" and not self._live):
                facts = "  ".join(value for value in row(state)[1:] if value)
                self.console.say(f"{state.run_dir.name}  {facts}")
                self._last_line = time.monotonic()
            self._said[state.run_dir] = words


def row(state: State) -> list[str]:
    """Return the cells of a run's line of the table."""
    status = worker.read_status(state.run_dir)
    words = state.words()
    going = words == "running" and status.speed > 0
    return [
        state.run_dir.name,
        words,
        f"{status.step:,} of {state.config.steps:,}" if status.step else "",
        f"{status.speed:.0f} steps/s" if going else "",
        "" if status.score is None else f"return {score(status.score)}",
        f"replay {size(status.replay_bytes)}" if status.replay_bytes else "",
        f"memory {size(status.process_bytes)}" if going and status.process_bytes else "",
        f"{duration((state.config.steps - status.step) / status.speed)} left" if going else "",
        state.failure or (status.doing if words == "running" else ""),
    ]


def board(states: list[State]) -> Table:
    """Return a table of all runs. Where there are more than 40, those that go on come first, and the last are left out."""
    order = {"running": 0, "failed": 1, "waiting": 2, "done": 3}
    shown = sorted(states, key=lambda state: order[state.words()])[:40]
    counts = ", ".join(f"{sum(s.words() == words for s in states)} {words}" for words in order)
    table = Table(title=f"{len(states)} runs: {counts}", title_justify="left", show_header=False)
    for state in shown:
        table.add_row(*row(state))
    return table
