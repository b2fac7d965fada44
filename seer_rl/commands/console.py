"""Prints to a person's terminal: our words as they are, other people's names without their tricks.

Names come from files, directories and environments that somebody else made. They may hold escape sequences that would redraw
the screen, or line ends that would forge a line of ours.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.progress import track
from rich.text import Text

from seer_rl.text import visible

NARROWEST = 20  # columns: below, tables cannot be read anyway


class Screen(Console):
    """Prints every text as it is: no markup, no emoji codes, nothing hidden."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property  # type: ignore[misc]  # rich's can be set, which nobody does
    def size(self) -> ConsoleDimensions:
        """Return width and height in characters. A terminal that says it is narrower than any word counts as 80 wide."""
        width, height = super().size
        return ConsoleDimensions(width if width >= NARROWEST else 80, height)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich's text, with hidden characters made visible. All of rich's printing goes through here."""
        return super().render_str(visible(text), **options)

    def say(self, text: str) -> None:
        """Print one line, however long."""
        self.print(text, soft_wrap=True)


def progress(steps: Sequence[int], what: str) -> Iterable[int]:
    """Give `steps` one after another, with a bar of how far they are where someone is watching."""
    console = Screen(stderr=True)
    return track(steps, what, transient=True, console=console, disable=not console.is_terminal)
