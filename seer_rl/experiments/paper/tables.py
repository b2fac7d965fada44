"""The paper's tables, published numbers beside ours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.flops import layers
from seer_rl.agents.networks import output_shape
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.experiments import stats
from seer_rl.experiments.paper import published
from seer_rl.experiments.paper.experiments import FIGURES, departures, members
from seer_rl.experiments.results import Axis, Result, scores_at
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
    """Scores on Atari at `flops` operations, and in little memory at `steps`: mean and standard deviation, published and ours.

    Between evaluations scores are interpolated linearly, over the cumulative count of operations. Notes compare two arms over
    all games that both have.
    """
    columns: list[tuple[str, str, Axis, float]] = [("figure3", arm, "flops", flops) for arm, _ in FIGURES["figure3"].arms]
    columns += [("figure4", arm, "steps", float(steps)) for arm, _ in FIGURES["figure4"].arms]
    heading = ["game"]
    for _, arm, axis, at in columns:
        name, theirs = (arm, published.BUDGET) if axis == "flops" else (f"{arm}, little memory", float(published.STEPS))
        heading += [f"{name}: paper, {_place(axis, theirs)}", f"{name}: ours, {_place(axis, at)}"]
    table = Table("Table 1: scores on Atari games", heading)
    departing: set[str] = set()
    by_seed: list[dict[str, dict[int, float]]] = [{} for _ in columns]  # of a column, by game
    for game in (*published.SCORES, "RoadRunner"):
        row = [game]
        for i, (figure, arm, axis, at) in enumerate(columns):
            score = published.SCORES[game][i] if game in published.SCORES else None
            runs = members(FIGURES[figure], f"atari/{game}", arm, found)
            ours = scores_at(runs, axis, at)
            by_seed[i][game] = {run.config.seed: y for run in runs if (y := run.score_at(axis, at)) is not None}
            later = f"{published.LATER[game, i]:,.0f}" if (game, i) in published.LATER else MISSING
            row += [f"{score.mean:,.1f} ± {score.std:,.1f}" if score else later, cell(ours, runs, axis)]
            if ours:
                departing |= departures(FIGURES[figure], f"atari/{game}", arm, runs)
        table.rows.append(row)
    table.notes.append(
        "Mean ± standard deviation over runs, five in the paper; ours with the mean's 95% bootstrap interval and their number."
    )
    for i in range(0, len(columns), 2):
        (_, one, axis, at), (_, other, _, _) = columns[i : i + 2]
        said = compared((one, other), by_seed[i], by_seed[i + 1])
        if said:
            table.notes.append(f"{'In little memory, at' if axis == 'steps' else 'At'} {_place(axis, at)}, {said}")
    if departing:
        table.notes.append(f"Where our settings are not the paper's, ours (the paper's): {'; '.join(sorted(departing))}.")
    return table


def compared(names: tuple[str, str], one: dict[str, dict[int, float]], other: dict[str, dict[int, float]]) -> str | None:
    """Say how two arms compare over the games and seeds that both have; None where there are none.

    one, other: scores by game and seed. Human-normalised, each arm's have an interquartile mean; and with some probability a
    run of the other arm scores more on the same game than one of the first, where a tie counts as half.
    """
    seeds = {game: sorted(scores.keys() & other[game].keys()) for game, scores in one.items()}
    games = [game for game, both in seeds.items() if both]
    if not games:
        return None
    n = min(len(seeds[game]) for game in games)
    first, second = (
        np.array([[stats.normalised(f"atari/{game}", arm[game][seeds[game][i]]) for game in games] for i in range(n)])
        for arm in (one, other)
    )

    def words(estimate: stats.Estimate, digits: int) -> str:
        return estimate.words(digits) if n > 1 else f"{estimate.point:.{digits}f}"  # one seed has no interval

    return (
        f"over the {len(games)} game{'s' if len(games) > 1 else ''} that both have, {n} seed{'s' if n > 1 else ''} each: "
        f"{names[0]} has an interquartile mean of human-normalised scores of {words(stats.interquartile(first), 3)}, "
        f"{names[1]} of {words(stats.interquartile(second), 3)}; "
        f"a run of {names[1]} scores more with a probability of {words(stats.improvement(second, first), 2)}."
    )


def _place(axis: Axis, at: float) -> str:
    return f"{at / 1e12:.3g}T" if axis == "flops" else f"{at:,.0f} steps"


def cell(values: Sequence[float], runs: Sequence[Result], axis: Axis) -> str:
    """Our number; where no run has come that far, how far the farthest came."""
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
