"""The rows that early stopping holds out: those that scikit-learn draws, without what two classes cost there."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

Array = npt.NDArray[Any]


def validation_split(
    n_rows: int, y: Array | None, fraction: float, random_state: np.random.RandomState
) -> tuple[Array, Array]:
    """Return the indices of the rows to train on and of those to validate on, in scikit-learn's order.

    Parameters
    ----------
    n_rows : int
        Rows to split.
    y : array (n_rows,) or (n_rows, 1) of 0 and 1, or None
        The classes to keep in proportion, where there are two; None draws from all rows alike, which is what
        scikit-learn does for every other target.
    fraction : float in (0, 1)
        Share of the rows to validate on, rounded up.
    random_state : numpy.random.RandomState
        Where the draws come from; it moves on as scikit-learn's does.

    Raises
    ------
    ValueError
        If either part would be empty, or lack a class; if a class has a single row.
    """
    # scikit-learn's own column of bool is made into these very words row by row, in Python.
    words = None if y is None else np.array(["False", "True"]).take(y.ravel() != 0)
    train, validation = train_test_split(
        np.arange(n_rows), test_size=fraction, random_state=random_state, stratify=words
    )
    return train, validation
