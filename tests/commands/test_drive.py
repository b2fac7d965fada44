"""What a run says where it is interrupted, and what its other threads may say while it trains."""

import threading
from pathlib import Path
from typing import Any

import pytest

from seer_rl.commands.drive import _writers_fail_silently
from seer_rl.commands.main import main
from seer_rl.training import checkpoint


def test_a_second_ctrl_c_says_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a checkpoint is written: the one before it is still there."""
    save = checkpoint.save

    def interrupted(run_dir: Path, step: int, *rest: Any) -> Any:
        if step == 40:
            raise KeyboardInterrupt
        return save(run_dir, step, *rest)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    run_dir = tmp_path / "run"
    words = "train atari/pong --steps 60 --agent.batch-size 8 --agent.hidden 16 --agent.learning-starts 20 --no-compile"
    assert main([*words.split(), "--checkpoint-every", "20", "--run-dir", str(run_dir)]) == 130
    said = capsys.readouterr().err
    assert said == f"seer: stopped at once, at step 40; the checkpoint of step 20 in {run_dir} is from before it\n"
    assert checkpoint.newest(run_dir) == 20


@pytest.mark.parametrize(("error", "printed"), [(OSError("No space left on device"), False), (TypeError("a fault"), True)])
def test_only_what_the_system_refuses_a_writer_is_left_unsaid(
    error: Exception, printed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself says in a sentence that the disk is full; a traceback of TensorBoard's thread before it helps nobody."""
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(failed.exc_value))
    before = threading.excepthook

    def fail() -> None:
        raise error

    with _writers_fail_silently():
        writer = threading.Thread(target=fail)
        writer.start()
        writer.join()
    assert told == ([error] if printed else [])
    assert threading.excepthook is before
