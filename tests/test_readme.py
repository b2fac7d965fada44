"""The README's program is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_the_program_with_ones_own_agent_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    # 20,000,000 // 3208 bytes a step: 800 float32, reward, action, flags
    assert re.fullmatch(r"\d+ steps in 3\.\d MB, room for 6234\n", run.stdout)
