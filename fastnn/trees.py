"""Dicts and lists of arrays, numbers and strings, as a file of the safetensors layout; nothing in it is ever run.

The arrays are the tensors; the rest is JSON among the metadata, together with what the file is and a checksum.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastnn.atomic import write_pieces
from fastnn.pieces import pieces_of

Array = npt.NDArray[Any]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ARRAY = "__array__"  # stands in the JSON for an array: {"__array__": its name}


class DamagedError(ValueError):
    """The file is not whole, or is no such file at all."""


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turn the errors of who makes something of a file's content, which is of no use to them, into DamagedError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{what}: {error if isinstance(error, ValueError) else repr(error)}") from error


def check_counts(state: dict[str, Any], *names: str) -> None:
    """Check that parts of what a file has are counts.

    Raises
    ------
    ValueError
        If one of them is not.
    """
    for name in names:
        if type(state[name]) is not int or not 0 <= state[name] < 2**63:
            raise ValueError(f"its {name} is {state[name]!r}")


def write_tree(file: BinaryIO, kind: str, tree: Any) -> None:
    """Write a tree to an open file; `kind` says what it is."""
    arrays: dict[str, Array] = {}
    text = json.dumps(_without_arrays(tree, "", arrays))
    header: dict[str, Any] = {"__metadata__": {"kind": kind, "tree": text, "checksum": _checksum(text, arrays)}}
    end = 0
    for name, array in arrays.items():
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": offsets}
    lines = json.dumps(header).encode()
    lines += b" " * (-len(lines) % 8)
    file.write(len(lines).to_bytes(8, "little"))
    file.write(lines)
    write_pieces(file, (piece for array in arrays.values() for piece in _bytes(array)))


def read_tree(path: Path, kind: str) -> Any:
    """Return the tree of a file.

    Raises
    ------
    DamagedError
        If the file is not what `write_tree` has written.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            n_data = os.fstat(file.fileno()).st_size - 8 - length
            if n_data < 0:
                raise ValueError("its header ends too early")
            header = json.loads(file.read(length))
            metadata, arrays, end = header.pop("__metadata__"), {}, 0
            for name, entry in header.items():
                arrays[name], end = _read_array(file, entry, end, n_data)
        if "kind" not in metadata:
            raise ValueError("it does not say what it is; if `fastnn.load` takes it, use another path")
        if metadata["kind"] != kind:
            raise ValueError(f"its kind is {metadata['kind']!r}")
        if metadata["checksum"] != _checksum(metadata["tree"], arrays):
            raise ValueError("its checksum is wrong")
        return _with_arrays(json.loads(metadata["tree"]), arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged, or no {kind}: {error}") from error


def _read_array(file: BinaryIO, entry: dict[str, Any], end: int, n_data: int) -> tuple[Array, int]:
    """Return the array that follows those before, which went to `end` of `n_data` bytes, and where it ends itself."""
    dtype, shape, (start, stop) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
    if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > n_data:
        raise ValueError(f"its data of {shape} numbers cannot lie from {start} to {stop}")
    array = np.empty(shape, dtype)
    for piece in _bytes(array):
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
            raise ValueError("its data end too early")
    return array, stop


def check_tree(tree: Any) -> None:
    """Check that `write_tree` can write a tree.

    Raises
    ------
    TypeError
        If there is something in it that is no number, string, array, or list or dict of them.
    """
    _without_arrays(tree, "", {})


def _without_arrays(tree: Any, name: str, arrays: dict[str, Array]) -> Any:
    if isinstance(tree, np.ndarray):
        array = np.asarray(tree, tree.dtype.newbyteorder("<"), order="C")
        if array.dtype.str not in _NAMES:
            raise TypeError(f"{name} is an array of dtype {tree.dtype}, which has no real numbers")
        while name in arrays:  # "a.b" is of {"a": {"b": array}} and of {"a.b": array}
            name += "#"
        arrays[name] = array
        return {_ARRAY: name}
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str) or key == _ARRAY:
                raise TypeError(f"{name or 'it'} has the key {key!r}, which is none to use")
        return {key: _without_arrays(value, f"{name}.{key}".lstrip("."), arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_without_arrays(value, f"{name}.{i}".lstrip("."), arrays) for i, value in enumerate(tree)]
    value = tree.item() if isinstance(tree, np.generic) else tree
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"{name} is {tree!r}, which is none of them")
    return value


def _with_arrays(tree: Any, arrays: dict[str, Array]) -> Any:
    if isinstance(tree, list):
        return [_with_arrays(value, arrays) for value in tree]
    if isinstance(tree, dict):
        if tree.keys() == {_ARRAY}:
            return arrays[tree[_ARRAY]]
        return {key: _with_arrays(value, arrays) for key, value in tree.items()}
    return tree


def _bytes(array: Array) -> Iterator[memoryview]:
    return pieces_of(array.reshape(-1).view(np.uint8).data)


def _checksum(text: str, arrays: dict[str, Array]) -> str:
    whole = hashlib.blake2b(text.encode(), digest_size=16)
    for name, array in arrays.items():
        whole.update(f"{name} {array.dtype.str} {array.shape}".encode())
        for piece in _bytes(array):
            whole.update(piece)
    return whole.hexdigest()
