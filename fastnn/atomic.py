"""Files that are there whole or not at all."""

import contextlib
import glob
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once everything is written and on the disk.

    Whatever happens before, an error, a kill, a full disk, `path` stays as it was. A kill may leave one of its
    `leftovers` beside it.

    Parameters
    ----------
    path : path-like

    Yields
    ------
    binary file, to write to

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of `path`, of its name's first letters: a name may be as long as names can be."""
    return path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}.tmp")


def leftovers(path: Path) -> Iterator[Path]:
    """Return the temporary files beside `path`: what kills have left, and what is being written now."""
    return path.parent.glob(f"{glob.escape(_prefix(path))}*.tmp")


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
