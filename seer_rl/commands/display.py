"""Shows a run in the terminal: how it goes, and what it came to."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seer_rl.commands.console import Screen
from seer_rl.seer import WhenConverged
from seer_rl.text import count, duration, score, scores, size, visible
from seer_rl.training.accounting import Phase
from seer_rl.training.config import name_of
from seer_rl.training.events import Event, Metrics
from seer_rl.training.loop import LOOK_EVERY
from seer_rl.training.run import Run

DOING = {
    Event.RANDOM_GAMES: "a random player's games",
    Event.COMPILING: "compiling the update",
    Event.FREEZING: "freezing: images become embeddings",
    Event.EVALUATING: "evaluating",
    Event.SAVING: "writing a checkpoint",
    Event.TIDYING: "removing the checkpoints",
    Event.TRAINING: "",
}
LINE_EVERY = 20.0  # seconds between lines where the output is no terminal


def heading(run: Run) -> str:
    """Return what is run, with the settings that make its results another thing than the paper's."""
    config = run.config
    return ", ".join(
        [config.env, name_of(config.agent)]
        + ["fast render"] * getattr(config.environment, "fast_render", False)
        + [config.precision] * (config.precision != "float32")
        + ["compiled"] * run.compiles
    )


class Display:
    """Listens to a run and shows it: as a live panel in a terminal, by a line now and then elsewhere."""

    def __init__(self, console: Screen) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self.doing, self._last_line = "", -math.inf

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, run: Run, event: Event | Metrics) -> None:
        """Show what the event changes."""
        if isinstance(event, Metrics) or (event is Event.STEPPED and not (run.passed(LOOK_EVERY) or run.ends)):
            return
        before, self.doing = self.doing, DOING.get(event, self.doing)
        if self._live:
            self._live.update(self._panel(run))
        elif (self.doing and self.doing != before) or (run.step and time.monotonic() - self._last_line > LINE_EVERY):
            line = self.doing or "  ".join(f"{name} {value}" for name, value in self._facts(run).items())
            self.console.say(line)
            self._last_line = time.monotonic()

    def _facts(self, run: Run) -> dict[str, str]:
        phase, config = run.account.phase, run.config
        left = (config.steps - run.step) / phase.steps_per_second
        evaluated = f" (evaluated {score(np.mean(run.evaluations[-1][1]))})" if run.evaluations else ""
        clipped = "" if math.isnan(run.replay.clipped) else f", {run.replay.clipped:.2%} of new numbers clipped"
        facts = {
            "phase": {"fill": "filling the replay", "images": "images", "embeddings": "embeddings"}[phase.name],
            "step": f"{run.step:,} of {config.steps:,}",
            "speed": f"{phase.steps_per_second:.0f} steps/s",
            "return": (score(run.scores[-1]) if run.scores else "no game finished yet") + evaluated,
            "replay": f"{phase.replay_steps:,} of {phase.replay_capacity:,} steps, {size(phase.replay_bytes)}{clipped}",
            "FLOPs": count(run.account.operations[0]),
            "left": f"{duration(left)} at this speed",
        }
        if isinstance(run.when, WhenConverged) and run.when.monitor.history:  # what an automatic freeze waits for
            now = asdict(run.when.monitor.history[-1])
            facts["encoder"] = ", ".join(f"{name} {now[name]:.3f}" for name in ("cka", "agreement", "progress", "novelty"))
        return facts

    def _panel(self, run: Run) -> Table:
        title = Text(visible(heading(run)), style="bold")
        table = Table.grid(padding=(0, 2))
        table.add_row("", title)
        table.add_row("", ProgressBar(total=run.config.steps, completed=run.step, width=60))
        for name, value in self._facts(run).items():
            table.add_row(Text(name, style="dim"), value)
        table.add_row("", Text(self.doing, "yellow"))
        return table


# Rows of the summary whose ratio is the gain: name, number of a phase, its text, whether more of it is better.
ROWS: list[tuple[str, Callable[[Phase], float], Callable[[float], str], bool]] = [
    ("steps/s with environment", lambda phase: phase.steps_per_second, "{:.0f}".format, True),
    ("FLOPs, the paper's count", lambda phase: phase.operations[0], count, False),
    ("operations, true count", lambda phase: phase.operations[1], count, False),
    ("bytes per stored step", lambda phase: phase.bytes_per_step, "{:,}".format, False),
    ("replay capacity, steps", lambda phase: phase.replay_capacity, "{:,}".format, True),
]


def summary(run: Run, console: Screen) -> None:
    """Print what the run came to: its cost before and after the freeze side by side, its scores beside a random player's."""
    by_name = {phase.name: phase for phase in run.account.phases}
    shown = [by_name[name] for name in ("images", "embeddings") if name in by_name]
    if shown:
        headings = {"images": "images (before)", "embeddings": "embeddings (after)"}
        table = Table(title=f"{heading(run)}: an agent step", title_justify="left")
        table.add_column("")
        for phase in shown:
            table.add_column(headings[phase.name], justify="right")
        if len(shown) == 2:
            table.add_column("gain", justify="right")
        for name, value, text, more_is_better in ROWS:
            values = [value(phase) for phase in shown]
            gain = [values[1] / values[0] if more_is_better else values[0] / values[1]] if len(values) == 2 else []
            table.add_row(name, *map(text, values), *map("{:.2f}x".format, gain))
        table.add_row("replay at the end", *(f"{p.replay_steps:,} steps, {size(p.replay_bytes)}" for p in shown))
        table.add_row("process memory, peak", *(size(p.process_bytes) for p in shown))
        console.print(table)
    if run.frozen:
        baseline = baseline_flops(run)
        console.say(
            f"Frozen at step {run.frozen_at:,} in {run.freeze_seconds:.1f} s. FLOPs of the run: "
            f"{count(run.account.operations[0])}, without SEER {count(baseline)} ({baseline / run.account.operations[0]:.2f}x)."
        )
    games = Table(title="Scores of whole games: mean ± standard deviation", title_justify="left", min_width=52)
    for column in ("player", "games", "score"):
        games.add_column(column, justify="left" if column == "player" else "right")
    games.add_row("random", str(len(run.random_scores)), scores(run.random_scores))
    for step, values in run.evaluations:
        games.add_row(f"agent, step {step:,}", str(len(values)), scores(values))
    console.print(games)


def baseline_flops(run: Run) -> int:
    """Return the operations of the run, by the paper's count, had nothing been frozen."""
    updates = sum(phase.steps for phase in run.account.phases if phase.name != "fill") // run.config.agent.update_every
    return updates * run.costs.update(frozen=False)[0]
