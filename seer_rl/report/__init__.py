"""One page about many runs: an HTML file that needs no network, with what was run, what it scored and what it cost.

`page.html` is the page, a template that escapes whatever it is given but `Markup`; here is what goes into it. Markup is only
ever made of constants, into which `format` puts escaped values: names come from files of others. Charts are drawn in the
browser by uPlot (its licence lies beside it).
"""

import base64
import hashlib
import io
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import jinja2
import numpy as np
from markupsafe import Markup

import seer_rl
from seer_rl import build, checkpoint, envs, files, results, stats, train
from seer_rl.console import count, duration, size
from seer_rl.results import Axis, Result

AXES: tuple[Axis, ...] = get_args(Axis)
FRAMES = 8  # pictures of a film strip
HERE = resources.files(seer_rl) / "report"
POINTS = 25  # of curves over several tasks

Groups = dict[str, dict[str, list[Result]]]


def write(
    found: Sequence[Result], output: Path, arguments: Sequence[str], film: bool = True, refresh: int | None = None
) -> None:
    """Write the page about runs to `output`, in one piece. arguments: of the command. refresh: seconds after which it reloads.

    Raises ValueError where a run's agent cannot be read, ImportError without the extra [report].
    """
    groups = results.group(found)
    colours = {label: i for i, label in enumerate(dict.fromkeys(label for arms in groups.values() for label in arms))}
    charts: list[dict[str, Any]] = []
    body = [overview(found, groups, arguments), SWITCH, *across(groups, colours, charts)]
    for env, arms in groups.items():
        body += task(env, arms, colours, charts, film)
    body += [settings(found), runs_table(found)]
    kept = ("uPlot.min.css", "uPlot.iife.min.js", "page.css", "page.js")
    uplot_css, uplot_js, page_css, page_js = (Markup((HERE / name).read_text("utf-8")) for name in kept)
    page = jinja2.Template((HERE / "page.html").read_text("utf-8"), autoescape=True, undefined=jinja2.StrictUndefined)
    text = page.render(
        title=", ".join(groups),
        refresh=refresh,
        policy=policy([uplot_js, page_js], [uplot_css, page_css]),
        uplot_css=uplot_css,
        uplot_js=uplot_js,
        page_css=page_css,
        page_js=page_js,
        body=Markup("\n").join(body),
        data=Markup(json.dumps(_numbers(charts), allow_nan=False).replace("<", "\\u003c")),  # no text in it ends the script
    )
    files.write_atomically(output, text.encode(errors="replace"))


def policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """What the page may do, for its Content-Security-Policy: run and use just these, show pictures in itself, and no more."""

    def hashes(texts: Iterable[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)

    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _numbers(tree: Any) -> Any:
    """The tree with null in place of what JSON has no number for."""
    if isinstance(tree, dict):
        return {key: _numbers(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_numbers(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


SWITCH = Markup('<fieldset class="switch"><legend class="dim">learning curves over</legend>{}</fieldset>').format(
    Markup("").join(
        Markup('<label><input type="radio" name="axis" value="{}"{}>{}</label>').format(
            axis, Markup(" checked") if axis == "steps" else "", words
        )
        for axis, words in zip(AXES, ("steps", "FLOPs", "wall-clock", "bytes held"), strict=True)
    )
)


def overview(found: Sequence[Result], groups: Groups, arguments: Sequence[str]) -> Markup:
    """What was run."""
    ended = sum(result.has_ended for result in found)
    going = "all done" if ended == len(found) else f"{ended} done, {len(found) - ended} not yet"
    rows = [
        [env, label, ", ".join(str(seed) for seed in sorted(run.config.seed for run in runs)), f"{runs[0].config.steps:,}",
         *_freezes(runs), f"{sum(run.has_ended for run in runs)} of {len(runs)}"]
        for env, arms in groups.items() for label, runs in arms.items()
    ]  # fmt: skip
    return Markup("\n").join(
        [
            Markup("<h1>{}</h1>").format(", ".join(groups)),
            Markup("<p>{} runs, {}. Written by seer-rl {} with <code>seer {}</code>.</p>").format(
                len(found), going, seer_rl.__version__, shlex.join(arguments)
            ),
            _table(["environment", "settings", "seeds", "steps", "T_f", "done"], rows),
            Markup(
                '<p class="dim">A curve is the mean over seeds, its shade the 95% bootstrap interval of that mean; faint lines '
                "are runs. With two or three seeds such an interval is little more than their range. Dotted: the freeze at "
                "T_f. Dashed: a random player. FLOPs are the paper's count: a multiply-add is one operation, a backward pass "
                "two forward passes, acting on images is free.</p>"
            ),
        ]
    )


def _freezes(runs: Iterable[Result]) -> list[str]:
    """When runs were frozen, or will be."""
    found = {run.config.seer.freeze_step if run.freeze_step is None else run.freeze_step for run in runs} - {None}
    steps = [f"{step:,}" for step in sorted(step for step in found if isinstance(step, int))]
    return [", ".join(steps + ["auto"] * ("auto" in found)) or "never"]


def across(groups: Groups, colours: dict[str, int], charts: list[dict[str, Any]]) -> list[Markup]:
    """Aggregates over the tasks of each suite, where several were run."""
    parts: list[Markup] = []
    for suite in dict.fromkeys(env.partition("/")[0] for env in groups):
        tasks = [env for env in groups if env.startswith(suite + "/") and stats.normalised(env, 0) is not None]
        labels = [label for label in colours if tasks and all(label in groups[env] for env in tasks)]
        members = {label: [_finished(groups[env][label]) for env in tasks] for label in labels}
        members = {label: runs for label, runs in members.items() if min(map(len, runs)) > 0}
        if len(tasks) < 2 or not members:
            continue
        scores = {label: _scores(tasks, runs) for label, runs in members.items()}
        rows = []
        for label, values in scores.items():
            estimates = stats.aggregates(values)
            rows.append([label, *map(_estimate, estimates.values()), f"{values.shape[0]} x {values.shape[1]}"])
        left_out = [label for label in colours if label not in members and any(label in groups[env] for env in tasks)]
        unknown = [env for env in groups if env.startswith(suite + "/") and env not in tasks]
        scale = "0 is a random player, 1 a human" if suite == "atari" else "returns / 1000"
        parts += [
            Markup("<h2>Across {} tasks of {}</h2>").format(len(tasks), suite),
            Markup(
                '<p class="dim">Normalised returns of the last evaluation ({}); 95% intervals by rliable\'s stratified '
                "bootstrap over seeds.</p>"
            ).format(scale),
            _table(["settings", "IQM", "median", "mean", "optimality gap", "seeds x tasks"], rows),
        ]
        if left_out:
            missing = Markup("<p>Left out, with no finished run on some of the tasks: {}.</p>")
            parts.append(missing.format(", ".join(left_out)))
        if unknown:
            parts.append(Markup("<p>Left out, with no known human score: {}.</p>").format(", ".join(unknown)))
        names = list(scores)
        for i, label in enumerate(names):
            for other in names[i + 1 :]:
                estimate = stats.improvement(scores[label], scores[other])
                said = Markup(
                    "<p>Probability that a run of <b>{}</b> scores more than one of <b>{}</b> on the same task: {}.</p>"
                )
                parts.append(said.format(label, other, _estimate(estimate)))
        curves = [_efficiency(tasks, label, runs, colours[label]) for label, runs in members.items()]
        name = _add_chart(charts, "normalised return, IQM", 300, curves, switches=True, random=0.0)
        parts.append(_figure(name, "Interquartile mean; a line ends where the first of its runs does."))
    return parts


def _finished(runs: Iterable[Result]) -> list[Result]:
    return sorted((run for run in runs if run.has_ended), key=lambda run: run.config.seed)


def _scores(tasks: Sequence[str], members: Sequence[Sequence[Result]]) -> stats.Array:
    """Normalised returns of last evaluations, [runs, tasks]; as many runs as every task has."""
    n = min(map(len, members))
    return np.array(
        [[stats.normalised(env, runs[i].returns[-1]) for env, runs in zip(tasks, members, strict=True)] for i in range(n)]
    )


def _efficiency(tasks: Sequence[str], label: str, members: Sequence[Sequence[Result]], colour: int) -> dict[str, Any]:
    """IQM over runs and tasks along every axis: sample efficiency, FLOPs efficiency and so on."""
    n = min(map(len, members))
    chosen = [runs[:n] for runs in members]
    xs: dict[str, list[float]] = {}
    curves: dict[str, tuple[stats.Array, stats.Array, stats.Array]] = {}
    for axis in AXES:
        ends = [run.along(axis, run.steps[-1:])[0] for runs in chosen for run in runs]
        begins = [run.along(axis, run.steps[:1])[0] for runs in chosen for run in runs]
        grid = np.linspace(max(begins), min(ends), POINTS)
        points = np.array(
            [[[stats.normalised(env, float(y)) for y in np.interp(grid, run.along(axis, run.steps), run.returns)]
              for env, run in zip(tasks, row, strict=True)] for row in zip(*chosen, strict=True)]
        )  # fmt: skip
        xs[axis], curves[axis] = _unit(axis, grid), stats.curve(points, stats.iqm)
    return {"label": label, "colour": colour, "runs": [], "freeze": None, "x": xs,
            "per_axis": {axis: [_plain(column) for column in curves[axis]] for axis in AXES}}  # fmt: skip


def task(
    env: str, arms: dict[str, list[Result]], colours: dict[str, int], charts: list[dict[str, Any]], film: bool
) -> list[Markup]:
    """Everything about one environment."""
    evaluated = {label: [run for run in runs if len(run.steps)] for label, runs in arms.items()}
    evaluated = {label: runs for label, runs in evaluated.items() if runs}
    parts = [Markup("<h2>{}</h2>").format(env)]
    if not evaluated:
        return [*parts, Markup("<p>No evaluations yet.</p>")]
    random = [r for runs in arms.values() for run in runs for _, r in run.metrics.get("eval/random_return", [])]
    curves = [_group(label, runs, colours[label], "eval/return") for label, runs in evaluated.items()]
    dashed = float(np.mean(random)) if random else None
    name = _add_chart(charts, "return", 340, curves, switches=True, marks=True, random=dashed)
    parts.append(_figure(name, f"Mean return of {next(iter(evaluated.values()))[0].config.eval.episodes} whole games."))
    pair = []
    for metric, label, caption in (
        ("replay/bytes", "MB", "What the replay holds."),
        ("charts/SPS", "steps/s", "Agent steps per second in the present phase, environment included."),
    ):
        shown = {arm: [run for run in runs if run.metrics.get(metric)] for arm, runs in evaluated.items()}
        shown_groups = [_group(arm, runs, colours[arm], metric) for arm, runs in shown.items() if runs]
        if shown_groups:
            pair.append(_figure(_add_chart(charts, label, 220, shown_groups, zero=True), caption))
    parts.append(Markup('<div class="pair">{}</div>').format(Markup("").join(pair)))
    parts.append(costs_table(env, evaluated))
    if film:
        parts += strip(evaluated)
    return parts


def _add_chart(
    charts: list[dict[str, Any]], label: str, height: int, groups: list[dict[str, Any]], switches: bool = False,
    marks: bool = False, zero: bool = False, random: float | None = None,
) -> str:  # fmt: skip
    """Add what the page needs to draw a chart; returns the name of its place.

    switches: it follows the choice of axis. zero: its axis begins at 0.
    """
    name = f"chart-{len(charts)}"
    charts.append({"id": name, "label": label, "height": height, "groups": groups, "switches": switches, "marks": marks,
                   "zero": zero, "random": random})  # fmt: skip
    return name


def _group(label: str, runs: Sequence[Result], colour: int, metric: str) -> dict[str, Any]:
    """A line of a chart: its runs, and their mean where they were all measured."""
    scale = 1e-6 if metric == "replay/bytes" else 1.0
    lines = []
    for run in runs:
        points = run.metrics[metric]
        if metric == "charts/SPS":  # how fast the replay fills is another question
            trained = {step for name, series in run.metrics.items() if name.startswith("losses/") for step, _ in series}
            points = [point for point in points if point[0] in trained] or points
        points = points[:: max(1, len(points) // 400)]
        steps = np.array([step for step, _ in points], float)
        lines.append((run, steps, np.array([scale * value for _, value in points])))
    common = lines[0][1]
    for _, steps, _ in lines[1:]:
        common = np.intersect1d(common, steps)
    found: dict[str, Any] = {
        "label": f"{label} ({len(runs)} seed{'s' if len(runs) > 1 else ''})", "colour": colour,
        "runs": [{"x": {a: _unit(a, run.along(a, steps)) for a in AXES}, "y": _plain(y)} for run, steps, y in lines],
        "x": {axis: _unit(axis, np.mean([run.along(axis, common) for run in runs], axis=0)) for axis in AXES},
        "freeze": _freeze(runs),
    }  # fmt: skip
    if len(runs) > 1 and len(common):
        table = np.array([[y[np.isin(steps, common)]] for _, steps, y in lines])  # [runs, 1, points]
        mean, low, high = stats.curve(table) if metric == "eval/return" else (table.mean((0, 1)),) * 3
        found |= {"mean": _plain(mean), "low": _plain(low), "high": _plain(high)}
    elif len(runs) > 1:
        found |= {"mean": [], "low": [], "high": []}
    return found


def _freeze(runs: Sequence[Result]) -> dict[str, float] | None:
    frozen = [run for run in runs if run.freeze_step is not None]
    if not frozen:
        return None
    at = {axis: [run.along(axis, np.array([float(run.freeze_step or 0)]))[0] for run in frozen] for axis in AXES}
    return {axis: _unit(axis, np.array([np.mean(values)]))[0] for axis, values in at.items()}


def _unit(axis: Axis, values: stats.Array) -> list[float]:
    """In the units that the page names: minutes and megabytes."""
    return _plain(values * {"steps": 1, "flops": 1, "seconds": 1 / 60, "bytes": 1e-6}[axis])


def _plain(values: stats.Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def costs_table(env: str, arms: dict[str, list[Result]]) -> Markup:
    """Score and cost of every arm, by its runs that have ended; or of all, as far as they are, if none has."""
    rows = []
    for label, all_runs in arms.items():
        runs = _finished(all_runs) or all_runs
        scores = np.array([run.returns[-1] for run in runs])
        interval = ""
        if len(runs) > 1:
            _, low, high = stats.curve(scores[:, None, None])
            interval = f"[{low[0]:,.1f}, {high[0]:,.1f}]"
        last = [np.array([float(run.step)]) for run in runs]
        flops, seconds, held = (
            float(np.mean([run.along(axis, at)[0] for run, at in zip(runs, last, strict=True)]))
            for axis in ("flops", "seconds", "bytes")
        )
        process = max((value for run in runs for _, value in run.metrics.get("charts/process_bytes", [])), default=0)
        speeds = [_mean(values) for values in zip(*(run.speeds() for run in runs), strict=True)]
        ended = "" if all(run.has_ended for run in runs) else ", not done"
        rows.append(
            [f"{label}{ended}", f"{scores.mean():,.1f} ± {scores.std():,.1f}", interval, str(len(runs)), count(flops),
             duration(seconds) if seconds else "", *speeds, size(held), size(process) if process else ""]
        )  # fmt: skip
    heading = ["settings", "last return, mean ± std", "95% interval", "seeds", "FLOPs", "training time", "steps/s, images",
               "steps/s, embeddings", "most replay", "most memory"]  # fmt: skip
    human = stats.ATARI_SCORES.get(envs.plain(env))
    published = Markup('<p class="dim">A random player scores {:,.1f}, a human {:,.1f} (published).</p>')
    note = published.format(*human) if human else Markup("")
    return _table(heading, rows) + note


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.0f}" if known else ""


def strip(arms: dict[str, list[Result]]) -> list[Markup]:
    """Pictures of a game of one agent of each arm."""
    parts = []
    for label, runs in arms.items():
        played = next((run for run in _finished(runs) if (run.run_dir / checkpoint.AGENT).exists()), None)
        if played is None:
            continue
        frames, score = pictures(played)
        image = Markup('<img alt="" src="data:image/jpeg;base64,{}">')
        images = Markup("").join(image.format(base64.b64encode(frame).decode()) for frame in frames)
        caption = f"A game of {label}, seed {played.config.seed}, in {len(frames)} pictures: {score:,.0f} points."
        parts.append(Markup('<figure><div class="film">{}</div><figcaption>{}</figcaption></figure>').format(images, caption))
    return parts


def pictures(result: Result) -> tuple[list[bytes], float]:
    """Evenly spaced JPEG pictures of one whole game of a run's agent, and its score."""
    from PIL import Image

    kept: list[Any] = []
    seen, stride = 0, 1

    def keep(frame: Any) -> None:
        nonlocal seen, stride, kept
        if seen % stride == 0:
            kept.append(frame)
        if len(kept) > 8 * FRAMES:  # a game may have tens of thousands
            kept, stride = kept[::2], 2 * stride
        seen += 1

    agent, env = build.trained(result.run_dir, result.config, render_mode="rgb_array")
    try:
        (score,) = train.evaluate(agent, envs.Filmed(env, keep), 1, result.config.seed, build.choose_device("cpu"))
    finally:
        env.close()
    chosen = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, min(FRAMES, len(kept)))]
    encoded = []
    for frame in chosen:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=80)
        encoded.append(data.getvalue())
    return encoded, score


def settings(found: Sequence[Result]) -> Markup:
    """Settings in which the runs of a suite differ, by arm; and those that they share."""
    parts = [Markup("<h2>Settings</h2>")]
    for suite in dict.fromkeys(result.config.env.partition("/")[0] for result in found):
        runs = [result for result in found if result.config.env.startswith(suite + "/")]
        same, differing = results.differing(runs)
        names = [name for name in dict.fromkeys(n for one in differing for n in one) if name not in ("seed", "env", "label")]
        rows: list[list[str]] = []
        for result, one in zip(runs, differing, strict=True):
            row = [result.config.env, result.label, *("" if one.get(name) is None else str(one[name]) for name in names)]
            if row not in rows:
                rows.append(row)
        shared = "\n".join(f"{name} = {value}" for name, value in same.items() if value is not None and name != "run_dir")
        parts += [
            _table(["environment", "settings", *names], rows),
            Markup("<details><summary>What all runs of {} share</summary><pre>{}</pre></details>").format(suite, shared),
        ]
    return Markup("\n").join(parts)


def runs_table(found: Sequence[Result]) -> Markup:
    """A line for every run."""
    rows = []
    for result in found:
        scores = [f"{result.returns[-1]:,.1f}", f"{result.returns.max():,.1f}"] if len(result.returns) else ["", ""]
        where = "done" if result.has_ended else f"at step {result.step:,}"
        rows.append([result.run_dir.name, str(result.config.seed), where, *scores])
    table = _table(["run", "seed", "", "last return", "best"], rows)
    return Markup("<details><summary>All {} runs</summary>{}</details>").format(len(found), table)


def _figure(name: str, caption: str) -> Markup:
    figure = Markup('<figure><div id="{}"></div><div class="keys" id="{}-keys"></div><figcaption>{}</figcaption></figure>')
    return figure.format(name, name, caption)


def _estimate(estimate: stats.Estimate) -> str:
    return f"{estimate.point:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    def cells(tag: Markup, row: Sequence[str]) -> Markup:
        return Markup("<tr>{}</tr>").format(Markup("").join(tag.format(cell) for cell in row))

    head, lines = cells(Markup("<th>{}</th>"), heading), Markup("").join(cells(Markup("<td>{}</td>"), row) for row in rows)
    return Markup('<div class="scroll"><table><thead>{}</thead><tbody>{}</tbody></table></div>').format(head, lines)
