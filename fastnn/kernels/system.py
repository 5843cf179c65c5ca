"""What compiled code asks of the system and of Python: to sleep and to wake, to let others run, and on which CPU.

The bells are Python's own locks, whose functions need no lock of the interpreter.
"""

import ctypes
import sys
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastnn.kernels.jit import jit

I64 = ir.IntType(64)
WORDS_OF_CPUS = 16  # of 64 bits, a CPU each, as in C's cpu_set_t

_new_lock = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
_take, _release = ctypes.pythonapi.PyThread_acquire_lock, ctypes.pythonapi.PyThread_release_lock
_libc: Any = None if sys.platform == "win32" else ctypes.CDLL(None)
_HAS_CPUS = sys.platform == "linux" and hasattr(_libc, "sched_getcpu")


def _system(name: str, function: Any, result: Any, *arguments: Any) -> Any:
    """Return a function of the system as kernels call it, by a name that holds in every process."""
    llvm.add_symbol(f"fastnn_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(f"fastnn_{name}", result(*arguments))


let_others_run = _system(
    "yield", _libc.sched_yield if _libc else ctypes.CDLL("kernel32").SwitchToThread, types.int32
)
wait_for_bell = _system("wait", _take, types.int32, types.int64, types.int32)
ring_bell = _system("ring", _release, types.void, types.int64)
# The lock of the interpreter, around what takes long; nothing in between may raise.
release_gil = _system("release_gil", ctypes.pythonapi.PyEval_SaveThread, types.int64)
take_gil = _system("take_gil", ctypes.pythonapi.PyEval_RestoreThread, types.void, types.int64)


def new_bell() -> int:
    """Return the address of a bell, by which a thread sleeps until it rings."""
    bell = _new_lock()
    if bell is None:
        raise MemoryError("the system has no lock for another thread")
    _take(ctypes.c_void_p(bell), 0)
    return int(bell)


def ring(bell: int) -> None:
    _release(ctypes.c_void_p(bell))


@intrinsic
def array_at(typingctx, address, size, dtype):
    """Return the array of `size` elements that lies at an address."""
    signature = types.Array(dtype.dtype, 1, "C")(types.int64, types.int64, dtype)

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.return_type)(context, builder)
        element = context.get_data_type(signature.return_type.dtype)
        itemsize = I64(context.get_abi_sizeof(element))
        data = builder.inttoptr(args[0], element.as_pointer())
        context.populate_array(array, data=data, shape=[args[1]], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return array._getvalue()

    return signature, codegen


@intrinsic
def draw_bits(typingctx, draw, state):
    """Return 32 random bits of what NumPy's generators give other code: `next_uint32` and the address of the state."""

    def codegen(context, builder, signature, args):
        function = builder.inttoptr(args[0], ir.FunctionType(ir.IntType(32), [I64]).as_pointer())
        return builder.zext(builder.call(function, [args[1]]), I64)

    return types.int64(draw, state), codegen


if _HAS_CPUS:
    _cpu_of_caller = _system("cpu", _libc.sched_getcpu, types.int32)
    _get_cpus, _set_cpus = (
        _system(name, function, types.int32, types.int32, types.int64, types.int64)
        for name, function in (("get_cpus", _libc.sched_getaffinity), ("set_cpus", _libc.sched_setaffinity))
    )

    @jit
    def wake_elsewhere(thread, cpus):
        """Have a thread that sleeps wake on another CPU than this one; `cpus` is where to note those it may run on.

        In a virtual machine Linux takes a CPU that sleeps for one that is not there, and puts who is woken behind who
        wakes it, for some hundredths of a second.
        """
        cpu, n_bytes = _cpu_of_caller(), 8 * WORDS_OF_CPUS
        allowed, others = (array_at(cpus, WORDS_OF_CPUS, np.int64), array_at(cpus + n_bytes, WORDS_OF_CPUS, np.int64))
        for i in range(WORDS_OF_CPUS):
            allowed[i] = others[i] = 0
        if cpu < 0 or cpu >= 64 * WORDS_OF_CPUS or _get_cpus(thread, n_bytes, cpus) != 0:
            return
        for i in range(WORDS_OF_CPUS):
            others[i] = allowed[i]
        others[cpu // 64] &= ~(1 << cpu % 64)
        _set_cpus(thread, n_bytes, cpus + n_bytes)  # changes nothing where there are no others

    @jit
    def run_anywhere(cpus):
        """Let this thread run on all its CPUs again, unless somebody has given it others since it was woken."""
        n_bytes = 8 * WORDS_OF_CPUS
        others = array_at(cpus + n_bytes, WORDS_OF_CPUS, np.int64)
        found = array_at(cpus + 2 * n_bytes, WORDS_OF_CPUS, np.int64)
        if _get_cpus(0, n_bytes, cpus + 2 * n_bytes) != 0:
            return
        for i in range(WORDS_OF_CPUS):
            if found[i] != others[i]:
                return
        _set_cpus(0, n_bytes, cpus)

else:

    @jit
    def wake_elsewhere(thread, cpus):
        pass

    @jit
    def run_anywhere(cpus):
        pass
