"""The entry point of training: epochs, or the gradients of a batch, in one compiled call."""

from typing import Any

import numpy as np
from numba import types

from fastnn.kernels.jit import jit
from fastnn.kernels.optimizers import optimizer_constants
from fastnn.kernels.plan import CAPACITY
from fastnn.kernels.shuffle import EXCHANGE
from fastnn.kernels.simd import flush_subnormals, restore_subnormals
from fastnn.kernels.sparse import sort_entries, sparse_forward, sparse_gradient
from fastnn.kernels.step import (
    BLOCK_FRAME,
    GRADIENT_FRAME,
    SORT_FRAME,
    SPARSE_FRAME,
    UPDATE,
    WEIGHTS_FRAME,
    backward_block,
    forward_block,
    loss_block,
    row_of,
    rows_phase,
    weights_frame,
    weights_phase,
)
from fastnn.kernels.team import (
    WORKER,
    Engine,
    address_of,
    call_code,
    call_team,
    code_of,
    complete,
    finish_slice,
    next_slice,
    wait_for,
)


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


@jit
def run(
    thread, arguments, codes, n_slices, start, stop, n_epochs, distance, batch_size, optimizer, steps, alpha, hyper,
    plan, layers_of, indptr, sample_weight, order, params, scratch, row_loss, squares, constants, result, state,
):  # fmt: skip
    """One thread's way through rows [start, stop) of each epoch, in phases that the team of `state` goes through.

    For the phases see `step.py`. The rows are those of X or, where `indptr` is not empty, of the CSR matrix of `data`,
    `indices` and `indptr`; those of an epoch begin in `order` at `distance` from those of the one before. Adds data
    loss and penalty, weighted by rows, to the epoch's two places in `result`, and leaves the number of epochs behind
    them, which a loss that is not finite ends, and that of the last step that has updated a weight. The last thread of
    a phase does what is done once.
    """
    phase, subnormals = 0, flush_subnormals()
    for number in range(n_epochs):
        for first in range(start, stop, batch_size):
            n_batch, origin = min(batch_size, stop - first), number * distance + first
            steps += 1
            total_weight = weight_of_rows(sample_weight, order, origin, n_batch)
            scale = 1.0 / total_weight if total_weight != 0.0 else 0.0
            decay = alpha * scale
            for done in range(0, n_batch, plan[CAPACITY]):
                n, position = min(plan[CAPACITY], n_batch - done), origin + done
                phase, last = phase + 1, False
                s = next_slice(state, thread, n_slices, phase)
                while s >= 0:
                    rows_phase(s, n, position, scale, arguments, codes, n_slices, plan, layers_of, indptr, scratch,
                               state)
                    last = finish_slice(state, n_slices, phase)
                    s = next_slice(state, thread, n_slices, phase)
                if last:
                    result[2 * number] += sum_of(row_loss, n) * n_batch
                    optimizer_constants(optimizer, hyper, steps, constants)
                    complete(state, phase)
                if not wait_for(state, phase):
                    restore_subnormals(subnormals)
                    return
                phase, last = phase + 1, False
                left = n_batch - done - n
                s = next_slice(state, thread, n_slices, phase)
                while s >= 0:
                    call_code(codes[UPDATE], s, weights_frame((n, done > 0, left == 0, decay, steps, arguments)))
                    last = finish_slice(state, n_slices, phase)
                    s = next_slice(state, thread, n_slices, phase)
                if last:
                    if left == 0 and params.dtype.type(decay) != params.dtype.type(0.0):  # as the tiles see it
                        penalty = 0.5 * alpha * sum_of(squares, squares.size) * scale
                        result[2 * number + 1] += penalty * n_batch
                    complete(state, phase)
                if not wait_for(state, phase):
                    restore_subnormals(subnormals)
                    return
        result[2 * n_epochs] = number + 1
        if not np.isfinite(result[2 * number] + result[2 * number + 1]):  # as each thread finds by itself
            break
    restore_subnormals(subnormals)


def argument_types(real: Any) -> dict[str, Any]:
    """Return the types of the arguments, by name, for a network of numbers of type `real`."""
    vector, whole, wide = (types.Array(kind, 1, "C") for kind in (real, types.int64, types.float64))
    table, tables = types.Array(types.int64, 2, "C"), types.Array(types.int64, 3, "C")
    return {
        "codes": whole, **dict.fromkeys(
            ("n_slices", "start", "stop", "n_epochs", "distance", "batch_size", "optimizer", "steps"), types.int64
        ),
        **dict.fromkeys(("alpha", "most_loss"), types.float64), "hyper": wide,
        "plan": whole, "layers_of": tables, "tiles": table, "shares": whole,
        "X": vector, "data": vector, "indices": types.Array(types.int32, 1, "C"), "indptr": whole,
        "labels": whole, "targets": vector, "sample_weight": vector, "order": whole,
        **dict.fromkeys(("params", "moments", "gradients", "rows", "scratch", "partial"), vector), "buckets": whole,
        **dict.fromkeys(("values", "row_loss", "squares", "constants"), vector), "result": wide,
        "identity": whole, "state": whole,
    }  # fmt: skip


_code = code_of(run, argument_types(types.float64))


def start(codes, crew, arguments):
    """Call `run` in this thread and in those of the crew."""
    whole = (codes,) + arguments
    frame = (address_of(whole),)
    call_team(crew, _code(frame, whole), address_of(frame))


_engine = Engine(
    start, argument_types,
    # In the order of `codes`, and first what takes longest to compile.
    parts={
        "loss": (loss_block, BLOCK_FRAME), "update": (weights_phase, WEIGHTS_FRAME),
        "backward": (backward_block, BLOCK_FRAME), "forward": (forward_block, BLOCK_FRAME),
    },
    sparse_parts={
        "sort": (sort_entries, SORT_FRAME), "sparse-forward": (sparse_forward, SPARSE_FRAME),
        "sparse-gradient": (sparse_gradient, GRADIENT_FRAME),
    },
    also=(EXCHANGE, WORKER),
)  # fmt: skip
code, is_compiled = _engine.code, _engine.is_compiled
