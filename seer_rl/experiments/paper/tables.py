"""The paper's tables, published numbers beside ours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.flops import layers
from seer_rl.agents.networks import output_shape
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.experiments import stats
from seer_rl.experiments.paper import published
from seer_rl.experiments.paper.experiments import FIGURES, departures, members, told
from seer_rl.experiments.report import summary
from seer_rl.experiments.results import Axis, Result, scores_at, together
from seer_rl.text import scores, visible

MISSING = "-"


@dataclass
class Table:
    """A table as text. notes: sentences below it."""

    title: str
    heading: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as GitHub shows it."""
        rows = [[_escaped(cell) for cell in line] for line in (self.heading, *self.rows)]
        rows.insert(1, ["---", *["---:"] * (len(self.heading) - 1)])
        body = "\n".join("| " + " | ".join(line) + " |" for line in rows)
        return "\n\n".join([f"**{_escaped(self.title)}**", body, *map(_escaped, self.notes)]) + "\n"


def _escaped(text: str) -> str:
    """Write text so that Markdown shows it as it is: settings of a run may hold anything, and end up in notes."""
    return re.sub(r"[\\`|<&*]|(?<=\])(?=\()", r"\\\g<0>", visible(text))


def table1(found: Sequence[Result], flops: float = published.BUDGET, steps: int = published.STEPS) -> Table:
    """Make Table 1: scores on Atari at `flops` operations, and in little memory at `steps`, published and ours.

    Between evaluations scores are interpolated linearly, over the cumulative count of operations. Notes compare two arms over
    the paper's games that both have.
    """
    columns: list[tuple[str, str, Axis, float]] = [("figure3", arm, "flops", flops) for arm, _ in FIGURES["figure3"].arms]
    columns += [("figure4", arm, "steps", float(steps)) for arm, _ in FIGURES["figure4"].arms]
    heading = ["game"]
    for _, arm, axis, at in columns:
        name, budget = (arm, published.BUDGET) if axis == "flops" else (f"{arm}, little memory", float(published.STEPS))
        heading += [f"{name}: paper, {_place(axis, budget)}", f"{name}: ours, {_place(axis, at)}"]
    table = Table("Table 1: scores on Atari games", heading)
    departing: dict[str, list[str]] = {}
    reached: list[dict[str, list[Result]]] = [{} for _ in columns]  # the runs that have come so far, by game
    for game in (*published.SCORES, "RoadRunner"):
        row = [game]
        for i, (figure, arm, axis, at) in enumerate(columns):
            score = published.SCORES[game][i] if game in published.SCORES else None
            later = f"{published.LATER[game, i]:,.0f}" if (game, i) in published.LATER else MISSING
            runs = members(FIGURES[figure], f"atari/{game}", arm, found)
            reached[i][game] = [run for run in runs if run.score_at(axis, at) is not None]
            theirs = f"{score.mean:,.1f} ± {score.std:,.1f}" if score else later
            row += [theirs, cell(scores_at(runs, axis, at), runs, axis)]
            for setting in departures(FIGURES[figure], f"atari/{game}", arm, reached[i][game]):
                departing.setdefault(setting, []).append(f"{arm}{', little memory,' if axis == 'steps' else ''} in {game}")
        table.rows.append(row)
    table.notes += [
        f"{MISSING}: not published, or, of ours, no run has come that far.",
        "Mean ± standard deviation over runs, five in the paper; ours with the mean's 95% bootstrap interval (of two or three "
        "runs, their range) and their number.",
        "Of each seed one run counts, the one that came farthest; runs with the paper's settings, or where there are none, the "
        "largest group with equal settings.",
    ]
    for i in range(0, len(columns), 2):
        (_, one, axis, at), (_, other, _, _) = columns[i : i + 2]
        table.notes += _comparison({one: reached[i], other: reached[i + 1]}, axis, at)
    table.notes += told(departing)
    return table


def _comparison(arms: dict[str, dict[str, list[Result]]], axis: Axis, at: float) -> list[str]:
    """Compare two arms at `at` of `axis`, over the paper's games and the seeds that both have: in sentences, or in none.

    arms: runs by name of the arm and by game.
    """
    one, other = arms.values()
    pairs = [[(a, b) for a in one[game] for b in other[game] if a.config.seed == b.config.seed] for game in published.SCORES]
    games = [both for both in pairs if both]
    if not games:
        return []

    def normalised(run: Result) -> float:
        return cast(float, stats.normalised(run.config.env, cast(float, run.score_at(axis, at))))

    said = compared(tuple(arms), *([[normalised(pair[k]) for pair in both] for both in games] for k in (0, 1)))
    notes = [f"{'In little memory, at' if axis == 'steps' else 'At'} {_place(axis, at)}, {said}"]
    if any(together(a, b) for both in games for a, b in both):
        notes.append("Arms that are one training up to the freeze are compared as if they were independent.")
    return notes


def compared(names: Sequence[str], one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> str:
    """Say how two arms compare over several games: by normalised scores of each game's runs, as many of each arm.

    Each arm's scores have an interquartile mean; and with some probability a run of the other arm scores more on the same game
    than one of the first, where a tie counts as half. Where games differ in their number of runs, as many count as all have.
    """
    n, games = min(map(len, one)), len(one)
    first, second = (np.array([runs[:n] for runs in arm]).T for arm in (one, other))  # [n, games]
    mean = "an interquartile mean" if first.size > 3 else "a mean"  # of three, none is left out
    iqm, its, better = stats.interquartile(first), stats.interquartile(second), stats.improvement(second, first)
    said = f"over the {games} game{'s' if games > 1 else ''} that both have, {n} seed{'s' if n > 1 else ''} each: "
    said += f"{names[0]} has {mean} of human-normalised scores of "
    if n == 1:  # it has no interval
        return f"{said}{iqm.point:.3f}, {names[1]} of {its.point:.3f}, and scores more in {better.point * games:g} of {games}."
    few = " So few seeds may differ by chance." if n < summary.FEW else ""
    said += f"{iqm.words()}, {names[1]} of {its.words()}; "
    return f"{said}a run of {names[1]} scores more with a probability of {better.words(2)}.{few}"


def _place(axis: Axis, at: float) -> str:
    return f"{at / 1e12:.5g}T" if axis == "flops" else f"{at:,.0f} steps"


def cell(values: Sequence[float], runs: Sequence[Result], axis: Axis) -> str:
    """Write our number; where no run has come that far, how far the farthest came."""
    if values:
        text = f"{values[0]:,.1f}"
        if len(values) > 1:
            mean = stats.mean(values)
            text = f"{scores(list(values))} [{mean.low:,.0f}, {mean.high:,.0f}]"
        return f"{text} ({len(values)})"
    ends = [run.at(axis, run.steps[-1]) for run in runs if len(run.steps)]
    if not ends:
        return MISSING
    return f"{MISSING} ({len(ends)}, to {_place(axis, max(ends))})"


def _rows(published_layers: dict[str, str], counted: dict[str, int], biases: dict[str, int]) -> list[list[str]]:
    rows = []
    for name, text in published_layers.items():
        digits = len(text.split("e")[0]) - 2
        ours = f"{counted[name] + biases.get(name, 0):.{digits}e}".replace("e+0", "e")
        rows.append([name, text, ours, f"{counted[name]:,}", "yes" if ours == text else "no"])
    return rows


HEADING = ["layer", "paper", "ours, so rounded", "multiply-adds", "same"]


def table2() -> Table:
    """Operations of a forward pass by layer, DeepMind Control (one action)."""
    agent = CURL(CURLConfig(), (9, 100, 100), 1)
    below = layers(agent.lower, agent.obs_shape, torch.uint8)
    counted = {f"encoder: conv{i}": below[f"conv{i}"] for i in (1, 2, 3, 4)}
    for who, head, of in (
        ("critic", agent.critic.q1, agent.config.embedding + 1),
        ("actor", agent.actor, agent.config.embedding),
    ):
        counted[f"{who}: fc1"] = below[f"embedding.{who}.fc1"]
        for i, size in enumerate(layers(head, (of,)).values(), start=2):
            counted[f"{who}: fc{i}"] = size
    hidden = agent.config.hidden
    biases = {f"{who}: fc{i}": hidden for who in ("critic", "actor") for i in (2, 3)} | {"critic: fc4": 1, "actor: fc4": 2}
    table = Table(
        "Table 2: operations of a forward pass by layer, DeepMind Control",
        HEADING,
        _rows(published.DMC_LAYERS, counted, biases),
    )
    table.notes.append(
        "Above the embeddings the paper's tool counted biases too; so does the column that is compared. One action."
    )
    return table


def table3() -> Table:
    """Operations of a forward pass by layer, Atari (one action)."""
    agent = Rainbow(RainbowConfig(), (4, 84, 84), 1)
    below = layers(agent.lower, (4, 84, 84), torch.uint8)
    features = output_shape(agent.lower, (4, 84, 84), torch.uint8)
    above = list(layers(agent.head, features).values())
    names = [name for name in published.ATARI_LAYERS if "stream" in name]
    counted = {f"encoder: conv{i}": below[f"conv{i}"] for i in (1, 2)} | dict(zip(names, above, strict=True))
    table = Table("Table 3: operations of a forward pass by layer, Atari", HEADING, _rows(published.ATARI_LAYERS, counted, {}))
    table.notes.append("The last layer of the advantage stream: per action.")
    return table
