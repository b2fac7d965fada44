"""`seer` in a process of its own, with Atari's games as short as they are in the tests' process (conftest.py)."""

import sys

from seer_rl.commands.main import main
from seer_rl.envs import atari

SHORT_GAME = 200  # frames, 50 steps of an agent

if __name__ == "__main__":
    atari.MAX_FRAMES = SHORT_GAME
    sys.exit(main())
