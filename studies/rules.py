"""When rules for freezing would have frozen, on the signals of trainings that were measured to their end and never frozen.

    seer sweep studies/signals.toml --jobs 2
    python -m studies.rules runs/signals/* --output docs/signals.png

Beside this package's rule stand the ideas of three published ones, on the same signals. They were made to freeze many layers,
one after the other, in supervised training; here there is one thing to freeze, and their thresholds are adapted as said below.
What a run's snapshots tell afterwards, how far the encoder still had to go, no rule could know.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from seer_rl.convergence import EVERY, Signals, converged, linear_cka
from seer_rl.experiments.inspect import Column, at, draw_signals, probe, recorded
from seer_rl.training import build, checkpoint
from studies.dtypes import embed

NEVER = 10**12
Rule = Callable[[Sequence[Signals]], bool]


EARLIEST = 4 * EVERY  # of every rule, as of ours


def autofreeze(history: Sequence[Signals]) -> bool:
    """Liu et al., 2021: how much more or less was learnt than in the interval before; here less than a tenth.

    Theirs: accumulated gradients, and the half of the layers with the least change. Adam's way goes for the gradients here.
    """
    return len(history) > 1 and abs(history[-1].travel - history[-2].travel) < 0.1 * history[-2].travel


def egeria(history: Sequence[Signals]) -> bool:
    """Wang et al., 2023: the distance to a reference network no longer falls; slope over 3 below a fifth of the first one.

    The first reference is the network that has learnt nothing: it is left out.
    """
    drift = [signals.drift for signals in history[1:]]
    slopes = [abs(float(np.polyfit(range(3), drift[i : i + 3], 1)[0])) for i in range(len(drift) - 2)]
    return len(slopes) > 1 and slopes[-1] < 0.2 * slopes[0]


def simfreeze(history: Sequence[Signals]) -> bool:
    """Li et al., 2024: CKA with the first network is flat; it changed by less than a hundredth."""
    return len(history) > 1 and abs(history[-1].moved - history[-2].moved) < 0.01 * (1 - history[-2].moved)


RULES: dict[str, Rule] = {
    "this package's": lambda history: converged(history, EARLIEST, NEVER),
    "in the manner of AutoFreeze": autofreeze,
    "in the manner of Egeria": egeria,
    "in the manner of SimFreeze": simfreeze,
}


def chosen(rule: Rule, history: Sequence[Signals]) -> int | None:
    """The step at which a rule freezes, never before `EARLIEST`; None if it never does."""
    steps = [signals.step for signals in history]
    return next((step for i, step in enumerate(steps) if step >= EARLIEST and rule(history[: i + 1])), None)


def towards_the_end(run: Path) -> dict[int, float]:
    """CKA of the embeddings at each snapshot's step with those of the last one; none where the run kept no snapshots."""
    try:
        steps = checkpoint.snapshots(run)
    except ValueError:
        return {}
    config = checkpoint.load_config(run)
    agent, env = build.trained(run, config)
    env.close()
    images = torch.from_numpy(probe(run))

    def embeddings(step: int) -> torch.Tensor:
        return embed(at(run, step, agent, config), images).flatten(1)

    last = embeddings(steps[-1])
    return {step: linear_cka(embeddings(step), last) for step in steps}


def main(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path | None = None) -> None:
    """Print when each rule would have frozen, and draw the signals.

    Args:
        runs: Run directories with recorded signals.
        output: Picture.
    """
    table = Table(title="When rules would have frozen")
    for i, heading in enumerate(("run", "rule", "step", "CKA with the last encoder", "agreement", "drift")):
        table.add_column(heading, justify="right" if i > 1 else "left")
    columns = []
    for run in runs:
        history, ahead = recorded(run), towards_the_end(run)
        steps = {name: chosen(rule, history) for name, rule in RULES.items()}
        marks = {name: step for name, step in steps.items() if step is not None}
        columns.append(Column(checkpoint.load_config(run).env, history, marks, ahead))
        for name, step in steps.items():
            then = next((signals for signals in history if signals.step == step), None)
            cells = (
                ("never", "", "", "")
                if then is None
                else (
                    f"{step:,}",
                    f"{ahead[then.step]:.3f}" if then.step in ahead else "",
                    f"{then.agreement:.2f}",
                    f"{then.drift:.2f}",
                )
            )
            table.add_row(run.name, name, *cells)
    Console(width=130).print(table)
    if output:
        draw_signals(columns, output)
        print(output)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ValueError as error:
        sys.exit(str(error))
