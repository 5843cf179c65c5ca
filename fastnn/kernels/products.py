"""Panels around the micro-kernel: the three products, and the transposes between their layouts.

Two layouts. *Panels*: a matrix of `slow` rows, its fast index cut into panels of at most PANEL_VECTORS vectors, one
panel after the other: element (s, f) of the panel that starts at f0 with width w lies at slow * f0 + s * w + f - f0.
Weights lie so, and deltas "by row" (slow = row, fast = unit). *By unit*: (unit, row) at unit * ld + row, for the rows
of one block; so lie inputs, activations and deltas.

The bias is the last row of W, met by a last input unit that is always 1.
"""

import numpy as np

from fastnn.kernels.jit import jit, jit_apart
from fastnn.kernels.plan import INPUT_UNITS, N_IN, N_OUT, OUTPUT_UNITS, WEIGHTS
from fastnn.kernels.simd import (
    LINE,
    PANEL_VECTORS,
    ask_for,
    block_height,
    dot_block,
    dot_shape_of,
    elements_of,
    gather_block,
    gather_piece,
    gradient_kernel,
    lanes_of,
    micro_kernel,
    piece_of,
    sum_block,
    transpose_block,
    transposed_kernel,
    view,
)
from fastnn.kernels.team import is_stopped
from fastnn.kernels.width import SIMD_BITS

# Bytes of the second-level cache that CPUs with such vectors have at least.
L2 = 2**20 if SIMD_BITS == 512 else 2**19
MOST_PANELS = 22  # of W that one sum goes through: with `PANEL_VECTORS` vectors of input units, 200 KiB


@jit
def round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple


@jit
def panel_width(left, lanes):
    """Width of the next panel where `left` elements remain: never a last panel of one vector after wider ones."""
    vectors = (left + lanes - 1) // lanes
    return 2 * lanes if vectors == 4 else min(vectors, PANEL_VECTORS) * lanes


@jit
def panel_number(unit, n_units, lanes):
    """Number of the panel that a unit lies in."""
    vectors = (n_units + lanes - 1) // lanes
    # All panels but the last are of the most vectors, except where the last four vectors make two and two.
    early = vectors - 2 if vectors % PANEL_VECTORS == 1 and vectors > PANEL_VECTORS else -1
    number = np.uint32(unit)  # a division without a sign is a product and a shift
    return np.int64(number // np.uint32(PANEL_VECTORS * lanes)) + (np.int64(number // np.uint32(lanes)) == early)


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
def product_by_unit(c, c_at, a, a_at, slow, fast, m, b, b_at, k, ld, width, state):
    """C[m, width] = sum over k of A[k, m] B[k, width]: A in panels of `slow` rows over `fast` units, B, C by unit.

    While one panel of A is at work the next one is on its way: it may lie in L3, or in another core's cache. A large
    matrix takes long: a team that is to stop does so before the next panel.
    """
    lanes = lanes_of(c)
    unit = 0
    while unit < m and not is_stopped(state):
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
def layer_forward(layer, scratch, params, ld, width, state):
    """Z = W . A + b, by unit."""
    n_in = layer[N_IN] + 1
    product_by_unit(scratch, layer[OUTPUT_UNITS], params, layer[WEIGHTS], n_in, layer[N_OUT], layer[N_OUT],
                    scratch, layer[INPUT_UNITS], n_in, ld, width, state)


@jit
def equal_panels(left, lanes):
    """How many whole panels of the next one's width follow each other where `left` elements remain, at least 1."""
    width, n = panel_width(left, lanes), 1
    left -= width
    while n < MOST_PANELS and left >= width and panel_width(left, lanes) == width:
        left -= width
        n += 1
    return n


@jit
def layer_backward(layer, scratch, da_at, dz_at, params, ld, width, state):
    """DA = W . dZ, by unit: a few input units at a time, whose part of W stays in L2 while all rows meet it.

    The sums go through as many panels of W as have one width; meanwhile the next units' part of W is on its way.
    """
    lanes = lanes_of(scratch)
    slow, m, n_out = layer[N_IN] + 1, layer[N_IN], layer[N_OUT]
    unit, most = 0, PANEL_VECTORS * lanes
    while unit < n_out:
        panel = panel_width(n_out - unit, lanes)
        panels = equal_panels(n_out - unit, lanes)
        k = min(panel, n_out - unit)
        for start in range(0, m, most):
            if is_stopped(state):
                break
            stop = min(m, start + most)
            ahead = most * panel if stop < m else 0
            row = 0
            while row < width:
                part, first = panel_width(width - row, lanes), start
                while first < stop:
                    height = block_height(stop - first, part // lanes)
                    w_at = layer[WEIGHTS] + unit * slow + first * panel
                    transposed_kernel(scratch, da_at + first * ld + row, ld, params, w_at, panel,
                                      scratch, dz_at + unit * ld + row, ld, k, height, part // lanes, unit > 0,
                                      params, w_at + ahead, panels, panel * slow)
                    first += height
                row += part
                ahead = 0
        unit += panels * panel


@jit
def weight_gradient(c, c_at, a, a_at, lda, b, b_at, k, m, width, accumulate, w, w_at, moments, n_params):
    """Tile C[m, width] (+)= A . dZ over k rows, A by unit, dZ by row; the tile of W that it updates lies as C.

    Meanwhile W comes over from cores that read it, and the first and the last of the moments arrive.
    """
    vectors, line, first = width // lanes_of(c), elements_of(LINE, c), 0
    ahead, distance = (moments, moments.size - n_params) if moments.size > 0 else (w, 0)
    while first < m:
        height, at = block_height(m - first, vectors), w_at + first * width
        gradient_kernel(c, c_at + first * width, width, a, a_at + first * lda, lda, b, b_at, width,
                        k, height, vectors, accumulate, ahead, at, distance, w, at, height * width // line)
        first += height


@jit
def block_gradient(c, c_at, layer, scratch, dz_at, ld, width):
    """C = A . dZ over the rows of one block, both by unit; C lies as W does. Rows of padding have dZ = 0."""
    lanes, n_in, n_out = lanes_of(c), layer[N_IN], layer[N_OUT]
    vectors, (dot_in, dot_out) = width // lanes, dot_shape_of(scratch)
    unit = 0
    while unit < n_out:
        panel = panel_width(n_out - unit, lanes)
        w_at, used = c_at + unit * (n_in + 1), min(panel, n_out - unit)
        for o in range(0, used, dot_out):
            for i in range(0, n_in, dot_in):
                dot_block(c, w_at + i * panel + o, panel, scratch, layer[INPUT_UNITS] + i * ld, min(dot_in, n_in - i),
                          scratch, dz_at + (unit + o) * ld, min(dot_out, used - o), ld, vectors)
        for o in range(0, used, lanes):
            sum_block(c, w_at + n_in * panel + o, scratch, dz_at + (unit + o) * ld, min(lanes, used - o), ld, vectors)
        unit += panel


@jit
def rows_to_units(scratch, units_at, ld, X, x_at, index, index_at, n_rows, n_units, width, state):
    """Rows x_at + index[r] n_units of X, by unit; 0 in rows of padding.

    A team that is to stop does so before the next block of rows, which of very wide rows is slow.
    """
    lanes, done = lanes_of(scratch), 0
    if n_rows >= lanes and n_units >= piece_of(scratch):
        done = n_units
        for r in range(0, n_rows, lanes):
            if is_stopped(state):
                break
            first = min(r, n_rows - lanes)  # the last block goes over rows that the one before has done
            gather_rows(scratch, units_at + first, ld, X, x_at, index, index_at + first, n_units,
                        min(lanes, n_rows - lanes - first))
    for u in range(n_units):
        unit = view(scratch, units_at + u * ld, width)
        if u >= done:
            for r in range(n_rows):
                unit[r] = X[x_at + index[index_at + r] * n_units + u]
        for r in range(n_rows, width):
            unit[r] = scratch.dtype.type(0.0)


@jit
def gather_rows(scratch, units_at, ld, X, x_at, index, index_at, n_units, ahead):
    """As many rows as lanes, by unit. Meanwhile those `ahead` rows on arrive, which lie anywhere in memory."""
    lanes, piece = lanes_of(scratch), piece_of(scratch)
    whole, stop = n_units // lanes * lanes, ahead + lanes if X.size > elements_of(L2, X) else ahead
    for u in range(0, whole, lanes):
        for r in range(ahead, stop):
            ask_for(X, x_at + index[index_at + r] * n_units + u)
        gather_block(scratch, units_at + u * ld, ld, X, x_at + u, n_units, index, index_at)
    for u in range(whole, n_units, piece):
        first = min(u, n_units - piece)  # the last piece goes over units that the one before has done
        gather_piece(scratch, units_at + first * ld, ld, X, x_at + first, n_units, index, index_at)


@jit_apart
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
