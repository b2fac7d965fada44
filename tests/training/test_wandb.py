"""Weights & Biases, offline: its own file holds what metrics.csv holds, also of a run that was stopped and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seer_rl.commands.main import main
from seer_rl.training.logger import read

SETTINGS = (
    "atari/asterix --steps 90 --seer.freeze-step 60 --no-compile --eval.every 45 --eval.episodes 1 --checkpoint-every 30"
    " --agent.hidden 16 --agent.learning-starts 20 --agent.batch-size 8 --log wandb --run-dir run --keep-last"
)
LOOK = """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2

def records(data):  # blocks of 32 KiB; a piece of a record has checksum, length and kind: whole, first, middle or last
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

for path in sys.argv[1:]:
    for data in records(Path(path).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            print(json.dumps({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}))
"""


def seer(*words: str, place: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.seer", *words]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return subprocess.run(
        command, cwd=place, env={**os.environ, "PYTHONPATH": path, **variables}, capture_output=True, text=True, check=False
    )


def test_metrics_are_those_of_the_run(tmp_path: Path) -> None:
    """A file alone sends nothing: who resumes has to say so again."""
    done = seer("train", *SETTINGS.split(), place=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    refused = seer("resume", "run", "--steps", "120", place=tmp_path, WANDB_MODE="offline")
    assert (refused.returncode, refused.stderr) == (
        2,
        "seer: the logger wandb:init is code, which settings in a file do not start: "
        "if you trust it, say so with SEER_CODE=wandb:init before the command\n",
    )
    assert {path: path.read_bytes() for path in before} == before
    done = seer("resume", "run", "--steps", "120", place=tmp_path, WANDB_MODE="offline", SEER_CODE="wandb:init")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "wandb").exists()
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # one page, in two parts
    assert len({path.name for path in files}) == 1
    look = subprocess.run([sys.executable, "-c", LOOK, *map(str, files)], capture_output=True, text=True, check=True)
    sent: dict[str, list[tuple[int, float]]] = {}
    for line in look.stdout.splitlines():
        row: dict[str, Any] = json.loads(line)
        for name, value in row.items():
            if not name.startswith("_"):
                sent.setdefault(name, []).append((row["_step"], value))
    written = read(tmp_path / "run")
    assert sent.keys() == written.keys()
    for name, series in written.items():
        assert dict(sent[name]) == pytest.approx(dict(series)), name


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SETTINGS.split(), "--memory-limit", "4GB"]) == 2
    assert "leave out --log wandb" in capsys.readouterr().err
    monkeypatch.setattr("seer_rl.training.wandb.find_spec", lambda name: None)
    monkeypatch.setenv("SEER_CODE", "")  # which `train` sets
    assert main(["train", *SETTINGS.split()]) == 2
    assert (
        capsys.readouterr().err
        == "seer: --log wandb needs the extra [wandb]: pip install '.[wandb]' in a checkout of seer-rl\n"
    )
