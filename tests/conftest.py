"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

import signal
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background job, or nohup, ignores them, and all that it starts does
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A run flushes them for the rest of its process, which hypothesis rightly refuses to work with."""
    yield
    torch.set_flush_denormal(False)
