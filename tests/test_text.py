"""Words for people."""

import errno
import os

import pytest

from seer_rl.text import count, refusal, score, scores, size
from seer_rl.training.rehearsal import _rounded_up


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (999_400, "999 kB"), (999_600, "1 MB"), (999_700_000, "1 GB"), (1_234_000_000, "1.23 GB"),
     (999_700_000_000, "1,000 GB"), (5e12, "5,000 GB")],
)  # fmt: skip
def test_size(n: float, text: str) -> None:
    assert size(n) == text


@pytest.mark.parametrize(
    ("n", "text"), [(291.7e6, "291.7M"), (45e12, "45T"), (999.97e9, "1T"), (4285e12, "4285T"), (43_210e12, "43,210T")]
)
def test_count(n: float, text: str) -> None:
    assert count(n) == text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            "a/b: no space left on device: make room there, or write elsewhere",
        ),
        (OSError(errno.ENOENT, "No such file or directory", b"a\xff"), "a\udcff: no such file or directory"),
        (OSError(errno.EXDEV, os.strerror(errno.EXDEV), "a", None, "b"), "a to b: invalid cross-device link"),
        (OSError(errno.ENOENT, "Nothing in ['/Tmp']"), "Nothing in ['/Tmp']"),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (OSError("the service is away: try again"), "the service is away: try again"),
    ],
)
def test_what_the_system_refused(error: OSError, words: str) -> None:
    assert refusal(error) == words


@pytest.mark.parametrize(("value", "text"), [(8640, "8,640.0"), (-20.75, "-20.8"), (0.4249, "0.42"), (-0.001, "0.00")])
def test_score(value: float, text: str) -> None:
    assert score(value) == text


def test_scores_of_small_returns_keep_two_digits() -> None:
    assert scores([0, 1, 1]) == "0.67 ± 0.47"  # the mean is 2/3, the standard deviation sqrt(2)/3
    assert scores([450, 460, 470]) == "460.0 ± 8.2"


def test_a_promise_is_rounded_up() -> None:
    assert [_rounded_up(n) for n in (7, 999, 1_000, 1_001, 1_004_000_001)] == [7, 999, 1_000, 1_010, 1_010_000_000]
