"""Ends a command early, with one sentence and an exit code."""

import contextlib
from collections.abc import Iterator

from seer_rl import outside
from seer_rl.commands.streams import complain
from seer_rl.text import refusal
from seer_rl.training.arguments import Mistake

__all__ = ["Ended", "Mistake", "answered", "mistakes"]


class Ended(Exception):
    """Says that a run ended before its last step. Its arguments are a sentence and the exit code."""


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Raise Mistake in place of errors that the user can put right.

    To be used around what sets a command up. Errors of training are ours, and keep their traceback.
    """
    try:
        yield
    except OSError as error:
        raise Mistake(refusal(error)) from error
    except (ValueError, ImportError, MemoryError) as error:
        raise Mistake(str(error)) from error
    except RuntimeError as error:
        if "alloc" not in str(error) and "overflow" not in str(error):
            raise
        raise Mistake("there is not enough memory for networks of this size: make --agent.hidden smaller") from error


def answered(error: BaseException) -> int:
    """Print what ended a command, in a sentence, and return its exit code. Raises `error` again where it is ours to mend."""
    match error:
        case Mistake():
            complain(str(error))
            return 2
        case Ended():
            complain(str(error.args[0]))
            return int(error.args[1])
        case KeyboardInterrupt():
            complain("stopped")
            return 130
    from seer_rl.envs.subprocess import EnvironmentFailed  # only now: it takes all environments with it

    if isinstance(error, EnvironmentFailed):
        complain(f"the environment failed: {error}")
        return 1
    if outside.place(error):
        complain(f"code of yours failed: {outside.told(error)}")
        return 1
    raise error
