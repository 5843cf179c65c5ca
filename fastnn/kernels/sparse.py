"""Training of the first layer on sparse rows.

These are a CSR matrix's `data`, `indices` and `indptr`, entries in any order, repeated or not. Forward adds up, for
each row, the rows of W that its entries name. For the gradient each slice of the rows sorts its entries into *buckets*,
one for each panel of input units. A tile then meets its own entries alone, slice by slice, which is by row however many
slices there are. Each function is a part of a step, and compiled when sparse rows are first trained on.
"""

from fastnn.kernels.jit import jit
from fastnn.kernels.plan import (
    BUCKETS,
    CAPACITY,
    DELTA_ROWS,
    ENTRIES,
    N_IN,
    N_OUT,
    OUTPUT_UNITS,
    SCRATCH,
    TILE,
    TILE_IN,
    TILE_IN_WIDTH,
    TILE_OUT,
    TILE_OUT_WIDTH,
    WEIGHTS,
)
from fastnn.kernels.products import fill, panel_number, panel_width
from fastnn.kernels.simd import UNIT_BITS, lanes_of, sparse_row, sparse_tile, transpose_block, view
from fastnn.kernels.step import extent_of, place_of_gradient, place_of_tile, places_of
from fastnn.kernels.team import is_stopped


@jit
def sparse_forward(
    number, block, position, n_rows, plan, layers_of, data, indices, indptr, order, params, scratch, identity, state
):
    """Z = W . x + b, by unit, as part of `forward_block`; 0 in rows of padding."""
    first_row, index, index_at = places_of(order, identity, position)
    layer, tile_at, lanes = layers_of[block, 0], number * plan[SCRATCH] + plan[TILE], lanes_of(scratch)
    width, ld = extent_of(n_rows, scratch)
    n_in, n_out = layer[N_IN], layer[N_OUT]
    for r in range(0, width, lanes):
        n = min(lanes, n_rows - r)
        unit = 0
        while unit < n_out and not is_stopped(state):
            panel = panel_width(n_out - unit, lanes)
            for i in range(n):
                row = first_row + index[index_at + r + i]
                start, stop = indptr[row], indptr[row + 1]
                sparse_row(scratch, tile_at + i * panel, data, start, indices, start, stop - start,
                           params, layer[WEIGHTS] + unit * (n_in + 1), n_in, panel // lanes)
            fill(scratch, tile_at + n * panel, (lanes - n) * panel, scratch.dtype.type(0.0))
            for u in range(0, panel, lanes):
                transpose_block(scratch, layer[OUTPUT_UNITS] + (unit + u) * ld + r, ld, scratch, tile_at + u, panel)
            unit += panel


@jit
def sort_entries(
    number, position, low, high, plan, layers_of, data, indices, indptr, order, buckets, values, identity, state
):
    """Sort the entries of rows [low, high) of the round into this slice's buckets, those of one bucket by row.

    The bias is the entry 1 of unit n_in in every row. Bucket b begins at starts[b] and ends at starts[b + 1].
    """
    first_row, index, index_at = places_of(order, identity, position)
    n_in, lanes = layers_of[0, 0, N_IN], lanes_of(data)
    n_buckets = panel_number(n_in, n_in + 1, lanes) + 1
    starts = view(buckets, number * plan[BUCKETS], n_buckets + 2)
    places = view(buckets, plan[ENTRIES], values.size)
    # Counts lie two places on: added up, they are where buckets begin, and while these fill up, where they will end.
    fill(buckets, number * plan[BUCKETS], n_buckets + 2, 0)
    for r in range(low):
        row = first_row + index[index_at + r]
        starts[0] += indptr[row + 1] - indptr[row] + 1
    starts[1] = starts[0]
    for r in range(low, high):
        if is_stopped(state):
            return
        row = first_row + index[index_at + r]
        for k in range(indptr[row], indptr[row + 1]):
            starts[panel_number(indices[k], n_in + 1, lanes) + 2] += 1
    for b in range(2, n_buckets + 2):
        starts[b] += starts[b - 1]
    for r in range(low, high):
        if is_stopped(state):
            return
        row = first_row + index[index_at + r]
        for k in range(indptr[row], indptr[row + 1]):
            b = panel_number(indices[k], n_in + 1, lanes) + 1
            at = starts[b]
            starts[b] = at + 1
            places[at] = r << UNIT_BITS | indices[k]
            values[at] = data[k]
        at = starts[n_buckets]
        starts[n_buckets] = at + 1
        places[at] = r << UNIT_BITS | n_in
        values[at] = data.dtype.type(1.0)


@jit
def sparse_gradient(
    slice_number, number, accumulate, n_slices, plan, layers_of, tiles, gradients, rows, scratch, buckets, values
):
    """Tile C (+)= X . dZ over the rows held, from the buckets of each slice."""
    tile, layer = tiles[number], layers_of[0, 0]
    g, g_at = place_of_gradient(plan, slice_number, place_of_tile(layer, tile), gradients, scratch)
    n_units, unit, width_out = layer[N_IN] + 1, tile[TILE_IN], tile[TILE_OUT_WIDTH]
    if not accumulate:
        fill(g, g_at, min(tile[TILE_IN_WIDTH], n_units - unit) * width_out, g.dtype.type(0.0))
    number = panel_number(unit, n_units, lanes_of(g))
    for s in range(n_slices):
        bucket = s * plan[BUCKETS] + number
        start, stop = buckets[bucket], buckets[bucket + 1]
        sparse_tile(g, g_at - unit * width_out, values, start, buckets, plan[ENTRIES] + start, stop - start,
                    rows, layer[DELTA_ROWS] + tile[TILE_OUT] * plan[CAPACITY], width_out // lanes_of(g))
