"""What `import seer_rl` offers: documented and annotated names, and imports that change nothing."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import seer_rl

PACKAGE = Path(seer_rl.__file__).parent
FUNCTIONS = {name for name in seer_rl.__all__ if inspect.isroutine(getattr(seer_rl, name))}
CLASSES = {name for name in seer_rl.__all__ if inspect.isclass(getattr(seer_rl, name))}


def methods(owner: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods and properties of a class that are written in this package, its constructor and `__call__` too.

    What a dataclass generates is not: its fields have comments.
    """
    ours = [base for base in owner.__mro__ if base.__module__.startswith("seer_rl.")]
    for name in {name: None for base in ours for name in vars(base)}:
        if not name.startswith("_") or name in ("__init__", "__call__"):
            found = inspect.getattr_static(owner, name)
            found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if inspect.isfunction(found) and Path(found.__code__.co_filename).is_relative_to(PACKAGE):
                yield f"{owner.__name__}.{name}", found


CALLABLES = {name: getattr(seer_rl, name) for name in FUNCTIONS} | {
    name: found for owner in CLASSES for name, found in methods(getattr(seer_rl, owner))
}


def test_the_names() -> None:
    assert sorted(FUNCTIONS) == ["converged", "embedder", "freeze", "make"]
    assert set(seer_rl.__all__) - FUNCTIONS - CLASSES == {"Dtype"}
    assert get_args(seer_rl.Dtype) == ("float32", "float16", "uint8", "uint4")
    assert set(seer_rl.__all__) <= set(dir(seer_rl))
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        seer_rl.unheard_of  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_read_what_python_does() -> None:
    """The imports that they see are of the same names, from the same modules."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seer_rl.")
    ]
    seen = {alias.name: node.module or "" for node in imports for alias in node.names}
    assert seen.keys() == set(seer_rl.__all__)
    for name, module in seen.items():
        assert getattr(seer_rl, name) is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_documented(name: str) -> None:
    written = vars(getattr(seer_rl, name))["__doc__"]
    assert written
    assert not written.startswith(f"{name}(")  # as a dataclass that has none gets one


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_a_function_is_documented_and_annotated(name: str) -> None:
    assert CALLABLES[name].__doc__
    signature = inspect.signature(CALLABLES[name])
    annotations = {p.name: p.annotation for p in signature.parameters.values() if p.name not in ("self", "cls")}
    assert inspect.Signature.empty not in (*annotations.values(), signature.return_annotation)


def fresh(program: str) -> str:
    """What a program prints in a process of its own, where warnings are errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    loaded = fresh("import sys; before = {*sys.modules}; import seer_rl; dir(seer_rl); print(*{*sys.modules} - before)").split()
    assert "seer_rl" in loaded
    standard = [name for name in loaded if name.partition(".")[0] in sys.stdlib_module_names]
    assert sorted({*loaded} - {*standard}) == ["seer_rl"]


def test_importing_leaves_the_process_alone() -> None:
    """Not one of the package's modules changes what all of a process share."""
    modules = sorted(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    )
    assert "seer_rl.commands.train" in modules
    modules.remove("seer_rl.integrations.lerobot")  # what LeRobot imports may lack, and changes the process
    program = f"""
import importlib, os, signal, sys
import numpy, torch, stable_baselines3, tianshou, torchrl  # what others change when they are imported is theirs
def state():
    return (
        torch.get_rng_state().tolist(), torch.initial_seed(), numpy.random.get_state()[1].tolist(),
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        float(torch.tensor(1e-40) * 1) > 0, dict(os.environ), [*sys.path], os.getcwd(), signal.getsignal(signal.SIGINT),
    )
before = state()
for name in {modules}:
    importlib.import_module(name)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b])
"""
    assert fresh(program) == "[]"
