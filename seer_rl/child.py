"""Child processes of our own: Python that runs a module of this package."""

import os
import sys


def python(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Give the command and the environment variables of a process that runs `module`, for `subprocess.Popen`.

    It imports what this process would, this very package wherever it was found, and nothing more: -P leaves the working
    directory out.
    """
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
