"""`python -m seer_rl` is `seer`."""

import sys

from seer_rl.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
