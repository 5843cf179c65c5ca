"""Orders of very many rows, bit for bit as NumPy's `RandomState.shuffle` draws them, in pieces that Ctrl-C can end.

Fisher and Yates' exchanges, from the last place down. NumPy's legacy rule draws each partner: 32 random bits, of which
those count that the place itself has, again where they come to more than the place.
"""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastnn.kernels.jit import entry_point, once

I64, ADDRESS = ir.IntType(64), types.int64
MANY = 2_000_000  # elements, for which NumPy takes some 30 ms; for fewer it is not worth while to load this
PIECE = 1_000_000  # exchanges of one call, some 25 ms where the order is larger than the caches
MOST = 2**32  # elements; NumPy draws 64 bits for more


@intrinsic
def _next_uint32(typingctx, function, state):
    """Call a bit generator's function at an address, of its state at another one."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.IntType(32), [pointer])
        drawn = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.inttoptr(args[1], pointer)])
        return builder.zext(drawn, I64)

    return types.int64(function, state), codegen


def _exchange(order, first, last, function, state):
    """Exchange the elements at the places from `first` down to `last` with those drawn for them."""
    place, mask = first, 1
    while mask < first:
        mask = 2 * mask + 1
    while place >= last:
        if place <= mask >> 1:
            mask >>= 1
        partner = _next_uint32(function, state) & mask
        # Whether it counts, nobody can predict: a branch would be wrong about once in four.
        counts = partner <= place
        partner = partner if counts else place
        order[place], order[partner] = order[partner], order[place]
        place -= counts


@once
def exchange() -> Any:
    """Return the compiled function."""
    return entry_point(_exchange, types.void(types.int64[::1], *[types.int64] * 2, ADDRESS, ADDRESS), "shuffle")


def shuffle(order: npt.NDArray[np.int64], random_state: np.random.RandomState) -> None:
    """Shuffle in place.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, with the random state as before.
    """
    if not MANY <= len(order) <= MOST:
        random_state.shuffle(order)
        return
    call, generator, before = exchange(), random_state._bit_generator, random_state.get_state(legacy=False)
    function = ctypes.cast(generator.ctypes.next_uint32, ctypes.c_void_p).value
    try:
        for first in range(len(order) - 1, 0, -PIECE):
            with generator.lock:
                call(order, first, max(1, first - PIECE + 1), function, generator.ctypes.state_address)
    except KeyboardInterrupt:
        random_state.set_state(before)
        raise
