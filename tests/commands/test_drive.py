"""What a run's other threads may say while it trains."""

import threading

import pytest

from seer_rl.commands.drive import _writers_fail_silently


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
