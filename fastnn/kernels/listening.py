"""Long calls during which Ctrl-C is seen at once.

Signals reach the main thread alone, and Python's handlers run there between bytecodes: never within a call of C, and
what they raise in a callback or a destructor is lost. So another thread calls while the main one waits.
"""

import _imp
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from fastnn.kernels.room import check_room_for_a_thread

LOOKS_APART = 0.05  # seconds; a system on which a signal does not end a wait has it looked for


def call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what function(*arguments) returns. What a handler raises meanwhile is raised; the call then goes on alone.

    It is for calls whose work is of use all the same, and in which nothing of the caller's is written to.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function(*arguments)
    _free_imports()
    results: list[Any] = []
    errors: list[BaseException] = []
    bell = threading.Lock()
    bell.acquire()

    def work() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        bell.release()

    try:
        check_room_for_a_thread()
        threading.Thread(target=work, name="fastnn call", daemon=True).start()
    except RuntimeError:  # there can be no more threads
        return function(*arguments)
    while not bell.acquire(timeout=LOOKS_APART):
        pass
    if errors:
        raise errors[0]
    return results[0]


def _free_imports() -> None:
    """Release Python's lock of all imports, which Ctrl-C within one may have left with this thread.

    It is held for some bytecodes, never by who calls functions; another thread that imports would wait for ever.
    """
    with contextlib.suppress(RuntimeError):  # it is not held by this thread
        while True:
            _imp.release_lock()
