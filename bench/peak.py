"""The limit to measure against: the micro-kernel alone, on operands that stay in the first-level cache."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Deep enough that storing the block costs next to nothing, and A and B still fit in 32 KiB.
DEPTH = 128


def peak_gflops(dtype, n_threads, seconds=0.02):
    """Return the GFLOP/s of the tallest 3-vector block of registers on `n_threads` cores at once."""
    repeats = max(1, int(seconds * 50e9 / _flops(dtype)))
    start_together = threading.Barrier(n_threads)

    def work(_):
        run, own = kernel(), operands(dtype)
        run(*own, DEPTH, 10)
        start_together.wait()
        start = time.perf_counter()
        run(*own, DEPTH, repeats)
        return start, time.perf_counter()

    with ThreadPoolExecutor(n_threads) as pool:
        spans = list(pool.map(work, range(n_threads)))
    elapsed = max(stop for _, stop in spans) - min(start for start, _ in spans)
    return n_threads * repeats * _flops(dtype) / elapsed / 1e9


@functools.cache
def kernel():
    import numba

    from fastnn.kernels import jit, simd

    micro_kernel, block_height, lanes_of, vectors = (
        simd.micro_kernel, simd.block_height, simd.lanes_of, simd.PANEL_VECTORS,
    )  # fmt: skip

    @numba.njit(**jit.FLAGS)
    def run(c, a, b, depth, repeats):
        height, width = block_height(99, vectors), vectors * lanes_of(b)
        for _ in range(repeats):
            # The lines to prefetch are B's own: there already, as in the best case.
            micro_kernel(c, 0, width, a, 0, height, b, 0, width, depth, height, vectors, False, b, 0)

    return run


@functools.cache
def _block(dtype):
    from fastnn.kernels import simd

    return simd.block_height.py_func(99, simd.PANEL_VECTORS), simd.PANEL_VECTORS * simd.lanes(dtype)


def _flops(dtype):
    height, width = _block(dtype)
    return 2 * height * width * DEPTH


def operands(dtype):
    """Return C, A and B for one thread, each on whole cache lines."""
    import numpy as np

    from fastnn.layout import empty

    height, width = _block(dtype)
    arrays = [empty(size, np.dtype(dtype)) for size in (height * width, height * DEPTH, width * DEPTH)]
    for array in arrays:
        array[:] = 0.5
    return arrays
