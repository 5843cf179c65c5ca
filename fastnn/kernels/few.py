"""Prediction of a few rows: lanes go along units, so that W is read once and nothing is transposed.

Reading W is what takes the time. Its panels are shared out in slices, and each layer is a phase of a team. The sums
have the order of the other engine, so a row has the same bits whichever rows it comes with.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import prange, types

from fastnn.kernels.activations import IDENTITY, activation_forward
from fastnn.kernels.jit import entry_point, jit
from fastnn.kernels.losses import output_forward
from fastnn.kernels.plan import ACTIVATION, N_IN, N_OUT, WEIGHTS
from fastnn.kernels.products import fill, panel_width
from fastnn.kernels.simd import block_height, flush_subnormals, lanes_of, restore_subnormals, transposed_kernel, view
from fastnn.kernels.team import (
    address_of,
    compile_region,
    complete,
    finish_slice,
    native_address,
    native_caller,
    next_slice,
    wait_for,
)

MOST_ROWS = 32  # beyond these the other engine is as fast


@jit
def leading_dimension_of(layers, lanes):
    """Distance of the rows of activations: room for the widest layer, and odd in cache lines."""
    widest = 0
    for l in range(layers.shape[0]):
        widest = max(widest, layers[l, N_OUT])
    return (widest // (2 * lanes) + 1) * 2 * lanes + lanes


@jit
def count_panels(n_units, lanes):
    unit, n = 0, 0
    while unit < n_units:
        unit += panel_width(n_units - unit, lanes)
        n += 1
    return n


@jit
def forward_panels(z, z_at, ld, a, a_at, lda, params, layer, activation, n_rows, low, high):
    """Panels [low, high) of f(a . W + b), by row."""
    n_in, n_out, lanes = layer[N_IN], layer[N_OUT], lanes_of(params)
    unit, number = 0, 0
    while unit < n_out:
        panel = panel_width(n_out - unit, lanes)
        if low <= number < high:
            w_at, vectors, first = layer[WEIGHTS] + unit * (n_in + 1), panel // lanes, 0
            while first < n_rows:
                height = block_height(n_rows - first, vectors)
                transposed_kernel(z, z_at + first * ld + unit, ld, a, a_at + first * lda, lda, params, w_at, panel,
                                  n_in, height, vectors, False, params, w_at + 64 * panel, 1, 0)
                first += height
            biases = view(params, w_at + n_in * panel, panel)
            for r in range(n_rows):
                row = view(z, z_at + r * ld + unit, panel)
                for u in range(panel):
                    row[u] += biases[u]
                activation_forward(activation, row)
        unit += panel
        number += 1


@jit
def write_outputs(output, z, z_at, ld, n_rows, n_out, work, out):
    """Outputs from the last pre-activations, by row; `work` has room for them by unit and for two rows more."""
    units = view(work, 0, n_out * n_rows)
    for r in range(n_rows):
        for u in range(n_out):
            units[u * n_rows + r] = z[z_at + r * ld + u]
    output_forward(output, units, n_rows, view(work, n_out * n_rows, 2 * n_rows))
    for r in range(n_rows):
        for u in range(n_out):
            out[r, u] = units[u * n_rows + r]


def run_few(thread, n_slices, output, X, layers, params, scratch, out, state):
    """One thread's way through all the layers.

    `scratch` has room for two layers of MOST_ROWS rows, and for `write_outputs`. `state` is zeros, except that a thread
    alone sees to it itself.
    """
    if n_slices == 1:
        fill(state, 0, state.size, 0)
    phase, n_rows, n_layers, lanes = 0, X.shape[0], layers.shape[0], lanes_of(params)
    subnormals = flush_subnormals()
    ld = leading_dimension_of(layers, lanes)
    work = view(scratch, 2 * MOST_ROWS * ld, scratch.size - 2 * MOST_ROWS * ld)
    a, a_at, lda, z_at = view(X, 0, X.size), 0, layers[0, N_IN], 0
    for l in range(n_layers):
        layer = layers[l]
        code = layer[ACTIVATION] if l + 1 < n_layers else IDENTITY
        n_panels = count_panels(layer[N_OUT], lanes)
        phase, last = phase + 1, False
        s = next_slice(state, thread, n_slices, phase)
        while s >= 0:
            forward_panels(scratch, z_at, ld, a, a_at, lda, params, layer, code, n_rows, n_panels * s // n_slices,
                           n_panels * (s + 1) // n_slices)
            last = finish_slice(state, n_slices, phase)
            s = next_slice(state, thread, n_slices, phase)
        if last:
            if l + 1 == n_layers:
                write_outputs(output, scratch, z_at, ld, n_rows, layer[N_OUT], work, out)
            complete(state, phase)
        wait_for(state, phase)
        a, a_at, lda, z_at = scratch, z_at, ld, MOST_ROWS * ld - z_at
    restore_subnormals(subnormals)


def argument_types(real: Any) -> list[Any]:
    """Types of the arguments of `run_few` after the thread, for a network of numbers of type `real`."""
    vector, matrix, whole = types.Array(real, 1, "C"), types.Array(real, 2, "C"), types.int64
    return [whole, whole, matrix, types.Array(whole, 2, "C"), vector, vector, matrix, types.Array(whole, 1, "C")]


_call = native_caller(argument_types)


def run_team(n_threads, address, zero, arguments):
    """Call `run_few` at `address` with (thread, *arguments) in each of `n_threads` threads."""
    where = address_of(arguments)
    for thread in prange(n_threads):
        _call(address, thread, where, zero)


@functools.cache
def driver(dtype: np.dtype[Any]) -> Any:
    """Return `run_few` compiled for a dtype; from the cache when this machine compiled it before."""
    signature = types.void(types.int64, *argument_types(numba.from_dtype(dtype)))
    return entry_point(run_few, signature, f"{dtype.name}-few")


@functools.cache
def _team(dtype: np.dtype[Any]) -> tuple[Any, int]:
    """Return the parallel region, and the address of the machine code that each of its threads runs."""
    return compile_region(run_team, argument_types, dtype, f"{dtype.name}-few-team"), native_address(driver(dtype))


def launch(dtype: np.dtype[Any], n_threads: int, arguments: tuple[Any, ...]) -> None:
    """Call `run_few` in this thread, or in a team of `n_threads`."""
    region, address = _team(dtype)
    region(n_threads, address, dtype.type(0), arguments)
