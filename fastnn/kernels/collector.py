"""Python's collector of garbage, left out where it would look again and again through what is kept anyway."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Collect nothing meanwhile; the collector is then as it was."""
    is_enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if is_enabled:
            gc.enable()
