"""The README's programs are run as they stand there, around them what they leave to the reader."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LOOP = """
import torch
from gymnasium.wrappers import TimeLimit
from torch import nn
from seer_rl import make

env = TimeLimit(make("atari/pong", training=True), 50)

class Pixels(nn.Module):
    def forward(self, x):
        return x.float() / 255

def convolutions():
    return nn.Sequential(Pixels(), nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 4), nn.ReLU(), nn.Flatten())

encoder, target_encoder, head = convolutions(), convolutions(), nn.Linear(800, int(env.action_space.n))
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()])

def act(q):
    return int(q.argmax(1))

updates = 0
def update(encoder, target_encoder, head, batch):
    global updates
    q = head(encoder(batch.obs)).gather(1, batch.action[:, None])[:, 0]
    target = batch.reward + batch.discount * head(target_encoder(batch.next_obs)).amax(1).detach()
    loss = (q - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    updates += 1
"""
ENV = """
from gymnasium.wrappers import TimeLimit
from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig
env = TimeLimit(envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=40)), 30)
"""


def ran(program: str, place: Path) -> str:
    """What a program says; it ends well, and without a warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=place
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines_run(tmp_path: Path) -> None:
    """In a loop around Pong; they are only made shorter."""
    (program,) = (text for text in PROGRAMS if "import Replay" in text)
    assert len(program.splitlines()) <= 16
    for long, short in {"1_000_000)": "120)", "50_000": "80", "4_000_000_000": "2_000_000"}.items():
        assert long in program
        program = program.replace(long, short)
    program += "print(updates, len(list(encoder.parameters())), replay.size, replay.bytes_per_step)"
    # A record for each step, for the end of both truncated episodes, and for what is acted on next. An embedding has 800
    # numbers of a byte; reward, action and flags take 24.
    assert ran(LOOP + program, tmp_path) == "120 0 123 824\n"


def test_the_program_for_stable_baselines3_runs(tmp_path: Path) -> None:
    """It is only made shorter."""
    (program,) = (text for text in PROGRAMS if "stable_baselines3" in text)
    for long, short in {"500_000": "130", "50_000": "110", "=SeerBuffer,": "=SeerBuffer, buffer_size=300,"}.items():
        assert long in program
        program = program.replace(long, short)
    program += "\nprint(seer.frozen_at, model.replay_buffer.frozen)"
    assert ran(ENV + program, tmp_path) == "110 True\n"
