"""Whether there is memory left: near a limit LLVM and new threads end the process, or hang; Python would raise."""

import mmap
import sys

# Bytes of address space, some of them never used. A thread has its stack and allocations of its own set apart (in
# glibc 128 MiB); what it is started for may then compile. Less than that, and the calling thread does it.
FOR_A_THREAD, TO_COMPILE, TO_LOAD = 512 << 20, 256 << 20, 32 << 20


def has_room(n_bytes: int) -> bool:
    """Whether the process may have so many bytes more, as far as its limits (`ulimit -v`) and the system tell."""
    if sys.platform == "win32":  # it has no such limits
        return True
    try:
        mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def check_room_for_a_thread() -> None:
    """To be called before a thread is started.

    Raises
    ------
    RuntimeError
        If there is no room, as Python has it where there can be no more threads.
    """
    if not has_room(FOR_A_THREAD):
        raise RuntimeError("can't start new thread: there is too little memory left")
