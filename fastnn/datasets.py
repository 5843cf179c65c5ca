"""Data to try the library on: scikit-learn's bundled digits, and idx files such as Fashion-MNIST's."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_UNSIGNED_BYTE = 8  # idx's code for the one type these files hold


class DatasetError(ValueError):
    """A file that is missing or is not what it should be; the message names it and says how to mend it."""


class Split(NamedTuple):
    """Rows to train on and rows to test on: float32 in [0, 1], and their classes."""

    X_train: Array
    X_test: Array
    y_train: Array
    y_test: Array


def digits() -> Split:
    """Return scikit-learn's 1797 digits of 8x8 pixels, a quarter of them held out, always the same ones."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    return Split(*train_test_split((X / 16).astype(np.float32), y, stratify=y, random_state=0))


def fashion_mnist(folder: str | Path) -> Split:
    """Return Fashion-MNIST, or MNIST, from its four idx files in `folder`, gzip-compressed or not.

    Raises
    ------
    DatasetError
        If the folder or a file is missing or damaged, or files do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give the one that holds train-images-idx3-ubyte.gz and its like")
    X_train, y_train = _images_and_labels(folder, "train")
    X_test, y_test = _images_and_labels(folder, "t10k")
    if X_train.shape[1] != X_test.shape[1]:
        raise DatasetError(f"{folder}: train and t10k images differ in size; take all files from one data set")
    return Split(X_train, X_test, y_train, y_test)


def _images_and_labels(folder: Path, part: str) -> tuple[Array, Array]:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), n_dims=3)
    labels_file = _find(folder, f"{part}-labels-idx1-ubyte")
    labels = read_idx(labels_file, n_dims=1)
    if not len(labels) or len(images) != len(labels):
        raise DatasetError(
            f"{labels_file} has {len(labels)} labels for {len(images)} images; take both files from one data set"
        )
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255), labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DatasetError(f"{folder / name}[.gz] is missing; download it into that folder")


def read_idx(path: Path, n_dims: int) -> Array:
    """Read an idx file of unsigned bytes: two zero bytes, type, number of dimensions, the dimensions, the data.

    Raises
    ------
    DatasetError
        If the file cannot be read or differs from that form in any byte.
    """
    data = _content(path)
    if data[:4] != bytes((0, 0, _UNSIGNED_BYTE, n_dims)):
        raise DatasetError(
            f"{path} is not an idx file of unsigned bytes in {n_dims} dimensions (it starts with "
            f"{data[:4].hex() or 'nothing'}); check that it is the right file, and download it again"
        )
    start = 4 + 4 * n_dims
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise DatasetError(f"{path} has {len(data)} bytes where its header says {expected}; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path} is not a whole gzip file ({error}); download it again") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
