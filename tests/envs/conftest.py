"""Tests of games are of whole games."""

from collections.abc import Iterator

import pytest

from seer_rl.envs import atari


@pytest.fixture(autouse=True, scope="module")
def whole_games(short_games: None) -> Iterator[None]:
    """Undo what `short_games` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atari, "MAX_FRAMES", atari.Atari.max_episode_steps * atari.FRAMES_PER_STEP)
        yield
