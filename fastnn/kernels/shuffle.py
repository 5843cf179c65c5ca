"""Shuffling as NumPy does it, in a third of the time: without a jump for each number that is drawn in vain."""

import ctypes
import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from fastnn.kernels.jit import Wanted, entry_points, once
from fastnn.kernels.system import draw_bits

ROWS_AT_ONCE = 1_000_000  # some hundredths of a second
MOST_ROWS = 2**32  # for which 32 bits are drawn


def shuffle(order: npt.NDArray[np.int64], random_state: np.random.RandomState) -> None:
    """Shuffle in place as `random_state.shuffle(order)`, to the same bits; between pieces Python sees Ctrl-C."""
    bits = random_state._bit_generator
    is_numpys = type(random_state) is np.random.RandomState and isinstance(bits, np.random.BitGenerator)
    if not is_numpys or order.size > MOST_ROWS:  # a subclass may shuffle otherwise; NumPy needs no `ctypes` of others
        random_state.shuffle(order)
        return
    exchange, source = exchanger(), bits.ctypes  # compiled before the generator is held
    draw = ctypes.cast(source.next_uint32, ctypes.c_void_p).value
    for last in range(order.size - 1, 0, -ROWS_AT_ONCE):
        stop = max(0, last - ROWS_AT_ONCE)
        call_with(bits.lock, functools.partial(exchange, order, last, stop, draw, source.state_address))


def call_with(lock: Any, call: Callable[[], Any]) -> None:
    """Call what raises nothing while a lock is held, all in C, as NumPy draws.

    Between two bytecodes another thread may fork, whose child would find the lock taken for ever, or a signal's handler
    may draw.
    """
    list(map(operator.call, (lock.acquire, call, lock.release)))


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


EXCHANGE = Wanted(
    exchange, types.void(types.Array(types.int64, 1, "C"), *[types.int64] * 4), "exchange", nogil=False
)  # fmt: skip


@once
def exchanger() -> Any:
    """Return the compiled `exchange`."""
    (code,) = entry_points(EXCHANGE)
    code(np.empty(0, np.int64), 0, 0, 0, 0)  # Numba finds out about new types in Python; from now on all is C
    return code
