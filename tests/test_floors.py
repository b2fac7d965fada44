"""The house's rule: a folder imports only from floors below its own, and its rooms never in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

import seer_rl

PACKAGE = Path(seer_rl.__file__).parent
FLOORS = [  # from below: folders, and files that stand by themselves
    {"bounds", "child", "outside", "text"},
    {"replay"},
    {"agents"},
    {"convergence"},
    {"seer"},
    {"envs"},
    {"training"},
    {"experiments", "integrations"},
    {"commands"},
    {"__main__"},
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "seer_rl":
            module = (node.module or "").removeprefix("seer_rl").removeprefix(".")
            names = {f"{module}.{alias.name}".removeprefix(".") for alias in node.names}
            assert module or names <= MODULES.keys() | {"__version__"}, f"{path} takes {names} from the public names above it"
            found |= {name if name in MODULES else module for name in names} - {""}
        assert not isinstance(node, ast.Import) or all(
            a.name == "seer_rl" or not a.name.startswith("seer_rl.") for a in node.names
        )
    return found


def room(name: str) -> str:
    """The folder of a module, or the module where it lies in none."""
    return name.partition(".")[0]


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"__init__"}))
def test_imports_only_from_below(name: str) -> None:
    for other in imported(MODULES[name]):
        assert room(other) == room(name) or floor(other) < floor(name), f"{name} imports {other}"


def test_no_circle() -> None:
    graph = {name: imported(path) - {name} for name, path in MODULES.items() if name != "__init__"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_commands_print() -> None:
    for name, path in MODULES.items():
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        prints = any(isinstance(call, ast.Name) and call.id == "print" for call in calls)
        assert room(name) == "commands" or not prints, f"{name} prints"


def test_words_that_files_must_not_know() -> None:
    text = {
        name: path.read_text("utf-8").lower().replace("seer_rl", "").replace("dataclass(frozen=true)", "")
        for name, path in MODULES.items()
    }
    assert "encoder" not in text["replay.replay"]
    for agent in ("rainbow", "dqn", "sac", "curl", "drqv2"):
        assert "seer" not in text[f"agents.{agent}"]
        assert "frozen" not in text[f"agents.{agent}"]
