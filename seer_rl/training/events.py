"""What a run says to whoever listens."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


class Event(Enum):
    """Something that begins, is due, or has happened, as of the run's present step."""

    RANDOM_GAMES = auto()  # a random player's games begin
    COMPILING = auto()  # the compiler begins, which takes long and looks at nothing
    FREEZING = auto()  # the freeze begins; before it there is always a checkpoint
    EVALUATING = auto()  # an evaluation begins
    SAVING = auto()  # a checkpoint is due
    SNAPSHOT = auto()  # a snapshot of the weights is due
    TIDYING = auto()  # the run has ended, and what it no longer needs is removed
    TRAINING = auto()  # training goes on after one of these
    EVALUATED = auto()  # the scores are the run's newest
    STEPPED = auto()  # an agent step is over, and whatever was due at it


@dataclass(frozen=True)
class Metrics:
    """Numbers by name, as of the run's present step. clock: they depend on the machine."""

    values: Mapping[str, float]
    clock: bool = False


class Fault(Exception):
    """Something that ends a run and is not its program's mistake, in a sentence."""


class Done(ValueError):
    """The run has ended: there is nothing left to do."""
