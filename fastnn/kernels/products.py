"""Panels around the micro-kernel: the three products, and the transposes between their layouts.

Two layouts. *Panels*: a matrix of `slow` rows, its fast index cut into panels of at most PANEL_VECTORS vectors, one
panel after the other: element (s, f) of the panel that starts at f0 with width w lies at slow * f0 + s * w + f - f0.
Weights lie so, and activations and deltas "by row" (slow = row, fast = unit). *By unit*: (unit, row) at
unit * ld + row, for the rows of one block.

The bias is the last row of W, met by a last input unit that is always 1.
"""

from fastnn.kernels.jit import jit
from fastnn.kernels.plan import INPUT_UNITS, N_IN, N_OUT, OUTPUT_UNITS, WEIGHTS
from fastnn.kernels.simd import (
    LINE,
    PANEL_VECTORS,
    block_height,
    dot_block,
    dot_rows_of,
    elements_of,
    gather_block,
    gather_piece,
    gradient_kernel,
    lanes_of,
    micro_kernel,
    piece_of,
    transpose_block,
    transposed_kernel,
    view,
)


@jit
def round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple


@jit
def panel_width(left, lanes):
    """Width of the next panel where `left` elements remain: never a last panel of one vector after wider ones."""
    vectors = (left + lanes - 1) // lanes
    return 2 * lanes if vectors == 4 else min(vectors, PANEL_VECTORS) * lanes


@jit
def multiply(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, width, accumulate, ahead, ahead_at, ahead_stop):
    """C[m, width] (+)= sum over k of A[k, m] B[k, width], in register blocks.

    Meanwhile ahead[ahead_at : ahead_stop] is asked for, as far as k m allows; an empty range asks for nothing new.
    """
    vectors = width // lanes_of(c)
    first = 0
    while first < m:
        height = block_height(m - first, vectors)
        if ahead_at < ahead_stop:
            micro_kernel(c, c_at + first * ldc, ldc, a, a_at + first, lda, b, b_at, ldb, k, height, vectors, accumulate,
                         ahead, ahead_at)
            ahead_at += k * elements_of(LINE, c)
        else:
            micro_kernel(c, c_at + first * ldc, ldc, a, a_at + first, lda, b, b_at, ldb, k, height, vectors, accumulate,
                         b, b_at)
        first += height


@jit
def product_by_unit(c, c_at, a, a_at, slow, fast, m, b, b_at, k, ld, width):
    """C[m, width] = sum over k of A[k, m] B[k, width]: A in panels of `slow` rows over `fast` units, B, C by unit.

    While one panel of A is at work the next one is on its way: it may lie in L3, or in another core's cache.
    """
    lanes = lanes_of(c)
    unit = 0
    while unit < m:
        panel = panel_width(fast - unit, lanes)
        following, row = a_at + (unit + panel) * slow, 0
        ahead_stop = following + panel_width(fast - unit - panel, lanes) * slow if unit + panel < m else following
        while row < width:
            part = panel_width(width - row, lanes)
            multiply(c, c_at + unit * ld + row, ld, a, a_at + unit * slow, panel, b, b_at + row, ld,
                     k, min(panel, m - unit), part, False, a, following, ahead_stop)
            ahead_stop = following
            row += part
        unit += panel


@jit
def layer_forward(layer, scratch, params, ld, width):
    """Z = W . A + b, by unit."""
    n_in = layer[N_IN] + 1
    product_by_unit(scratch, layer[OUTPUT_UNITS], params, layer[WEIGHTS], n_in, layer[N_OUT], layer[N_OUT],
                    scratch, layer[INPUT_UNITS], n_in, ld, width)


@jit
def layer_backward(layer, scratch, da_at, dz_at, params, ld, width):
    """DA = W . dZ, by unit: one panel of W after the other, whose sums go on where the last one's ended."""
    lanes = lanes_of(scratch)
    slow, m, n_out = layer[N_IN] + 1, layer[N_IN], layer[N_OUT]
    unit = 0
    while unit < n_out:
        panel = panel_width(n_out - unit, lanes)
        k, w_at = min(panel, n_out - unit), layer[WEIGHTS] + unit * slow
        ahead_at = w_at + panel * slow
        ahead_stop = ahead_at + panel_width(n_out - unit - panel, lanes) * slow if unit + panel < n_out else ahead_at
        row = 0
        while row < width:
            part, first = panel_width(width - row, lanes), 0
            while first < m:
                height = block_height(m - first, part // lanes)
                ahead, line = (params, ahead_at) if ahead_at < ahead_stop else (scratch, dz_at)
                transposed_kernel(scratch, da_at + first * ld + row, ld, params, w_at + first * panel, panel,
                                  scratch, dz_at + unit * ld + row, ld, k, height, part // lanes, unit > 0,
                                  ahead, line)
                ahead_at += k * elements_of(LINE, scratch)
                first += height
            row += part
        unit += panel


@jit
def weight_gradient(c, c_at, a, a_at, lda, b, b_at, k, m, width, accumulate, w, w_at, moments, n_params):
    """Tile C[m, width] (+)= A . dZ over k rows, both by row; the tile of W that it updates lies as C.

    In parts of one vector of inputs; meanwhile W comes over from cores that read it, and the moments arrive.
    """
    lanes = lanes_of(c)
    vectors = width // lanes
    for part in range(0, m, lanes):
        turn, first, last = part // lanes, part, min(part + lanes, m)
        ahead, ahead_at = (moments, turn * n_params + w_at) if turn * n_params < moments.size else (b, b_at)
        while first < last:
            height = block_height(last - first, vectors)
            gradient_kernel(c, c_at + first * width, width, a, a_at + first, lda, b, b_at, width,
                            k, height, vectors, accumulate, ahead, ahead_at,
                            w, w_at + first * width, height * width)
            ahead_at += k * elements_of(LINE, c)
            first += height


@jit
def block_gradient(c, c_at, layer, scratch, dz_at, ld, width, tile_at):
    """C = A . dZ over the rows of one block, both by unit; C lies as W does. Rows of padding have dZ = 0."""
    lanes = lanes_of(c)
    dot_in = dot_rows_of(scratch)
    dot_out = lanes // dot_in
    n_in, n_out = layer[N_IN] + 1, layer[N_OUT]
    for i in range(0, n_in, dot_in):
        m = min(dot_in, n_in - i)
        for o in range(0, n_out, dot_out):
            n = min(dot_out, n_out - o)
            dot_block(scratch, tile_at, scratch, layer[INPUT_UNITS] + i * ld, m,
                      scratch, dz_at + o * ld, n, ld, width // lanes)
            for p in range(m):
                for q in range(n):
                    c[c_at + weight_offset(n_in, n_out, i + p, o + q, lanes)] = scratch[tile_at + p * dot_out + q]


@jit
def weight_offset(n_in, n_out, i, o, lanes):
    """Offset of the weight from unit i to unit o within its layer's panels."""
    panel = 0
    while True:
        width = panel_width(n_out - panel, lanes)
        if o < panel + width:
            return n_in * panel + i * width + o - panel
        panel += width


@jit
def rows_to_units(scratch, units_at, ld, X, x_at, index, index_at, n_rows, n_units, width):
    """Rows x_at + index[r] n_units of X, by unit; 0 in rows of padding."""
    lanes, piece = lanes_of(scratch), piece_of(scratch)
    for r in range(0, width, lanes):
        n = min(lanes, n_rows - r)
        done = 0
        if n == lanes and n_units >= piece:
            done = n_units
            for u in range(0, n_units // lanes * lanes, lanes):
                gather_block(scratch, units_at + u * ld + r, ld, X, x_at + u, n_units, index, index_at + r)
            for u in range(n_units // lanes * lanes, n_units, piece):
                first = min(u, n_units - piece)  # the last piece goes over units that the one before has done
                gather_piece(scratch, units_at + first * ld + r, ld, X, x_at + first, n_units, index, index_at + r)
        for u in range(done, n_units):
            unit = view(scratch, units_at + u * ld + r, lanes)
            rows = view(index, index_at + r, n)
            for i in range(n):
                unit[i] = X[x_at + rows[i] * n_units + u]
            for i in range(n, lanes):
                unit[i] = scratch.dtype.type(0.0)


@jit
def pack_rows(panel, panel_at, width, X, x_at, index, index_at, n_rows, n_in, unit):
    """Units [unit, unit + width) of the same rows, by row; the unit after the last is always 1."""
    used = min(width, n_in - unit)
    for r in range(n_rows):
        part = view(panel, panel_at + r * width, width)
        row = view(X, x_at + index[index_at + r] * n_in + unit, used)
        for u in range(used):
            part[u] = row[u]
        if used < width:
            part[used] = panel.dtype.type(1.0)


@jit
def units_to_rows(rows, rows_at, capacity, first, scratch, units_at, ld, n_units, width):
    """Transpose from by unit to rows [first, first + width) by row; units of padding come along."""
    lanes = lanes_of(scratch)
    panel = 0
    while panel < n_units:
        panel_ld = panel_width(n_units - panel, lanes)
        for u in range(0, panel_ld, lanes):
            for r in range(0, width, lanes):
                transpose_block(rows, rows_at + panel * capacity + (first + r) * panel_ld + u, panel_ld,
                                scratch, units_at + (panel + u) * ld + r, ld)
        panel += panel_ld


@jit
def fill(array, at, n, value):
    part = view(array, at, n)
    for i in range(n):
        part[i] = value
