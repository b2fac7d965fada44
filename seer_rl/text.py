"""Words for people: numbers with their units, and names of others without their tricks.

Names come from files, directories and environments that somebody else made. They may hold escape sequences that would redraw
the screen, or line ends that would forge a line of ours.
"""

import errno
import math
import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import SupportsFloat

DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they reorder what stands around them


def visible(text: str) -> str:
    """Write control characters, line ends, changes of direction and undecodable bytes of `text` as escapes: ESC is \\x1b."""
    if text.isprintable():
        return text
    hidden = ("Cc", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode() if unicodedata.category(c) in hidden or c in DIRECTIONS else c
        for c in text
    )


def install(extra: str) -> str:
    """Say how to install an extra of this package. It is not released: its name in an index may be somebody else's."""
    return f"pip install '.[{extra}]' in a checkout of seer-rl"


ADVICE = {
    errno.ENOSPC: "make room there, or write elsewhere",
    errno.EDQUOT: "make room there, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions, or use another place",
    errno.EMFILE: "let the process open more files (ulimit -n)",
}


def refusal(error: OSError) -> str:
    """Say what the system refused, of which file, and what to do where that is plain. A sentence of ours stays as it is."""
    if error.errno is None or not error.strerror:
        return str(error)
    files = [os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, str | bytes | os.PathLike)]
    of = f"{' to '.join(files)}: " if files else ""
    said = error.strerror.lower() if error.strerror == os.strerror(error.errno) else error.strerror
    return f"{of}{said}{f': {ADVICE[error.errno]}' if error.errno in ADVICE else ''}"


def plain(name: str) -> str:
    """Return the letters and digits of a name, small, so that "bank_heist" and "BankHeist" are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def quoted(path: Path) -> str:
    """Write a path so that a shell takes it for one word, and no command takes it for an option."""
    text = str(path)
    if text.startswith("-"):
        text = f"./{text}"
    if visible(text) == text:
        return shlex.quote(text)
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in "'\\" else f"\\x{b:02x}" for b in os.fsencode(text))
    return f"$'{''.join(plain)}'"


def size(n: float) -> str:
    """Write bytes for people: 999 B, 70.6 MB, 1.23 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5 or unit == "GB":  # what is more would be written as 1e+03
            return f"{n:.3g} {unit}" if n < 999.5 else f"{n:,.0f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def count(n: float) -> str:
    """Write a number of operations for people: 291.7M, 45.0T."""
    for unit in ("", "k", "M", "G", "T"):
        if n < 999.95 or unit == "T":
            return f"{n:.4g}{unit}" if n < 9999.5 else f"{n:,.0f}{unit}"
        n /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Write seconds for people: 42 s, 12 min, 3 h 05 min."""
    if math.isnan(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def score(value: SupportsFloat, beside: SupportsFloat = 0) -> str:
    """Write a return for people: 8,640.0, 23.5, 0.42. beside: a number beside it, with as many digits."""
    small = max(abs(float(value)), abs(float(beside))) < 10
    return f"{float(value):z,.{2 if small else 1}f}"  # z: no minus before 0.00


def scores(values: list[float]) -> str:
    """Write the mean and the standard deviation of games."""
    import numpy as np  # here, so that what only says a sentence need not wait for it

    mean, std = np.mean(values), np.std(values)
    return f"{score(mean, std)} ± {score(std, mean)}"
