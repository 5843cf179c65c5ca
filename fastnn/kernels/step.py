"""One step as two phases of a team.

*Rows*: each slice of the batch is carried, block by block, through gather, all layers forward, the loss and all layers
backward. *Weights*: each slice is a share of the tiles of the weight matrices: gradient over the whole batch in one
fixed order, penalty, update. No sum is split between slices, so the result does not depend on their number. A slice has
its own scratch, whichever thread takes it. In a *narrow* network, whose weights stay in the nearest caches, blocks
compute their own gradients by dot products over rows, which saves every transpose, and the weights phase adds the
blocks up in their order. *Sparse* rows differ in the first layer alone, see `sparse.py`, and are never narrow.

What takes long to compile is a *part* of its own, called at an address in `codes` with the address of a *frame*: what
it takes of its own, and the address of the arguments of the whole call, of which it takes some by their names.
"""

from numba import types

from fastnn.kernels.activations import activation_backward, activation_forward
from fastnn.kernels.jit import jit, jit_apart
from fastnn.kernels.losses import loss_backward
from fastnn.kernels.optimizers import NONE, optimizer_update
from fastnn.kernels.plan import (
    ACTIVATION,
    BLOCK_ROWS,
    BLOCKS,
    CAPACITY,
    DELTA_A,
    DELTA_B,
    DELTA_ROWS,
    INPUT_UNITS,
    N_IN,
    N_OUT,
    N_PARAMS,
    NARROW,
    OUTPUT,
    OUTPUT_UNITS,
    SCRATCH,
    TARGET,
    TILE,
    TILE_IN,
    TILE_IN_WIDTH,
    TILE_LAYER,
    TILE_OUT,
    TILE_OUT_WIDTH,
    WEIGHT,
    WEIGHTS,
    WORK,
)
from fastnn.kernels.products import (
    block_gradient,
    fill,
    layer_backward,
    layer_forward,
    round_up,
    rows_to_units,
    units_to_rows,
    weight_gradient,
)
from fastnn.kernels.simd import LINE, elements_of, fma, lanes_of, sum_of_squares, view
from fastnn.kernels.team import call_code, frame_of, is_stopped


@jit
def row_of(order, position):
    """Index of the row at a position of the epoch; an empty order stands for the rows as they lie."""
    return order[position] if order.size > 0 else position


@jit
def line_of(array):
    """Elements of a cache line, or of a vector where that is more."""
    return max(lanes_of(array), elements_of(LINE, array))


@jit
def leading_dimension(n_rows, array):
    """Distance of units in a block: whole lines, but a multiple of 8 would map many units to few sets of L1."""
    line = line_of(array)
    width = round_up(n_rows, line)
    return width + line if width % (8 * line) == 0 else width


@jit
def extent_of(n_rows, array):
    """How wide a block is by unit: its rows with those that fill vectors, and the distance of its units."""
    return round_up(n_rows, lanes_of(array)), leading_dimension(n_rows, array)


@jit
def gather_targets(
    scratch, at, weight_at, ld, labels, targets, sample_weight, scale, first_row, index, index_at, n_rows, n_out, width,
    state,
):  # fmt: skip
    """Targets of a block by unit, one-hot from labels, and its sample weights times `scale`, 0 for padding.

    Row r is first_row + index[index_at + r].
    """
    zero, one = scratch.dtype.type(0.0), scratch.dtype.type(1.0)
    fill(scratch, weight_at, n_rows, scale)
    fill(scratch, weight_at + n_rows, ld - n_rows, zero)
    if sample_weight.size > 0:
        for r in range(n_rows):
            scratch[weight_at + r] *= sample_weight[first_row + index[index_at + r]]
    if labels.size > 0:
        fill(scratch, at, n_out * ld, zero)
        for r in range(n_rows):
            scratch[at + labels[first_row + index[index_at + r]] * ld + r] = one
    else:
        rows_to_units(scratch, at, ld, targets, first_row * n_out, index, index_at, n_rows, n_out, width, state)


@jit
def slice_of(number, n_slices, n, granule):
    """First and last row of a slice, at whole granules."""
    pieces = (n + granule - 1) // granule
    return min(n, pieces * number // n_slices * granule), min(n, pieces * (number + 1) // n_slices * granule)


@jit
def granule_of(plan, array):
    """Rows that no two slices share: a block whose gradient is one sum, else what fills cache lines of each unit."""
    return plan[BLOCK_ROWS] if plan[NARROW] else line_of(array)


@jit
def block_of(plan, number, low, first):
    """Number of the block at row `first` of the slice `number`, which begins at `low`."""
    return number * plan[BLOCKS] + (first - low) // plan[BLOCK_ROWS]


@jit
def places_of(order, identity, position):
    """Where the rows at `position` and after lie: row r is first_row + index[index_at + r]."""
    return (0, order, position) if order.size > 0 else (position, identity, 0)


# The parts, by their places in `codes`; those of sparse rows are there for these alone.
LOSS, UPDATE, BACKWARD, FORWARD, SORT, SPARSE_FORWARD, SPARSE_GRADIENT = range(7)
# Frame of the parts that carry a block: its number, the position of its rows in the order, the first of them in the
# round, how many they are, and what losses and deltas carry.
BLOCK_FRAME = types.int64, types.int64, types.int64, types.int64, types.float64, types.int64
block_frame = frame_of(BLOCK_FRAME)
# What those of sparse rows take: the position of a round's rows, the first and the last of the slice; a block, the
# position of its rows and how many they are; a tile, and whether its gradient is added to what is there.
SORT_FRAME = types.int64, types.int64, types.int64, types.int64
SPARSE_FRAME = types.int64, types.int64, types.int64, types.int64
GRADIENT_FRAME = types.int64, types.boolean, types.int64
sort_frame, sparse_frame, gradient_frame = frame_of(SORT_FRAME), frame_of(SPARSE_FRAME), frame_of(GRADIENT_FRAME)


@jit
def forward_block(
    number, block, position, first, n_rows, scale, arguments, codes, plan, layers_of, X, indptr, order, params, scratch,
    identity, state,
):  # fmt: skip
    """Carry a block to the last pre-activations, by unit."""
    first_row, index, index_at = places_of(order, identity, position)
    layers, (width, ld) = layers_of[block], extent_of(n_rows, scratch)
    n_in, inputs = layers[0, N_IN], layers[0, INPUT_UNITS]
    if indptr.size == 0:
        rows_to_units(scratch, inputs, ld, X, first_row * n_in, index, index_at, n_rows, n_in, width, state)
        fill(scratch, inputs + n_in * ld, ld, scratch.dtype.type(1.0))
    for l in range(layers.shape[0]):
        if is_stopped(state):
            break
        layer = layers[l]
        if l == 0 and indptr.size > 0:
            call_code(codes[SPARSE_FORWARD], number, sparse_frame((block, position, n_rows, arguments)))
        else:
            layer_forward(layer, scratch, params, ld, width, state)
        if l + 1 < layers.shape[0]:
            n_out = layer[N_OUT]
            activation_forward(layer[ACTIVATION], view(scratch, layer[OUTPUT_UNITS], n_out * ld))
            fill(scratch, layer[OUTPUT_UNITS] + n_out * ld, ld, scratch.dtype.type(1.0))


@jit
def loss_block(
    number, block, position, first, n_rows, scale, plan, layers_of, labels, targets, sample_weight, most_loss, order,
    scratch, row_loss, identity, state,
):  # fmt: skip
    """Losses of a block, and its deltas in the place of the last pre-activations; see `loss_backward`."""
    first_row, index, index_at = places_of(order, identity, position)
    layer, base, T = layers_of[block, layers_of.shape[1] - 1], number * plan[SCRATCH], scratch.dtype.type
    n_out, (width, ld) = layer[N_OUT], extent_of(n_rows, scratch)
    gather_targets(scratch, base + plan[TARGET], base + plan[WEIGHT], ld, labels, targets, sample_weight, T(scale),
                   first_row, index, index_at, n_rows, n_out, width, state)
    loss = view(scratch, base + plan[WORK], ld)
    loss_backward(plan[OUTPUT], view(scratch, layer[OUTPUT_UNITS], n_out * ld),
                  view(scratch, base + plan[TARGET], n_out * ld), view(scratch, base + plan[WEIGHT], ld), loss,
                  view(scratch, base + plan[WORK] + ld, 3 * ld), T(most_loss))
    losses = view(row_loss, first, n_rows)
    for r in range(n_rows):
        losses[r] = loss[r]


@jit
def backward_block(
    number, block, position, first, n_rows, scale, plan, layers_of, params, rows, scratch, partial, state
):
    """Carry the deltas of a block from the last layer to the first, leaving each where the gradient wants it."""
    layers, base = layers_of[block], number * plan[SCRATCH]
    width, ld = extent_of(n_rows, scratch)
    lanes = lanes_of(scratch)
    n_layers = layers.shape[0]
    dz = layers[n_layers - 1, OUTPUT_UNITS]
    for l in range(n_layers - 1, -1, -1):
        if is_stopped(state):
            break
        layer = layers[l]
        n_out = layer[N_OUT]
        if plan[NARROW]:
            at = (first // plan[BLOCK_ROWS]) * plan[N_PARAMS] + layer[WEIGHTS]
            block_gradient(partial, at, layer, scratch, dz, ld, width)
        else:
            fill(scratch, dz + n_out * ld, (round_up(n_out, lanes) - n_out) * ld, scratch.dtype.type(0.0))
            units_to_rows(rows, layer[DELTA_ROWS], plan[CAPACITY], first, scratch, dz, ld, n_out, width)
        if l > 0:
            da = base + (plan[DELTA_A] if (n_layers - l) % 2 else plan[DELTA_B])
            layer_backward(layer, scratch, da, dz, params, ld, width, state)
            n = layer[N_IN] * ld
            activation_backward(layers[l - 1, ACTIVATION], view(scratch, da, n), view(scratch, layer[INPUT_UNITS], n))
            dz = da


@jit
def rows_phase(
    number, n_rows, position, scale, arguments, codes, n_slices, plan, layers_of, indptr, scratch, state
):
    """One slice of `n_rows` rows, forward and backward: those at `position` and after in the order, or as they lie.

    `scale` is 1 / (sum of the batch's sample weights): losses and deltas carry it, so that gradients are means.
    """
    low, high = slice_of(number, n_slices, n_rows, granule_of(plan, scratch))
    if indptr.size > 0:
        call_code(codes[SORT], number, sort_frame((position, low, high, arguments)))
    for first in range(low, high, plan[BLOCK_ROWS]):
        n = min(plan[BLOCK_ROWS], high - first)
        frame = block_frame((block_of(plan, number, low, first), position + first, first, n, scale, arguments))
        for part in (FORWARD, LOSS, BACKWARD):
            if not is_stopped(state):
                call_code(codes[part], number, frame)


@jit
def gradient_of_narrow(plan, layer, tile, partial, n_rows, g, g_at, accumulate):
    """Gradient of one tile from the sums that narrow blocks left."""
    n_in, i, width_out = layer[N_IN] + 1, tile[TILE_IN], tile[TILE_OUT_WIDTH]
    size = min(tile[TILE_IN_WIDTH], n_in - i) * width_out
    target = view(g, g_at, size)
    at = layer[WEIGHTS] + tile[TILE_OUT] * n_in + i * width_out
    if not accumulate:
        fill(g, g_at, size, g.dtype.type(0.0))
    for block in range((n_rows + plan[BLOCK_ROWS] - 1) // plan[BLOCK_ROWS]):
        source = view(partial, block * plan[N_PARAMS] + at, size)
        for e in range(size):
            target[e] += source[e]


@jit_apart
def gradient_of_wide(
    plan, layers_of, n_slices, tile, scratch, rows, n_rows, g, g_at, accumulate, params, w_at, moments
):  # fmt: skip
    """Gradient of one tile by products over the rows held, block by block in their order."""
    l, unit, width_out = tile[TILE_LAYER], tile[TILE_IN], tile[TILE_OUT_WIDTH]
    for s in range(n_slices):
        low, high = slice_of(s, n_slices, n_rows, granule_of(plan, scratch))
        for first in range(low, high, plan[BLOCK_ROWS]):
            layer = layers_of[block_of(plan, s, low, first), l]
            n = min(plan[BLOCK_ROWS], high - first)
            ld = leading_dimension(n, scratch)
            dz_at = layer[DELTA_ROWS] + tile[TILE_OUT] * plan[CAPACITY] + first * width_out
            weight_gradient(g, g_at, scratch, layer[INPUT_UNITS] + unit * ld, ld, rows, dz_at, n,
                            min(tile[TILE_IN_WIDTH], layer[N_IN] + 1 - unit), width_out, accumulate or first > 0,
                            params, w_at, moments, plan[N_PARAMS])


@jit
def place_of_gradient(plan, slice_number, w_at, gradients, scratch):
    """Where the gradient of a tile goes whose weights lie at `w_at`: to the others', or to the slice's scratch."""
    return (gradients, w_at) if gradients.size > 0 else (scratch, slice_number * plan[SCRATCH] + plan[TILE])


@jit
def place_of_tile(layer, tile):
    """Where the weights of a tile lie."""
    n_in = layer[N_IN] + 1
    return layer[WEIGHTS] + tile[TILE_OUT] * n_in + tile[TILE_IN] * tile[TILE_OUT_WIDTH]


WEIGHTS_FRAME = types.int64, types.boolean, types.boolean, types.float64, types.int64, types.int64
weights_frame = frame_of(WEIGHTS_FRAME)


@jit
def weights_phase(
    slice_number, n_rows, accumulate, last, decay, step, arguments, codes, n_slices, optimizer, plan, layers_of, tiles,
    shares, indptr, params, moments, gradients, rows, scratch, partial, squares, constants, result, state,
):  # fmt: skip
    """Take one slice of the tiles: gradient over the rows held, and after the last rows of the batch, the update.

    `decay` times a weight is the gradient of the penalty. `gradients` has room for all parameters where a batch is
    taken in several rounds or gradients are the result, and is empty where a tile's gradient need not outlive it.
    Where a tile has been updated, rather than the team been stopped before, the end of `result` gets the step.
    """
    decay = params.dtype.type(decay)
    for number in range(shares[slice_number], shares[slice_number + 1]):
        if is_stopped(state):
            break
        tile = tiles[number]
        l = tile[TILE_LAYER]
        layer = layers_of[0, l]
        n_in = layer[N_IN] + 1
        width_out = tile[TILE_OUT_WIDTH]
        w_at = place_of_tile(layer, tile)
        n_units = min(tile[TILE_IN_WIDTH], n_in - tile[TILE_IN])
        g, g_at = place_of_gradient(plan, slice_number, w_at, gradients, scratch)
        if plan[NARROW]:
            gradient_of_narrow(plan, layer, tile, partial, n_rows, g, g_at, accumulate)
        elif l == 0 and indptr.size > 0:
            call_code(codes[SPARSE_GRADIENT], slice_number, gradient_frame((number, accumulate, arguments)))
        else:
            gradient_of_wide(plan, layers_of, n_slices, tile, scratch, rows, n_rows, g, g_at, accumulate, params, w_at,
                             moments)
        if last:
            biases = 1 if tile[TILE_IN] + n_units == n_in else 0
            penalised, size = (n_units - biases) * width_out, n_units * width_out
            w, whole = view(params, w_at, size), view(g, g_at, size)
            if decay != params.dtype.type(0.0):
                squares[number] = sum_of_squares(view(params, w_at, penalised))
                for e in range(penalised):
                    whole[e] = fma(decay, w[e], whole[e])
            if optimizer != NONE:
                optimizer_update(optimizer, w, whole, view(moments, w_at, size),
                                 view(moments, moments.size - plan[N_PARAMS] + w_at, size), constants)
                result[result.size - 1] = step
