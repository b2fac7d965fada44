"""Writes films, for the commands that make them."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seer_rl.commands.errors import Mistake, mistakes
from seer_rl.text import install, size
from seer_rl.training import files
from seer_rl.training.files import writable

LITTLE = 1 << 30  # bytes: with more of them free, a film was not cut short by a full disk


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
    """Count the frames of a film, without decoding them; 0 where it is none."""
    import imageio_ffmpeg

    # Its stdin is not ours, which a loop of the shell may be reading.
    program, options = imageio_ffmpeg.get_ffmpeg_exe(), "-map 0:v:0 -c copy -f null -"
    words = [program, "-nostdin", "-i", film.absolute(), *options.split()]
    told = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    counts = re.findall(rb"frame=\s*(\d+)", told.stderr)
    return int(counts[-1]) if counts and told.returncode == 0 else 0


def _unwritten(video: Path) -> str:
    free = shutil.disk_usage(video.absolute().parent).free
    why = f", with {size(free)} free on its disk: make room there, or write elsewhere" if free < LITTLE else ": FFmpeg failed"
    return f"{video} could not be written whole{why}"
