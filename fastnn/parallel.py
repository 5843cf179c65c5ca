"""How many threads, why that many, and how the Python threads of a process share them out."""

import contextlib
import contextvars
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_chosen: int | None = None
_within: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastnn_threads", default=None)


def set_num_threads(n: int) -> None:
    """Use `n` threads from now on, in every Python thread.

    More threads than the machine has cores are accepted; they share the cores. Results do not depend on the number.

    Raises
    ------
    ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import fastnn
    >>> before = fastnn.get_num_threads()
    >>> fastnn.set_num_threads(1)
    >>> fastnn.get_num_threads()
    1
    >>> fastnn.set_num_threads(before)
    """
    global _chosen
    _chosen = _checked(n)


def get_num_threads() -> int:
    """Return the number of threads in force: that of `threads`, else of `set_num_threads`, else the default.

    FASTNN_NUM_THREADS decides the default alone. Otherwise it is the smallest of: the CPUs this process may use, the
    container's quota, NUMBA_NUM_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK.

    Examples
    --------
    >>> import fastnn
    >>> with fastnn.threads(3):
    ...     fastnn.get_num_threads()
    3
    """
    return _within.get() or _chosen or default_threads()[0]


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads within a `with` block, in the Python thread that enters it.

    Raises
    ------
    ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import numpy as np, fastnn
    >>> with fastnn.threads(1):
    ...     fastnn.MLP((2, 2), random_state=0).forward(np.zeros((1, 2), "float32")).shape
    (1, 2)
    """
    token = _within.set(_checked(n))
    try:
        yield
    finally:
        _within.reset(token)


def _checked(n: int) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 1:
        raise ValueError(f"the number of threads must be an integer of at least 1, got {n!r}")
    return n.__index__()


@functools.cache
def default_threads() -> tuple[int, str]:
    """Return the default number of threads and the rule that decided.

    FASTNN_NUM_THREADS decides alone. Otherwise it is the smallest of: this machine's cores, or where the process may
    not use all of its CPUs those that it may; NUMBA_NUM_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK.

    Raises
    ------
    ValueError
        If FASTNN_NUM_THREADS is not a positive integer.
    """
    own = os.environ.get("FASTNN_NUM_THREADS")
    if own:
        if not own.isdecimal() or int(own) < 1:
            raise ValueError(f"FASTNN_NUM_THREADS must be a positive integer, got {own!r}")
        return int(own), "FASTNN_NUM_THREADS"
    usable = _usable_cpus()
    if usable[0] >= (os.cpu_count() or 1):
        usable = (min(_physical_cores() or usable[0], usable[0]), "cores of this machine")
    return _smallest([usable, *_asked_for()])


@functools.cache
def allowed_threads() -> int:
    """Return the number of threads that all calls together may run: as by default, but with cores' second threads."""
    return _smallest([_usable_cpus(), *_asked_for()])[0]


def count_of_jobs(n_jobs: int) -> int:
    """Return the number of threads that joblib's `n_jobs` asks for: -1 all that are allowed, -2 all but one, ..."""
    if n_jobs > 0:
        return int(n_jobs)
    own = bool(os.environ.get("FASTNN_NUM_THREADS"))
    return max(1, (default_threads()[0] if own else allowed_threads()) + 1 + n_jobs)


def _smallest(limits: list[tuple[int, str]]) -> tuple[int, str]:
    return min(limits, key=lambda limit: limit[0])


def _usable_cpus() -> tuple[int, str]:
    limits = [(_affinity(), "CPUs this process may use")]
    quota = _cgroup_quota()
    if quota is not None:
        limits.append((quota, "the container's CPU quota"))
    return _smallest([*limits, *_from_environment("LOKY_MAX_CPU_COUNT")])


def _asked_for() -> list[tuple[int, str]]:
    return _from_environment("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")


def _from_environment(*names: str) -> list[tuple[int, str]]:
    values = [(os.environ.get(name, "").split(",")[0].strip(), name) for name in names]
    return [(int(value), name) for value, name in values if value.isdecimal() and int(value) > 0]


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores(root: Path = Path("/")) -> int | None:
    """Return the number of cores, None where it cannot be found out; a second thread on a core is of little help."""
    if sys.platform != "linux":
        import joblib

        return int(joblib.cpu_count(only_physical_cores=True))
    # There joblib runs a program, which takes longer than all the rest.
    siblings = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({text for text in map(_text_of, siblings) if text}) or None


def _cgroup_quota(root: Path = Path("/")) -> int | None:
    """Whole CPUs of the tightest quota on the way to this process's control group, version 2 or 1; None without one."""
    quotas = []
    for line in _text_of(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            mounts, read = ["", "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, read = ["cpu", controllers], _quota_v1
        else:
            continue
        # In a container its own group may be what is mounted, wherever it is on the host.
        inner = PurePosixPath(path.lstrip("/"))
        groups = [root / "sys/fs/cgroup" / mount / group for mount in mounts for group in (inner, *inner.parents)]
        quotas += [quota for quota in map(read, groups) if quota]
    return min(quotas, default=None)


def _quota_v2(group: Path) -> int | None:
    quota, _, period = _text_of(group / "cpu.max").partition(" ")
    return _whole_cpus(quota, period)


def _quota_v1(group: Path) -> int | None:
    return _whole_cpus(_text_of(group / "cpu.cfs_quota_us"), _text_of(group / "cpu.cfs_period_us"))


def _whole_cpus(quota: str, period: str) -> int | None:
    if not (quota.isdecimal() and period.isdecimal() and int(period) > 0):
        return None  # "max" or -1: no limit
    return max(1, -(-int(quota) // int(period)))


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


# -- the budget: CPUs shared out among the Python threads of this process ----------------------------------------------

LOOKS_APART = 0.0005  # seconds
LEAST_RUN, MOST_BETWEEN = 0.001, 0.0005  # seconds
OF_LATE = 0.002  # seconds, longer than a short call
# Seconds. A handler of a signal, always in the main thread, may have another one predict, and wait for it.
MOST_WAITING = 5.0


class Budget:
    """How many threads each compiled call has, that together they are no more than allowed.

    A call that is alone gets what it asks for; beside others it gets what they leave, itself at least. While others
    have more threads than themselves and no CPU is left it waits, for they end soon and then leave room.

    A call stands for itself by a lock that is locked as long as it goes on: `with` unlocks it whatever ends the call,
    and there is no moment at which Ctrl-C comes between.
    """

    def __init__(self) -> None:
        self.forget()
        self.most = 0  # threads that have run at once

    def forget(self) -> None:
        """Start anew, as a forked child must: the threads that held something are not there."""
        self._lock = threading.RLock()  # a handler of a signal may predict while its thread has it
        # By call: its threads, 0 of one that waits, and the Python thread that makes it. Replaced, never changed:
        # a handler may come while somebody goes through it.
        self._held: dict[threading.Lock, tuple[int, int]] = {}
        # Python threads that make short calls, and when they asked last. Replaced, never changed, as that is.
        self._asked: dict[int, float] = {}
        self.last: threading.Lock | None = None  # call that asked; while it is, others have taken nothing since

    def take(self, wanted: int, call: threading.Lock, waits: bool = True) -> int:
        """Return the number of threads that a call may now run until its lock is unlocked, its own included.

        One that ends sooner than it would have waited, half a millisecond, goes on alone instead; others make room for
        it, as for one that waits. Whoever makes many such calls is left a CPU between two of them by others that do.
        Alone goes, too, a call of a signal's handler within another, which does not end before, and one that has waited
        for seconds for a team of the main thread: there may be a handler within it that waits in turn.
        """
        caller, is_short, began, is_overdue = threading.get_ident(), not waits, time.monotonic(), False
        while True:
            with self._lock:
                self.last = call  # before the locks are looked at: one that is locked afterwards finds out
                self._held = self._others(call) if any(other.locked() for other in self._held) else {}
                n_between = self._between_calls(caller) if is_short else 0
                n = self._free(wanted, n_between) if self._held or n_between else wanted
                if not n and is_overdue and self._has_team(threading.main_thread().ident):
                    n = 1
                if not n and any(other == caller for _, other in self._held.values()):
                    waits = False
                self._held = {**self._held, call: (n, caller)}
                if n or not waits:
                    self.most = max(self.most, sum(self._counts()))
                    return n or 1
            time.sleep(LOOKS_APART)
            is_overdue = time.monotonic() - began >= MOST_WAITING

    def _has_team(self, caller: int | None) -> bool:
        return any(other == caller and n > 1 for n, other in self._held.values())

    def _counts(self) -> list[int]:
        return [n for n, _ in self._held.values()]

    def _others(self, call: threading.Lock) -> dict[threading.Lock, tuple[int, int]]:
        return {other: held for other, held in self._held.items() if other.locked() and other is not call}

    def _between_calls(self, caller: int) -> int:
        """Note a short call; return how many other Python threads are between two of theirs."""
        now = time.perf_counter()
        of_late = {other: asked for other, asked in self._asked.items() if now - asked < OF_LATE}
        self._asked = {**of_late, caller: now}
        return len(of_late.keys() - {caller, *(other for _, other in self._held.values())})

    def _free(self, wanted: int, n_between: int) -> int:
        """Return how many of `wanted` threads may run beside what others hold; 0 if the caller is to wait."""
        counts = self._counts()
        n_waiting, running = counts.count(0), sum(counts)
        if running >= allowed_threads() and running > len(counts) - n_waiting:  # a team, which ends soon
            return 0
        return max(1, min(wanted, allowed_threads() - running - n_waiting - n_between))


class Run:
    """Calls of one Python thread that follow each other closely, while no other thread makes some.

    Calls of some microseconds have a second thread only then: to wake it, or to share its CPU with another caller,
    takes longer.
    """

    def __init__(self) -> None:
        self._caller, self._began, self._last = 0, 0.0, 0.0

    def goes_on(self) -> bool:
        """Note a call; whether it is one of a run that has gone on for a while, and may have another thread."""
        caller, now = threading.get_ident(), time.perf_counter()
        if caller != self._caller or now - self._last > MOST_BETWEEN:
            self._caller, self._began = caller, now
        self._last = now
        return now - self._began > LEAST_RUN and get_num_threads() > 1


run = Run()
budget = Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=budget.forget)
    # A child may be given CPUs and variables of its own, as by a pool's initialiser.
    for _found_once in (default_threads, allowed_threads):
        os.register_at_fork(after_in_child=_found_once.cache_clear)
