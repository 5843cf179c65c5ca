"""The one decorator of every kernel: its compiler flags, and where its machine code is kept."""

import functools
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import config, event

# No fast-math: every rounding is written out, FMAs as `simd.fma`. What LLVM may contract or reorder it does one way in
# one caller and another way in the next; so the same inputs give the same bits in the serial and the parallel driver,
# however rows are shared out, and NaN stays visible.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
INTERNAL: dict[str, Any] = {**FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}

Decorator = Callable[[Callable[..., Any]], Any]

# Everything below an entry point becomes part of it, see `_OptimiseOnce`.
jit: Decorator = numba.njit(**INTERNAL)


# Settings of Numba that leave the machine code as it is; joblib's workers have them, and must find the cache.
AT_RUN_TIME = {"NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY"}

_LEVEL = config.OPT
_compiling = threading.RLock()  # an entry point sets Numba's configuration while it compiles


class _OptimiseOnce(event.Listener):  # type: ignore[misc]
    """Leave what an entry point calls to be optimised with it.

    Numba optimises every function by itself and again in each caller; six levels down that was half the compile
    time, and the loops come out no better. While a nested function compiles, LLVM runs at level 0.
    """

    def __init__(self) -> None:
        self.depth = 0

    def on_start(self, event: Any) -> None:
        self.depth += 1
        if self.depth > 1:
            config.OPT = 0

    def on_end(self, event: Any) -> None:
        self.depth -= 1
        if self.depth <= 1:
            config.OPT = _LEVEL


def entry_point(function: Callable[..., Any], signature: Any, dtype: np.dtype[Any], parallel: bool = False) -> Any:
    """Compile `function` for one signature, or load it from the cache.

    Each entry has a folder of its own: Numba's cache does not tell `parallel` apart, and can cross two signatures of
    one function when two processes compile them at the same time.
    """
    with _compiling:
        logger = logging.getLogger("fastnn")
        note = threading.Timer(1.0, logger.warning, ["compiling the %s kernels; this machine keeps them", dtype.name])
        note.daemon = True
        folder = cache_folder()
        previous = numba.config.CACHE_DIR
        if folder is not None:
            numba.config.CACHE_DIR = str(folder / f"{dtype.name}-{'parallel' if parallel else 'serial'}")
        note.start()
        try:
            with event.install_listener("numba:compile", _OptimiseOnce()):
                return numba.njit(signature, parallel=parallel, cache=folder is not None, **FLAGS)(function)
        finally:
            note.cancel()
            numba.config.CACHE_DIR = previous


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of this version's machine code on this CPU, or None where no candidate is writable."""
    package = Path(__file__).parents[1]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = numba.config.CACHE_DIR
    for base in [Path(chosen)] if chosen else [package / "__pycache__", Path(home) / "fastnn"]:
        folder = base / f"kernels-{_fingerprint()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def _fingerprint() -> str:
    """Hash all that decides the machine code; Numba's own key sees one source file and no setting."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    variables = sorted(key for key in os.environ if key.startswith(("NUMBA_", "FASTNN_SIMD")))
    settings = (
        [(key, os.environ[key]) for key in variables if key not in AT_RUN_TIME],
        (sys.version, numba.__version__, llvmlite.__version__, np.__version__),
        (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()),
    )
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:16]
