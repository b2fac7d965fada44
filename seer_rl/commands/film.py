"""Writes films, for the commands that make them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seer_rl.commands.errors import mistakes
from seer_rl.text import install
from seer_rl.training import files
from seer_rl.training.files import writable


@contextlib.contextmanager
def filming(video: Path, frames_per_second: float) -> Iterator[Callable[[Any], None]]:
    """Give a function that adds a frame [H, W, 3] uint8 to a film. The file appears once it is whole.

    Raises Mistake where it cannot be written, and without the extra [video].
    """
    with contextlib.ExitStack() as open_until_the_end:
        with mistakes():
            writable(video, ".mp4")
            try:
                import imageio.v2 as imageio
            except ImportError as error:
                raise ImportError(f"videos need the extra [video]: {install('video')}") from error
            part = open_until_the_end.enter_context(files.beside(video))
            options: dict[str, Any] = {"fps": frames_per_second, "macro_block_size": 2, "quality": 8}
            writer = imageio.get_writer(part, **options)
        open_until_the_end.callback(writer.close)
        take: Callable[[Any], None] = writer.append_data
        yield take
