"""The robot with two cameras and joint angles: trained past a freeze, stopped, played."""

import os
from pathlib import Path

import numpy as np
import pytest

from examples.robot import CAMERAS, STEPS, Arm
from seer_rl import envs
from seer_rl.commands.main import main
from seer_rl.envs.gym import GymConfig
from seer_rl.outside import TRUSTED
from seer_rl.training.logger import read

NAME = "examples.robot:Arm"


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, NAME)
    monkeypatch.syspath_prepend(os.getcwd())


def test_its_pictures_show_the_ball_and_its_reward_is_where_the_hand_is() -> None:
    arm = Arm()
    obs, _ = arm.reset(seed=2)
    for name, size in CAMERAS.items():
        assert obs[name].shape == (size, size, 3)
    red = obs["side"].astype(int)
    assert ((red[..., 0] > 120) & (red[..., 1] < 80)).any()
    again, _ = Arm().reset(seed=2)
    assert np.array_equal(obs["hand"], again["hand"])
    rewards = []
    for _ in range(STEPS):
        _, reward, terminated, truncated, _ = arm.step(np.zeros(2, np.float32))
        rewards.append(reward)
    assert (terminated, truncated) == (False, True)
    assert 0 < min(rewards) <= max(rewards) < 1
    arm.data.mocap_pos[0] = arm.data.site("hand").xpos
    assert arm.step(np.zeros(2, np.float32))[1] > 0.8
    env = envs.make(NAME, True, GymConfig(size=0, stack=2))
    assert {key: x.shape for key, x in env.reset(seed=0)[0].items()} == {
        "side": (6, 64, 64),
        "hand": (6, 40, 40),
        "joints": (8,),
    }
    env.close()
    arm.close()


def test_it_trains_past_a_freeze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--steps 120 --env.size 0 --env.stack 2 --env.num-envs 2 --env.action-repeat 5 --agent.learning-starts 40"
    words += " --agent.batch-size 8 --agent.hidden 16 --seer.freeze-step 80 --seer.dtype uint8 --eval.episodes 1"
    assert main(["train", NAME, *words.split(), "--run-dir", str(tmp_path / "run")]) == 0
    metrics = read(tmp_path / "run")
    assert metrics["seer/freeze_step"] == [(80, 80.0)]
    # A picture's embedding has 100 numbers of a byte, the joints 8 of four; reward, action and flags take 16.
    assert metrics["replay/bytes_per_step"][-1][1] == 2 * 100 + 8 * 4 + 16
    assert metrics["eval/return"][-1][1] > 0
    assert main(["play", str(tmp_path / "run"), "--episodes", "1", "--video", str(tmp_path / "film.mp4")]) == 0
    assert (tmp_path / "film.mp4").stat().st_size > 1000
    capsys.readouterr()
