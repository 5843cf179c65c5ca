"""Rows of inputs as the kernels take them: a dense matrix, or the arrays of a CSR matrix; and the way there."""

import copy
import dataclasses
import functools
from typing import Any, NamedTuple, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from fastnn import pieces
from fastnn.kernels.listening import call_apart

Array = npt.NDArray[Any]

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class _Alias:
    """The memory of a read-only array, for kernels that only read it but are compiled for writeable ones."""

    def __init__(self, array: Array) -> None:
        interface = array.__array_interface__
        self.array = array
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def flat(array: Array) -> Array:
    """Return a C-contiguous array as the flat, writeable array the kernels are compiled for, without a copy."""
    return (array if array.flags.writeable else np.asarray(_Alias(array))).reshape(-1)


def is_plain(array: Any) -> TypeGuard[Array]:
    """Whether this is a NumPy array without a mask that would be lost, or rules of its own."""
    return type(array) is np.ndarray or (
        isinstance(array, np.ndarray) and not isinstance(array, (np.ma.MaskedArray, np.matrix))
    )


@functools.cache
def nothing(dtype: np.dtype[Any]) -> Array:
    """Return an array of no elements, for kernels."""
    return np.empty(0, dtype)


def in_dtype(X: Any, dtype: npt.DTypeLike) -> Any:
    """Return a C-contiguous or a CSR matrix in a dtype, without a copy of what can stay as it is."""
    if isinstance(X, np.ndarray):
        return pieces.converted(X, dtype)
    twin = copy.copy(X)
    twin.data = pieces.converted(X.data, dtype)
    return twin


def entries_of(X: Any) -> Array:
    """Return the entries that a C-contiguous or a CSR matrix has in memory, one after the other."""
    return X.reshape(-1) if isinstance(X, np.ndarray) else X.data


def rows_of(X: Any, rows: Array) -> Any:
    """Return some rows of an array or a CSR matrix, nothing of None."""
    if X is None:
        return None
    return pieces.taken(X, rows) if isinstance(X, np.ndarray) else call_apart(X.__getitem__, rows)


def check_range(name: str, values: Array, bound: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= bound):
        raise ValueError(f"{name} must lie in [0, {bound}), got values from {values.min()} to {values.max()}")


@dataclasses.dataclass(slots=True)
class Rows:
    """A checked matrix; `indptr` is empty where it is dense, `dense` where it is sparse."""

    n: int
    width: float  # entries of a row, on average; of a sparse row, the bias among them
    dense: Array
    data: Array
    indices: Array  # int32
    indptr: Array

    @classmethod
    def of(cls, X: Any, n_columns: int, dtype: np.dtype[Any]) -> Self:
        """Check X and return its rows.

        Raises
        ------
        TypeError, ValueError
            If X is not what the kernels take.
        """
        if getattr(X, "format", None) == "csr":
            return cls._of_csr(X, n_columns, dtype)
        if not is_plain(X):
            masked = isinstance(X, np.ma.MaskedArray)
            advice = "X.tocsr()" if hasattr(X, "tocsr") else "X.filled(value)" if masked else "numpy.asarray(X)"
            raise TypeError(f"X must be a plain NumPy array or a CSR matrix, got {type(X).__name__}; use {advice}")
        _check_kind(X.dtype, X.shape, n_columns, dtype)
        if not X.flags.c_contiguous or not X.flags.aligned:
            raise ValueError("X must be C-contiguous and aligned; use numpy.ascontiguousarray(X)")
        return cls(len(X), n_columns, flat(X), nothing(dtype), nothing(_INT32), nothing(_INT64))

    @classmethod
    def _of_csr(cls, X: Any, n_columns: int, dtype: np.dtype[Any]) -> Self:
        data, indices, indptr = (_checked_part(X, name) for name in ("data", "indices", "indptr"))
        _check_kind(data.dtype, X.shape, n_columns, dtype)
        if not data.flags.c_contiguous or not data.flags.aligned:
            raise ValueError("X.data must be C-contiguous and aligned; use X.copy()")
        if len(indices) != len(data):
            raise ValueError(f"X.indices must be as long as X.data, {len(data)}, got {len(indices)}")
        n = X.shape[0]
        _check_indptr(indptr, n, len(data))
        n_entries = int(indptr[-1])
        indices = indices[:n_entries]
        check_range("X.indices", indices, min(n_columns, 2**31))  # the kernels take them as int32
        return cls(
            n, 1 + n_entries / max(1, n), nothing(dtype), flat(data),
            flat(np.require(indices, np.int32, ["C", "A"])), flat(np.require(indptr, np.int64, ["C", "A"])),
        )  # fmt: skip

    @property
    def sparse(self) -> bool:
        return self.indptr.size > 0

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of a CSR matrix."""
        return self.data, self.indices, self.indptr

    def addresses(self, start: int) -> Array:
        """Return where in memory `data`, `indices` and the `indptr` of the rows from `start` on lie."""
        addresses = [array.ctypes.data for array in self.arrays]
        addresses[2] += start * self.indptr.itemsize
        return np.array(addresses, np.int64)

    def most_entries(self, n_rows: int, order: Array | None) -> int:
        """Return a bound of the entries of any `n_rows` rows in a row, whatever the order of the same rows."""
        n = len(self.indptr) - 1 if order is None else len(order)
        largest = np.zeros(0, np.int64)
        for part in pieces.parts(n):
            ends = self.indptr[part.start + 1 : part.stop + 1] if order is None else self.indptr[order[part] + 1]
            starts = self.indptr[part if order is None else order[part]]
            largest = np.concatenate([largest, ends - starts])
            if n_rows < largest.size:
                largest = np.partition(largest, largest.size - n_rows)[-n_rows:]
        return int(largest.sum())


class Examples(NamedTuple):
    """Checked rows and what is to be learnt from them: class indices or targets, the other empty; weights or none."""

    rows: Rows
    labels: Array
    targets: Array
    weight: Array


def csr_of(X: Any) -> Any:
    """Return a sparse matrix, CSR or CSC, as CSR; SciPy itself writes wherever the indices of CSC say.

    Raises
    ------
    ValueError
        If they lead out of the matrix.
    """
    if X.format == "csc":
        _check_indptr(X.indptr, X.shape[1], min(len(X.data), len(X.indices)))
        check_range("X.indices", X.indices[: X.indptr[-1]], X.shape[0])
    return X.tocsr()


def _check_indptr(indptr: Array, n: int, n_entries: int) -> None:
    if len(indptr) != n + 1 or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > n_entries:
        raise ValueError(
            f"X.indptr must go from 0 in {n} steps, none of them down, to at most {n_entries}, the length of X.data"
        )


def _check_kind(found: np.dtype[Any], shape: tuple[int, ...], n_columns: int, dtype: np.dtype[Any]) -> None:
    if found != dtype:
        raise TypeError(f"X must have the network's dtype, {dtype}, got {found}; use X.astype({dtype.name!r})")
    if len(shape) != 2 or shape[1] != n_columns:
        raise ValueError(f"X must have shape (n, {n_columns}), got {shape}")


def _checked_part(X: Any, name: str) -> Array:
    """Return an array of a CSR matrix."""
    array = getattr(X, name, None)
    if not is_plain(array):
        raise TypeError(f"X.{name} must be a NumPy array, got {type(array).__name__}; use numpy.asarray(X.{name})")
    if array.ndim != 1:
        raise ValueError(f"X.{name} must have one dimension, got shape {array.shape}; use X.{name}.ravel()")
    if name != "data" and array.dtype.kind not in "iu":
        raise TypeError(f"X.{name} must be integers, got dtype {array.dtype}")
    return array
