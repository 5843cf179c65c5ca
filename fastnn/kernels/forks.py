"""A fork waits for the compiler: a child would wait for a thread that it does not have.

An error in what Python calls at a fork is lost, and the fork goes on. Handlers of signals are called wherever code of
Python begins or goes on, so locks are given back by functions of C alone.
"""

import ctypes
import functools
import itertools
import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from fastnn.kernels.listening import LOOKS_APART
from fastnn.kernels.room import check_room_for_a_thread

compiling = threading.RLock()  # of fastnn, taken before those of Numba and LLVM
# Python threads that make kernels, and those of them that wait till another process has done so.
makers: set[int] = set()
waiting: set[int] = set()

_acquire, _release = operator.methodcaller("acquire"), operator.methodcaller("release")
_acquire_soon = operator.methodcaller("acquire", True, LOOKS_APART)
_contexts = [vars(type(cpu_target))[f"_toplevel_{kind}_context"]._lock for kind in ("target", "typing")]
_LOCKS = [compiling, global_compiler_lock._lock, *_contexts, llvm.ffi.lib._lock._lock]
MOST_TRIES = 100
_forking = threading.RLock()  # of a thread that forks; nobody else changes
_taken: list[bool] = []  # whether it has each lock;
_lost: list[tuple[int, BaseException]] = []  # what was raised meanwhile, and in which thread


def _before_fork() -> None:
    """Take all locks, whatever signals come; after too many errors the fork goes on without those not taken."""
    while not _has_all() and len(_lost) < MOST_TRIES:
        try:
            while not _has_all() and len(_lost) < MOST_TRIES:
                try:
                    _take_locks()
                except BaseException as error:
                    _lost.append((threading.get_ident(), error))
        except BaseException as error:  # of a second signal, while the first is caught
            _lost.append((threading.get_ident(), error))


def _has_all() -> bool:
    return _forking._is_owned() and len(_taken) == len(_LOCKS)  # type: ignore[attr-defined]


def _take_locks() -> None:
    """Take the locks that are not taken yet, without a step of Python between one and its place in the list."""
    if not _forking._is_owned():  # type: ignore[attr-defined]
        _forking.acquire()
    # From now on Numba's context is there: a thread that makes it has its lock, and waits for the compiler's.
    cpu_target.target_context  # noqa: B018
    while not _taken:
        if waiting and waiting == makers:  # maybe for a process that hangs; what they have is left to the child
            _taken.append(False)
        else:
            _taken.extend(filter(None, map(_acquire_soon, [compiling])))
    _taken.extend(map(_acquire, _LOCKS[len(_taken) :]))


def _tell(lost: tuple[int, BaseException]) -> None:
    """Raise an error anew in its thread, once that is out of what a fork calls; some Python prints instead."""
    thread, error = lost
    if isinstance(error, MemoryError) or len(_lost) >= MOST_TRIES:
        raise error
    check_room_for_a_thread()
    threading.Thread(target=_raise_soon, args=(thread, error), name="fastnn signal", daemon=True).start()


def _raise_soon(thread: int, error: BaseException) -> None:
    time.sleep(LOOKS_APART)
    kind = type(error)
    if error.args:  # what is raised is what a class without arguments gives
        kind = type(kind.__name__, (kind,), {"__new__": lambda _: error})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _free_compiler() -> None:
    """In a child, whose only thread does not compile, or has been within a compile as it forked."""
    makers.clear()
    waiting.clear()
    if compiling.acquire(blocking=False):
        compiling.release()
    else:
        compiling._at_fork_reinit()  # type: ignore[attr-defined]


def _anew(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return an iterable of what make(*arguments) gives, made anew each time, without a step of Python."""
    return type("_Anew", (), {"__iter__": staticmethod(functools.partial(make, *arguments))})()


if hasattr(os, "register_at_fork"):
    for _ in range(2):  # a signal that comes as the first begins is raised there
        os.register_at_fork(before=_before_fork)
    _release_taken: Any = functools.partial(deque, _anew(map, _release, _anew(itertools.compress, _LOCKS, _taken)), 0)
    _tell_all: Any = functools.partial(deque, _anew(map, _tell, _lost), 0)
    for call in (_release_taken, _taken.clear, _tell_all, _lost.clear, _forking.release):
        os.register_at_fork(after_in_parent=call)
    for call in (_release_taken, _taken.clear, _lost.clear, _forking.release, _free_compiler):
        os.register_at_fork(after_in_child=call)
