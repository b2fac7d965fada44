"""The report in a real browser: every chart is drawn, the axes switch, nothing is loaded, it fits a phone, and no text runs."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.commands.main import main
from seer_rl.experiments import report as pages
from seer_rl.experiments import results, stats
from seer_rl.experiments.report import summary
from seer_rl.training import loop
from seer_rl.training.checkpoint import CONFIG
from seer_rl.training.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig, TransferConfig
from seer_rl.training.logger import METRICS
from seer_rl.training.run import Run
from seer_rl.training.rundir import ENDED
from tests.experiments.test_results import made

GAMES, ARMS, SEEDS = ("qbert", "pong"), ("SEER", "baseline"), (1, 2)
PHONE, DESKTOP = {"width": 375, "height": 740}, {"width": 1280, "height": 900}

# Of a canvas: how many of its pixels are drawn on.
INK = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let drawn = 0;
  for (let i = 3; i < pixels.length; i += 4) drawn += pixels[i] > 0;
  return drawn;
}"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two games, with and without SEER, two seeds each: short, but real."""
    output = tmp_path_factory.mktemp("runs")
    for game in GAMES:
        for arm in ARMS:
            for seed in SEEDS:
                config = TrainConfig(
                    f"atari/{game}",
                    steps=160,
                    seed=seed,
                    label=arm,
                    seer=SeerConfig(freeze_step=100 if arm == "SEER" else None),
                    replay=ReplayConfig(memory=2_000_000),
                    eval=EvalConfig(every=40, episodes=1),
                    agent=RainbowConfig(learning_starts=40, batch_size=8, hidden=16),
                    run_dir=output / f"{game}-{arm}-{seed}",
                )
                loop.train(Run(config))
    return output


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", str(runs), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "`make test` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Browser, path: Path, problems: list[str], init: str = "", **options: Any) -> Page:
    """Open a page, with a script of ours before any of its own; `problems` gets all that should not be."""
    page = browser.new_page(**options)
    page.add_init_script(init)
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on("console", lambda message: problems.append(f"console: {message.text}") if message.type != "log" else None)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda request: problems.append(request.url) if not local(request.url, path) else None)
    page.goto(path.as_uri())
    return page


def local(url: str, path: Path) -> bool:
    return url.startswith("data:") or url == path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_chart_is_drawn(size: dict[str, int], scheme: str, browser: Browser, report: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    page = visit(browser, report, problems, viewport=size, color_scheme=scheme)
    names = page.evaluate("charts.map(chart => chart.name)")
    sides = ("return over steps", "return over cost", "memory", "speed")
    assert names == [
        "atari: normalised return over steps",
        "atari: normalised return over cost",
        *(f"atari/{game}: {what}" for game in sorted(GAMES) for what in sides),
    ]
    assert page.locator(".panels svg").count() == 4 * len(ARMS)  # aggregates as points
    for name in names:
        assert page.get_by_role("img", name=name, exact=True).locator("canvas").evaluate(INK) > 500, name
    assert page.evaluate("document.scrollingElement.scrollWidth") <= size["width"]  # nothing sticks out
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.locator("img").count() >= 8  # pictures of games
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 30_000
    assert problems == []
    page.close()


def test_the_axis_switches(browser: Browser, report: Path, runs: Path) -> None:
    problems: list[str] = []
    page = visit(browser, report, problems, viewport=DESKTOP)
    chart = "charts.find(chart => chart.name === 'atari/pong: return over cost')"
    canvas = page.get_by_role("img", name="atari/pong: return over cost").locator("canvas")
    seen, pictures = {}, set()
    for axis in ("flops", "seconds", "bytes"):
        page.locator(f"input[value={axis}]").check(force=True)
        seen[axis] = page.evaluate(f"Array.from({chart}.plot.data[0])")
        pictures.add(canvas.evaluate("canvas => canvas.toDataURL()"))
        label = page.evaluate(f"{chart}.plot.axes[0].label")
        assert label == page.evaluate(f"AXES.{axis}")
    assert len(pictures) == 3
    beside = "charts.find(chart => chart.name === 'atari/pong: return over steps')"
    assert page.evaluate(f"Array.from({beside}.plot.data[0])") == [40, 80, 120, 160]
    one = next(result for result in results.find([runs], print) if result.run_dir.name == "pong-baseline-1")
    assert max(seen["flops"]) == pytest.approx(float(one.along("flops", one.steps)[-1]), rel=1e-5)
    for what in ("memory", "return over steps"):
        assert page.evaluate(f"charts.find(chart => chart.name === 'atari/pong: {what}').axis") == "steps"  # follows no switch
    assert problems == []
    page.close()


def test_values_at_the_cursor(browser: Browser, report: Path) -> None:
    page = visit(browser, report, [], viewport=DESKTOP)
    place = page.get_by_role("img", name="atari/qbert: return over steps")
    place.locator(".u-over").hover()
    keys = page.locator(f"#{place.get_attribute('id')}-keys").inner_text()
    assert re.search(r"SEER \(2 seeds\): \d", keys)
    assert "agent steps" in keys
    page.close()


def test_print(browser: Browser, report: Path) -> None:
    """In dark mode too the paper is white."""
    page = visit(browser, report, [], viewport=DESKTOP, color_scheme="dark")
    assert len(page.pdf()) > 20_000
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".switch").is_visible()
    page.close()


def test_contents(report: Path, runs: Path) -> None:
    text = report.read_text()
    assert f"seer report {runs}" in text
    assert "8 runs, all done" in text
    assert re.search(r"On 2 tasks of atari, with 2 seeds each, (SEER|baseline) did best: an interquartile mean of -?\d", text)
    assert "Probability that a run of a row" in text
    assert "optimality gap" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    curve = next(c for c in data if c["name"] == "atari/qbert: return over steps")
    (seer,) = (group for group in curve["groups"] if group["label"] == "SEER (2 seeds)")
    found = [r for r in results.find([runs], print) if r.run_dir.name.startswith("qbert-SEER")]
    assert seer["mean"] == pytest.approx(((found[0].returns + found[1].returns) / 2).tolist(), rel=1e-5)
    assert seer["freeze"]["steps"] == 100
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert all(base64.b64decode(image).startswith(b"\xff\xd8") for image in images)


def test_a_sweep_that_goes_on(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is going, one not begun, and one whose metrics are damaged."""
    shutil.copytree(runs, tmp_path / "runs")
    metrics = tmp_path / "runs/qbert-SEER-1" / METRICS
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if not line.startswith(("120,", "160,"))), newline="")
    (tmp_path / "runs/qbert-SEER-1" / ENDED).unlink()
    for path in (tmp_path / "runs/qbert-SEER-2").iterdir():
        if path.name != CONFIG:
            path.unlink()
    (tmp_path / "runs/pong-SEER-1" / METRICS).write_bytes(b"\xff\xfe\x00")
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "r.html"), "--no-film"]) == 0
    said = capsys.readouterr()
    assert "5 of 7 runs done" in said.out
    assert said.err.count("note: left out: ") == 1
    text = (tmp_path / "r.html").read_text()
    assert "7 runs, 5 done, 2 not yet" in text
    assert "SEER, not done" in text
    assert "with no finished run on some of the tasks: SEER" in text
    assert 'http-equiv="refresh"' not in text


def test_watching(runs: Path, tmp_path: Path) -> None:
    """The page is written again until the last run is done; until then an open one reloads itself."""
    shutil.copytree(runs / "pong-SEER-1", tmp_path / "run")
    (tmp_path / "run" / ENDED).unlink()  # it goes on
    metrics = tmp_path / "run" / METRICS
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[: whole.index(b"\r\n120,") + 2])
    command = [sys.executable, "-m", "seer_rl", "report", "run", "-o", "r.html", "--watch", "--every", "1", "--no-film"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "r.html: 0 of 1 runs done\n"
        assert '<meta http-equiv="refresh" content="1">' in (tmp_path / "r.html").read_text()
        metrics.write_bytes(whole)
        assert process.stdout.read().endswith("r.html: 1 of 1 runs done\n")
    assert process.returncode == 0
    assert 'http-equiv="refresh"' not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "RUNS"),
        (".", "holds no runs"),
        ("nowhere", "no directory of runs"),
        (". --every 0", "at least 1 and at most 86,400"),
    ],
)
def test_refusals(arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert words.lower() in said.lower()
    assert said.count("\n") == 1


# What somebody could write wherever a file lets them.
HOSTILE = [
    '"><img src=x onerror=hacked()>',
    "</script><script>hacked()</script>",
    "</title></style><script>hacked()</script>",
    "' onmouseover=hacked() '",
    "<svg/onload=hacked()>",
    "<!-- ",
    "{{DATA}}",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:hacked()//`${hacked()}`",
    "\\u003cscript\\u003e &lt;b&gt; $x^2$ %s {0}",
    "right \u202eto left\u2066 \u200f",
    "control \x00\x07\x1b[31m\x7f\x85\u2028\n\r\t",
    "基线 \U0001f642",
    "long " * 2_000,
    "x" * 10_000,
]
DETECTOR = "window.hacked = () => { window.was_hacked = true; }"


def curve(scale: float = 1.0) -> dict[str, list[tuple[int, float]]]:
    """Metrics of a run of 160 steps."""
    steps = range(40, 161, 40)
    return {
        "eval/random_return": [(0, 1.0)],
        "eval/return": [(step, scale * step) for step in steps],
        "compute/flops": [(step, scale * 1e9 * step) for step in steps],
        "replay/bytes": [(step, scale * 1e4 * step) for step in steps],
        "losses/loss": [(step, float("nan")) for step in steps],
        "charts/SPS": [(step, scale * 50) for step in steps],
        "seer/freeze_step": [(80, 80.0)],
    }


def test_hostile_names_are_text(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """In every field that a file can set, and as names of directories: no script runs, and every chart is drawn."""
    monkeypatch.setattr(stats, "REPEATS", 5)
    runs = tmp_path / "runs"
    for i, text in enumerate(HOSTILE):
        donor = TransferConfig(Path(text), "encoder")
        config = TrainConfig(f"atari/{text}", 160, label=text, run_dir=Path(text), transfer=donor)
        name = os.fsdecode(f"{i} {text[:80]}".replace("/", "|").replace("\0", "").encode() + b"\xff")
        made(runs / name, config, curve())
        for j, env in enumerate(
            ('atari/"pong"', "atari/<Pong>", "atari/{{qbert}}")
        ):  # one game and another, whatever is around
            made(runs / f"{i} {j}", replace(config, env=env, seed=j), curve())
    made(runs / "huge", TrainConfig("dmc/huge", 160, seed=2**63 - 1), curve(1e27))
    made(runs / "no slash", TrainConfig("", 160, label="<b>"), curve())
    damages: dict[str, Callable[[Path], object]] = {
        "settings": lambda run: (run / CONFIG).write_text((run / CONFIG).read_text().replace('"auto"', '"<script>"')),
        "encoding": lambda run: (run / CONFIG).write_bytes(b"\xff"),
        "nested": lambda run: (run / CONFIG).write_text("env = " + "[" * 5000 + "]" * 5000),
        "number": lambda run: (run / CONFIG).write_text(
            (run / CONFIG).read_text().replace("seed = 0", f"seed = 0x{'f' * 5000}")
        ),
        "nan": lambda run: add(run, "160,eval/return,nan"),
        "infinite": lambda run: add(run, "160,compute/flops,inf"),
        "beyond": lambda run: add(run, "160,charts/SPS,-1e300"),
        "steps": lambda run: add(run, f"{10**30},eval/return,1"),
        "back": lambda run: add(run, "0,eval/return,1"),
        "column": lambda run: add(run, "170,eval/return,1,2"),
        "nul": lambda run: add(run, "170,eval/return,\0"),
        "quote": lambda run: add(run, '170,"eval/return'),
        "field": lambda run: add(run, f"170,{'x' * 200_000},1"),
        "torn": lambda run: (run / METRICS).write_bytes((run / METRICS).read_bytes()[:-3]),
        "empty": lambda run: (run / METRICS).write_bytes(b""),
        "pipe": lambda run: instead(run / METRICS, os.mkfifo),
        "directory": lambda run: instead(run / METRICS, os.mkdir),
        "no clock": lambda run: (run / "clock.csv").unlink(),
    }
    for name, damage in damages.items():
        made(runs / f"bad {name}", TrainConfig("atari/pong", 160), curve())
        damage(runs / f"bad {name}")
    assert main(["report", str(runs), "-o", str(tmp_path / "page.html"), "--no-film"]) == 0
    said = capsys.readouterr()
    bad = sorted(path.name for path in runs.glob("bad *"))
    for name in bad:
        assert sum(line.startswith("note: left out: ") and name in line for line in said.err.splitlines()) == 1, name
    assert said.err.count("note: left out: ") == len(bad)
    assert f"{4 * len(HOSTILE) + 2} runs" in (tmp_path / "page.html").read_text()

    problems: list[str] = []
    for size in (DESKTOP, PHONE):
        page = visit(browser, tmp_path / "page.html", problems, init=DETECTOR, viewport=size)
        canvases = page.locator("canvas")
        assert canvases.count() == 2 + 4 * (len(HOSTILE) + 4)
        for i in range(canvases.count()):
            assert canvases.nth(i).evaluate(INK) > 500, i
        page.locator("body").evaluate(
            "body => body.querySelectorAll('*').forEach(one => one.dispatchEvent(new Event('mouseover')))"
        )
        assert page.evaluate("window.was_hacked") is None
        assert page.evaluate("[document.scripts.length, document.images.length, document.styleSheets.length]") == [3, 0, 2]
        attributes = set(page.evaluate("[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())"))
        assert not [name for name in attributes if name.startswith("on")]
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch(r"data|chart-\d+(-keys)?", name) for name in ids)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= size["width"]
        cells = page.locator("td").all_text_contents()
        for text in (*HOSTILE[:10], *HOSTILE[12:]):
            assert text in cells
        assert r"right \u202eto left\u2066 \u200f" in cells
        assert r"control \x00\x07\x1b[31m\x7f\x85\u2028\n\r\t" in cells
        page.close()
    assert problems == []


def instead(path: Path, make: Callable[[Path], None]) -> None:
    """Put something else in a file's place."""
    path.unlink()
    make(path)


def add(run: Path, row: str) -> None:
    """A line at the end of a run's metrics."""
    with (run / METRICS).open("a", newline="") as file:
        file.write(f"{row}\r\n")


def test_the_policy_stops_what_would_get_into_the_page(browser: Browser, tmp_path: Path) -> None:
    """Were something not escaped after all: it would neither run nor load anything."""
    pages.write([made(tmp_path / "run", TrainConfig("atari/pong", 160), curve())], tmp_path / "page.html", ["report"], print)
    text = (tmp_path / "page.html").read_text()
    injected = (
        "<script>hacked()</script><img src=x onerror=hacked()><img src=http://127.0.0.1:9/><iframe srcdoc=hello></iframe>"
        "<a href=javascript:hacked() id=link>here</a><style>body { display: none }</style><base href=http://127.0.0.1:9/>"
    )
    (tmp_path / "page.html").write_text(text.replace("<h1>", f"{injected}<h1>", 1))
    problems: list[str] = []
    loaded: list[str] = []
    page = browser.new_page()
    page.add_init_script(DETECTOR)
    page.on("response", lambda response: loaded.append(response.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("#link").click()
    assert page.evaluate("window.was_hacked") is None
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    assert page.locator("canvas").count() == 4
    assert len(problems) >= 6
    assert [problem for problem in problems if "Content Security Policy" not in problem] == []
    assert [url for url in loaded if not local(url, tmp_path / "page.html")] == []
    page.close()


def losses(*values: float) -> dict[str, list[tuple[int, float]]]:
    return {"losses/loss": [(40 * (i + 1), value) for i, value in enumerate(values)]}


def test_shared_beginnings_are_told(tmp_path: Path) -> None:
    """Of one seed in one game, as far as losses are the same numbers; beside those that were never frozen."""
    series = {"never": losses(1, 2, 3, 4), "auto": losses(1, 2, 5, 6), "later": losses(1, 2, 3, 7), "other": losses(8, 2, 3, 4)}
    for label, numbers in series.items():
        for seed in (0, 1):
            metrics = curve() | numbers
            if label == "never":
                del metrics["seer/freeze_step"]
            if seed and label == "later":  # it goes on from there
                metrics = {name: values[:2] for name, values in metrics.items()}
            made(tmp_path / f"runs/{label}-{seed}", TrainConfig("atari/pong", 160, seed=seed, label=label), metrics)
    found = results.find([tmp_path / "runs"], print)
    one, *others = sorted((run for run in found if run.config.seed == 0), key=lambda run: list(series).index(run.label))
    assert [results.together(one, other) for other in (one, *others)] == [160, 80, 120, 0]
    told = "auto until step 80; later until step 80 to 120, the same training as never"
    assert summary.beginnings(results.group(found)) == told
    pages.write(found, tmp_path / "page.html", ["report"], print, film=False)
    assert f"Runs of one seed share their beginnings: {told}. Until there" in (tmp_path / "page.html").read_text()


def test_the_first_sentence_says_who_did_best_at_what_cost(tmp_path: Path) -> None:
    """By scores and costs that can be calculated by hand; a few seeds, and intervals that hold 0.5, are called chance."""

    def arm(label: str, scale: float, seeds: int, env: str = "atari/pong") -> None:
        for seed in range(seeds):
            metrics = curve(scale)
            if label == "never":
                del metrics["seer/freeze_step"]
            remade(tmp_path / f"{env[6:]}-{label}-{seed}", TrainConfig(env, 160, seed=seed, label=label), metrics)

    def remade(run_dir: Path, config: TrainConfig, metrics: dict[str, list[tuple[int, float]]]) -> None:
        shutil.rmtree(run_dir, ignore_errors=True)
        made(run_dir, config, metrics)

    def said() -> list[str]:
        pages.write(results.find([tmp_path], print), tmp_path / "page.html", ["report"], print, film=False)
        return re.findall(r'<p class="said">(.*?)</p>', (tmp_path / "page.html").read_text())

    arm("SEER", 0.5, 2)
    assert said() == ["On atari/pong, SEER ended with 80.0 points (2 seeds)."]
    arm("never", 0.25, 2)
    assert said() == [
        "On atari/pong, SEER ended with 80.0 points (2 seeds), never with 40.0 (2 seeds), with 2.00 times as many operations. "
        "So few seeds may differ by chance."
    ]
    for label, scale in (("SEER", 0.5), ("never", 0.25)):
        arm(label, scale, 3)
        arm(label, scale, 3, "atari/qbert")
    (sentence,) = said()
    # Published scores: pong -20.7 at random and 14.6 of a human, qbert 163.9 and 13455.0; the means of both are the middle.
    best, other = (((x + 20.7) / 35.3 + (x - 163.9) / 13291.1) / 2 for x in (80, 40))
    best_words, other_words = (stats.Estimate(x, x, x).words() for x in (best, other))
    assert sentence == (
        f"On 2 tasks of atari, with 3 seeds each, SEER did best: an interquartile mean of {best_words}, "
        f"against {other_words} of never, with 2.00 times as many operations."
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count('<td class="sure">') == 2  # all of the one score more than all of the other, and the other way round
    assert '<td class="sure">1.00<small>1.00 to 1.00</small></td>' in page
    metrics = curve(2)
    del metrics["seer/freeze_step"]
    remade(tmp_path / "pong-never-1", TrainConfig("atari/pong", 160, seed=1, label="never"), metrics)
    assert said()[0].endswith("That may be chance: a run of one is not surely better than a run of the other.")
    for env in ("pong", "qbert"):
        for label in ("SEER", "never"):
            shutil.rmtree(tmp_path / f"{env}-{label}-2")
    assert said()[0].endswith("So few seeds may differ by chance.")
    assert "sure" not in re.findall(r"<tbody>.*?</tbody>", (tmp_path / "page.html").read_text())[0]


def test_a_curve_over_several_games_is_along_its_own_axis(tmp_path: Path) -> None:
    """Of two like seeds of two games, the IQM is the mean of both games; operations and bytes are bent against steps."""
    steps = np.array([40, 80, 120, 160])
    axes = {"steps": steps.astype(float), "flops": 1e5 * steps**2.0, "bytes": 1e3 * steps**1.5}
    members = []
    for game in ("pong", "qbert"):
        series = {"eval/return": steps.tolist(), "compute/flops": axes["flops"], "replay/bytes": axes["bytes"]}
        metrics = {name: [(int(step), float(y)) for step, y in zip(steps, ys, strict=True)] for name, ys in series.items()}
        members.append([
            made(tmp_path / f"{game}-{seed}", TrainConfig(f"atari/{game}", 160, seed=seed), metrics) for seed in (0, 1)
        ])  # fmt: skip
    drawn = pages._efficiency(["atari/pong", "atari/qbert"], "x", members, 0)
    for axis, at in axes.items():
        returns = np.interp(np.linspace(at[0], at[-1], pages.POINTS), at, steps)
        # Published scores: pong -20.7 at random and 14.6 of a human, qbert 163.9 and 13455.0.
        expected = ((returns + 20.7) / 35.3 + (returns - 163.9) / 13291.1) / 2
        assert drawn["per_axis"][axis][0] == pytest.approx(expected, rel=1e-5)


def test_an_open_page_reloads_itself(browser: Browser, tmp_path: Path) -> None:
    run, output = made(tmp_path / "run", TrainConfig("atari/pong", 160), curve()), tmp_path / "page.html"
    pages.write([run], output, ["report"], print, refresh=3)
    problems: list[str] = []
    page = visit(browser, output, problems)
    assert page.locator("meta[http-equiv=refresh]").count() == 1
    pages.write([run], output, ["report"], print)
    page.locator("meta[http-equiv=refresh]").wait_for(state="detached", timeout=20_000)
    assert page.locator("canvas").count() == 4
    assert problems == []
    page.close()


def test_a_film_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    """By an agent that is none, and of a game that is none."""
    notes: list[str] = []
    found = [
        made(tmp_path / "a", TrainConfig("atari/pong", 160), curve()),
        made(tmp_path / "b", TrainConfig("atari/<nothing>", 160), curve()),
        made(tmp_path / "c", TrainConfig("atari/qbert", 160, agent=RainbowConfig(hidden=10**15)), curve()),
    ]
    for result in found:
        (result.run_dir / "agent.safetensors").write_bytes(b"nothing")
    pages.write(found, tmp_path / "page.html", ["report"], notes.append)
    assert [note.partition(" (")[0] for note in notes] == [f"left out: no pictures of {tmp_path / name}" for name in "abc"]
    assert "3 runs, all done" in (tmp_path / "page.html").read_text()
