"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A run flushes them for the rest of its process, which hypothesis rightly refuses to work with."""
    yield
    torch.set_flush_denormal(False)
