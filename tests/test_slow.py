"""The lists of tests/conftest.py: they name tests, and a test that is renamed must not fall out of them unseen."""

from pathlib import Path

import pytest

from tests.conftest import LONGEST, NAMED, SLOW


@pytest.mark.slow
def test_what_is_called_slow_is_there(request: pytest.FixtureRequest) -> None:
    if request.config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("only some tests were asked for")
    assert set(SLOW) == request.config.stash[NAMED]


def test_what_is_called_long_is_there() -> None:
    assert [name for name in LONGEST if not (Path(__file__).parent / name).is_file()] == []
