"""Python's collector of garbage, left out where it would look again and again through what is kept anyway."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_switched_off: list[int] = []  # by this Python thread


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Collect nothing meanwhile; the collector is then as it was before, whatever other threads have set since."""
    is_enabled, thread = gc.isenabled(), threading.get_ident()
    try:
        if is_enabled:
            _switched_off.append(thread)
            gc.disable()
        yield
    finally:
        if is_enabled:
            gc.enable()
            _switched_off.remove(thread)


def _after_fork() -> None:
    """Switch it on where the thread that would do so is not there."""
    if _switched_off and threading.get_ident() not in _switched_off:
        gc.enable()
        _switched_off.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
