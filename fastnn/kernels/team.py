"""A team of threads that goes through phases together: each phase has slices, taken by whoever comes first.

One parallel region serves a whole epoch, where entering one costs as much as a small step. A thread that comes
late holds nobody up: its slice is claimed by another, and it finds its place when it comes. So no phase waits
for a thread that has not begun, whatever the threading layer runs at once, and one thread alone finishes everything.
What a slice computes does not depend on who takes it.

`state` is one int64 array of `state_size(n_slices)` zeros: the last phase that is complete, the slices finished in
all phases, and for each slice the last phase it was claimed in, each on a cache line of its own.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastnn.kernels.jit import entry_point, is_ready, jit, once

I64 = ir.IntType(64)
STRIDE = 8  # int64s of a cache line
COMPLETE, FINISHED, CLAIMS = 0, STRIDE, 2 * STRIDE
PATIENCE = 4096  # looks at the state, some tens of microseconds, before a waiting thread lets others run

_windows = sys.platform == "win32"
_yield = ctypes.CDLL("kernel32").SwitchToThread if _windows else ctypes.CDLL(None).sched_yield
llvm.add_symbol("fastnn_yield", ctypes.cast(_yield, ctypes.c_void_p).value)


def state_size(n_slices: int) -> int:
    return CLAIMS + STRIDE * n_slices


def _element(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
    return builder.gep(data, [args[1]])


@intrinsic
def _advance(typingctx, state, at, value):
    """Raise state[at] from value - 1 to value; whether this thread did it."""

    def codegen(context, builder, signature, args):
        pointer, value = _element(context, builder, signature, args), args[2]
        pair = builder.cmpxchg(pointer, builder.sub(value, I64(1)), value, "acq_rel", "monotonic")
        return builder.extract_value(pair, 1)

    return types.boolean(state, types.int64, types.int64), codegen


@intrinsic
def _increment(typingctx, state, at):
    """Add 1 to state[at]; return the sum."""

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature, args)
        return builder.add(builder.atomic_rmw("add", pointer, I64(1), "acq_rel"), I64(1))

    return types.int64(state, types.int64), codegen


@intrinsic
def _load(typingctx, state, at):
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_element(context, builder, signature, args), "acquire", 8)

    return types.int64(state, types.int64), codegen


@intrinsic
def _store(typingctx, state, at, value):
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _element(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(state, types.int64, types.int64), codegen


@intrinsic
def _let_others_run(typingctx):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "fastnn_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@jit
def next_slice(state, thread, n_slices, phase):
    """Claim a slice of a phase for this thread, its own first; -1 when all are taken."""
    for turn in range(n_slices):
        number = (thread + turn) % n_slices
        if _advance(state, CLAIMS + STRIDE * number, phase):
            return number
    return -1


@jit
def finish_slice(state, n_slices, phase):
    """Report a slice done; True for the last of the phase, whose thread then calls `complete`."""
    return _increment(state, FINISHED) == n_slices * phase


@jit
def complete(state, phase):
    """Let the team go on from a phase."""
    _store(state, COMPLETE, phase)


@jit
def wait_for(state, phase):
    """Wait until a phase is complete: all that was written in it can then be read."""
    looks = 0
    while _load(state, COMPLETE) < phase:
        looks += 1
        if looks > PATIENCE:
            _let_others_run()


@intrinsic
def address_of(typingctx, values):
    """Address of a copy of `values` that lasts as long as the caller runs."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), I64)

    return types.int64(values), codegen


def native_caller(argument_types: Callable[[Any], list[Any]]) -> Any:
    """Return what calls the machine code of an entry point that has such arguments after the thread."""

    @intrinsic
    def call_native(typingctx, address, thread, arguments, zero):
        """Call the code at `address` with the thread and the tuple at `arguments`; `zero` tells the dtype."""
        kinds = argument_types(zero)

        def codegen(context, builder, signature, args):
            packed = context.get_value_type(types.Tuple(kinds)).as_pointer()
            values = cgutils.unpack_tuple(builder, builder.load(builder.inttoptr(args[2], packed)))
            function_type = context.call_conv.get_function_type(types.void, (types.int64, *kinds))
            function = builder.inttoptr(args[0], function_type.as_pointer())
            context.call_conv.call_function(builder, function, types.void, (types.int64, *kinds), [args[1], *values])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, zero), codegen

    return call_native


class Engine:
    """A function that each thread of a team goes through, compiled for a dtype when that is first needed.

    `argument_types` gives the types of its arguments after the thread. `region` is a parallel region of Numba's around
    it: region(n_threads, address, zero, arguments) calls the code at `address` in each thread.
    """

    def __init__(
        self, function: Any, region: Any, argument_types: Callable[[Any], list[Any]], suffix: str = ""
    ) -> None:
        self._function, self._region, self._argument_types, self._suffix = function, region, argument_types, suffix

    def _name(self, dtype: np.dtype[Any]) -> str:
        return dtype.name + self._suffix

    @once
    def driver(self, dtype: np.dtype[Any]) -> Any:
        """Return the compiled function; from the cache when this machine compiled it before."""
        signature = types.void(types.int64, *self._argument_types(numba.from_dtype(dtype)))
        return entry_point(self._function, signature, self._name(dtype))

    @once
    def _team(self, dtype: np.dtype[Any]) -> tuple[Any, int]:
        """Return the compiled region, and the address of the machine code that each of its threads runs."""
        real = numba.from_dtype(dtype)
        arguments = types.Tuple(self._argument_types(real))  # type: ignore[attr-defined]
        signature = types.void(types.int64, types.int64, real, arguments)
        (compiled,) = self.driver(dtype).overloads.values()
        address = int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
        return entry_point(self._region, signature, f"{self._name(dtype)}-team", parallel=True), address

    def is_compiled(self, dtype: np.dtype[Any]) -> bool:
        """Whether this dtype's code is there, in this process or on disk, so that nobody waits for the compiler."""
        return is_ready(self._name(dtype))

    def prepare(self, dtype: np.dtype[Any], with_team: bool = False) -> None:
        """Compile or load what `launch` needs; with the parallel region, which waits until it is needed otherwise."""
        self.driver(dtype)
        if with_team:
            self._team(dtype)

    def launch(
        self, dtype: np.dtype[Any], n_threads: int, arguments: tuple[Any, ...], run_team: Callable[..., None]
    ) -> None:
        """Call the function in this thread, or in `n_threads` that `run_team` gets to work: in the region, or else.

        With Numba's bounds checks in this thread alone: it can raise their error, and the others would wait for its
        slice.
        """
        driver = self.driver(dtype)

        def one(thread: int) -> None:
            driver(thread, *arguments)

        def region() -> None:
            code, address = self._team(dtype)
            code(n_threads, address, dtype.type(0), arguments)

        if n_threads == 1 or numba.config.BOUNDSCHECK:
            one(0)
        else:
            run_team(n_threads, region, one)
