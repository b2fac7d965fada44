"""The README's program is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ENV = """
from gymnasium.wrappers import TimeLimit
from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig
env = TimeLimit(envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=40)), 30)
"""


def test_the_program_with_ones_own_agent_runs(tmp_path: Path) -> None:
    (program,) = (text for text in PROGRAMS if "import Replay" in text)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    # 20,000,000 // 3208 bytes a step: 800 float32, reward, action, flags
    assert re.fullmatch(r"\d+ steps in 3\.\d MB, room for 6234\n", run.stdout)


def test_the_program_for_stable_baselines3_runs(tmp_path: Path) -> None:
    """It is only made shorter."""
    (program,) = (text for text in PROGRAMS if "stable_baselines3" in text)
    for long, short in {"500_000": "130", "50_000": "110", "=SeerBuffer,": "=SeerBuffer, buffer_size=300,"}.items():
        program = program.replace(long, short)
    program += "\nprint(seer.frozen_at, model.replay_buffer.frozen)"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENV + program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "110 True\n"
