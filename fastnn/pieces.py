"""Work on arrays of any size in pieces of some milliseconds, between which Python sees Ctrl-C."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ENTRIES_AT_ONCE = 2**20  # where their memory is new, some ten milliseconds


def parts(n: int, width: int = 1) -> Iterator[slice]:
    """Yield the slices that `n` rows of so many entries are worked on by, one after the other."""
    step = max(1, ENTRIES_AT_ONCE // max(1, width))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def pieces_of(content: memoryview) -> Iterator[memoryview]:
    """Yield bytes piece by piece, to read into or to write."""
    return (content[part] for part in parts(len(content)))


def mapped(function: Callable[[Array], Any], array: Array, dtype: npt.DTypeLike) -> Array:
    """Return function(array) in a new array of the same shape, for a function of each entry alone."""
    out = np.empty(array.shape, dtype)
    for part in parts(len(array), out[:1].size):
        values = np.asarray(function(array[part]))
        np.copyto(out[part], values, casting="unsafe" if values.dtype == object else "same_kind")
    return out


def copied(array: Array, dtype: npt.DTypeLike | None = None) -> Array:
    """Return a copy, in another dtype if asked for; C-contiguous."""
    return mapped(lambda part: part, array, array.dtype if dtype is None else dtype)


def converted(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return the array itself where it has the dtype and lies as kernels take it, else a copy that does."""
    is_fit = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
    return array if is_fit else copied(array, dtype)


def taken(array: Array, rows: Array) -> Array:
    """Return array[rows]."""
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part in parts(len(rows), out[:1].size):
        out[part] = array[rows[part]]
    return out


def drawn(draw: Callable[..., Any], n: int, width: int) -> Array:
    """Return numbers (n, width) in the order that `draw` gives them for each shape."""
    out = np.empty((n, width))
    for part in parts(n, width):
        out[part] = draw((part.stop - part.start, width))
    return out


def indices(n: int) -> npt.NDArray[np.int64]:
    """Return the integers from 0 to `n`, without it."""
    out = np.empty(n, np.int64)
    for part in parts(n):
        out[part] = np.arange(part.start, part.stop)
    return out


def is_finite(array: Array) -> bool:
    """Whether all numbers of an array (n,) are finite."""
    return all(bool(np.isfinite(array[part]).all()) for part in parts(len(array)))
