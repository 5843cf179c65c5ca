"""Shuffling as NumPy does it, in a third of the time: without a jump for each number that is drawn in vain."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from fastnn.kernels.jit import entry_point, once
from fastnn.kernels.system import draw_bits

ROWS_AT_ONCE = 1_000_000  # some hundredths of a second
MOST_ROWS = 2**32  # for which 32 bits are drawn


def shuffle(order: npt.NDArray[np.int64], random_state: np.random.RandomState) -> None:
    """Shuffle in place as `random_state.shuffle(order)`, to the same bits; between pieces Python sees Ctrl-C."""
    if type(random_state).shuffle is not np.random.RandomState.shuffle or order.size > MOST_ROWS:
        random_state.shuffle(order)
        return
    bits = random_state._bit_generator
    source = bits.ctypes
    draw = ctypes.cast(source.next_uint32, ctypes.c_void_p).value
    with bits.lock:
        for last in range(order.size - 1, 0, -ROWS_AT_ONCE):
            exchanger()(order, last, max(0, last - ROWS_AT_ONCE), draw, source.state_address)


def exchange(order, last, stop, draw, state):
    """Let the entries from `last` down to `stop`, without it, change places with one drawn at or before them.

    A number is drawn in as many bits as the place has, and again while it is larger.
    """
    place = last
    while place > stop:
        mask = 1
        while mask < place:
            mask = 2 * mask + 1
        end = max(stop, mask >> 1)
        while place > end:
            drawn = draw_bits(draw, state) & mask
            partner = drawn if drawn <= place else place
            order[place], order[partner] = order[partner], order[place]
            place -= 1 if drawn <= place else 0


@once
def exchanger() -> Any:
    """Return the compiled `exchange`."""
    return entry_point(exchange, types.void(types.Array(types.int64, 1, "C"), *[types.int64] * 4), "exchange")
