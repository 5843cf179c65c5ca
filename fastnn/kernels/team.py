"""A team of threads that goes through phases together: each phase has slices, taken by whoever comes first.

One call serves many steps, where to call a team costs as much as a small one. A thread that comes late holds nobody up:
its slice is claimed by another, and it finds its place when it comes. So no phase waits for a thread that has not
begun, whatever the system runs at once, and one thread alone finishes everything. What a slice computes does not depend
on who takes it.

`state` is one int64 array of `state_size(n_slices)` zeros: the last phase that is complete, the slices finished in
all phases, 1 if the team is to stop, and for each slice the last phase it was claimed in, each on a cache line of its
own. A team that stops leaves everything as far as it has come.

The calling thread is one of the team; the others are *workers*, Python threads that wait in `serve`, each at a mailbox
of its own, and do not hold the lock of the interpreter.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastnn.kernels.jit import Wanted, address_in_memory, entry_points, is_ready, jit, once
from fastnn.kernels.system import (
    WORDS_OF_CPUS,
    array_at,
    let_others_run,
    ring_bell,
    run_anywhere,
    wait_for_bell,
    wake_elsewhere,
)
from fastnn.kernels.width import PREFERENCE

I64 = ir.IntType(64)
STRIDE = 8  # int64s of a cache line
COMPLETE, FINISHED, STOP, CLAIMS = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
PATIENCE = 4096  # looks at the state, some tens of microseconds, before a waiting thread lets others run


def state_size(n_slices: int) -> int:
    return CLAIMS + STRIDE * n_slices


def _element(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.data_model_manager[signature.args[0]].get(builder, args[0], "data")
    return builder.gep(data, [args[1]])


@intrinsic
def _exchange(typingctx, state, at, before, after):
    """Put `after` for `before` in state[at]; whether it was there."""

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "monotonic"), 1)

    return types.boolean(state, types.int64, types.int64, types.int64), codegen


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


@jit
def next_slice(state, thread, n_slices, phase):
    """Claim a slice of a phase for this thread, its own first; -1 when all are taken."""
    for turn in range(n_slices):
        number = (thread + turn) % n_slices
        if _exchange(state, CLAIMS + STRIDE * number, phase - 1, phase):
            return number
    return -1


@jit
def next_piece(state, thread, n_threads, n_pieces):
    """Claim a piece of work that has no phases, `n_pieces` for each thread, its own first; -1 if none is left."""
    for turn in range(n_threads):
        owner = (thread + turn) % n_threads
        n = _increment(state, CLAIMS + STRIDE * owner)
        if n <= n_pieces:
            return owner * n_pieces + n - 1
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
def is_stopped(state):
    """Whether the team is to stop."""
    return _load(state, STOP) != 0


@jit
def look_again(looks):
    """Count one more look at what another thread is to write; after many, let others run meanwhile."""
    if looks >= PATIENCE:
        let_others_run()
    return looks + 1


@jit
def wait_for(state, phase):
    """Wait until a phase is complete: all that was written in it can then be read. False if the team is to stop."""
    looks = 0
    while _load(state, COMPLETE) < phase and not is_stopped(state):
        looks = look_again(looks)
    return not is_stopped(state)


# -- calling a team ----------------------------------------------------------------------------------------------------

# A mailbox: what its worker does, and what to call: the code at an address, with the number of a thread and the address
# of its frame; the bell that the worker sleeps by, its thread as the system calls it, whether it is to end, and
# the CPUs that it may run on, those it was woken on, and those it finds itself on then.
DOES, CODE, THREAD, FRAME, BELL, SLEEPER, ENDS, CPUS = *range(7), STRIDE
MAILBOX_SIZE = CPUS + 3 * WORDS_OF_CPUS
WAITS, ASLEEP, IS_CALLED, IS_AT_WORK = range(4)
LOOKS_AWAKE = PATIENCE + 2000  # a millisecond of CPU time, before a worker goes to sleep: to wake it takes a tenth


def _copy(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), I64)


@intrinsic
def address_of(typingctx, values):
    """Address of a copy of `values` that lasts as long as the caller runs."""
    return types.int64(values), _copy


def frame_of(kinds: Sequence[Any]) -> Any:
    """Return what is as `address_of`, for a frame of these types alone: who reads it goes by them."""

    @intrinsic
    def frame(typingctx, values):
        given = [types.unliteral(kind) for kind in values]
        if given != list(kinds):
            raise TypingError(f"a frame must be of {list(kinds)}, got {given}")
        return types.int64(values), _copy

    return frame


CREW = types.Array(types.int64, 1, "C")  # addresses of mailboxes
CALL = types.int64, types.int64  # what code takes: the number of a thread or a slice, and the address of a frame


def _caller(typing: Any, function: Any, frame: Any, arguments: Mapping[str, Any]) -> Any:
    """Return what writes a call of function(number, *frame), for a tuple of types `frame` at an address.

    Where there are `arguments`, by their names, the last of the frame is the address of a tuple of them; instead of it
    the function gets those that it names, and the address before them if it names `arguments`.
    """
    passed = frame[:-1] if arguments else frame
    code = function.py_func.__code__
    names = code.co_varnames[1 + len(passed) : code.co_argcount]
    if "arguments" in names:
        passed, names = frame, names[1:]
    places = [list(arguments).index(name) for name in names]
    kind = typing.resolve_value_type(function)
    signature = kind.get_call_type(typing, (types.int64, *passed, *(arguments[name] for name in names)), {})

    def at(context: Any, builder: Any, address: Any, kinds: Any) -> Any:
        return builder.inttoptr(address, context.get_value_type(types.Tuple(list(kinds))).as_pointer())  # type: ignore[attr-defined]

    def write(context: Any, builder: Any, number: Any, address: Any) -> None:
        given = cgutils.unpack_tuple(builder, builder.load(at(context, builder, address, frame)))
        values = [number, *given[: len(passed)]]
        if arguments:
            whole = at(context, builder, given[-1], arguments.values())
            values += [builder.load(cgutils.gep_inbounds(builder, whole, 0, place)) for place in places]
        context.get_function(kind, signature)(builder, values)

    return write


def code_of(function: Any, names: Collection[str] = ()) -> Any:
    """Return what gives, for a frame and arguments, the address of code that calls `function` as said in `_caller`."""

    @intrinsic
    def code(typingctx, frame, arguments):
        write = _caller(typingctx, function, tuple(frame), dict(zip(names, arguments, strict=True)))

        def codegen(context, builder, signature, args):
            outer = ir.Function(builder.module, context.call_conv.get_function_type(types.void, CALL), "fastnn_code")
            outer.linkage = "internal"
            outer.attributes.update(["noinline", PREFERENCE])
            context.call_conv.decorate_function(outer, ("number", "frame"), CALL)
            body = ir.IRBuilder(outer.append_basic_block())
            write(context, body, *context.call_conv.get_arguments(outer))
            context.call_conv.return_value(body, context.get_dummy_value())
            return builder.ptrtoint(outer, I64)

        return types.int64(frame, arguments), codegen

    return code


def part_of(function: Any, frame: Sequence[Any], arguments: Mapping[str, Any], name: str) -> Any:
    """Return an entry point to compile, with the types of `CALL`, which calls `function` as said in `_caller`.

    Machine code is found by names, and Numba's counter, which tells functions of one name apart, begins anew in each
    process: so no other part, of another process maybe, must have its `name`.
    """

    @intrinsic
    def call(typingctx, number, address):
        write = _caller(typingctx, function, frame, arguments)

        def codegen(context, builder, signature, args):
            write(context, builder, *args)
            return context.get_dummy_value()

        return types.void(*CALL), codegen

    def part(number, address):
        call(number, address)

    part.__name__ = part.__qualname__ = name
    return part


@intrinsic
def call_code(typingctx, code, number, frame):
    """Call the code at an address, with the address of a frame."""

    def codegen(context, builder, signature, args):
        function = builder.inttoptr(args[0], context.call_conv.get_function_type(types.void, CALL).as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.void, CALL, args[1:])
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(code, number, frame), codegen


@jit
def call_team(crew, code, frame):
    """Call the code in this thread and in the workers of the mailboxes at the addresses in `crew`.

    One that sleeps is woken; the team begins meanwhile, and does without those that have not come when it is done.
    """
    for i in range(crew.size):
        mailbox = array_at(crew[i], MAILBOX_SIZE, np.int64)
        mailbox[CODE], mailbox[THREAD], mailbox[FRAME] = code, i + 1, frame
        if not _exchange(mailbox, DOES, WAITS, IS_CALLED) and _exchange(mailbox, DOES, ASLEEP, IS_CALLED):
            wake_elsewhere(mailbox[SLEEPER], crew[i] + 8 * CPUS)
            ring_bell(mailbox[BELL])
    call_code(code, 0, frame)
    for i in range(crew.size):
        mailbox, looks = array_at(crew[i], MAILBOX_SIZE, np.int64), 0
        _exchange(mailbox, DOES, IS_CALLED, WAITS)  # it has not come, and need not any more
        while _load(mailbox, DOES) == IS_AT_WORK:
            looks = look_again(looks)


def serve(address):
    """Do what comes into a mailbox, and sleep when nothing has come for a while, until it is told to end."""
    mailbox, looks = array_at(address, MAILBOX_SIZE, np.int64), 0
    while _load(mailbox, ENDS) == 0:
        if _load(mailbox, DOES) == IS_CALLED and _exchange(mailbox, DOES, IS_CALLED, IS_AT_WORK):
            call_code(mailbox[CODE], mailbox[THREAD], mailbox[FRAME])
            _store(mailbox, DOES, WAITS)
            looks = 0
        looks = look_again(looks)
        if looks > LOOKS_AWAKE and _exchange(mailbox, DOES, WAITS, ASLEEP):
            wait_for_bell(mailbox[BELL], 1)
            run_anywhere(address + 8 * CPUS)
            looks = 0


WORKER = Wanted(serve, types.void(types.int64), "worker")


@once
def worker() -> Any:
    """Return the compiled `serve`."""
    (code,) = entry_points(WORKER)
    return code


_NAMES = {np.dtype(name): name for name in ("float32", "float64")}  # NumPy finds a name anew each time, in 5 µs


class Engine:
    """Entry points for each dtype, compiled when they are first needed: start([codes,] crew, arguments).

    `argument_types` gives the types of the arguments, by name, for a type of numbers. `parts` are functions that are
    compiled apart, by their names, with the types of their frames, see `part_of`; `codes`, the first of the arguments,
    has their addresses, and after them those of `sparse_parts`, 0 where rows are not sparse. What is needed `also` is
    compiled at the same time. Without `nogil` it is for `start` to decide whether other Python threads run meanwhile.
    """

    def __init__(
        self,
        start: Any,
        argument_types: Callable[[Any], dict[str, Any]],
        suffix: str = "",
        parts: Mapping[str, tuple[Any, Sequence[Any]]] = MappingProxyType({}),
        sparse_parts: Mapping[str, tuple[Any, Sequence[Any]]] = MappingProxyType({}),
        also: Sequence[Wanted] = (),
        nogil: bool = True,
    ) -> None:
        self._start, self._argument_types, self._nogil = start, argument_types, nogil
        self._suffix, self._also = suffix, also
        self._parts, self._sparse_parts = parts, sparse_parts
        self._known: dict[np.dtype[Any], tuple[list[Wanted], list[Wanted], Wanted]] = {}

    def _name(self, dtype: np.dtype[Any]) -> str:
        return _NAMES[dtype] + self._suffix

    def _names(self, dtype: np.dtype[Any], parts: Iterable[str]) -> list[str]:
        return [f"{self._name(dtype)}-{part}" for part in parts]

    def _wanted(self, dtype: np.dtype[Any]) -> tuple[list[Wanted], list[Wanted], Wanted]:
        """Return the parts, those of sparse rows, and what starts them."""
        if dtype not in self._known:
            arguments = self._argument_types(numba.from_dtype(dtype))

            def wanted(parts: Mapping[str, tuple[Any, Sequence[Any]]]) -> list[Wanted]:
                return [
                    Wanted(part_of(function, frame, arguments, name), types.void(*CALL), name)
                    for name, (function, frame) in zip(self._names(dtype, parts), parts.values(), strict=True)
                ]

            given = list(arguments.values())
            codes, passed = (given[:1], given[1:]) if self._parts else ([], given)
            signature = types.void(*codes, CREW, types.Tuple(passed))  # type: ignore[attr-defined]
            start = Wanted(self._start, signature, self._name(dtype), self._nogil)
            # Two threads may come here at once, and must get the same.
            self._known.setdefault(dtype, (wanted(self._parts), wanted(self._sparse_parts), start))
        return self._known[dtype]

    @once
    def code(self, dtype: np.dtype[Any], sparse: bool = False) -> Any:
        """Return the compiled function; from the cache when this machine compiled it before."""
        parts, sparse_parts, start = self._wanted(dtype)
        also = [one for one in self._also if not is_ready(one.name)]
        entry_points(start, *parts, *(sparse_parts if sparse else ()), *also)
        if not parts:
            return start.made
        addresses = [address_in_memory(part.made) for part in parts]
        addresses += [address_in_memory(part.made) if sparse else 0 for part in sparse_parts]
        return functools.partial(start.made, np.array(addresses))

    def is_compiled(self, dtype: np.dtype[Any]) -> bool:
        """Whether this dtype's code is there, in this process or on disk, so that nobody waits for the compiler."""
        return all(is_ready(name) for name in (*self._names(dtype, self._parts), self._name(dtype)))
