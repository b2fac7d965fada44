"""The documentation: its programs run, its commands can be meant, its pictures and names are there, and the site builds.

A block marked `python` that names nothing but what it makes or imports is a program. It is run, shortened as `SHORTER` says.
One that begins with `# NAME.py` is a file as well, and commands may name what is in it. A block marked `py` is a fragment.
Programs that use another library are run by the tests of their integration.
"""

import builtins
import functools
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import symtable
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from seer_rl import Rainbow, RainbowConfig, make
from seer_rl.commands.main import call, chosen
from seer_rl.convergence import Signals
from seer_rl.experiments import export
from seer_rl.training.arguments import parse
from seer_rl.training.config import check
from seer_rl.training.transfer import encoder_file
from seer_rl.training.weights import tensors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PATHS = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in PATHS}
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORTER = {"guides/loop.md": {"1_000": "300", "500": "150"}}  # steps of a program, and when it freezes
RUN = "studies/der/atari-krull__rainbow__auto-uint4__1"  # what programs find as runs/NAME


def blocks(*languages: str) -> list[tuple[str, str]]:
    """The blocks in these languages: (page, text)."""
    found = [(page, *block) for page, text in PAGES.items() for block in FENCE.findall(text)]
    return [(page, text) for page, language, text in found if language in languages]


def is_whole(program: str) -> bool:
    """Whether a program names only what it makes, imports, or finds in every Python; and none that its own tests run."""
    try:
        table = symtable.symtable(program, "", "exec")
    except SyntaxError:  # with "..." where an argument would stand
        return False
    tables, free = [table], set()
    made = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    while tables:
        one = tables.pop()
        tables += one.get_children()
        free |= {symbol.get_name() for symbol in one.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return not free - made - set(dir(builtins)) and "seer_rl.integrations" not in program


PROGRAMS = [(page, text) for page, text in blocks("python") if is_whole(text)]
FILES = {found[1]: text for _, text in PROGRAMS if (found := re.match(r"# (\w+\.py)\n", text))}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the programs read: a run, an exported encoder, and the files that pages show."""
    place = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / RUN, place / "runs" / "NAME")
    encoder = Rainbow(RainbowConfig(), (4, 84, 84), 6).encoder
    (place / "encoder.safetensors").write_bytes(encoder_file(tensors(encoder), {"images": [4, 84, 84], "scale": "uint8 / 255"}))
    for name, text in FILES.items():
        (place / name).write_text(text, "utf-8")
    return place


@pytest.mark.parametrize(("page", "program"), PROGRAMS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(PROGRAMS)])
def test_a_program_runs(
    page: str, program: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    if "onnxruntime" in program:
        pytest.importorskip("onnxscript")
        env = make("atari/pong", training=False)
        export.export(Rainbow(RainbowConfig(), (4, 84, 84), 6).eval(), env, place / "policy.onnx", count=3)
        env.close()
    for long, short in SHORTER.get(page, {}).items():
        assert any(long in one for whose, one in PROGRAMS if whose == page)
        program = program.replace(long, short)
    exec(compile(program, page, "exec"), {"__name__": "program"})
    printed = capsys.readouterr().out
    for said in re.findall(r"^print\(.*\)  # (.*)$", program, re.MULTILINE):
        assert said in printed


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From its first cell to its last, with fewer steps."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "4_000, 500" in program or "1_000, 500" in program
    program = re.sub(r"[14]_000, 500", "20, 60", program)
    assert not any(cell.get("outputs") for cell in cells)
    exec(compile(program, path.name, "exec"), {"__name__": "notebook"})
    printed = capsys.readouterr().out
    for said in re.findall(r"^print\(.*\)  # (.*)$", program, re.MULTILINE):
        assert said in printed


def test_the_programs_are_those_that_one_would_think() -> None:
    """So that none is left out by a slip in its names."""
    pages = {page for page, _ in PROGRAMS}
    assert pages >= {"guides/loop.md", "guides/environment.md", "guides/export.md", "reference/metrics.md"}
    assert FILES.keys() == {"backbone.py", "catch.py"}


@pytest.mark.parametrize(("page", "fragment"), blocks("py"))
def test_a_fragment_is_python(page: str, fragment: str) -> None:
    compile(fragment, page, "exec")


def test_the_environment_of_ones_own_can_be_learnt_from(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its state is all of it: it does the same again."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("SEER_CODE", "catch:Catch")
    env = make("catch:Catch", training=False)
    assert (env.observation_space.shape, env.action_space.n) == ((9, 84, 84), 3)  # type: ignore[attr-defined]
    inner = importlib.import_module("catch").Catch()
    inner.reset(seed=1)
    state = inner.get_state()
    seen = []
    for _ in range(2):
        inner.set_state(state)
        seen.append([(inner.step(0) if (i + 1) % 21 else inner.reset())[0].sum() for i in range(60)])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 1
    env.close()


# ---- commands ----------------------------------------------------------------------------------------------------------


def commands() -> dict[str, str]:
    """Every command line of the pages, without comments, with lines that go on joined and variables put in; and its page."""
    found = {}
    for page, text in PAGES.items():
        prose = FENCE.sub("", text)
        shown = [block for language, block in FENCE.findall(text) if language in ("sh", "")]
        shown += re.findall(r"(?<=\n\n)((?: {4}.*\n)+)", prose)
        shown += re.findall(r"`((?:\w+=\S+ )?seer [^`]* --(?!help)[^`]*|make \w[^`]*|python -m [^`]*)`", prose)
        for block in shown:
            known = re.findall(r'^ *(\w+)="(.*)"$', block, re.MULTILINE)
            for line in re.sub(r"\\\n", " ", block).splitlines():
                plain = re.split(" +# ", line)[0].strip()
                for name, value in known:
                    plain = plain.replace(f"${name}", value)
                found[plain.partition(" > ")[0]] = page
    return {line: page for line, page in found.items() if line}


COMMANDS = commands()


def lines(first: str) -> list[str]:
    return [line for line in COMMANDS if re.match(rf"(\w+=\S+ )?{first}\b", line)]


@pytest.fixture
def outside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands name the files that pages show, and the examples."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("SEER_CODE", "")


def test_there_are_commands() -> None:
    assert len(lines("seer")) > 70
    assert not [line for line in COMMANDS if "seer " in line and line not in lines("seer")]


MEANT = """
import sys
from seer_rl.training.arguments import parse
from seer_rl.training.config import check
check(parse(sys.argv[1:], trusting=True))
"""


@pytest.mark.usefixtures("outside")
def test_every_command_can_be_meant() -> None:
    """What it is about, such as runs/NAME, need not be there."""
    wrong = {}
    for line in lines("seer"):
        words = shlex.split(line)[1 if line.startswith("seer") else 2 :]
        try:
            if words[0] == "train":
                if words[1].startswith("examples."):  # which may need a renderer of its own
                    subprocess.run([sys.executable, "-c", MEANT, *words[1:]], check=True, capture_output=True, cwd=ROOT)
                elif words[1:] != ["--help"]:
                    check(parse(words[1:], trusting=True))
            else:
                name = chosen(words)
                module, function = name.split()[0], name.split()[-1]
                told = getattr(importlib.import_module(f"seer_rl.commands.{module}"), function)
                call(deaf(told), name, words[len(name.split()) :])
        except (Exception, SystemExit) as error:
            wrong[f"{COMMANDS[line]}: {line}"] = repr(error)
    assert not wrong


def deaf(function: Callable[..., Any]) -> Callable[..., None]:
    """What takes the same arguments, and does nothing."""

    @functools.wraps(function)
    def nothing(*args: Any, **named: Any) -> None:
        inspect.signature(function).bind(*args, **named)

    return nothing


def test_other_commands_are_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    missing = []
    for line in lines("make"):
        missing += [line for word in line.split()[1:] if word not in targets]
    for line in lines("python -m"):
        name = line.split()[2]
        missing += [line] if "..." not in name and importlib.util.find_spec(name) is None else []
    for line, page in COMMANDS.items():  # of this package, from a checkout or not
        if found := re.search(r"pip install.*(?:seer-rl|'\.)\[([\w,]+)\]", line):
            missing += [f"{page}: {line}" for extra in found[1].split(",") if extra not in extras]
    assert not missing


# ---- what pages say of the code --------------------------------------------------------------------------------------------


def test_every_metric_is_explained() -> None:
    named = set()
    for path in (ROOT / "seer_rl").rglob("*.py"):
        if "rehearsal" not in path.name and "experiments" not in path.parts:
            named |= set(re.findall(r"\"((?:charts|compute|eval|losses|replay|seer)/\w+)\"", path.read_text("utf-8")))
    named |= {f"seer/{field.name}" for field in fields(Signals)} - {"seer/step"}
    explained = set(re.findall(r"^\| `(\w+/\w+)`", PAGES["reference/metrics.md"], re.MULTILINE))
    assert explained == named


@pytest.mark.parametrize(
    "words",
    [
        "atari/alien",
        "atari/alien --agent dqn",
        "dmc/walker-walk",
        "dmc/walker-walk --agent drqv2",
        "gym/CarRacing-v3 --agent sac",
    ],
)
def test_every_setting_is_on_its_page(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(DOCS / "_ext")
    generated = importlib.import_module("generated")
    page = "".join(generated.PAGES[f"{part}_settings"]() for part in ("run", "section", "env", "agent"))
    with pytest.raises(SystemExit):
        parse([*words.split(), "--help"])
    flags = set(re.findall(r"(?<![\w.-])--[a-z][\w.-]*\w", capsys.readouterr().out.partition("options")[2]))
    assert len(flags) > 40
    assert not {flag for flag in flags if f"`{flag}`" not in page} - {"--help", "--agent", "--preset", "--env"}


@pytest.mark.parametrize("page", PAGES)
def test_pictures(page: str) -> None:
    """They are there, say what they show to who cannot see them, and have a caption."""
    text = PAGES[page]
    for words, path, after in re.findall(r"^!\[(.*?)\]\((.*?)\)\n\n(.*)", text, re.MULTILINE):
        assert ((DOCS / page).parent / path).is_file()
        assert len(words) > 40
        assert re.match(r"\*[^*\s]", after), f"{path} has no caption"
    assert len(re.findall(r"!\[", text)) == len(re.findall(r"^!\[.*\]\(.*\)\n\n", text, re.MULTILINE))
    for path in re.findall(r'href="(.*?)"', text):
        assert ((DOCS / page).parent / path).is_file()


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links between pages are checked by this, too."""
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "dummy", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
