"""The other threads of a team: Python threads that wait in machine code, so that to call them takes a microsecond.

Numba's parallel regions do the same, but each layer that runs them has a case in which it ends the process (two callers
at once, a fork), and a region takes longer to compile than all that is here. Nothing of this is started before it is
needed.
"""

import _thread
import atexit
import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from fastnn import parallel
from fastnn.kernels import system, team
from fastnn.kernels.listening import LOOKS_APART
from fastnn.kernels.room import check_room_for_a_thread
from fastnn.layout import empty

Crew = npt.NDArray[np.int64]

ALONE = np.zeros(0, np.int64)  # the crew of a thread that has no others
PATIENCE = 1.0  # seconds that the end of a process waits for all its workers


class Worker:
    """A Python thread that waits for a while at a mailbox, then sleeps, until a team calls it; see `kernels.team`."""

    def __init__(self) -> None:
        self.mailbox = empty(team.MAILBOX_SIZE, np.int64)
        self.mailbox[team.BELL] = system.new_bell()
        self.crew = np.array([self.mailbox.ctypes.data])  # of a team of this worker and its caller
        self._serve = team.worker()
        self._is_within = False
        self._thread = threading.Thread(target=self._work, name="fastnn worker", daemon=True)

    @property
    def has_thread(self) -> bool:
        """Whether the thread has been started."""
        return self._thread.ident is not None and not self._is_within

    def start(self) -> None:
        """Start the thread; RuntimeError if there can be no more."""
        check_room_for_a_thread()
        self._starter = threading.get_native_id()
        self._thread.start()
        if self._is_within:
            raise RuntimeError("can't start a thread: it would run within this one")

    def _work(self) -> None:
        """Serve as long as the process runs; the thread refers to its mailbox, whoever else does."""
        self.mailbox[team.SLEEPER] = thread = threading.get_native_id()
        self._is_within = thread == self._starter  # a greenlet of gevent's or eventlet's, which would never end
        if not self._is_within:
            self._serve(int(self.crew[0]))

    def tell_to_end(self) -> None:
        """Let the thread end."""
        self.mailbox[team.ENDS] = 1
        system.ring(int(self.mailbox[team.BELL]))

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, if Ctrl-C has let it start."""
        if self._thread.is_alive():
            self._thread.join(seconds)


class ShortTeam:
    """The team of short calls, one of which is made at a time; see `call_at_once`."""

    def __init__(self) -> None:
        self.call = threading.Lock()  # by which the budget knows it
        self.members: list[Worker] = []
        self.crew, self.size = ALONE, 0  # size: threads that were asked for and given, 0 if others were
        self.caller = 0  # the Python thread that has asked


class Workers:
    """The workers of this process: those that no team has, and those that one keeps."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child must, in which none of the threads is there."""
        self.free: list[Worker] = []
        self.short = ShortTeam()

    def take(self, n: int, taken: list[Worker]) -> None:
        """Add to `taken` until it has `n` workers, or as many as the system lets start.

        Whenever Ctrl-C can come, each worker with a thread is in `taken` or free: from one to the other it goes within
        a call of C. To set them free again is a `free += taken`, between whose steps Python does not look for signals.
        """
        try:  # noqa: SIM105 - it takes as long as all the rest
            taken.extend(itertools.islice(iter(self.free.pop, None), max(0, n - len(taken))))
        except IndexError:
            pass
        taken += (Worker() for _ in range(n - len(taken)))
        try:
            for worker in taken:
                if not worker.has_thread:  # it is new, or Ctrl-C came before its thread
                    worker.start()
        except RuntimeError:  # there can be no more threads
            taken[:] = [worker for worker in taken if worker.has_thread]

    def end(self) -> None:
        """End the threads: the interpreter would stop them within machine code when it ends."""
        with _ctrl_c_can_wait():
            idle = self.free + self.short.members
            self.forget()
            for worker in idle:
                worker.tell_to_end()
            deadline = time.monotonic() + PATIENCE
            for worker in idle:
                worker.join(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def _ctrl_c_can_wait() -> Iterator[None]:
    """Let Ctrl-C pass within a `with` block, which takes milliseconds, where the main thread enters it."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)  # to one that is ignored Python would object if it came just before
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


workers = Workers()
atexit.register(workers.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.forget)

def call_at_once(wanted: int, code: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call code(crew, arguments) as `call_team` does, for calls of some microseconds: they do not wait for CPUs.

    As long as nobody else asks for CPUs, a call has those of the one before, and its workers; to give them back and
    take them again would take as long as a small call.
    """
    short = workers.short
    if short.call.locked():  # by another thread, or around a handler of a signal
        call_team(wanted, code, arguments, waits=False)
        return
    if short.size != wanted:
        team.worker()  # compiled before CPUs are held
    caller = threading.get_ident()
    with short.call:
        if short.size != wanted or short.caller != caller or parallel.budget.last is not short.call:
            _enlist(wanted, short)
        code(short.crew, arguments)


def _enlist(wanted: int, short: ShortTeam) -> None:
    """Give the team of short calls as many workers as it may have now."""
    short.size = 0
    n = 1 if numba.config.BOUNDSCHECK else parallel.budget.take(wanted, short.call, waits=False)
    workers.take(n - 1, short.members)
    short.crew, short.caller = _crew_of(short.members[: n - 1]), threading.get_ident()
    if n == wanted:  # else there may be more the next time
        short.size = n


def _crew_of(taken: list[Worker]) -> Crew:
    return taken[0].crew if len(taken) == 1 else np.concatenate([ALONE, *(worker.crew for worker in taken)])


def call_team(
    wanted: int, code: Callable[..., None], arguments: tuple[Any, ...], state: Crew | None = None, waits: bool = True
) -> None:
    """Call code(crew, arguments) with a crew of `wanted` threads, this one included, or of as many as are free.

    A crew is the addresses of the mailboxes of workers. With Numba's bounds checks there are none: the calling thread
    alone can raise their error, and others would wait for its slice. Given the `state` of the team, the call is
    listened to.
    """
    if numba.config.BOUNDSCHECK:
        wanted = 1
    if wanted > 1:
        team.worker()  # compiled before CPUs are held
    call = threading.Lock()
    taken: list[Worker] = []
    with call:
        try:
            workers.take(parallel.budget.take(wanted, call, waits) - 1, taken)
            crew = _crew_of(taken)
            if state is None:
                code(crew, arguments)
            else:
                call_and_listen(code, crew, arguments, state)
        finally:
            workers.free += taken[::-1]


def call_and_listen(code: Callable[..., None], crew: Crew, arguments: tuple[Any, ...], state: Crew) -> None:
    """Make a long call of code(crew, arguments) so that Ctrl-C is seen, which stops the team of `state`.

    Other than `kernels.listening.call_apart` it always waits for the end: the call writes to the caller's arrays.
    """
    if threading.current_thread() is not threading.main_thread():
        code(crew, arguments)
        return
    errors: list[BaseException] = []
    is_begun = is_finished = False
    bell = threading.Lock()
    bell.acquire()

    def work() -> None:
        nonlocal is_finished, errors
        try:
            code(crew, arguments)
        except BaseException as error:
            errors += [error]
        is_finished = True
        bell.release()

    # An exception of a handler hides what a call has come to: the thread may have been started, the bell been heard.
    def listen() -> None:
        nonlocal is_begun
        while not is_finished:
            if not is_begun:
                try:
                    check_room_for_a_thread()
                    is_begun = True  # from here to the thread's start there is no moment at which Ctrl-C comes
                    _thread.start_new_thread(work, ())  # at once or not at all, where `Thread.start` waits
                except RuntimeError:  # there can be no more threads
                    is_begun = False  # Ctrl-C may come before the work begins
                    work()
            bell.acquire(timeout=LOOKS_APART)

    # Several signals at once, as `timeout` or a key that is held down sends them, are as many exceptions: the next one
    # comes where the one before is caught, and one more at the inner loop's end.
    while not is_finished:
        try:
            while not is_finished:
                try:
                    listen()
                except BaseException as error:  # of Ctrl-C, or whatever a handler raises
                    state[team.STOP] = 1
                    errors += [error]
        except BaseException as error:
            state[team.STOP] = 1
            errors += [error]
    if errors:
        raise errors[0]
