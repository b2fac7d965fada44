"""A library of another version is refused when its integration is imported, in a sentence that says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("module", "library", "release", "wanted", "extra"),
    [
        ("sb3", "stable-baselines3", "2.8.0", ">=2.9,<3", "sb3"),
        ("sb3", "stable-baselines3", "3.0.0", ">=2.9,<3", "sb3"),
        ("tianshou", "tianshou", "1.2.0", ">=2.0.1,<3", "tianshou"),
        ("torchrl", "torchrl", "0.13.9", ">=0.14,<0.15", "torchrl"),
        ("torchrl", "torchrl", "0.15.0", ">=0.14,<0.15", "torchrl"),
    ],
)
def test_another_version_is_refused(module: str, library: str, release: str, wanted: str, extra: str, tmp_path: Path) -> None:
    there = tmp_path / f"{library.replace('-', '_')}-{release}.dist-info"
    there.mkdir()
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {release}\n")
    command = [sys.executable, "-P", "-c", f"import seer_rl.integrations.{module}"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"ImportError: SEER needs {library}{wanted}, and {release} is installed; "
        f"install one that it was tested with: pip install '.[{extra}]' in a checkout of seer-rl"
    )
