"""What code of others raised, in words: where it lies, and that telling it cannot fail itself."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from seer_rl import outside

BREAKS = "def breaks():\n    raise LookupError('no arm')\n"


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(outside.TRUSTED, "robot:make")


def raised(directory: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """What `breaks` in a module of this directory raises."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "robot.py").write_text(code)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "robot", raising=False)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of any kind)
        importlib.import_module("robot").breaks()
    error = caught.value
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None  # this file is nobody's robot
    return error


@pytest.mark.usefixtures("trusted")
def test_the_users_own_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the working directory where it lies in it; also where a library, or this one, raises below it."""
    error = raised(tmp_path / "project", BREAKS, monkeypatch)
    assert outside.told(error) == f"LookupError: no arm ({tmp_path / 'project' / 'robot.py'}, line 2)"
    monkeypatch.chdir(tmp_path)
    assert outside.told(error) == f"LookupError: no arm ({Path('project') / 'robot.py'}, line 2)"
    below = raised(tmp_path, "import json\n\n\ndef breaks():\n    json.loads('{')\n", monkeypatch)
    assert outside.place(below) == "robot.py, line 5"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("place", ["lib/python3.11/site-packages", "lib/python3/dist-packages"])
def test_what_is_installed_is_not_the_users(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outside.told(raised(tmp_path / place, BREAKS, monkeypatch)) == "LookupError: no arm"


def test_nothing_is_the_users_where_no_code_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(outside.TRUSTED, raising=False)
    assert outside.place(raised(tmp_path, BREAKS, monkeypatch)) == ""


@pytest.mark.usefixtures("trusted")
def test_telling_cannot_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a working directory that is gone, and of an exception that has no words."""
    code = "class Wordless(Exception):\n    def __str__(self):\n        raise KeyError\n\n\ndef breaks():\n    raise Wordless\n"
    error = raised(tmp_path, code, monkeypatch)
    gone, here = tmp_path / "gone", Path.cwd()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert outside.told(error) == f"Wordless ({tmp_path / 'robot.py'}, line 7)"
    finally:
        os.chdir(here)
