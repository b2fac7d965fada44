"""The robot with two cameras and joint angles: trained past a freeze, and played, in processes with renderers of their own."""

import os
import subprocess
import sys
from pathlib import Path

from seer_rl.training.logger import read

NAME = "examples.robot:Arm"

LOOK = """
import numpy as np
from examples.robot import CAMERAS, STEPS, Arm
arm = Arm()
obs, _ = arm.reset(seed=2)
for name, size in CAMERAS.items():
    assert obs[name].shape == (size, size, 3)
red = obs["side"].astype(int)
assert ((red[..., 0] > 120) & (red[..., 1] < 80)).any()  # the ball
first = obs["hand"].copy()
rewards = []
for step in range(STEPS):
    _, reward, terminated, truncated, _ = arm.step(np.zeros(2, np.float32))
    rewards.append(reward)
assert (terminated, truncated) == (False, True)
assert 0 < min(rewards) <= max(rewards) < 1
arm.data.mocap_pos[0] = arm.data.site("hand").xpos
assert arm.step(np.zeros(2, np.float32))[1] > 0.8
assert np.array_equal(arm.reset(seed=2)[0]["hand"], first)
arm.close()

from seer_rl import envs
from seer_rl.envs.gym import GymConfig
env = envs.make("examples.robot:Arm", True, GymConfig(size=0, stack=2))
shapes = {key: x.shape for key, x in env.reset(seed=0)[0].items()}
assert shapes == {"side": (6, 64, 64), "hand": (6, 40, 40), "joints": (8,)}, shapes
env.close()
"""


def run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "SEER_CODE": NAME},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_its_pictures_show_the_ball_and_its_reward_is_where_the_hand_is() -> None:
    run("-c", LOOK)


def test_it_trains_past_a_freeze(tmp_path: Path) -> None:
    words = "--steps 120 --env.size 0 --env.stack 2 --env.num-envs 2 --env.action-repeat 5 --agent.learning-starts 40"
    words += " --agent.batch-size 8 --agent.hidden 16 --seer.freeze-step 80 --seer.dtype uint8 --eval.episodes 1"
    run("-m", "seer_rl", "train", NAME, *words.split(), "--run-dir", str(tmp_path / "run"))
    metrics = read(tmp_path / "run")
    assert metrics["seer/freeze_step"] == [(80, 80.0)]
    # A picture's embedding has 100 numbers of a byte, the joints 8 of four; reward, action and flags take 16.
    assert metrics["replay/bytes_per_step"][-1][1] == 2 * 100 + 8 * 4 + 16
    assert metrics["eval/return"][-1][1] > 0
    run("-m", "seer_rl", "play", str(tmp_path / "run"), "--episodes", "1", "--video", str(tmp_path / "film.mp4"))
    assert (tmp_path / "film.mp4").stat().st_size > 1000
