"""A family of environments from outside, in one file: Atari games as ale_py registers them with gymnasium.

    seer train examples.ale:FAMILY/Breakout --env.difficulty 1 --seer.freeze-step 50000

They give no state, so a run that is resumed begins a new episode. seer_rl/envs/base.py says what else a family may offer.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import ale_py
import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, ClipReward, FrameStackObservation, RecordEpisodeStatistics

from seer_rl.bounds import Within
from seer_rl.envs.base import EnvConfig, Family, Scale


@dataclass(frozen=True)
class Settings(EnvConfig):
    """Settings of a game."""

    difficulty: Annotated[int, Within(0, 1)] = 0
    """The console's difficulty switch."""
    size: Annotated[int | None, Within(16, 84)] = None
    """Height and width of frames. None: 84."""


def make(task: str, settings: Settings, training: bool, render_mode: str | None) -> gym.Env[Any, Any]:
    """Make the game `task`, such as "Breakout"."""
    gym.register_envs(ale_py)
    game = gym.make(f"ALE/{task}-v5", frameskip=1, difficulty=settings.difficulty, render_mode=render_mode)
    game = RecordEpisodeStatistics(AtariPreprocessing(game, noop_max=1, screen_size=settings.size or 84))
    if training:  # above what notes the score: that of a game is never clipped
        game = ClipReward(game, -1, 1)
    return FrameStackObservation(game, 4, padding_type="reset")


FAMILY = Family(
    name="ale",
    make=make,
    example="Breakout",
    Config=Settings,
    defaults=lambda task, agent: {"agent.batch_size": 4},
    presets={"short": lambda task, agent: {"steps": 100, "seer.freeze_step": 60, "environment.size": 48}},
    scale=lambda task: Scale(0.0, 30.0),
)
