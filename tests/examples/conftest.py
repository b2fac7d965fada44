"""For tests of code from outside: what commands trust, they trust for one test."""

import pytest

from seer_rl import outside


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what commands set in the environment."""
    monkeypatch.setenv(outside.TRUSTED, "")
