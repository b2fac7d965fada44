"""Writes films, for the commands that make them."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seer_rl.commands.errors import Mistake, mistakes
from seer_rl.text import install, size
from seer_rl.training import files
from seer_rl.training.files import writable


@contextlib.contextmanager
def filming(video: Path, frames_per_second: float) -> Iterator[Callable[[Any], None]]:
    """Give a function that adds a frame [H, W, 3] uint8 to a film. The file appears once it is whole.

    Raises Mistake where it cannot be written, where there is nothing to film, and without the extra [video].
    """
    from seer_rl.envs import Unfilmed

    taken = 0

    def take(frame: Any) -> None:
        nonlocal taken
        try:
            writer.append_data(frame)
        except OSError as error:  # FFmpeg is gone, and does not say why
            raise Unfilmed(_unwritten(video)) from error
        taken += 1

    with contextlib.ExitStack() as open_until_the_end:
        with mistakes():
            writable(video, ".mp4")
            try:
                import imageio.v2 as imageio
            except ImportError as error:
                raise ImportError(f"videos need the extra [video]: {install('video')}") from error
            part = open_until_the_end.enter_context(files.beside(video))
            options: dict[str, Any] = {"fps": frames_per_second, "macro_block_size": 2, "quality": 8}
            writer: Any = imageio.get_writer(part, ffmpeg_log_level="quiet", **options)
            open_until_the_end.callback(writer.close)
        try:
            yield take
            writer.close()
            if taken and _frames(part) != taken:  # FFmpeg ends without a word where a disk is full
                raise Unfilmed(_unwritten(video))
        except Unfilmed as error:
            raise Mistake(str(error)) from error


def _frames(film: Path) -> int:
    """Count the frames of a film; 0 where it is none."""
    import imageio_ffmpeg

    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(film))[0])
    except RuntimeError:
        return 0


def _unwritten(video: Path) -> str:
    free = size(shutil.disk_usage(video.absolute().parent).free)
    return f"{video} cannot be written whole, with {free} free on its disk: make room there, or write elsewhere"
