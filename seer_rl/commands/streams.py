"""Prints plain lines, and keeps whatever befalls standard output and standard error from being an error of ours.

Whoever listens may go away: a closed pipe, a closed terminal, a full disk. A training must not end with it.
"""

import io
import os
import sys
from typing import Any

from seer_rl.text import visible


class Undisturbed(io.FileIO):
    """Goes on when nobody listens any more: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        """Write `data`, or drop it, and return its length in bytes."""
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


def tell(text: object) -> None:
    """Print one line of standard output."""
    print(visible(str(text)), flush=True)


def complain(text: str) -> None:
    """Print a sentence about what went wrong, as one line of standard error."""
    print(f"seer: {visible(text)}", file=sys.stderr, flush=True)
