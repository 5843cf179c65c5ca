"""Children of the scripts of test_forks.py, and a look at the locks that forks take."""

import os
import signal
import threading
import time
import traceback

from fastnn.kernels import forks

LOCKS = [forks.compiling, forks._instead, *forks._LOCKS]


def child_of(work):
    """Fork; return the child, which ends well where the work does within a minute."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return child


def ends_well(child):
    return os.waitpid(child, 0)[1] == 0


def fork(work=lambda: None):
    assert ends_well(child_of(work))


def held_by_another(lock):
    """Return a thread that has a lock, for a second."""
    has_it = threading.Event()

    def hold():
        with lock:
            has_it.set()
            time.sleep(1)

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait()
    return thread


def are_free():
    """Whether another thread can take each of the locks, and nothing is kept of a fork."""
    taken = []

    def take():
        for lock in LOCKS:
            if lock.acquire(blocking=False):
                taken.append(lock)
                lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken == LOCKS and not any(forks._taken.values())
