"""The entry points: an epoch of training, the gradients of a batch, and prediction, each one compiled call."""

import functools
from typing import Any

import numba
import numpy as np
from numba import prange, types

from fastnn.kernels.jit import entry_point, jit
from fastnn.kernels.optimizers import N_CONSTANTS, optimizer_constants
from fastnn.kernels.plan import CAPACITY
from fastnn.kernels.step import row_of, rows_region, weights_region

FORWARD, GRADIENTS, TRAIN = range(3)


@jit
def sum_of(values, n):
    """Sum in float64, in four sums that take turns."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(n // 4):
        a += np.float64(values[4 * i])
        b += np.float64(values[4 * i + 1])
        c += np.float64(values[4 * i + 2])
        d += np.float64(values[4 * i + 3])
    for i in range(n // 4 * 4, n):
        a += np.float64(values[i])
    return (a + b) + (c + d)


@jit
def weight_of_rows(sample_weight, order, position, n_rows):
    if sample_weight.size == 0:
        return np.float64(n_rows)
    total = 0.0
    for r in range(n_rows):
        total += np.float64(sample_weight[row_of(order, position + r)])
    return total


def run(
    mode, n_threads, start, stop, batch_size, optimizer, steps, alpha, hyper, plan, layers_of, tiles, shares,
    X, labels, targets, sample_weight, order, params, mirror, moments, gradients, rows, scratch, partial, row_loss,
    squares, constants, result, out,
):
    """Go through rows [start, stop) of an epoch; add data loss and penalty, weighted by rows, to `result`."""
    for first in range(start, stop, batch_size):
        n_batch = min(batch_size, stop - first)
        total_weight, data_loss, penalty = 0.0, 0.0, 0.0
        if mode != FORWARD:
            total_weight = weight_of_rows(sample_weight, order, first, n_batch)
            steps += 1
            optimizer_constants(optimizer, hyper, steps, constants)
        scale = 1.0 / total_weight if total_weight != 0.0 else 0.0
        for done in range(0, n_batch, plan[CAPACITY]):
            n = min(plan[CAPACITY], n_batch - done)
            for t in prange(n_threads):
                rows_region(
                    t, n_threads, mode != FORWARD, plan, layers_of, X, labels, targets, sample_weight,
                    params.dtype.type(scale), order,
                    first + done, n, params, mirror, rows, scratch, partial, row_loss, out,
                )
            if mode != FORWARD:
                data_loss += sum_of(row_loss, n)
                left = n_batch - done - n
                n_following = min(plan[CAPACITY], left if left > 0 else min(batch_size, stop - first - n_batch))
                for t in prange(n_threads):
                    weights_region(
                        t, n_threads, optimizer, plan, layers_of, tiles, shares, n, done > 0, done + n == n_batch,
                        params.dtype.type(alpha * scale), params, mirror, moments, gradients, rows,
                        scratch, partial, squares, constants, X, order, first + done + n, n_following,
                    )
        if params.dtype.type(alpha * scale) != params.dtype.type(0.0):  # as the tiles see it
            penalty = 0.5 * alpha * sum_of(squares, squares.size)
        result[0] += data_loss * n_batch
        result[1] += penalty * scale * n_batch


@functools.cache
def driver(dtype: np.dtype[Any], parallel: bool) -> Any:
    """Return `run` compiled for a dtype, serial or parallel; from the cache when this machine compiled it before."""
    real = numba.from_dtype(dtype)
    vector = types.Array(real, 1, "C")
    whole = types.Array(types.int64, 1, "C")
    table, tables = types.Array(types.int64, 2, "C"), types.Array(types.int64, 3, "C")
    wide = types.Array(types.float64, 1, "C")
    i, f = types.int64, types.float64
    signature = types.void(
        i, i, i, i, i, i, i, f, wide, whole, tables, table, whole,
        vector, whole, vector, vector, whole, *([vector] * 10), wide, vector,
    )
    return entry_point(run, signature, dtype, parallel)


def constants_for(dtype: np.dtype[Any]) -> Any:
    return np.zeros(N_CONSTANTS, dtype)

