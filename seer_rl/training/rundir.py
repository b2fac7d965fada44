"""A run directory as a whole: whose it is, whether its run has ended, and results that a new beginning would overwrite."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from seer_rl.outside import again
from seer_rl.text import quoted
from seer_rl.training import checkpoint, files
from seer_rl.training.files import Folder
from seer_rl.training.logger import CLOCK, METRICS, read

LOCK, ENDED, PICTURE = ".lock", "ended.json", "curves.png"
EARLIER = "earlier"  # and a number: the directories of results that a new beginning moved aside


class Busy(ValueError):
    """Another process is training in the run directory."""


def require_free(run_dir: Path) -> None:
    """Raise ValueError, in a sentence, where no new run can be written to `run_dir`."""
    if os.path.lexists(run_dir):
        go_on = again(f"seer resume {quoted(run_dir)}")
        if (step := checkpoint.newest(run_dir)) is not None:
            raise ValueError(f"{run_dir} holds a run at step {step:,}: go on with: {go_on}")
        if (step := ended_at(run_dir)) is not None:
            raise ValueError(f"{run_dir} holds a run that has ended, at step {step:,}: name another --run-dir")
        if (run_dir / checkpoint.CONFIG).is_file() and (run_dir / LOCK).is_file():
            raise ValueError(
                f"{run_dir} holds a run that has no checkpoint yet: begin it again with: {go_on}; for other settings, "
                "name another --run-dir, or remove it"
            )
        raise ValueError(f"{run_dir} exists already: name another --run-dir, or remove it")
    require_place(run_dir)


def require_place(run_dir: Path) -> None:
    """Raise ValueError, in a sentence, where no directory `run_dir` can be made."""
    above = run_dir.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    longest = os.pathconf(above, "PC_NAME_MAX") if above.is_dir() else len(os.fsencode(run_dir))
    if not above.is_dir():
        why = f"{above} is {'a link to nothing' if above.is_symlink() else 'no directory'}"
    elif not os.access(above, os.W_OK | os.X_OK):
        why = f"nothing may be written in {above}"
    elif any(len(os.fsencode(part)) > longest for part in run_dir.parts):
        why = f"a name in it is longer than the {longest} bytes that {above} takes"
    else:
        return
    raise ValueError(f"{run_dir} cannot be made: {why}; choose another directory")


def lock(run_dir: Path) -> BinaryIO:
    """Make `run_dir` this process's own until the file that is returned is closed, or the process ends, however it does.

    Raises Busy where another process has it; OSError where the file system has no locks, or where something in the directory
    would lead the writing elsewhere: a link, or a second name of a file that is written in place.
    """
    with Folder(run_dir) as folder:
        for name in (METRICS, CLOCK):
            if name in folder.names():
                folder.append(name).close()  # refuses what cannot be written in place
        while True:
            file = folder.append(LOCK)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                    raise Busy(f"another process is training in {run_dir}") from None
                raise OSError(
                    f"{run_dir} cannot be locked against other processes ({error.strerror}): use a directory on a file system "
                    "that has locks"
                ) from error
            try:
                if os.path.samestat(os.stat(LOCK, dir_fd=folder.handle, follow_symlinks=False), os.fstat(file.fileno())):
                    return file
            except FileNotFoundError:
                pass  # who had it has ended in between, and removed it
            file.close()


def unlock(run_dir: Path, held: BinaryIO) -> None:
    """Give back a directory in which nothing is left to train: its lock goes, too."""
    with Folder(run_dir) as folder:
        folder.remove(LOCK)
    held.close()


def write_ended(run_dir: Path, step: int) -> None:
    """Record, as the last thing that a run writes, that it has ended at `step`, and with what results."""
    results = {name: hashlib.sha256(files.read(run_dir / name)).hexdigest() for name in (METRICS, checkpoint.AGENT)}
    files.write_atomically(run_dir / ENDED, json.dumps({"ended": step, "sha256": results}).encode())


def require_result(run_dir: Path, name: str, steps: int) -> None:
    """Raise ValueError if a run of `steps` has ended and its file `name`, metrics or agent, is not the one it ended with.

    Version 0.1.0 did not record that.
    """
    try:
        ended = json.loads(files.read(run_dir / ENDED))
        digest = ended["sha256"][name] if ended["ended"] == steps else None  # else it is trained longer just now
        found = hashlib.sha256(files.read(run_dir / name)).hexdigest()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return  # it has not ended; or what is wrong is told where the file is read
    if digest is not None and found != digest:
        raise ValueError(f"{run_dir / name} is not the file with which the run ended: it has been changed or replaced")


def ended_at(run_dir: Path) -> int | None:
    """Return the step at which the run in `run_dir` ended; None if it has not, or is no run.

    Version 0.1.0 wrote no record of it: there a run has ended if it was evaluated at its last step and has no checkpoint. The
    same holds where the record is damaged.
    """
    try:
        step = json.loads(files.read(run_dir / ENDED))["ended"]
        if type(step) is int and step > 0:
            return step
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    if checkpoint.newest(run_dir) is not None:
        return None
    try:
        config, evaluated = checkpoint.load_config(run_dir), read(run_dir, (METRICS,)).get("eval/return", [(0, 0.0)])[-1][0]
    except ValueError:
        return None
    return evaluated if evaluated == config.steps and (run_dir / checkpoint.AGENT).is_file() else None


def set_aside(run_dir: Path, say: Callable[[str], None]) -> None:
    """Move the results of a run that begins again into a directory of their own; `say` hears where they are.

    Results are the agent, which is written at the first evaluation, and everything written with it.
    """
    with Folder(run_dir) as folder:
        there = [name for name in (checkpoint.AGENT, ENDED, METRICS, CLOCK, PICTURE) if folder.size(name) is not None]
        if not {checkpoint.AGENT, ENDED} & set(there):
            return
        taken = set(folder.names())
        name = next(name for i in range(1, len(taken) + 2) if (name := f"{EARLIER}-{i}") not in taken)
        with folder.inner(name, create=True) as earlier:
            for result in there:
                os.rename(result, result, src_dir_fd=folder.handle, dst_dir_fd=earlier.handle)
        say(f"what {run_dir} held before is now in {run_dir / name}")
