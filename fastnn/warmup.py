"""Compiled kernels for processes to come: `python -m fastnn warmup`."""

import sys

import numba
import numpy as np

from fastnn.kernels import epoch, forward, jit, shuffle, team


def run(dtypes: list[str]) -> int:
    """Compile what these dtypes need and is not on disk; print what was done, return 1 if it cannot be kept, else 0."""
    for dtype in map(np.dtype, dtypes):
        epoch.code(dtype, True)
        forward.code(dtype)
    team.worker()
    shuffle.exchanger()
    width = max(len(start.name) for start in jit.starts)
    for start in jit.starts:
        print(f"{start.name:{width}}  {'compiled' if start.is_compiled else 'found'} in {start.seconds:.1f} s")
    if not all(jit.is_cached(start.name) for start in jit.starts):
        print(f"not kept: {_why_not_kept()}", file=sys.stderr)
        return 1
    for folder in sorted({start.folder.parent for start in jit.starts if start.folder}):
        print(f"kept in {folder}")
    return 0


def _why_not_kept() -> str:
    folder = jit.cache_folder()
    if folder is not None:
        return f"{folder} does not take them; make room there, or set NUMBA_CACHE_DIR to another folder"
    mend = "set NUMBA_CACHE_DIR to one that is" if numba.config.OPT else "unset it"
    return f"{jit.why_not_kept()}; {mend}"
