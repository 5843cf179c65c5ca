"""The forward pass in NumPy: for processes whose machine has no compiled kernels yet, and which only predict."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.kernels import activations, losses

Array = npt.NDArray[Any]

BLOCK_ROWS = 2048  # so that memory does not grow with rows x hidden units


def forward(X: Any, weights: Sequence[Array], biases: Sequence[Array], hidden: Sequence[str], output: str) -> Array:
    """Return the outputs (n, n_out) for rows of X, dense or CSR; `hidden` names the activation of each hidden layer."""
    functions: list[Any] = [*(activations.IN_NUMPY[name] for name in hidden), losses.IN_NUMPY[output]]
    out = np.empty((X.shape[0], len(biases[-1])), biases[-1].dtype)
    with np.errstate(all="ignore"):  # as in the kernels, what overflows shows in the result
        for start in range(0, len(out), BLOCK_ROWS):
            a = X[start : start + BLOCK_ROWS]
            for W, b, function in zip(weights, biases, functions, strict=True):
                a = function(a @ W + b)
            out[start : start + BLOCK_ROWS] = a
    return out
