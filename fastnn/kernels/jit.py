"""The one decorator of every kernel: its compiler flags, and where its machine code is kept."""

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np

# `contract` lets a*b + c become one FMA. Nothing that reorders a sum is allowed (`reassoc`), and nothing that
# forgets NaN (`nnan`): the same inputs give the same bits however rows are shared out, and divergence stays visible.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}

jit: Callable[[Callable[..., Any]], Any] = numba.njit(**FLAGS)

# For sums over one array, whose order then depends on its length alone.
jit_reordering: Callable[[Callable[..., Any]], Any] = numba.njit(**{**FLAGS, "fastmath": {"contract", "nsz", "reassoc"}})


def entry_point(function: Callable[..., Any], signature: Any, dtype: np.dtype[Any], parallel: bool = False) -> Any:
    """Compile `function` for one signature, or load it from the cache.

    Each dtype has a folder of its own: Numba's cache can cross two signatures of one function when two processes
    compile them at the same time, and cannot when there is only one.
    """
    folder = cache_folder()
    previous = numba.config.CACHE_DIR
    if folder is not None:
        numba.config.CACHE_DIR = str(folder / dtype.name)
    try:
        return numba.njit(signature, parallel=parallel, cache=folder is not None, **FLAGS)(function)
    finally:
        numba.config.CACHE_DIR = previous


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of this version's machine code on this CPU, or None where no candidate is writable."""
    package = Path(__file__).parents[1]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = numba.config.CACHE_DIR
    for base in [Path(chosen)] if chosen else [package / "__pycache__", Path(home) / "fastnn"]:
        folder = base / f"kernels-{_fingerprint(package)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def _fingerprint(package: Path) -> str:
    """Hash all that decides the machine code; Numba's own key sees one source file and no setting."""
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    settings = (
        [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(("NUMBA_", "FASTNN_SIMD"))],
        (sys.version, numba.__version__, llvmlite.__version__, np.__version__),
        (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()),
    )
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:16]
