"""Files that are there whole or not at all."""

import contextlib
import errno
import glob
import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from fastnn.kernels.room import check_room_for_a_thread

# What the system writes to a disk, or frees, in some hundredths of a second, for which Ctrl-C has to wait.
BYTES_AT_ONCE = 2**24


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once everything is written and on the disk.

    Whatever happens before, an error, a kill, a full disk, `path` stays as it was. A kill may leave one of its
    `leftovers` beside it. The new file has the permissions of the one before; a link stays one, and leads to it.

    Parameters
    ----------
    path : path-like

    Yields
    ------
    binary file, to write to

    Raises
    ------
    OSError
        If the file cannot be written, or there is something that a new file must not take the place of.
    """
    path = Path(os.path.realpath(path))
    check_regular(path)  # root could replace /dev/null, for all processes
    if is_output(path):
        raise OSError(f"{path} must not be where stdout or stderr go; use another path")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(path.parent))
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb") as file:
            with contextlib.suppress(OSError):  # it is new; or the file system has no permissions
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    sync_folder(path.parent)


def write_pieces(file: BinaryIO, pieces: Iterable[Any]) -> None:
    """Write bytes piece by piece, and have them on the disk meanwhile: in the end there is little to wait for."""
    n_waiting = 0
    for piece in pieces:
        file.write(piece)
        n_waiting += len(piece)
        if n_waiting >= BYTES_AT_ONCE:
            file.flush()
            os.fsync(file.fileno())
            n_waiting = 0


def replace(source: Path, target: Path) -> None:
    """Give a file the name of another, which goes."""
    with _freed_later(target):
        os.replace(source, target)


def remove(path: Path) -> None:
    """Remove a file, if there is one."""
    with _freed_later(path):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _freed_later(path: Path) -> Iterator[None]:
    """Have the storage of a file whose name goes meanwhile be freed in a thread, which takes a second a gigabyte.

    It goes when nobody has the file open any more, at the latest with the process.
    """
    file = None
    if os.name != "nt":  # where an open file cannot be removed
        with contextlib.suppress(OSError):
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - Ctrl-C at any moment closes it too
    try:
        yield
    finally:
        if file is not None:
            _close(file)


def _close(file: RawIOBase) -> None:
    if os.fstat(file.fileno()).st_size >= BYTES_AT_ONCE:
        with contextlib.suppress(RuntimeError):  # there can be no more threads
            check_room_for_a_thread()
            threading.Thread(target=file.close, name="fastnn frees storage", daemon=True).start()
            return
    file.close()


def check_regular(path: Path) -> None:
    """Check that there is a regular file or nothing: a pipe would be waited for, a device written to.

    Raises
    ------
    OSError
        If there is something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} must be a regular file, not a folder, a device or a pipe; use another path")


def is_output(path: Path) -> bool:
    """Whether what this process prints goes to a file: a log would cut it, a new file would take its place."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed, or there is no such file
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return True
    return False


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of `path`, of its name's first letters: a name may be as long as names can be."""
    return path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}.tmp")


def leftovers(path: Path) -> Iterator[Path]:
    """Return the temporary files beside `path`: what kills have left, and what is being written now."""
    return path.parent.glob(f"{glob.escape(_prefix(path))}{32 * '[0-9a-f]'}.tmp")


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}."


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
