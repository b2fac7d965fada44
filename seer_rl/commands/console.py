"""What reaches a person's terminal: our words as they are, other people's names without their tricks, and never an error.

Names come from files, directories and environments that somebody else made. They may hold escape sequences that would redraw
the screen, or line ends that would forge a line of ours. And whoever listens may go away: a closed pipe, a closed terminal, a
full disk. A training must not end with it.
"""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.progress import track
from rich.text import Text

from seer_rl.text import visible

NARROWEST = 20  # columns: below, tables cannot be read anyway


class Screen(Console):
    """A terminal in which every text is shown as it is: no markup, no emoji codes, nothing hidden."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property  # type: ignore[misc]  # rich's can be set, which nobody does
    def size(self) -> ConsoleDimensions:
        """Its width and height; a terminal that says it is narrower than any word counts as an ordinary one."""
        width, height = super().size
        return ConsoleDimensions(width if width >= NARROWEST else 80, height)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string, as all of rich's printing does."""
        return super().render_str(visible(text), **options)

    def say(self, text: str) -> None:
        """Print one line, however long."""
        self.print(text, soft_wrap=True)


class Undisturbed(io.FileIO):
    """An output that goes on when nobody listens any more: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        """Write, or don't."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def undisturbed() -> None:
    """Let nothing that befalls standard output and standard error be an error of this process.

    Characters that they cannot encode become question marks. To be called once, by the commands, before anything is printed.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:  # closed ones would be given to the next file that is opened
        os.set_inheritable(handle, True)
    os.close(handle)
    for name, handle in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        encoding = stream.encoding if stream else "utf-8"
        if stream:
            stream.flush()
        buffer = io.BufferedWriter(Undisturbed(handle, "wb", closefd=False))
        setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors="replace", line_buffering=True))


def progress(steps: Sequence[int], what: str) -> Iterable[int]:
    """Give `steps` one after another, with a bar of how far they are where someone is watching."""
    console = Screen(stderr=True)
    return track(steps, what, transient=True, console=console, disable=not console.is_terminal)


def tell(text: object) -> None:
    """Print one line of standard output."""
    print(visible(str(text)), flush=True)


def complain(text: str) -> None:
    """Print a sentence about what went wrong, as one line of standard error."""
    print(f"seer: {visible(text)}", file=sys.stderr, flush=True)
