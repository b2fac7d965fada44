"""Measures and draws what `seer analyze` shows: where an encoder looks, how much layers change, what a freeze went by.

The first two need the snapshots that `seer train --analysis.every` keeps, and look at the same real observations: half from
games of the run's agent as it ended, half from a random player's. They are taken at the first look and stay with the run. The
third needs a training with --seer.freeze auto.
"""

import csv
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Agent
from seer_rl.convergence import Signals, linear_cka
from seer_rl.envs.base import frames_in
from seer_rl.experiments import curves
from seer_rl.experiments.activations import record, spatial_attention, svcca, units
from seer_rl.experiments.results import LARGEST
from seer_rl.replay.observation import ONLY, Obs, keyed
from seer_rl.training import build, checkpoint, files
from seer_rl.training.config import TrainConfig
from seer_rl.training.files import Folder
from seer_rl.training.logger import METRICS
from seer_rl.training.logger import read as metrics
from seer_rl.training.play import chosen, play

PROBE = "probe.npz"  # beside the snapshots
OBSERVATIONS = 1000  # in it; they differ in every frame of their stack
LEAST = 10  # of them, or nothing can be compared
SEED = 0  # of the games that they are from
ROWS = 20_000  # samples of a layer that are compared, at most: positions of convolutions, drawn once
COLUMNS = 8  # of attention's picture, at most
LEAST_MAP = 7  # a coarser map says little about where
SCALE = 4  # of a film's pixels

Image = NDArray[np.uint8]
Progress = Callable[[Sequence[int], str], Iterable[int]]  # gives steps one after another, and shows what they are of


def silent(steps: Sequence[int], what: str) -> Iterable[int]:
    """Give `steps` back, and show nothing."""
    return steps


# ---- what is looked at ---------------------------------------------------------------------------------------------


def probe(run: Path, progress: Progress = silent) -> Image:
    """Return the observations [n, C, H, W] uint8 kept with a run. At the first look they are taken.

    Raises ValueError where they are damaged, OSError where they cannot be written.
    """
    path, config = run / checkpoint.ANALYSIS / PROBE, checkpoint.load_config(run)
    if os.path.lexists(path):
        with closing(build.make_env(config, training=False)) as env:
            assert env.observation_space.shape
            return kept(path, env.observation_space.shape)
    agent, env = build.trained(run, config, single=True)
    agent.eval()
    with closing(env):
        half = OBSERVATIONS // 2
        env.action_space.seed(SEED)
        observations = seen(lambda obs: chosen(agent.act(obs))[0], env, half, progress)
        observations += seen(lambda _: env.action_space.sample(), env, OBSERVATIONS - half, progress)
    stacked = np.stack(observations)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, observations=stacked)
    with Folder(run) as folder, folder.inner(checkpoint.ANALYSIS) as analysis:
        analysis.write(PROBE, buffer.getvalue())
    return stacked


def kept(path: Path, shape: tuple[int, ...]) -> Image:
    """Read observations of this shape from a file. Raises ValueError, in a sentence, if there are none."""
    most = 10 * OBSERVATIONS * math.prod(shape)  # bytes: a few of a file may stand for any number
    try:
        data = io.BytesIO(files.read(path))
        with zipfile.ZipFile(data) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > most:
                raise ValueError(f"it would unpack to more than {most:,} bytes")
        data.seek(0)
        with np.load(data, allow_pickle=False) as file:
            observations: Image = file["observations"]
        if observations.dtype != np.uint8 or observations.shape[1:] != shape or len(observations) < LEAST:
            raise ValueError(f"it holds {observations.dtype} {observations.shape}, not a thousand images of {shape}")
    except Exception as error:  # zipfile, zlib and NumPy have a dozen kinds of errors for a file that is not theirs
        raise ValueError(f"{path} is damaged ({error}): remove it, and other observations are taken") from error
    return observations


def seen(act: Any, env: gym.Env[Any, Any], count: int, progress: Progress = silent) -> list[Image]:
    """Return `count` observations [C, H, W] of whole games, a stack's length apart. act: as in `met`."""
    apart = frames_in(env)
    steps = progress(range(count * apart), f"{count} observations")
    return [obs for step, obs in zip(steps, met(act, env, SEED), strict=False) if step % apart == 0]


def met(act: Callable[[torch.Tensor], Any], env: gym.Env[Any, Any], seed: int) -> Iterator[Image]:
    """Give the observations [C, H, W] uint8 of one game after another, without end. act: observation [1, C, H, W] -> action."""
    obs, _ = env.reset(seed=seed)
    while True:
        yield obs
        obs, _, terminated, truncated, _ = env.step(act(torch.from_numpy(obs)[None]))
        if terminated or truncated:
            obs, _ = env.reset()


def activations(agent: Agent, observations: Image) -> dict[str, torch.Tensor]:
    """Return the activations of every layer, by name, where the agent acts on `observations` [n, C, H, W].

    Raises ValueError where they are not finite.
    """
    obs = torch.from_numpy(observations)

    found = record(agent, lambda: agent(obs))
    if broken := [name for name, x in found.items() if not x.isfinite().all()]:
        raise ValueError(f"{broken[0]} gives numbers that are not finite: these weights are no agent's")
    return found


def at(run: Path, step: int, agent: Agent, config: TrainConfig) -> Agent:
    """Give `agent` the weights that it had at `step`, and return it. Raises what `checkpoint.load_snapshot` does."""
    checkpoint.load_snapshot(run, step, agent, config)
    agent.eval()
    return agent


# ---- attention -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Holds a frame, and where a layer looked at it at each of some steps."""

    name: str
    layer: str
    image: Image  # [H, W, 3], as the agent sees it
    steps: list[int]
    maps: list[NDArray[np.float32]]  # [h, w] each, which sum to 1


def attention(run: Path, frames: tuple[int, ...] = (), layer: str | None = None, progress: Progress = silent) -> list[Row]:
    """Measure where a run's encoder looked at some of the observations kept with it, at up to `COLUMNS` of its snapshots.

    frames: numbers of the observations, from 0; empty for five of them. layer: as in `of_map`.
    Raises ValueError where there are no snapshots, no such frame, or no such layer.
    """
    config, steps = checkpoint.load_config(run), checkpoint.snapshots(run)
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(COLUMNS, len(steps))).round().astype(int))]
    observations = probe(run, progress)
    chosen = frames or tuple(int(i) for i in np.linspace(0, len(observations) // 2 - 1, 7)[1:-1])  # of the agent's games
    if wrong := [i for i in chosen if not 0 <= i < len(observations)]:
        raise ValueError(f"there is no frame {wrong[0]}: the run keeps 0 to {len(observations) - 1}")
    agent, env = build.trained(run, config, single=True)
    stacked = frames_in(env)
    env.close()
    observations = observations[list(chosen)]
    layer = of_map(agent, observations[:1], layer)
    maps = [spatial_attention(activations(at(run, step, agent, config), observations)[layer]).numpy() for step in steps]
    return [
        Row(f"{curves.text(config.env)}, {number}", layer, as_seen(agent, obs, stacked), steps, [one[i] for one in maps])
        for i, (number, obs) in enumerate(zip(chosen, observations, strict=True))
    ]


def of_map(agent: Agent, observations: Image, layer: str | None) -> str:
    """Return `layer`, or for None the last convolution whose map is `LEAST_MAP` or larger.

    Raises ValueError for a layer that is not there, and where there are no convolutions.
    """
    found = {name: x for name, x in activations(agent, observations).items() if x.dim() == 4}
    if not found:
        raise ValueError("this encoder has no convolutions, whose maps would show where it looks")
    if layer is not None and layer not in found:
        raise ValueError(f"there is no convolution {layer!r}: choose {', '.join(found)}")
    return layer or ([name for name, x in found.items() if min(x.shape[2:]) >= LEAST_MAP] or list(found))[-1]


def as_seen(agent: Agent, obs: Image, frames: int) -> Image:
    """Return the newest of the `frames` in a stack [C, H, W] as [H, W, 3], without opacity, cut to what the agent acts on."""
    newest = obs[-(len(obs) // frames) :]
    newest = newest[:3] if len(newest) >= 3 else newest[:1]
    frame = center_crop(torch.from_numpy(newest[None]), agent.obs_shape[1:])[0]
    image: Image = frame.permute(1, 2, 0).expand(-1, -1, 3).numpy()
    return image


def overlaid(image: Image, attention: NDArray[np.float32]) -> Image:
    """Return `image` [H, W, 3], darker, under the colours of an attention map [h, w], from its least value to its largest."""
    import matplotlib

    heat = F.interpolate(torch.from_numpy(attention)[None, None], image.shape[:2], mode="bilinear")[0, 0].numpy()
    heat = (heat - heat.min()) / max(float(heat.max() - heat.min()), 1e-12)
    colours = matplotlib.colormaps["inferno"](heat)[..., :3]
    mixed: Image = ((0.45 * image / 255 + 0.75 * colours).clip(0, 1) * 255).astype(np.uint8)
    return mixed


def draw_attention(rows: list[Row], output: Path, title: str) -> None:
    """Draw a line for each frame: the frame, and to its right where the layer looked at it, snapshot after snapshot."""
    columns = 1 + max(len(row.steps) for row in rows)
    with curves.canvas(1.35 * columns, 1.5 * len(rows) + 0.5) as figure:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, row in zip(axes, rows, strict=True):
            line[0].imshow(row.image)
            line[0].set_title(row.name, fontsize=6)
            for axis, step, one in zip(line[1:], row.steps, row.maps, strict=False):
                axis.imshow(overlaid(row.image, one))
                axis.set_title(f"step {step:,}", fontsize=6)
        figure.suptitle(title, fontsize=9)
        curves.write(figure, output, dpi=150)


def film_attention(run: Path, layer: str, take: Callable[[Image], None]) -> None:
    """Hand pictures [H, W, 3] of a game of a run's agent to `take`: what it sees, and beside it where `layer` looks."""
    agent, env = build.trained(run, checkpoint.load_config(run), single=True)

    def side_by_side(obs: Obs) -> Image:
        one = keyed(obs)[ONLY].numpy()
        image = as_seen(agent, one[0], frames_in(env))
        heat = spatial_attention(activations(agent, one)[layer])[0].numpy()
        both: Image = np.hstack([image, overlaid(image, heat)]).repeat(SCALE, 0).repeat(SCALE, 1)
        return both

    with closing(env):

        def act(obs: Obs) -> Any:
            take(side_by_side(obs))
            return chosen(agent.act(obs))[0]

        agent.eval()
        play(env, act, 1, SEED)


# ---- similarity ----------------------------------------------------------------------------------------------------

Similarity = dict[str, list[tuple[int, float, float]]]  # layer: (step, SVCCA, CKA)


def similarity(run: Path, lag: int, progress: Progress = silent) -> tuple[Similarity, list[str]]:
    """Compare every layer at every snapshot with itself `lag` agent steps earlier.

    Returns what was measured, and sentences about what could not be.
    Raises ValueError where no two snapshots lie that far apart.
    """
    config, steps = checkpoint.load_config(run), checkpoint.snapshots(run)
    later = [step for step in steps if step - lag in steps]
    if lag < 1 or not later:
        raise ValueError(f"no two snapshots of {run} lie {lag:,} steps apart: it has {', '.join(f'{s:,}' for s in steps[:9])}")
    observations = probe(run, progress)
    agent, env = build.trained(run, config, single=True)
    env.close()
    layers: dict[int, dict[str, torch.Tensor]] = {}
    found: Similarity = {}
    notes: dict[str, str] = {}
    for step in progress(later, "layers against themselves"):
        for one in (step - lag, step):
            if one not in layers:
                layers[one] = sampled(at(run, one, agent, config), observations)
        for name, now in layers[step].items():
            before, score = layers[step - lag][name], float("nan")
            try:
                score = svcca(before, now)
            except ValueError as error:
                notes[name] = f"no SVCCA of {name} at step {step:,}: {error}"
            found.setdefault(name, []).append((step, score, linear_cka(before, now)))
        layers = {one: kept for one, kept in layers.items() if one > step - lag}
    return found, list(notes.values())


def sampled(agent: Agent, observations: Image) -> dict[str, torch.Tensor]:
    """Return every layer's activations, by name: float64 [samples, units], of the same at most `ROWS` samples at each call."""
    pieces: dict[str, list[torch.Tensor]] = {}
    chunk = 100
    for begin in range(0, len(observations), chunk):
        for name, x in activations(agent, observations[begin : begin + chunk]).items():
            rows = units(x)
            share = min(len(rows), max(1, ROWS * chunk // len(observations)))
            chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(begin))[:share]
            pieces.setdefault(name, []).append(rows[chosen])
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def table(found: Similarity) -> str:
    """Write what `similarity` measured as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "layer", "svcca", "cka"])
    writer.writerows((step, name, svcca, cka) for name, series in found.items() for step, svcca, cka in series)
    return text.getvalue()


def draw_similarity(run: Path, found: Similarity, output: Path, lag: int) -> None:
    """Draw SVCCA to the left and CKA to the right: a line for each layer, darker for lower ones, and T_f dotted."""
    import matplotlib

    with curves.canvas(11, 3.6) as figure:
        for axis, which, title in zip(figure.subplots(1, 2), (1, 2), ("SVCCA", "linear CKA"), strict=True):
            for i, (name, series) in enumerate(found.items()):
                colour = matplotlib.colormaps["viridis"](i / len(found))
                points = [row[which] for row in series]
                axis.plot([row[0] for row in series], points, color=colour, marker="o", ms=3, lw=1.5, label=name)
            for step in frozen_at(run).values():
                axis.axvline(step, color="0.4", ls=":", lw=1.2)
            axis.set(xlabel="agent steps", ylabel=f"{title} with {lag:,} steps earlier")
            axis.set_ylim(top=1.005)
            axis.set_xlim(left=0)
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(curves.text(checkpoint.load_config(run).env), fontsize=9)
        curves.write(figure, output)


# ---- signals -------------------------------------------------------------------------------------------------------

# Each signal as its axis says it, from most to least telling; whether the axis is logarithmic.
PANELS = {
    "cka": ("1 - CKA", True),
    "agreement": ("agreement", False),
    "error": ("error", False),
    "drift": ("drift", True),
    "travel": ("travel", True),
    "moved": ("1 - CKA with\nthe first", False),
    "novelty": ("novelty", True),
    "progress": ("progress", False),
}


def recorded(run: Path) -> list[Signals]:
    """Read the signals of a run. Raises ValueError if it has none, or where they are damaged."""
    found = metrics(run)
    if "seer/cka" not in found:
        raise ValueError(f"{run} has no signals of convergence: train it with --seer.freeze auto")
    columns = {name: dict(found.get(f"seer/{name}", [])) for name in PANELS}
    steps = list(columns["cka"])
    for name, column in columns.items():
        if list(column) != steps:
            raise ValueError(f"{run / METRICS} is damaged: it has not as many values of seer/{name} as of seer/cka")
        if any(LARGEST < abs(value) < math.inf for value in column.values()):  # NaN and infinity are gaps in a picture
            raise ValueError(f"{run / METRICS} cannot be meant: a value of seer/{name} is larger than float32 can be")
    return [Signals(step, **{name: column[step] for name, column in columns.items()}) for step in steps]


def frozen_at(run: Path) -> dict[str, int]:
    """Return the agent step at which a run was frozen, as {"frozen": step}, a mark for `Column`; {} where it was not."""
    steps = metrics(run).get("seer/freeze_step")
    return {"frozen": steps[0][0]} if steps else {}


@dataclass(frozen=True)
class Column:
    """Holds the signals of a run, and steps to mark among them."""

    title: str
    history: list[Signals]
    marks: dict[str, int]
    ahead: dict[int, float] | None = None  # by step: CKA with the last encoder, which no rule could know


def draw_signals(columns: Sequence[Column], output: Path) -> None:
    """Draw a column for each run, a row for each signal, and a vertical line for each mark, in one colour for each name."""
    rows = [*PANELS, *(["ahead"] if any(column.ahead for column in columns) else [])]
    names = list(dict.fromkeys(name for column in columns for name in column.marks))
    with curves.canvas(1.6 + 3.3 * len(columns), 1.15 * len(rows) + 0.8, font=8) as figure:
        axes = figure.subplots(len(rows), len(columns), sharex="col", sharey="row", squeeze=False)
        for j, column in enumerate(columns):
            for i, row in enumerate(rows):
                axis = axes[i, j]
                points = {signals.step: getattr(signals, row) for signals in column.history} if row in PANELS else column.ahead
                if row == "cka" and points:
                    points = {step: 1 - cka for step, cka in points.items()}
                axis.plot(list(points or {}), list((points or {}).values()), color="0.25", marker="o", ms=2, lw=1)
                for name, step in column.marks.items():
                    axis.axvline(step, color=f"C{names.index(name)}", lw=1.5, label=name)
                if row in PANELS and PANELS[row][1]:
                    axis.set_yscale("log")
                if j == 0:
                    axis.set_ylabel(PANELS[row][0] if row in PANELS else "CKA with\nthe last")
                axis.set_xlim(left=0)
            axes[0, j].set_title(curves.text(column.title), fontsize=9)
            axes[-1, j].set_xlabel("agent steps")
        lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines() if line.get_label() in names}
        if names:
            figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=len(names), frameon=False)
        curves.write(figure, output)
