"""Reads sizes in bytes, such as "70MB"."""

import re
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec

from seer_rl.bounds import MOST


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "70MB" (10^6), "64MiB" (2^20), "0.07GB" or "70560000". Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size: write for example 70MB, 512MiB or 1.5GB")
    unit: int = (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if (size := float(match[1]) * unit) > MOST:
        raise ValueError(f"{text[:20]!r} is more than there can be: the most is {MOST:.0e} bytes")
    return round(size)


def size_or(*words: str) -> Any:
    """Return how the command line reads a size, or one of `words` ("none" is None): it belongs into an Annotated type."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(["SIZE", *words]),
        instance_from_str=lambda texts: {"none": None}.get(texts[0], texts[0]) if texts[0] in words else parse_size(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, int) or value in words,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )
