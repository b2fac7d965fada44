"""Files in directories that somebody else may have prepared.

A run directory may have been downloaded, unpacked or shared. What lies in it decides nothing: no link in it is followed for
writing or removing, no pipe or device is waited for, and what is written appears whole under its name or not at all.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

Bytes = bytes | memoryview
HERE = os.O_CLOEXEC | os.O_NOFOLLOW  # never another process's, never what a link points at


class Refused(OSError):
    """A file that is not what it must be, in a sentence."""


def encodable(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: names of files need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read(path: Path) -> bytes:
    """Read a regular file, or a link to one. Raises OSError, and Refused for a directory, a pipe or a device."""
    with _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path, "rb") as file:
        return file.read()


def write_atomically(path: Path, data: Bytes, durable: bool = True) -> None:
    """Write `data` beside `path` and rename it over `path`; a link there is replaced, not followed.

    durable: it survives a power failure as well. Raises OSError, with `path` as it was.
    """
    with Folder(path.parent) as folder:
        folder.write(path.name, data, durable)
        if durable:
            folder.sync()


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name to write to, in a new directory beside `path`; what is there at the end is renamed over `path`.

    For libraries that write files themselves. Nothing is left behind by an exception, but the directory by a kill.
    """
    directory = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield directory / path.name
        (directory / path.name).replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:  # a sentence, or of another file
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Folder:
    """A directory held open: its files are reached from the handle by name, and no link in it is followed."""

    def __init__(self, path: Path, inside: "Folder | None" = None, create: bool = False) -> None:
        """Open `path`, which may be a link; or the directory of this name inside another, which may not.

        create: make it if it is missing. Raises OSError, and Refused for what is a link or no directory.
        """
        self.path = path
        self.handle: int
        parent = inside.handle if inside else None
        name = path.name if inside else path
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        try:
            self.handle = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if inside else 0), dir_fd=parent
            )
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise Refused(f"{path} is {'a link or ' if inside else ''}no directory") from error

    def inner(self, name: str, create: bool = False) -> "Folder":
        """Open the directory `name` in this one; see `Folder`."""
        return Folder(self.path / name, self, create)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def names(self) -> list[str]:
        """List everything in it, in order."""
        return sorted(os.listdir(self.handle))

    def size(self, name: str) -> int | None:
        """Count the bytes of the regular file `name`; None where there is no such file, or something else."""
        try:
            found = os.stat(name, dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def read(self, name: str) -> bytes:
        """Read the regular file `name`. Raises OSError, and Refused for anything else."""
        with self._open(name, os.O_RDONLY, "rb") as file:
            return file.read()

    def write(self, name: str, data: Bytes, durable: bool = True, beside: str | None = None) -> None:
        """Write `data` under a name that nobody can know before (or `beside`), and rename it to `name`.

        durable: wait until the data is on the disk. Raises OSError, with `name` as it was.
        """
        beside = beside or f".{name}.{secrets.token_hex(8)}"
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | HERE, 0o666, dir_fd=self.handle)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path / name)) from error
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(beside, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=self.handle)
            raise OSError(error.errno, error.strerror, str(self.path / name)) from error

    def append(self, name: str) -> BinaryIO:
        """Open the regular file `name`, made if it is missing, to write in place behind what it holds.

        Raises OSError, and Refused for a link, a pipe, a device, or a file that has a second name elsewhere.
        """
        file = self._open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab")
        if os.fstat(file.fileno()).st_nlink != 1:
            file.close()
            raise Refused(f"{self.path / name} has a second name elsewhere, whose contents would change too: copy the file")
        return file

    def rename(self, name: str, to: str) -> None:
        """Rename a file or directory in this one, over what is called `to` already."""
        os.replace(name, to, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, name: str) -> None:
        """Remove the name of a file, whatever it is; a link is removed, not what it points at."""
        os.unlink(name, dir_fd=self.handle)

    def remove_inner(self, name: str) -> None:
        """Remove the empty directory `name`. Raises OSError if something lies in it, or it is none."""
        os.rmdir(name, dir_fd=self.handle)

    def sync(self) -> None:
        """Make the names durable."""
        os.fsync(self.handle)

    def _open(self, name: str, flags: int, mode: str) -> BinaryIO:
        try:
            handle = os.open(name, flags | os.O_NONBLOCK | HERE, 0o666, dir_fd=self.handle)
        except OSError as error:
            if os.path.islink(self.path / name):
                raise Refused(f"{self.path / name} is a link, which is not followed: put a file in its place") from error
            if os.path.lexists(self.path / name) and self.size(name) is None:  # a pipe that nobody reads, a directory
                raise Refused(f"{self.path / name} is no regular file") from error
            raise OSError(error.errno, error.strerror, str(self.path / name)) from error
        return _regular(handle, self.path / name, mode)


def _regular(handle: int, path: Path, mode: str) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path} is no regular file")
    return open(handle, mode)  # type: ignore[return-value]


def writable(output: Path, *suffixes: str) -> Path:
    """Give `output` back. Raises ValueError, before any work is done, where no file of such a name can be put."""
    if suffixes and output.suffix.lower() not in suffixes:
        raise ValueError(f"{output} must end in {' or '.join(suffixes)}")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"there is no directory {output.parent}")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output} is {'a directory' if output.is_dir() else 'no regular file'}: name a file")
    return output
