"""What ends a command early, in one sentence and an exit code."""

import contextlib
from collections.abc import Iterator

from seer_rl.commands.console import complain
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.training.arguments import Mistake

__all__ = ["Ended", "Mistake", "answered", "mistakes"]


class Ended(Exception):
    """A run ended before its last step: a sentence, and the exit code."""


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Make errors of setting up the user's to mend; those of training are ours, and keep their traceback."""
    try:
        yield
    except (ValueError, ImportError, MemoryError, OSError) as error:
        raise Mistake(str(error)) from error
    except RuntimeError as error:
        if "alloc" not in str(error) and "overflow" not in str(error):
            raise
        raise Mistake("there is not enough memory for networks of this size: make --agent.hidden smaller") from error


def answered(error: BaseException) -> int:
    """Say what ended a command, and return its exit code. Raises what is our mistake."""
    match error:
        case Mistake():
            complain(str(error))
            return 2
        case EnvironmentFailed():
            complain(f"the environment failed: {error}")
            return 1
        case Ended():
            complain(str(error.args[0]))
            return int(error.args[1])
        case KeyboardInterrupt():
            complain("stopped")
            return 130
    raise error
