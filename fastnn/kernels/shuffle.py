"""Shuffling as NumPy does it, in pieces: its own is one call, which for ten million rows takes half a second."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from fastnn.kernels.jit import entry_point, once

ROWS_AT_ONCE = 1_000_000  # some hundredths of a second


def shuffle(order: npt.NDArray[np.int64], random_state: np.random.RandomState) -> None:
    """Shuffle in place as `random_state.shuffle(order)`, to the same bits; between pieces Python sees Ctrl-C."""
    if order.size <= ROWS_AT_ONCE:
        random_state.shuffle(order)
        return
    for last in range(order.size - 1, 0, -ROWS_AT_ONCE):
        # From the last entry down to the second, each changes places with one at or before it.
        bounds = np.arange(last + 1, max(1, last + 1 - ROWS_AT_ONCE), -1)
        exchanger()(order, last, random_state.randint(0, bounds, dtype=np.int64))


def exchange(order, last, partners):
    """Let the entries from `last` down change places with their partners."""
    for i in range(partners.size):
        j = partners[i]
        order[last - i], order[j] = order[j], order[last - i]


@once
def exchanger() -> Any:
    """Return the compiled `exchange`."""
    indices = types.Array(types.int64, 1, "C")
    return entry_point(exchange, types.void(indices, types.int64, indices), "exchange")
