"""The first layer on sparse rows: a CSR matrix's `data`, `indices` and `indptr`, entries in any order, repeated or not.

Forward adds up, for each row, the rows of W that its entries name. For the gradient each thread sorts the entries of
the rows held into *buckets*, one for each panel of input units that it has tiles of: a tile then meets its own entries
alone, in the order of the rows, whoever computes it. Row r is first_row + index[index_at + r] of the matrix.
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
    TILE_IN,
    TILE_IN_WIDTH,
    TILE_OUT,
    TILE_OUT_WIDTH,
    WEIGHTS,
)
from fastnn.kernels.products import fill, panel_number, panel_width
from fastnn.kernels.simd import UNIT_BITS, lanes_of, sparse_row, sparse_tile, transpose_block, view


@jit
def sparse_forward(
    layer, scratch, tile_at, params, data, indices, indptr, first_row, index, index_at, n_rows, ld, width
):
    """Z = W . x + b, by unit; 0 in rows of padding."""
    lanes = lanes_of(scratch)
    n_in, n_out = layer[N_IN], layer[N_OUT]
    for r in range(0, width, lanes):
        n = min(lanes, n_rows - r)
        unit = 0
        while unit < n_out:
            panel = panel_width(n_out - unit, lanes)
            for i in range(n):
                row = first_row + index[index_at + r + i]
                sparse_row(scratch, tile_at + i * panel, data, indices, indptr[row], indptr[row + 1] - indptr[row],
                           params, layer[WEIGHTS] + unit * (n_in + 1), n_in, panel // lanes)
            fill(scratch, tile_at + n * panel, (lanes - n) * panel, scratch.dtype.type(0.0))
            for u in range(0, panel, lanes):
                transpose_block(scratch, layer[OUTPUT_UNITS] + (unit + u) * ld + r, ld, scratch, tile_at + u, panel)
            unit += panel


@jit
def fill_buckets(
    plan, thread, buckets, values, data, indices, indptr, first_row, index, index_at, n_rows, n_in, first, stop
):
    """Sort the entries of input units [first, stop), whole panels, into a bucket for each.

    The bias is the entry 1 of unit n_in in every row. Bucket b begins at starts[b] and ends at starts[b + 1].
    """
    lanes = lanes_of(data)
    at = thread * plan[BUCKETS]
    first_panel = panel_number(first, n_in + 1, lanes)
    n_buckets = panel_number(stop - 1, n_in + 1, lanes) - first_panel + 1
    # Counts lie two places on: added up, they are where buckets begin, and while these fill up, where they will end.
    starts, places = view(buckets, at, n_buckets + 2), view(buckets, at + plan[ENTRIES], plan[BUCKETS] - plan[ENTRIES])
    kept = view(values, at + plan[ENTRIES], plan[BUCKETS] - plan[ENTRIES])
    fill(buckets, at, n_buckets + 2, 0)
    for r in range(n_rows):
        row = first_row + index[index_at + r]
        for k in range(indptr[row], indptr[row + 1]):
            unit = indices[k]
            if first <= unit < stop:
                starts[panel_number(unit, n_in + 1, lanes) - first_panel + 2] += 1
    for b in range(2, n_buckets + 2):
        starts[b] += starts[b - 1]
    for r in range(n_rows):
        row = first_row + index[index_at + r]
        for k in range(indptr[row], indptr[row + 1]):
            unit = indices[k]
            if first <= unit < stop:
                b = panel_number(unit, n_in + 1, lanes) - first_panel + 1
                places[starts[b]] = r << UNIT_BITS | unit
                kept[starts[b]] = data[k]
                starts[b] += 1
        if n_in < stop:
            places[starts[n_buckets]] = r << UNIT_BITS | n_in
            kept[starts[n_buckets]] = data.dtype.type(1.0)
            starts[n_buckets] += 1


@jit
def sparse_gradient(plan, thread, layer, tile, first, buckets, values, rows, g, g_at, accumulate):
    """Tile C (+)= X . dZ over the rows held, from the buckets that begin with input unit `first`."""
    lanes, at = lanes_of(g), thread * plan[BUCKETS]
    n_units, unit, width_out = layer[N_IN] + 1, tile[TILE_IN], tile[TILE_OUT_WIDTH]
    if not accumulate:
        fill(g, g_at, min(tile[TILE_IN_WIDTH], n_units - unit) * width_out, g.dtype.type(0.0))
    bucket = at + panel_number(unit, n_units, lanes) - panel_number(first, n_units, lanes)
    start, end = buckets[bucket], buckets[bucket + 1]
    sparse_tile(g, g_at - unit * width_out, values, buckets, at + plan[ENTRIES] + start, end - start,
                rows, layer[DELTA_ROWS] + tile[TILE_OUT] * plan[CAPACITY], width_out // lanes)
