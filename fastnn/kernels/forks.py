"""A fork waits for the compiler: a child would wait for a thread that it does not have.

An error in what Python calls at a fork is lost, and the fork goes on. Handlers of signals are called wherever code of
Python begins or goes on, so locks are given back by functions of C alone.
"""

import ctypes
import functools
import itertools
import operator
import os
import signal
import threading
import time
from collections import defaultdict, deque
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

_contexts = [vars(type(cpu_target))[f"_toplevel_{kind}_context"]._lock for kind in ("target", "typing")]
_LOCKS = [global_compiler_lock._lock, *_contexts, llvm.ffi.lib._lock._lock]  # taken in this order, after `compiling`
_instead = threading.RLock()  # of `compiling`, where a fork does not wait for that
MOST_TRIES = 100
_WAKES: Any = getattr(signal, "SIGURG", None)  # which no system makes anything of by itself
# By Python thread: the locks taken for a fork, and for one that a handler makes meanwhile, and so on.
_taken: defaultdict[int, list[list[Any]]] = defaultdict(list)
_lost: list[tuple[int, BaseException]] = []  # what was raised meanwhile, of each kind one, and in which thread

_acquire, _release = operator.methodcaller("acquire"), operator.methodcaller("release")
_acquire_soon = operator.methodcaller("acquire", True, LOOKS_APART)


def _before_fork() -> None:
    """Take all locks, whatever signals come; after too many errors the fork goes on without those not taken."""
    tries, taken = itertools.count(), _taken[threading.get_ident()][-1]
    while len(taken) <= len(_LOCKS) and next(tries) < MOST_TRIES:
        try:
            while len(taken) <= len(_LOCKS) and next(tries) < MOST_TRIES:
                try:
                    _take_locks(taken)
                except BaseException as error:
                    _lose(error)
        except BaseException as error:  # of a second signal, while the first is caught
            _lose(error)


def _take_locks(taken: list[Any]) -> None:
    """Take the locks that are not taken yet, without a step of Python between one and its place in the list."""
    # From now on Numba's context is there: a thread that makes it has its lock, and waits for the compiler's.
    cpu_target.target_context  # noqa: B018
    while not taken:
        # For a process that maybe hangs; or for this thread, whose handler forks. `compiling` is left to the child.
        if (waiting and waiting == makers) or any(lock._is_owned() for lock in _LOCKS):
            taken.extend(filter(_acquire, [_instead]))
        else:
            taken.extend(filter(_acquire_soon, [compiling]))
    taken.extend(filter(_acquire, _LOCKS[len(taken) - 1 :]))


def _lose(error: BaseException) -> None:
    lost = threading.get_ident(), error
    if (lost[0], type(error)) not in [(thread, type(other)) for thread, other in _lost]:
        _lost.append(lost)
    if lost[0] == threading.main_thread().ident and signal.getsignal(_WAKES) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(_WAKES, lambda *_: None)  # a handler of Python, for what `_raise_soon` raises as that begins
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [_WAKES])


def _tell(lost: list[tuple[int, BaseException]]) -> None:
    """Have what was raised be raised anew in its thread, once that is out of what a fork calls; some Python prints."""
    told = []
    try:
        while lost:
            told.append(lost.pop(0))
        check_room_for_a_thread()
        threading.Thread(target=_raise_soon, args=(told,), name="fastnn signal", daemon=True).start()
    except RuntimeError:  # there can be no more threads: the first as soon as the fork is over, others after the next
        _at_once.extend((thread, _kind(error, threading.Event())) for thread, error in told[:1] if not _is_own(error))
        lost[:0] = told[1:]
    except BaseException:
        lost[:0] = told  # for the next fork
        raise
    for _, error in told:
        if _is_own(error):
            raise error


def _is_own(error: BaseException) -> bool:
    """Whether an error is not of a handler, but of the memory or the stack."""
    return isinstance(error, (MemoryError, RecursionError))


def _raise_soon(lost: list[tuple[int, BaseException]]) -> None:
    for thread, error in lost:
        time.sleep(LOOKS_APART)
        is_raised = threading.Event()
        if not _is_own(error) and _raise_in(thread, _kind(error, is_raised)):  # which keeps one error for each thread
            if thread == threading.main_thread().ident and not is_raised.is_set():
                signal.pthread_kill(thread, _WAKES)  # a call of C ends, and the handler, as it begins
            is_raised.wait()


def _kind(error: BaseException, is_raised: threading.Event) -> type[BaseException]:
    """Return a class that gives an error where Python calls it, to raise it."""

    def raised(_: type) -> BaseException:
        is_raised.set()
        return error

    try:
        return type(type(error).__name__, (type(error),), {"__new__": raised})
    except TypeError:  # no other can be made of it
        is_raised.set()
        return type(error)


def _free_locks() -> None:
    """In a child, whose only thread has the locks of a compile that it is within, and no more."""
    makers.clear()
    waiting.clear()
    for thread in _taken.keys() - {threading.get_ident()}:
        del _taken[thread]
    for lock in (compiling, _instead, *_LOCKS):
        if lock.acquire(blocking=False):
            lock.release()
        else:
            lock._at_fork_reinit()


# -- calls of C, with no step of Python in them ------------------------------------------------------------------------


def _anew(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return an iterable of what make(*arguments) gives, made anew each time."""
    return type("_Anew", (), {"__iter__": staticmethod(functools.partial(make, *arguments))})()


def _for_each(function: Callable[..., Any], iterable: Any) -> Callable[[], Any]:
    """Return a call that calls a function for each of what is iterated over then."""
    return functools.partial(deque, _anew(map, function, iterable), 0)


_this = _anew(map, _taken.__getitem__, _anew(map, operator.call, [threading.get_ident]))  # of this thread: one item
_begin = _for_each(operator.methodcaller("extend", _anew(map, list, [()])), _this)
_end = _for_each(_release, _anew(itertools.chain.from_iterable, _anew(map, operator.methodcaller("pop"), _this)))
_tell_all = _for_each(_tell, _anew(filter, None, [_lost]))  # if there are some
_raise_in = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)
_at_once: list[tuple[int, type[BaseException]]] = []
_raise_at_once: Any = functools.partial(deque, _anew(itertools.starmap, _raise_in, _at_once), 0)

if hasattr(os, "register_at_fork"):
    # The last one is called first. Twice: a signal that comes as one begins is raised there.
    for before in (_before_fork, _before_fork, _begin):
        os.register_at_fork(before=before)
    for after in (_end, _tell_all, _raise_at_once, _at_once.clear):
        os.register_at_fork(after_in_parent=after)
    for after in (_end, _lost.clear, _free_locks):
        os.register_at_fork(after_in_child=after)
