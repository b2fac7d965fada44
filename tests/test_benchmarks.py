"""Benchmarks and studies can be called as their pages say: what they measure is theirs to print, and never for a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rivals
from seer_rl.replay.codec import DTYPES

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
NAMED = sorted(
    {
        name
        for page in PAGES
        if "_build" not in page.parts
        for name in re.findall(r"python -m ((?:benchmarks|studies|tests)\.[\w.]*\w)", page.read_text("utf-8"))
    }
)


@pytest.mark.parametrize("name", NAMED)
def test_what_pages_call_is_there(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_stores_of_the_same_steps_are_compared() -> None:
    table = rivals.measure("atari/qbert", 700, compressed=False)
    assert list(table.columns[0].cells) == ["frames, each once", *(f"embeddings, {kind}" for kind in DTYPES)]
