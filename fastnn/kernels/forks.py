"""A fork waits for the compiler: a child would wait for a thread that it does not have."""

import _thread
import collections
import contextlib
import operator
import os
import threading
import time

import llvmlite.binding as llvm
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from fastnn.kernels.listening import LOOKS_APART
from fastnn.kernels.room import check_room_for_a_thread

compiling = threading.RLock()  # of fastnn, taken before those of Numba and LLVM

_acquire, _release = operator.methodcaller("acquire"), operator.methodcaller("release")
_contexts = [vars(type(cpu_target))[f"_toplevel_{kind}_context"]._lock for kind in ("target", "typing")]
_LOCKS = [compiling, global_compiler_lock._lock, *_contexts, llvm.ffi.lib._lock._lock]
MOST_TRIES = 100
_this = threading.local()  # thread, while it forks: the locks it has, and what was raised meanwhile


def _before_fork() -> None:
    """Take all locks, whatever signals come: an error is lost here, and the fork goes on without those not taken."""
    _this.taken, _this.lost = [], []
    while len(_this.taken) < len(_LOCKS) and len(_this.lost) < MOST_TRIES:
        try:
            while len(_this.taken) < len(_LOCKS) and len(_this.lost) < MOST_TRIES:
                try:
                    # From now on Numba's context is there: a thread that makes it has its lock, and waits for the
                    # compiler's.
                    cpu_target.target_context  # noqa: B018
                    # Without a step of Python between a lock and its place in the list; who goes first counts.
                    _this.taken.extend(map(_acquire, _LOCKS[len(_this.taken) :]))
                except BaseException as error:
                    _this.lost.append(error)
        except BaseException as error:  # of a second signal, while the first is caught
            _this.lost.append(error)


def _after_fork() -> None:
    taken = _LOCKS[: len(_this.taken)]
    collections.deque(map(_release, reversed(taken)), 0)  # without a step of Python between them


def _after_fork_in_parent() -> None:
    """As the other, and let the caller see Ctrl-C that came while the fork waited."""
    _after_fork()
    for error in _this.lost:
        if not isinstance(error, KeyboardInterrupt):
            raise error  # Python prints it
    if _this.lost:
        with contextlib.suppress(RuntimeError):  # there can be no more threads
            check_room_for_a_thread()
            _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(LOOKS_APART)  # no error gets out of what a fork still has to call
    _thread.interrupt_main()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
