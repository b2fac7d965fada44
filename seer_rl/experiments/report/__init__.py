"""One page about many runs: an HTML file that needs no network, with what was run, what it scored and what it cost.

`page.html` is the template of the page; here is what goes into it, as plain text and numbers. Charts are drawn in the browser
by `page.js` with uPlot (its licence lies beside it).
"""

import base64
import hashlib
import io
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np

import seer_rl
from seer_rl import envs, outside
from seer_rl.experiments import results, stats
from seer_rl.experiments.report import summary
from seer_rl.experiments.results import Axis, Groups, Result, finished
from seer_rl.text import count, duration, install, score, scores, size, visible
from seer_rl.training import build, checkpoint, files
from seer_rl.training.play import evaluate

AXES: tuple[Axis, ...] = get_args(Axis)
FRAMES = 8  # pictures of a film strip
POINTS = 25  # of curves over several tasks
MOST_POINTS = 400  # of one run's line
MOST_SAID = 4  # sentences about single environments
STYLES, SCRIPTS = ("uPlot.min.css", "page.css"), ("uPlot.iife.min.js", "page.js")

Charts = list[dict[str, Any]]


def write(
    found: Sequence[Result],
    output: Path,
    arguments: Sequence[str],
    say: Callable[[str], None],
    film: bool = True,
    refresh: int | None = None,
) -> None:
    """Write the page about runs to `output`, in one piece.

    arguments: of the command. say: hears of what had to be left out. refresh: seconds after which an open page reloads.
    Raises ImportError without the extra [report], OSError where nothing can be written.
    """
    groups = results.group(found)
    colours = {label: i for i, label in enumerate(dict.fromkeys(label for arms in groups.values() for label in arms))}
    charts: Charts = []
    suites = across(groups, colours, charts)
    among = {env for suite in suites for env in suite["envs"]}
    parts: dict[str, Any] = {
        "title": _title(groups, colours), "refresh": refresh, "version": seer_rl.__version__,
        "command": f"seer {shlex.join(arguments)}", "runs": len(found), "ended": sum(result.has_ended for result in found),
        "overview": overview(groups), "axes": list(zip(AXES[1:], ("FLOPs", "wall-clock", "bytes held"), strict=True)),
        "said": [suite["said"] for suite in suites]
        + [said for env, arms in groups.items() if env not in among and (said := summary.alone(env, arms))][:MOST_SAID],
        "beginnings": summary.beginnings(groups), "suites": suites,
        "tasks": [task(env, arms, colours, charts, say if film else None) for env, arms in groups.items()],
        "settings": settings(found), "lines": [line(result) for result in found], "charts": charts,
    }  # fmt: skip
    files.write_atomically(output, page(parts).encode())


def _title(groups: Groups, labels: Iterable[str]) -> str:
    """Name what the page is about: its environment, or how many there are; and its settings, or how many."""
    envs, settings = list(groups), list(labels)
    where = envs[0] if len(envs) == 1 else f"{len(envs)} environments"
    return f"{where}: {', '.join(settings) if len(settings) < 4 else f'{len(settings)} kinds of settings'}"


def page(parts: dict[str, Any]) -> str:
    """Fill the template. A browser runs no script and loads nothing but what is ours, whatever `parts` say."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError(f"reports need the extra [report]: {install('report')}") from error
    ours = resources.files(__name__)
    styles, scripts = ([(ours / name).read_text("utf-8") for name in names] for names in (STYLES, SCRIPTS))
    policy = f"default-src 'none'; img-src data:; style-src {_hashes(styles)}; script-src {_hashes(scripts)}; base-uri 'none'; "
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # which no browser can read
    return environment.from_string((ours / "page.html").read_text("utf-8")).render(
        parts, policy=f"{policy}form-action 'none'", styles=map(Markup, styles), scripts=map(Markup, scripts)
    )


def _hashes(texts: Iterable[str]) -> str:
    """Name styles or scripts by their checksums, for a Content-Security-Policy."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def overview(groups: Groups) -> list[list[str]]:
    """What was run: a row for each kind of settings in each environment."""
    return [
        [env, label, ", ".join(str(seed) for seed in sorted(run.config.seed for run in runs)), f"{runs[0].config.steps:,}",
         *_freezes(runs), f"{sum(run.has_ended for run in runs)} of {len(runs)}"]
        for env, arms in groups.items() for label, runs in arms.items()
    ]  # fmt: skip


def _freezes(runs: Iterable[Result]) -> list[str]:
    """When runs were frozen, or will be."""
    steps = {run.freeze_step for run in runs if run.freeze_step is not None}
    planned = {run.frozen.removeprefix("at ") for run in runs if run.freeze_step is None}
    return [", ".join([*(f"{step:,}" for step in sorted(steps)), *sorted(planned)])]


def across(groups: Groups, colours: dict[str, int], charts: Charts) -> list[dict[str, Any]]:
    """Aggregates over the tasks of each suite, where several were run."""
    suites = []
    for suite in dict.fromkeys(env.partition("/")[0] for env in groups):
        tasks = [env for env in groups if env.startswith(suite + "/") and stats.normalised(env, 0) is not None]
        labels = [label for label in colours if tasks and all(label in groups[env] for env in tasks)]
        members = {label: [finished(groups[env][label]) for env in tasks] for label in labels}
        members = {label: runs for label, runs in members.items() if min(map(len, runs)) > 0}
        scale = envs.scale(tasks[0]) if tasks else None
        if len(tasks) < 2 or not members or not scale:
            continue
        scores = {label: _scores(tasks, runs) for label, runs in members.items()}
        estimates = {label: stats.aggregates(values) for label, values in scores.items()}
        better, seeds = summary.improvements(scores), min(len(values) for values in scores.values())
        shapes = {label: f"{values.shape[0]} x {values.shape[1]}" for label, values in scores.items()}
        rows = [[label, *(one.words() for one in each.values()), shapes[label]] for label, each in estimates.items()]
        left_out = [label for label in colours if label not in members and any(label in groups[env] for env in tasks)]
        unknown = [env for env in groups if env.startswith(suite + "/") and env not in tasks]
        names = list(scores)
        curves = [_efficiency(tasks, label, runs, colours[label]) for label, runs in members.items()]
        pair = _twice(charts, f"{suite}: normalised return", "normalised return, IQM", 300, curves, random=0.0)
        suites.append({
            "name": suite, "tasks": len(tasks), "envs": tasks, "rows": rows, "pair": pair, "scale": scale.words(),
            "said": summary.across(suite, estimates, better, members), "points": summary.points(estimates, colours),
            "left_out": ", ".join(left_out), "unknown": ", ".join(unknown),
            "names": names, "matrix": summary.matrix(names, better, seeds),
            "caption": "Interquartile mean; a line ends where the first of its runs does.",
        })  # fmt: skip
    return suites


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
    xs: dict[str, list[float | None]] = {}
    met = set[str]()  # the axes on which there is a stretch that all runs were evaluated in
    points: list[stats.Array] = []  # of each axis [runs, tasks, POINTS]
    for axis in AXES:
        ends = [run.at(axis, run.steps[-1]) for runs in chosen for run in runs]
        begins = [run.at(axis, run.steps[0]) for runs in chosen for run in runs]
        grid = np.linspace(max(begins), min(ends), POINTS)
        met |= {axis} if max(begins) <= min(ends) else set()
        xs[axis] = _unit(axis, grid)
        points.append(np.array(
            [[[stats.normalised(env, float(y)) for y in np.interp(grid, run.along(axis, run.steps), run.returns)]
              for env, run in zip(tasks, row, strict=True)] for row in zip(*chosen, strict=True)]
        ))  # fmt: skip
    # One bootstrap for all axes, since resampling takes longer than the statistic.
    lines = [np.split(line, len(AXES)) for line in stats.curve(np.concatenate(points, axis=2), stats.iqm)]
    drawn = {axis: [_plain(line[i]) for line in lines] if axis in met else [] for i, axis in enumerate(AXES)}
    return {"label": visible(label), "colour": colour, "runs": [], "freeze": None, "x": xs, "per_axis": drawn}


def task(
    env: str, arms: dict[str, list[Result]], colours: dict[str, int], charts: Charts, say: Callable[[str], None] | None
) -> dict[str, Any]:
    """Everything about one environment. say: hears of films that cannot be made; None: none are wanted."""
    evaluated = {label: [run for run in runs if len(run.steps)] for label, runs in arms.items()}
    evaluated = {label: runs for label, runs in evaluated.items() if runs}
    if not evaluated:
        return {"env": env, "learning": None}
    curves = [_group(label, runs, colours[label], "eval/return") for label, runs in evaluated.items()]
    dashed = results.random_return(run for runs in arms.values() for run in runs)
    learning = _twice(charts, f"{env}: return", "return", 300, curves, marks=True, random=dashed)
    games = next(iter(evaluated.values()))[0].config.eval.episodes
    pair = []
    for kind, metric, label, caption in (
        ("memory", "replay/bytes", "MB", "What the replay holds."),
        ("speed", "charts/SPS", "steps/s", "Agent steps per second in the present phase, environment included."),
    ):
        shown = {arm: [run for run in runs if len(run.series(metric)[0])] for arm, runs in evaluated.items()}
        shown_groups = [_group(arm, runs, colours[arm], metric) for arm, runs in shown.items() if runs]
        if shown_groups:
            pair.append(_chart(charts, f"{env}: {kind}", label, 220, shown_groups, zero=True) | {"caption": caption})
    scale = envs.scale(env)
    return {"env": env, "learning": learning, "caption": f"Mean return of {games} whole games.", "pair": pair,
            "heading": COSTS, "costs": costs(evaluated),
            "published": [f"{n:,.1f}" for n in (scale.zero, scale.one)] if scale and scale.players else None,
            "films": films(evaluated, say) if say else []}  # fmt: skip


def _chart(
    charts: Charts, name: str, label: str, height: int, groups: list[dict[str, Any]], axis: Axis = "steps",
    marks: bool = False, zero: bool = False, random: float | None = None, like: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Add to `charts` what the page needs to draw one. zero: its axis begins at 0. like: the chart whose lines it shows."""
    chart = {"id": f"chart-{len(charts)}", "name": visible(name), "label": label, "height": height, "groups": groups,
             "axis": axis, "marks": marks, "zero": zero, "random": random, "like": like, "caption": ""}  # fmt: skip
    charts.append(chart)
    return chart


def _twice(charts: Charts, name: str, label: str, height: int, groups: list[dict[str, Any]], **how: Any) -> Charts:
    """Add two charts of the same lines: over steps, and over FLOPs or what the reader chooses."""
    first = _chart(charts, f"{name} over steps", label, height, groups, **how)
    return [first, _chart(charts, f"{name} over cost", label, height, [], axis="flops", like=first["id"], **how)]


def _group(label: str, runs: Sequence[Result], colour: int, metric: str) -> dict[str, Any]:
    """A line of a chart: its runs, and their mean where they were all measured."""
    lines = []
    for run in runs:
        steps, values = run.series(metric)
        few = slice(None, None, max(1, len(steps) // MOST_POINTS))
        lines.append((steps[few], values[few]))
    common, table = results.common(lines)
    found: dict[str, Any] = {
        "label": visible(f"{label} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"), "colour": colour,
        "runs": [{"x": {axis: _unit(axis, run.along(axis, steps)) for axis in AXES}, "y": _plain(values)}
                 for run, (steps, values) in zip(runs, lines, strict=True)],
        "x": {axis: _unit(axis, results.mean_along(runs, axis, common)) for axis in AXES},
        "freeze": _freeze(runs),
    }  # fmt: skip
    if len(runs) > 1 and len(common):
        mean, low, high = stats.curve(table[:, None]) if metric == "eval/return" else (table.mean(0),) * 3
        found |= {"mean": _plain(mean), "low": _plain(low), "high": _plain(high)}
    elif len(runs) > 1:
        found |= {"mean": [], "low": [], "high": []}
    return found


def _freeze(runs: Sequence[Result]) -> dict[str, float | None] | None:
    frozen = [(run, run.freeze_step) for run in runs if run.freeze_step is not None]
    if not frozen:
        return None
    at = {axis: np.mean([run.at(axis, step) for run, step in frozen]) for axis in AXES}
    return {axis: _unit(axis, np.array([mean]))[0] for axis, mean in at.items()}


def _unit(axis: Axis, values: stats.Array) -> list[float | None]:
    """In the units that the page names: minutes and megabytes."""
    return _plain(values * {"steps": 1, "flops": 1, "seconds": 1 / 60, "bytes": 1e-6}[axis])


def _plain(values: stats.Array) -> list[float | None]:
    """As JSON can say it, and with as many digits as can be seen."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


COSTS = ["settings", "last return, mean ± std", "95% interval", "seeds", "FLOPs", "training time", "steps/s, images",
         "steps/s, embeddings", "most replay", "most memory"]  # fmt: skip


def costs(arms: dict[str, list[Result]]) -> list[list[str]]:
    """Score and cost of every arm, by its runs that have ended; or of all, as far as they are, if none has."""
    rows = []
    for label, all_runs in arms.items():
        runs = finished(all_runs) or all_runs
        returns = [float(run.returns[-1]) for run in runs]
        interval = ""
        if len(runs) > 1:
            mean = stats.mean(returns)
            interval = f"[{score(mean.low, mean.high)}, {score(mean.high, mean.low)}]"
        flops, seconds, held = (
            float(np.mean([run.at(axis, run.step) for run in runs])) for axis in ("flops", "seconds", "bytes")
        )
        process = max((value for run in runs for _, value in run.metrics.get("charts/process_bytes", [])), default=0)
        speeds = [_mean(values) for values in zip(*(run.speeds() for run in runs), strict=True)]
        ended = "" if all(run.has_ended for run in runs) else ", not done"
        rows.append(
            [f"{label}{ended}", scores(returns), interval, str(len(runs)), count(flops),
             duration(seconds) if seconds else "", *speeds, size(held), size(process) if process else ""]
        )  # fmt: skip
    return rows


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.0f}" if known else ""


def films(arms: dict[str, list[Result]], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Pictures of a game of one agent of each arm."""
    made = []
    for label, runs in arms.items():
        played = next((run for run in finished(runs) if (run.run_dir / checkpoint.AGENT).exists()), None)
        if played is None:
            continue
        try:
            frames, points = pictures(played)
        except Exception as error:  # by an agent and a game that may be anyone's: the page does without
            say(f"left out: no pictures of {played.run_dir} ({outside.told(error)})")
            continue
        caption = f"A game of {label}, seed {played.config.seed}, in {len(frames)} pictures: {score(points)} points."
        made.append({"pictures": [base64.b64encode(frame).decode() for frame in frames], "caption": caption})
    return made


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
        (score,) = evaluate(agent, envs.Filmed(env, keep), 1, result.config.seed, build.choose_device("cpu"))
    finally:
        env.close()
    chosen = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, min(FRAMES, len(kept)))]
    encoded = []
    for frame in chosen:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=80)
        encoded.append(data.getvalue())
    return encoded, score


def settings(found: Sequence[Result]) -> list[dict[str, Any]]:
    """Settings in which the runs of a suite differ, by arm; and those that they share."""
    suites = []
    for suite in dict.fromkeys(result.config.env.partition("/")[0] for result in found):
        runs = [result for result in found if result.config.env.partition("/")[0] == suite]
        same, differing = results.differing(runs)
        names = [name for name in dict.fromkeys(n for one in differing for n in one) if name not in ("seed", "env", "label")]
        rows: list[list[str]] = []
        for result, one in zip(runs, differing, strict=True):
            row = [result.config.env, result.label, *("" if one.get(name) is None else str(one[name]) for name in names)]
            if row not in rows:
                rows.append(row)
        shared = [f"{name} = {value}" for name, value in same.items() if value is not None and name != "run_dir"]
        suites.append({"name": suite, "heading": ["environment", "settings", *names], "rows": rows, "shared": shared})
    return suites


def line(result: Result) -> list[str]:
    """A run in the table of all runs."""
    scores = [score(result.returns[-1]), score(result.returns.max())] if len(result.returns) else ["", ""]
    where = "done" if result.has_ended else f"at step {result.step:,}"
    return [result.run_dir.name, str(result.config.seed), where, *scores]
