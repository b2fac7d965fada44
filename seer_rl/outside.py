"""Code from elsewhere, named module:object: an encoder, an agent, an environment.

A name on the command line is the user's word. A name in a file is not, for the file may be anybody's: it is only imported if
the user has said so, on the command line or in the environment variable `SEER_CODE` (names, with commas between).
"""

import contextlib
import importlib
import os
import shlex
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

TRUSTED = "SEER_CODE"


class Unavailable(ValueError):
    """Code that the user has not named, or that cannot be imported, in a sentence."""


def is_outside(name: str) -> bool:
    """Tell whether a name is that of code from elsewhere."""
    return ":" in name


def trust(*names: str) -> None:
    """Let names that the user has given be imported, by this process and those it starts, from the working directory, too."""
    given = [name for name in names if is_outside(name)]
    if given:
        os.environ[TRUSTED] = ",".join(dict.fromkeys([*trusted(), *given]))
    if os.environ.get(TRUSTED) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def trusted() -> list[str]:
    """List the names that the user has given."""
    return [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]


def again(command: str) -> str:
    """Return a command as the user has to give it, with the names that are trusted now."""
    return f"{TRUSTED}={shlex.quote(','.join(trusted()))} {command}" if trusted() else command


def load(name: str, what: str) -> Any:
    """Import the object "module:object", `what` it is in words.

    Raises Unavailable where the user has not named it, or it cannot be imported.
    """
    module = load_module(name, what)
    try:
        return getattr(module, name.partition(":")[2])
    except AttributeError as error:
        raise Unavailable(f"the {what} {name} cannot be imported: {error}") from error


def load_module(name: str, what: str) -> ModuleType:
    """Import the module of "module:object"; the rest is as for `load`."""
    if name not in trusted():
        raise Unavailable(
            f"the {what} {name} is code, which settings in a file do not start: "
            f"if you trust it, say so with {TRUSTED}={name} before the command"
        )
    try:
        return importlib.import_module(name.partition(":")[0])
    except Exception as error:  # anything: it is code of others
        raise Unavailable(f"the {what} {name} cannot be imported: {told(error)}") from error


def told(error: BaseException) -> str:
    """Return an exception in words: what it is, what it says, and where in the user's own code it arose, if it did."""
    try:
        words = str(error)
    except Exception:  # its own, of others' making
        words = ""
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{said} ({where})" if (where := place(error)) else said


def place(error: BaseException) -> str:
    """Return the innermost file and line of the user's own code that an exception passed, as "robot.py, line 7".

    The user's own is what belongs neither to this library nor to Python and what is installed. Empty where there is none, or
    where no code is trusted (it may be what PyTorch's compiler wrote).
    """
    if not trusted():
        return ""
    others = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")} | {Path(__file__).resolve().parent}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_file() and others.isdisjoint(file.parents) and not {"site-packages", "dist-packages"} & set(file.parts):
            with contextlib.suppress(OSError, ValueError):  # the working directory is gone, or the file lies elsewhere
                file = file.relative_to(Path.cwd().resolve())
            return f"{file}, line {frame.lineno}"
    return ""
