"""Any command line and any settings file: a run, or one sentence and a non-zero exit.

SEER_FUZZ=1000 python -m pytest tests/commands/test_fuzz.py      # more cases than usual
"""

import os
import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seer_rl.commands import main as cli
from seer_rl.training import checkpoint
from seer_rl.training.config import to_toml
from seer_rl.training.events import Event, Metrics
from seer_rl.training.presets import PRESETS, configure
from seer_rl.training.rehearsal import Needs
from seer_rl.training.run import Run

CASES = int(os.environ.get("SEER_FUZZ", "60"))
THOROUGH = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FLOATS = st.sampled_from([0.0, 0.5, -1.5, 1e-300, 1e308, float("nan"), float("inf")])
NUMBERS = st.one_of(st.integers(-3, 300).map(str), FLOATS.map(str), st.sampled_from(["1e3", "0x10", "²"]))
WORDS = "None none auto cpu cuda float32 bfloat16 canonical impala sac-ae 70MB 1.5GiB 0.1kB - -- é %s [ True a/b / .."
VALUES = NUMBERS | st.sampled_from([*WORDS.split(), "", " ", "\t", "x" * 300]) | st.text(max_size=8)
ENVS = "atari/pong atari/Bank-Heist dmc/cartpole-swingup dmc/lqr-lqr_2_1 atari/ dmc/walker pong a/b/c"
FLAGS = """
    --steps --seed --device --threads --precision --compile --no-compile --memory-limit --checkpoint-every --keep
    --env.action-repeat --env.size --env.fast-render --seer.freeze-step --seer.layers --seer.copies --seer.batch-size
    --replay.memory --replay.capacity --replay.priority-exponent --replay.priority-beta --eval.every --eval.episodes
    --agent --preset --agent.hidden --agent.batch-size --agent.n-step --agent.discount --agent.encoder --agent.learning-rate
    --agent.target-every --agent.crop --agent.shift --nonsense --se
"""
AGENTS = st.sampled_from(["rainbow", "dqn", "sac", "rad", "curl", "drqv2", "ppo", ""])


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    arguments = [draw(st.sampled_from(ENVS.split()))] if draw(st.integers(0, 9)) else []
    if draw(st.booleans()):
        arguments += ["--agent", draw(AGENTS)]
    if draw(st.booleans()):
        arguments += ["--preset", draw(st.sampled_from([*PRESETS, "best"]))]
    for flag in draw(st.lists(st.sampled_from(FLAGS.split()), max_size=4)):
        arguments += [flag, draw(VALUES)] if draw(st.integers(0, 9)) else [flag]
    return arguments


def one_sentence(error: str) -> bool:
    return bool(re.fullmatch(r"seer: \S.*\n", error)) and "Traceback" not in error


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Run]:
    """Runs are built, with environment and replay, and not begun; a rehearsal of memory is not the thing under test."""
    built: list[Run] = []

    def drive(run: Run, event: Event | Metrics, *_: Any) -> None:
        built.append(run)
        run.close()

    monkeypatch.setattr("seer_rl.commands.drive.drive", drive)
    monkeypatch.setattr("seer_rl.training.rehearsal.rehearsed", lambda *_: Needs(10_000_000, 500_000_000, 510_000_000))
    monkeypatch.chdir(tmp_path)
    return built


@THOROUGH
@given(arguments=command_lines())
def test_any_command_line(arguments: list[str], no_training: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    before = len(no_training)
    threads = torch.get_num_threads()
    code = cli.main(["train", *arguments])
    torch.set_num_threads(threads)
    error = capsys.readouterr().err
    assert (code, len(no_training) - before, error) == (0, 1, "") or (code == 2 and one_sentence(error)), error


TEXT = to_toml(configure("atari/pong", "rainbow", "quick"))
ANYTHING = st.recursive(
    st.one_of(st.integers(-3, 300), FLOATS, st.booleans(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=2),
    max_leaves=3,
)


@st.composite
def settings_files(draw: st.DrawFn) -> bytes:
    """That of a run, with a value or a few bytes changed."""
    if draw(st.booleans()):
        file: dict[str, Any] = tomllib.loads(TEXT)
        section = draw(st.sampled_from([file, *(value for value in file.values() if isinstance(value, dict))]))
        name = draw(st.sampled_from([*section, "new"]))
        if draw(st.integers(0, 4)):
            section[name] = draw(ANYTHING)
        else:
            section.pop(name, None)
        return tomli_w.dumps(file).encode()
    data = bytearray(TEXT.encode())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 5))] = draw(st.binary(max_size=3))
    return bytes(data)


@THOROUGH
@given(data=settings_files())
def test_any_settings_file(data: bytes, no_training: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(tempfile.mkdtemp())
    (run_dir / checkpoint.CONFIG).write_bytes(data)
    threads = torch.get_num_threads()
    code = cli.main(["resume", str(run_dir)])
    torch.set_num_threads(threads)
    error = capsys.readouterr().err
    assert (code, error) == (0, "") or (code == 2 and one_sentence(error)), error
    shutil.rmtree(run_dir)
