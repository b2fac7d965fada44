"""The report in a real browser: every chart is drawn, the axes switch, nothing is loaded, and it fits a phone."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from seer_rl import results, train
from seer_rl.__main__ import main
from seer_rl.checkpoint import CONFIG
from seer_rl.config import EvalConfig, ReplayConfig, SeerConfig, TrainConfig
from seer_rl.logger import METRICS
from seer_rl.rainbow import RainbowConfig

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
                train.Run(config).train()
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


def visit(browser: Browser, path: Path, problems: list[str], **options: Any) -> Page:
    page = browser.new_page(**options)
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
    assert names == [
        "atari: normalised return",
        *(f"atari/{game}: {what}" for game in sorted(GAMES) for what in ("return", "memory", "speed")),
    ]
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
    chart = "charts.find(chart => chart.name === 'atari/pong: return')"
    canvas = page.get_by_role("img", name="atari/pong: return").locator("canvas")
    seen, pictures = {}, set()
    for axis in ("steps", "flops", "seconds", "bytes"):
        page.locator(f"input[value={axis}]").check(force=True)
        seen[axis] = page.evaluate(f"Array.from({chart}.plot.data[0])")
        pictures.add(canvas.evaluate("canvas => canvas.toDataURL()"))
        label = page.evaluate(f"{chart}.plot.axes[0].label")
        assert label == page.evaluate(f"AXES.{axis}")
    assert len(pictures) == 4
    assert seen["steps"] == [40, 80, 120, 160]
    one = next(result for result in results.find([runs], print) if result.run_dir.name == "pong-baseline-1")
    assert max(seen["flops"]) == pytest.approx(float(one.along("flops", one.steps)[-1]), rel=1e-5)
    assert page.evaluate("charts.find(chart => chart.name === 'atari/pong: memory').axis") == "steps"  # follows no switch
    assert problems == []
    page.close()


def test_values_at_the_cursor(browser: Browser, report: Path) -> None:
    page = visit(browser, report, [], viewport=DESKTOP)
    place = page.get_by_role("img", name="atari/qbert: return")
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
    assert "Probability that a run of <b>baseline</b>" in text or "Probability that a run of <b>SEER</b>" in text
    assert "optimality gap" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    curve = next(c for c in data if c["name"] == "atari/qbert: return")
    (seer,) = (group for group in curve["groups"] if group["label"] == "SEER (2 seeds)")
    found = [r for r in results.find([runs], print) if r.run_dir.name.startswith("qbert-SEER")]
    assert seer["mean"] == pytest.approx(((found[0].returns + found[1].returns) / 2).tolist(), rel=1e-5)
    assert seer["freeze"]["steps"] == 100
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert all(base64.b64decode(image).startswith(b"\xff\xd8") for image in images)


EVIL = (
    'x"><img src=x onerror=hacked()>', "</script><script>hacked()</script>", "{{DATA}}", "{{ data }}", "{% raw %}",
    "' onclick='hacked()", "<!--", "a" * 10_000, "\u202egnp.exe\u202c", "&lt;script&gt;", "javascript:hacked()",
    "`${hacked()}`", "$x^2", "|a|b|\n|-|", "]]>", "\u0001\u007f", "<svg/onload=hacked()>", "__proto__", "constructor",
)  # fmt: skip


def test_names_that_files_can_hold_are_only_text(runs: Path, browser: Browser, tmp_path: Path) -> None:
    """Hostile words in every setting that is text, and numbers that are none: no script runs, every chart is drawn."""
    import tomllib

    import tomli_w

    for i, evil in enumerate(EVIL):
        for seed in SEEDS:
            run = tmp_path / "runs" / f"{i}{evil[:40].replace('/', '')}{seed}"
            shutil.copytree(runs / f"pong-SEER-{seed}", run)
            config = tomllib.loads((run / CONFIG).read_text("utf-8"))
            config["label"], config["run_dir"] = evil, evil
            config["env"] = f"atari/{evil}"
            config["transfer"] = {"source": evil, "only": "all"}
            config["agent"]["encoder"] = evil
            config["seed"] = 10**15 if i % 2 else seed
            (run / CONFIG).write_bytes(tomli_w.dumps(config).encode())
            if i % 3 == 0:
                with (run / METRICS).open("a", newline="") as file:
                    file.write("150,charts/episodic_return,nan\r\n160,losses/loss,1e308\r\n160,compute/flops,inf\r\n")
                    file.write(f'160,"{evil[:20].strip()}",3\r\n')
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "r.html"), "--no-film"]) == 0
    problems: list[str] = []
    page = browser.new_page()
    page.expose_function("hacked", lambda *_: problems.append("a script ran"))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda request: problems.append(request.url) if not local(request.url, tmp_path / "r.html") else None)
    page.goto((tmp_path / "r.html").as_uri())
    names = page.evaluate("charts.map(chart => chart.id)")
    assert len(names) == 3 * len(EVIL)
    for name in names:
        assert page.locator(f"#{name} canvas").evaluate(INK) > 500, name
    for evil in EVIL:
        assert evil.strip() in page.evaluate("document.body.textContent"), evil
    page.screenshot(path=tmp_path / "hostile.png")
    assert problems == []
    # And if a hole were found in spite of all that: the page's own policy lets no other script run.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked()>')")
    page.wait_for_timeout(300)
    assert "a script ran" not in problems
    page.close()


def test_a_sweep_that_goes_on(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is going, one not begun, and one whose metrics are damaged."""
    shutil.copytree(runs, tmp_path / "runs")
    metrics = tmp_path / "runs/qbert-SEER-1" / METRICS
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if not line.startswith(("120,", "160,"))), newline="")
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
    [("", "RUNS"), (".", "holds no runs"), ("nowhere", "no directory of runs"), (". --every 0", "at least 1")],
)
def test_refusals(arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert words.lower() in said.lower() or "at least one" in said
    assert said.count("\n") == 1
