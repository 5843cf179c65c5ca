"""How many threads, why that many, and the threading layer that runs them."""

import contextlib
import contextvars
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numba

_chosen: int | None = None
_within: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastnn_threads", default=None)
_imported_in = os.getpid()


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
    """Return the default number of threads and the reason for it.

    FASTNN_NUM_THREADS decides alone. Otherwise the smallest of: the CPUs this process may use, the container's quota,
    NUMBA_NUM_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK.

    Raises
    ------
    ValueError
        If FASTNN_NUM_THREADS is not a positive integer.
    """
    own = os.environ.get("FASTNN_NUM_THREADS")
    if own is not None:
        if not own.isdecimal() or int(own) < 1:
            raise ValueError(f"FASTNN_NUM_THREADS must be a positive integer, got {own!r}")
        return int(own), "FASTNN_NUM_THREADS"
    limits = [(_affinity(), "CPUs this process may use")]
    quota = _cgroup_quota()
    if quota is not None:
        limits.append((quota, "the container's CPU quota"))
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        value = _from_environment(name)
        if value is not None:
            limits.append((value, name))
    return min(limits, key=lambda limit: limit[0])


def _from_environment(name: str) -> int | None:
    value = os.environ.get(name, "").split(",")[0]
    return int(value) if value.isdecimal() and int(value) > 0 else None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole CPUs of the container's quota, cgroup version 2 or 1; None where there is none."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    if not (quota.isdecimal() and period.isdecimal() and int(period) > 0):
        return None  # "max" or -1: no limit
    return max(1, -(-int(quota) // int(period)))


@functools.cache
def load_tbb() -> bool:
    """Load TBB from this environment's own folder, where Numba does not look for it; True if it is there.

    Of Numba's threading layers TBB alone takes regions from several Python threads at once and survives a fork.
    """
    names = {"linux": ("lib/libtbb.so.12",), "win32": ("Library/bin/tbb12.dll",)}.get(sys.platform, ())
    for name in names:
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
            try:
                ctypes.CDLL(str(Path(prefix) / name), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return True
    return False


def threading_layer() -> str:
    """Return the threading layer that Numba uses; runs a small parallel region if none has run yet."""
    load_tbb()
    try:
        return str(numba.threading_layer())
    except ValueError:
        _small_region()()
        return str(numba.threading_layer())


@functools.cache
def _small_region() -> Callable[[], int]:
    @numba.njit(parallel=True)  # type: ignore[untyped-decorator]
    def region() -> int:
        total = 0  # Numba drops a region without a result
        for i in numba.prange(2):
            total += i
        return total

    return region  # type: ignore[no-any-return]


def may_run_parallel() -> bool:
    """Whether a parallel region is safe here: always with TBB, else only in the main thread of the first process."""
    return _layer_is_tbb() or (threading.current_thread() is threading.main_thread() and os.getpid() == _imported_in)


def _layer_is_tbb() -> bool:
    """Whether Numba runs on TBB, or will once a first region starts."""
    found = load_tbb()
    try:
        return bool(numba.threading_layer() == "tbb")
    except ValueError:
        asked, priority = numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY
        asks_for_tbb = asked in ("tbb", "safe", "threadsafe", "forksafe") or (asked, priority[0]) == ("default", "tbb")
        return found and asks_for_tbb


def numba_limit() -> int:
    """Return the number of threads that Numba has started or may start."""
    return int(numba.config.NUMBA_NUM_THREADS)


@contextlib.contextmanager
def numba_threads(n: int) -> Iterator[None]:
    """Let Numba use `n` threads, as far as it has them, and restore its number afterwards."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n, numba_limit()))
    try:
        yield
    finally:
        numba.set_num_threads(before)
