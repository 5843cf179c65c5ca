"""Prediction: lanes go along units, so that nothing is transposed, whether one row or many, dense or sparse.

Many rows are shared out in slices of rows. Of a few rows all threads take each layer together, as a phase of a team
whose slices are panels of W: to read W is what takes the time. The sums have the order that they have in training, so a
row has the same bits whichever rows it comes with.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from fastnn.kernels.activations import IDENTITY, RELU, activation_forward
from fastnn.kernels.jit import jit
from fastnn.kernels.losses import SOFTMAX, output_forward
from fastnn.kernels.plan import ACTIVATION, N_IN, N_LAYER_FIELDS, N_OUT, WEIGHTS
from fastnn.kernels.products import L2, panel_width, round_up
from fastnn.kernels.simd import (
    AHEAD,
    PANEL_VECTORS,
    block_height,
    copy_first,
    elements_of,
    flush_subnormals,
    lanes_of,
    restore_subnormals,
    row_kernel,
    sparse_row,
    transpose_block,
    view,
)
from fastnn.kernels.system import array_at, release_gil, take_gil
from fastnn.kernels.team import (
    Engine,
    address_of,
    call_team,
    code_of,
    complete,
    finish_slice,
    next_piece,
    next_slice,
    wait_for,
)

BLOCK_ROWS = 48  # rows that meet a panel of W one after the other, or half as many: see `rows_of_block`
MANY_BLOCKS = 32  # for each thread: so many are whole blocks, but for the last; fewer are of about as many rows each
LEAST_ROWS = 8  # of which slices have a multiple: the height of a block of registers
# A call of so many parameters times rows, a few microseconds, keeps the lock of the interpreter: Python threads that
# hand it to each other take longer. A row stands for some parameters more.
HELD, PER_ROW = 200_000, 1_000
CAN_RAISE = bool(numba.config.BOUNDSCHECK)
# What a call has beside its rows: the code of the output function, the address and the elements of each buffer, and
# whether to look if X is finite, which becomes 0 where it is not.
OUTPUT, LAYERS, PARAMS, SCRATCH, STATE, FINITE, N_FIELDS = 0, 1, 3, 5, 7, 9, 10


@jit
def leading_dimension_of(layers, lanes):
    """Distance of the rows of activations: room for the widest layer, and odd in cache lines."""
    widest = 0
    for at in range(0, layers.size, N_LAYER_FIELDS):
        widest = max(widest, layers[at + N_OUT])
    return (widest // (2 * lanes) + 1) * 2 * lanes + lanes


@jit
def scratch_size(ld):
    """Elements of scratch of a thread: two layers, the outputs by unit, and two rows of work."""
    return BLOCK_ROWS * (3 * ld + 2)


@jit
def rows_of_block(layers, params, is_sparse):
    """Half of the rows where all would drive W out of the second-level cache: they, what becomes of them, two panels.

    Layers of 1024 units took a tenth longer with 48 rows and 512 KiB; where they fit, as of 256 units, 24 gain nothing.
    """
    panels, most = 2 * PANEL_VECTORS * lanes_of(params), elements_of(L2, params)
    for at in range(0, layers.size, N_LAYER_FIELDS):
        n_in, n_out = layers[at + N_IN], layers[at + N_OUT]
        if is_sparse and at == 0:  # of which a row meets a few parts
            continue
        if BLOCK_ROWS * (n_in + n_out) + panels * (n_in + 1) > most:
            return BLOCK_ROWS // 2
    return BLOCK_ROWS


@jit
def count_panels(n_units, lanes):
    unit, n = 0, 0
    while unit < n_units:
        unit += panel_width(n_units - unit, lanes)
        n += 1
    return n


@jit
def dense_panel(z, z_at, ld, a, a_at, lda, params, w_at, n_in, n_rows, panel, floor):
    """One panel of a . W + b, by row, at least `floor`; what follows it in W is on its way meanwhile."""
    vectors, first = panel // lanes_of(params), 0
    ahead = w_at + (n_in + 1) * panel
    ahead_stop = ahead + (n_in + 1) * panel
    while first < n_rows:
        height = block_height(n_rows - first, vectors)
        row_kernel(z, z_at + first * ld, ld, a, a_at + first * lda, lda, params, w_at, panel, n_in, height, vectors,
                   floor, ahead if ahead < ahead_stop else w_at)
        ahead += n_in * elements_of(AHEAD, params)
        first += height


@jit
def sparse_panel(z, z_at, ld, entries, first, params, w_at, n_in, n_rows, panel):
    """One panel of a . W + b, by row, of the sparse rows from `first` on; see `run_forward` for their `entries`."""
    arrays = array_at(entries, 3, np.int64)
    indptr = array_at(arrays[2] + 8 * first, n_rows + 1, np.int64)
    data = array_at(arrays[0], indptr[n_rows], params.dtype)
    indices = array_at(arrays[1], indptr[n_rows], np.int32)
    for r in range(n_rows):
        start, stop = indptr[r], indptr[r + 1]
        sparse_row(z, z_at + r * ld, data, start, indices, start, stop - start, params, w_at, n_in,
                   panel // lanes_of(params))


@jit
def are_finite(values):
    n = 0
    for i in range(values.size):
        n += 1 if values[i] - values[i] == values.dtype.type(0.0) else 0
    return n == values.size


@jit
def forward_panels(z, z_at, ld, a, a_at, lda, entries, first, params, layer, activation, n_rows, low, high):
    """Panels [low, high) of f(a . W + b), by row; with `entries`, a is sparse, its rows those from `first` on."""
    n_in, n_out, lanes, T = layer[N_IN], layer[N_OUT], lanes_of(params), params.dtype.type
    floor, is_done = -T(np.inf), activation == IDENTITY
    if activation == RELU and entries == 0:
        floor, is_done = T(0.0), True
    unit, number = 0, 0
    while unit < n_out:
        panel = panel_width(n_out - unit, lanes)
        if low <= number < high:
            w_at = layer[WEIGHTS] + unit * (n_in + 1)
            if entries != 0:
                sparse_panel(z, z_at + unit, ld, entries, first, params, w_at, n_in, n_rows, panel)
            else:
                dense_panel(z, z_at + unit, ld, a, a_at, lda, params, w_at, n_in, n_rows, panel, floor)
            for r in range(0 if is_done else n_rows):
                activation_forward(activation, view(z, z_at + r * ld + unit, panel))
        unit += panel
        number += 1


@jit
def transpose_rows(target, target_at, target_ld, source, source_at, source_ld, n_rows, n_columns):
    """Transpose a matrix in whole blocks: whatever lies beyond it goes along."""
    lanes = lanes_of(source)
    for r in range(0, n_rows, lanes):
        for c in range(0, n_columns, lanes):
            transpose_block(target, target_at + c * target_ld + r, target_ld,
                            source, source_at + r * source_ld + c, source_ld)


@jit
def copy_rows(out, first, z, z_at, ld, n_rows, n_out):
    lanes = lanes_of(z)
    for r in range(n_rows):
        for u in range(0, n_out, lanes):
            copy_first(out, (first + r) * n_out + u, z, z_at + r * ld + u, n_out - u)


@jit
def write_outputs(output, z, z_at, ld, n_rows, n_out, work_at, out, first):
    """Outputs from the last pre-activations, by row, with room for them by unit and two rows more at `work_at`."""
    values, n = view(out, first * n_out, n_rows * n_out), n_rows
    if output == SOFTMAX:  # the one that goes over all units of a row
        n = round_up(n_rows, lanes_of(z))
        values = view(z, work_at, n_out * n)
        transpose_rows(z, work_at, n, z, z_at, ld, n_rows, n_out)
    else:
        copy_rows(out, first, z, z_at, ld, n_rows, n_out)
    output_forward(output, values, n, view(z, work_at + BLOCK_ROWS * ld, 2 * n))
    if output == SOFTMAX:
        transpose_rows(z, z_at, ld, z, work_at, n, n_out, n_rows)
        copy_rows(out, first, z, z_at, ld, n_rows, n_out)


@jit
def run_forward(thread, n_threads, X, entries, out, network):
    """One thread's way through all the layers.

    The rows are those of X or, where `entries` is not 0, those of a CSR matrix: the addresses of its `data`, `indices`
    and `indptr` stand there. At the address `network` stand `N_FIELDS` integers, see `OUTPUT`. Each of its arrays as
    an argument would cost a call for one row some hundredths of its time. Each thread has `scratch_size` elements of
    scratch.
    """
    subnormals = flush_subnormals()
    fields = array_at(network, N_FIELDS, np.int64)
    layers = array_at(fields[LAYERS], fields[LAYERS + 1], np.int64)
    params = array_at(fields[PARAMS], fields[PARAMS + 1], out.dtype)
    scratch = array_at(fields[SCRATCH], fields[SCRATCH + 1], out.dtype)
    state = array_at(fields[STATE], fields[STATE + 1], np.int64)
    n_rows, n_layers, lanes = out.shape[0], layers.size // N_LAYER_FIELDS, lanes_of(params)
    n_out, ld = out.shape[1], leading_dimension_of(layers, lanes)
    # Slices of the rows, or, of a few rows, parts of each layer.
    n_parts = n_threads if n_rows <= BLOCK_ROWS else 1
    n_slices, n_own, base = 1, 1, 0
    block = rows_of_block(layers, params, entries != 0) if n_rows > BLOCK_ROWS else BLOCK_ROWS
    if n_threads > n_parts:
        # A block each, so that a thread that is held up leaves its others to the team.
        n_own = (n_rows + n_threads * block - 1) // (n_threads * block)
        n_slices, base = n_threads * n_own, thread * scratch_size(ld)
    granule = block if n_own >= MANY_BLOCKS else LEAST_ROWS
    n_granules = (n_rows + granule - 1) // granule
    phase, number = 0, next_piece(state, thread, n_threads, n_own) if n_slices > 1 else 0
    while number >= 0:
        high = min(n_rows, n_granules * (number + 1) // n_slices * granule)
        for first in range(n_granules * number // n_slices * granule, high, block):
            n = min(block, high - first)
            a, lda, z_at = view(X, 0, X.size), layers[N_IN], base
            a_at, following = first * lda, base + BLOCK_ROWS * ld
            for l in range(n_layers):
                layer = view(layers, l * N_LAYER_FIELDS, N_LAYER_FIELDS)
                code = layer[ACTIVATION] if l + 1 < n_layers else IDENTITY
                n_panels = count_panels(layer[N_OUT], lanes)
                phase, last = phase + 1, n_parts == 1
                part = next_slice(state, thread, n_parts, phase) if n_parts > 1 else 0
                while part >= 0:
                    if l == 0 and part == 0 and fields[FINITE] != 0 and not are_finite(view(X, a_at, n * lda)):
                        fields[FINITE] = 0
                    forward_panels(scratch, z_at, ld, a, a_at, lda, entries if l == 0 else 0, first, params, layer,
                                   code, n, n_panels * part // n_parts, n_panels * (part + 1) // n_parts)
                    if n_parts > 1:
                        last = finish_slice(state, n_parts, phase)
                    part = next_slice(state, thread, n_parts, phase) if n_parts > 1 else -1
                if last and l + 1 == n_layers:
                    write_outputs(fields[OUTPUT], scratch, z_at, ld, n, n_out, base + 2 * BLOCK_ROWS * ld, out, first)
                if n_parts > 1:
                    if last:
                        complete(state, phase)
                    wait_for(state, phase)
                a, a_at, lda, z_at, following = scratch, z_at, ld, following, z_at
        number = next_piece(state, thread, n_threads, n_own) if n_slices > 1 else -1
    restore_subnormals(subnormals)


def argument_types(real: Any) -> dict[str, Any]:
    """Return the types of what `run_forward` takes after the thread, for a network of numbers of type `real`."""
    i, out = types.int64, types.Array(real, 2, "C")
    rows = types.Array(real, 2, "C", readonly=True)  # which takes arrays that are writeable, too
    return {"n_threads": i, "X": rows, "entries": i, "out": out, "network": i}


_code = code_of(run_forward)


def start(crew, arguments):
    """Call run_forward(thread, *arguments) in this thread and in those of the crew."""
    n_threads, _, _, out, network = arguments
    fields = array_at(network, N_FIELDS, np.int64)
    state = array_at(fields[STATE], fields[STATE + 1], np.int64)
    for i in range(state.size if n_threads > 1 else 0):
        state[i] = 0
    size = (fields[PARAMS + 1] + PER_ROW) * (out.shape[0] + fields[LAYERS + 1] // N_LAYER_FIELDS)
    held, interpreter = CAN_RAISE or size <= HELD, 0
    if not held:
        interpreter = release_gil()
    call_team(crew, _code(arguments, ()), address_of(arguments))
    if not held:
        take_gil(interpreter)


_engine = Engine(start, argument_types, "-prediction", nogil=False)
code, is_compiled = _engine.code, _engine.is_compiled
