"""The values that a setting may have, written beside its type: `atoms: Annotated[int, Within(2)]`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

MOST = 1e15  # no setting is larger


@dataclass(frozen=True)
class Within:
    """Allows numbers from `least` to `most`, both included. beyond: `least` itself is too little."""

    least: float
    most: float = MOST
    beyond: bool = False

    def words(self) -> str:
        """Say what is allowed."""
        low = f"more than {self.least:g}" if self.beyond else f"at least {self.least:g}"
        return low if self.most == MOST else f"{low} and at most {self.most:,g}"

    def holds(self, value: float) -> bool:
        """Tell whether a value is allowed; NaN never is."""
        return (value > self.least if self.beyond else value >= self.least) and value <= self.most


Count = Annotated[int, Within(1)]
Steps = Annotated[int, Within(0)]
Size = Annotated[int, Within(1, 100_000)]  # of something that is allocated
Units = Annotated[int, Within(1, 10_000)]  # of a layer: what is between two of them grows with the square
Share = Annotated[float, Within(0, 1)]
Rate = Annotated[float, Within(0, 1, beyond=True)]
Positive = Annotated[float, Within(1e-30)]  # what is smaller may be 0 in float32
NotNegative = Annotated[float, Within(0)]


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Raise ValueError, naming the flag, for a number of a dataclass `settings` that is not within its bounds.

    prefix: what stands before the names on the command line, such as "agent.".
    """
    check_values(type(settings), {field.name: getattr(settings, field.name) for field in fields(settings)}, prefix)


def check_values(declared: Any, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ValueError, naming the flag, for a number among `values` that is not within its bounds.

    declared: the dataclass or the function whose annotations say the bounds of each name. prefix: as for `check_bounds`.
    """
    hints = get_type_hints(declared, include_extras=True)
    for name, value in values.items():
        bounds = _bounds(hints[name])
        if bounds is None or not isinstance(value, int | float) or bounds.holds(value):
            continue
        flag = f"--{prefix}{name.replace('_', '-')}"
        if value > bounds.most == MOST:
            raise ValueError(f"{flag} cannot be {value}: the most is {MOST:.0e}")
        raise ValueError(f"{flag} must be {bounds.words()}, not {value}")


def _bounds(hint: Any) -> Within | None:
    """Return the bounds in a type, wherever in it they stand; None where it has none."""
    found = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Within)]
    inner = [bounds for part in getattr(hint, "__args__", ()) if (bounds := _bounds(part))]
    return next(iter(found + inner), None)
