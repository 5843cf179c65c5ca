"""The one decorator of every kernel: its compiler flags, and where its machine code is kept."""

import contextlib
import functools
import gc
import hashlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np

from fastnn.kernels.inner import Entry, Inner

# No fast-math: every rounding is written out, FMAs as `simd.fma`. What LLVM may contract or reorder it does one way in
# a vectorised loop and another way in its remainder; so a row has the same bits wherever it comes to lie, and NaN stays
# visible.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
INTERNAL: dict[str, Any] = {**FLAGS, "no_cpython_wrapper": True, "forceinline": True, "pipeline_class": Inner}

Decorator = Callable[[Callable[..., Any]], Any]

jit: Decorator = numba.njit(**INTERNAL)

# Settings of Numba that leave the machine code as it is; joblib's workers have them, and must find the cache.
AT_RUN_TIME = {"NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY"}

_compiling = threading.RLock()  # an entry point sets Numba's configuration while it compiles


def entry_point(function: Callable[..., Any], signature: Any, name: str, parallel: bool = False) -> Any:
    """Compile `function` for one signature, or load it from the cache.

    Each entry has a folder of its own: Numba's cache does not tell `parallel` apart, and can cross two signatures of
    one function when two processes compile them at the same time.
    """
    with _compiling:
        folder = cache_folder()
        kept = "this machine keeps them" if folder else "no folder is writable, so the next process does it again"
        note = threading.Timer(1.0, logging.getLogger("fastnn").warning, ["compiling the %s kernels; %s", name, kept])
        note.daemon = True
        dispatcher = numba.njit(parallel=parallel, pipeline_class=Entry, **FLAGS)(function)
        if folder is not None:
            _keep_in(folder / name, dispatcher)
        note.start()
        try:
            with _without_collections():
                _compile(dispatcher, signature, folder and folder / name)
        finally:
            note.cancel()
        dispatcher.disable_compile()
        return dispatcher


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Leave Python's collector out: it would look again and again through what a compile keeps, a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compile(dispatcher: Any, signature: Any, folder: Path | None) -> None:
    """Compile or load a dispatcher; what is wrong with the cache costs time, and a line in the log, but no more."""
    try:
        dispatcher.compile(signature)
    except Exception as error:  # whatever Numba makes of a damaged file
        if folder is None:
            raise
        logger = logging.getLogger("fastnn")
        if dispatcher.overloads:
            logger.warning("compiled kernels cannot be kept in %s: %r", folder, error)
            return
        logger.warning("compiled kernels in %s cannot be used, so they are compiled again: %r", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _compile(dispatcher, signature, None)


def _keep_in(folder: Path, dispatcher: Any) -> None:
    """Let Numba cache a dispatcher there; its configuration, which is everybody's, is changed for this moment alone."""
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        dispatcher.enable_caching()
    finally:
        numba.config.CACHE_DIR = previous


def is_cached(name: str) -> bool:
    """Whether the machine code of an entry point is on disk."""
    folder = cache_folder()
    return folder is not None and any((folder / name).rglob("*.nbc"))


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of this version's machine code on this CPU, or None where no candidate is writable."""
    package = Path(__file__).parents[1]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = numba.config.CACHE_DIR
    bases = [Path(chosen)] if chosen else [package / "__pycache__", Path(home) / "fastnn"]
    for base in bases:
        if base.parts[:1] == ("~",):  # there is no home
            continue
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
