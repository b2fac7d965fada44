"""The house's rule: a file imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import seer_rl

PACKAGE = Path(seer_rl.__file__).parent
FLOORS = [
    {"bounds", "files", "terminal", "weights"},
    {
        "networks",
        "augment",
        "replay",
        "sumtree",
        "analysis",
        "codec",
        "flops",
        "logger",
        "stats",
        "envs",
        "envs.atari",
        "envs.dmc",
        "envs.apart",
    },
    {"seer", "converge", "transfer", "compile", "dqn", "rainbow", "sac", "curl", "drqv2"},
    {"config", "checkpoint", "rundir", "presets", "build", "train", "results", "plots", "export"},
    {
        "console",
        "memory",
        "cli",
        "worker",
        "sweep",
        "cluster",
        "report",
        "paper",
        "paper.published",
        "paper.experiments",
        "paper.tables",
        "paper.figures",
        "analyze",
        "__main__",
    },
]
NEIGHBOURS = {  # rooms on one floor that may know each other
    ("weights", "files"), ("replay", "sumtree"), ("replay", "codec"),
    ("flops", "networks"), ("plots", "results"), ("envs", "envs.atari"), ("envs", "envs.dmc"),
    ("envs.apart", "envs"), ("stats", "envs"),
    ("curl", "sac"),
    ("checkpoint", "config"), ("presets", "config"), ("train", "config"), ("train", "checkpoint"),
    ("train", "rundir"), ("rundir", "checkpoint"), ("results", "checkpoint"),
    ("analysis", "networks"), ("analyze", "cli"), ("__main__", "analyze"),
    ("export", "build"), ("build", "checkpoint"), ("build", "config"), ("train", "build"),
    ("results", "config"), ("__main__", "console"),
    ("__main__", "memory"), ("memory", "console"),
    ("cli", "console"), ("worker", "cli"), ("worker", "console"), ("sweep", "cli"), ("sweep", "console"), ("sweep", "memory"),
    ("sweep", "worker"), ("sweep", "cluster"), ("cluster", "worker"), ("cluster", "sweep"), ("__main__", "cli"),
    ("__main__", "sweep"), ("__main__", "report"), ("report", "console"), ("__main__", "paper"), ("paper", "cli"),
    ("paper", "console"), ("paper", "paper.published"), ("paper", "paper.experiments"), ("paper", "paper.tables"),
    ("paper", "paper.figures"), ("paper.experiments", "cli"), ("paper.tables", "paper.published"),
    ("paper.tables", "paper.experiments"), ("paper.figures", "paper.published"), ("paper.figures", "paper.experiments"),
    ("paper.figures", "analyze"),
}  # fmt: skip


def modules() -> dict[str, Path]:
    paths = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "seer_rl":
            found |= {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seer_rl."):
            module = (node.module or "").removeprefix("seer_rl.")
            found |= {f"{module}.{a.name}" if (PACKAGE / module / f"{a.name}.py").exists() else module for a in node.names}
    return found


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_only_from_below(name: str) -> None:
    for other in imported(modules()[name]):
        assert floor(other) < floor(name) or (name, other) in NEIGHBOURS, f"{name} imports {other}"


def test_words_that_files_must_not_know() -> None:
    text = {
        name: path.read_text("utf-8").lower().replace("seer_rl", "").replace("dataclass(frozen=true)", "")
        for name, path in modules().items()
    }
    assert "encoder" not in text["replay"]
    for agent in ("rainbow", "dqn", "sac", "curl", "drqv2"):
        assert "seer" not in text[agent]
        assert "frozen" not in text[agent]
