"""Checks of what callbacks are given, before the training: numbers, durations, functions, files."""

import errno
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.atomic import is_output

# -- values -----------------------------------------------------------------------------------------------------------


def check_count(name: str, value: Any) -> None:
    """Check that a value is an integer of at least 1.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is below 1.
    """
    wrong = f"{name} must be an integer, at least 1, got {value!r}"
    if not _is_plain(value, Integral):
        raise TypeError(wrong)
    if int(value) < 1:
        raise ValueError(wrong)


def check_number(name: str, value: Any) -> float:
    """Return a value that is a number of at least 0.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is below 0, or NaN.
    """
    wrong = f"{name} must be a number, at least 0, got {value!r}"
    if not _is_plain(value, Real):
        raise TypeError(wrong)
    number = _float(value)
    if not number >= 0:
        raise ValueError(wrong)
    return number


def _is_plain(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind; NumPy has durations for integers."""
    return isinstance(value, kind) and not isinstance(value, (bool, np.timedelta64))


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # of an integer
        return math.inf if value > 0 else -math.inf


def check_bool(name: str, value: Any) -> None:
    """Check that a value is True or False.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_function(name: str, value: Any, example: str) -> None:
    """Check that a value can be called; `example` is one that can.

    Raises
    ------
    TypeError
        If it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function such as {example}, got {value!r}")


_UNITS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}


def seconds_of(name: str, duration: Any) -> float:
    """Return the seconds of a number of them, or of a string such as "3h55m", "10min", "90s".

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it is a number below 0, NaN, or another string.
    """
    wrong = f'{name} must be seconds, at least 0, or a string such as "3h55m", "10min" or "90s", got {duration!r}'
    if not isinstance(duration, str) and not _is_plain(duration, Real):
        raise TypeError(wrong)
    if isinstance(duration, str):
        text = duration.replace(" ", "")
        if re.fullmatch(r"([0-9]+(\.[0-9]+)?(d|h|min|m|s))+", text):
            return sum(float(n) * _UNITS[unit] for n, _, unit in re.findall(r"([0-9]+(\.[0-9]+)?)(d|h|min|m|s)", text))
    elif (seconds := _float(duration)) >= 0:
        return seconds
    raise ValueError(wrong)


def called(name: str, function: Callable[..., Any], *arguments: Any) -> float:
    """Return the number that a function of the user's returns.

    Raises
    ------
    TypeError
        If it returns something else. An error of its own goes on to the caller.
    """
    value = function(*arguments)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must return a number, got {value!r} from it") from error


# -- files ------------------------------------------------------------------------------------------------------------


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that stays the same file when the process changes its working directory.

    Raises
    ------
    TypeError
        If it is no path.
    """
    try:
        return Path(path).absolute()
    except TypeError as error:
        raise TypeError(f"path must be a string or a path of strings, got {path!r}") from error


def check_places(owner: str, files: Iterable[Path]) -> None:
    """Check that the files that an owner writes, its `path` and others beside it, can be there.

    Raises
    ------
    ValueError
        If one of the names is too long, there is something that is no file, or what the process prints goes to it, or
        the folder around it is missing.
    """
    name = f"path of {owner}"
    for file in files:
        try:
            os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            place = f"{name} must be one that files can have"
            raise ValueError(f"{place}, got {str(file)!r}: {_mend(file, error)}") from error
        if file.is_dir():
            raise ValueError(f"{name} must be a file, got the folder {file}; add a file's name to it")
        if file.exists() and not file.is_file():
            raise ValueError(f"{name} must be a regular file, got {file}, a device or a pipe; use another path")
        if is_output(file):
            raise ValueError(f"{name} must not be where stdout or stderr go, got {file}; use another path")
        if not file.parent.is_dir():
            raise ValueError(f"{name} must be in a folder that is there, got {file}; make the folder {file.parent}")


def _mend(file: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{len(os.fsencode(file.name))} bytes are too many for a name here; use a shorter one"
    return f"{error}; use another path"


def check_writable(owner: str, path: Path) -> None:
    """Check that new files may be made beside a path; where there is no room for them, there may be later.

    Raises
    ------
    ValueError
        If the user may not write there, or nobody.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            place = f"path of {owner} must be in a folder that can be written to"
            raise ValueError(f"{place}, got {path}: {error.strerror}; use another folder") from error
