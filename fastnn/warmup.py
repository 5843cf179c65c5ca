"""Compiled kernels for processes to come: `python -m fastnn warmup`."""

import sys

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
        print("not kept: no folder can be written to; set NUMBA_CACHE_DIR to one that can", file=sys.stderr)
        return 1
    for folder in sorted({start.folder.parent for start in jit.starts if start.folder}):
        print(f"kept in {folder}")
    return 0
