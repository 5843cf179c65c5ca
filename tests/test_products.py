"""Micro-kernel, transposes, dot products and panels against NumPy; on small integers every sum is exact."""

import numba
import numpy as np
import pytest
import reference
from helpers import DTYPES, stopped_by

from fastnn.kernels import plan, products, simd, team
from fastnn.layout import panels

CONTRACTIONS = (1, 2, 3, 4, 7, 8, 9, 64, 257)
UNTOUCHED = -99.0
GOES_ON = np.zeros(team.state_size(1), np.int64)


@numba.njit
def micro_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate):
    simd.micro_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, b, b_at)


@numba.njit
def transpose_block(target, target_at, target_ld, source, source_at, source_ld):
    simd.transpose_block(target, target_at, target_ld, source, source_at, source_ld)


@numba.njit
def dot_block(target, target_at, ldt, a, a_at, m, b, b_at, n, ld, k):
    simd.dot_block(target, target_at, ldt, a, a_at, m, b, b_at, n, ld, k)


@numba.njit
def sum_block(target, target_at, b, b_at, n, ld, k):
    simd.sum_block(target, target_at, b, b_at, n, ld, k)


@numba.njit
def sum_of_squares(array):
    return simd.sum_of_squares(array)


@numba.njit
def multiply(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, width, accumulate, n_ahead):
    products.multiply(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, width, accumulate, b, 0, n_ahead)


@numba.njit
def product_by_unit(c, c_at, a, a_at, slow, fast, m, b, b_at, k, ld, width, state):
    products.product_by_unit(c, c_at, a, a_at, slow, fast, m, b, b_at, k, ld, width, state)


@numba.njit
def transposed_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, panels, distance):
    simd.transposed_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, a, a_at, panels, distance)


@numba.njit
def row_kernel(z, z_at, ldz, a, a_at, lda, w, w_at, ldw, k, m, v, floor):
    simd.row_kernel(z, z_at, ldz, a, a_at, lda, w, w_at, ldw, k, m, v, floor, w_at)


@numba.njit
def copy_first(target, target_at, source, source_at, n):
    simd.copy_first(target, target_at, source, source_at, n)


@numba.njit
def layer_backward(layer, scratch, da_at, dz_at, params, ld, width, state):
    products.layer_backward(layer, scratch, da_at, dz_at, params, ld, width, state)


@numba.njit
def gradient_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, own, own_at, n_own):
    simd.gradient_kernel(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, b, b_at, 1, own, own_at, n_own)


@numba.njit
def weight_gradient(c, c_at, a, a_at, lda, b, b_at, k, m, width, accumulate, w, w_at, moments, n_params):
    products.weight_gradient(c, c_at, a, a_at, lda, b, b_at, k, m, width, accumulate, w, w_at, moments, n_params)


@numba.njit
def gather_block(target, target_at, target_ld, source, source_at, source_ld, index, index_at):
    simd.gather_block(target, target_at, target_ld, source, source_at, source_ld, index, index_at)


@numba.njit
def rows_to_units(scratch, units_at, ld, X, x_at, index, index_at, n_rows, n_units, width, state):
    products.rows_to_units(scratch, units_at, ld, X, x_at, index, index_at, n_rows, n_units, width, state)


@numba.njit
def units_to_rows(rows, rows_at, capacity, first, scratch, units_at, ld, n_units, width):
    products.units_to_rows(rows, rows_at, capacity, first, scratch, units_at, ld, n_units, width)


def integers(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def product_arrays(m, width, k, dtype, seed=0):
    """A[k, m] with two columns too many, B[k, width] with three, C[m, width] in a larger array with a frame."""
    rng = np.random.default_rng(seed)
    a, b = integers(rng, (k, m + 2), dtype), integers(rng, (k, width + 3), dtype)
    c = np.full((m + 2, width + 5), UNTOUCHED, dtype)
    c[1 : m + 1, 2 : width + 2] = integers(rng, (m, width), dtype)
    return a, b, c


def check_product(call, m, width, k, dtype, accumulate):
    a, b, c = product_arrays(m, width, k, dtype)
    expected = c.copy()
    inside = expected[1 : m + 1, 2 : width + 2]
    inside[:] = a[:, 1 : m + 1].T @ b[:, 2 : width + 2] + (inside if accumulate else 0)
    frame = c.shape[1]
    call(c.reshape(-1), frame + 2, frame, a.reshape(-1), 1, a.shape[1], b.reshape(-1), 2, b.shape[1], k, m)
    np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_panel_number(lanes):
    for n in range(1, 13 * lanes):
        expected = [number for number, (_, width) in enumerate(panels(n, lanes)) for _ in range(width)][:n]
        assert [products.panel_number.py_func(unit, n, lanes) for unit in range(n)] == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, simd.PANEL_VECTORS + 1))
@pytest.mark.parametrize("accumulate", [False, True])
def test_micro_kernel(dtype, vectors, accumulate):
    for m in simd.heights(vectors):
        for k in CONTRACTIONS:
            check_product(
                lambda *args: micro_kernel(*args, vectors, accumulate),
                m, vectors * simd.lanes(dtype), k, dtype, accumulate,
            )  # fmt: skip
            for n in (1, 2, 5):
                check_product(
                    lambda *args, n=n: from_panels(*args, vectors, accumulate, n),
                    m, vectors * simd.lanes(dtype), k * n, dtype, accumulate,
                )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, simd.PANEL_VECTORS + 1))
@pytest.mark.parametrize("floor", [-np.inf, 0.0])
def test_row_kernel(dtype, vectors, floor):
    rng, width, kind = np.random.default_rng(0), vectors * simd.lanes(dtype), np.dtype(dtype).type
    for m in simd.heights(vectors):
        for k in CONTRACTIONS:
            a, w = (rng.integers(-8, 8, shape).astype(dtype) for shape in ((m, k + 3), (k + 1, width + 5)))
            w[k, 3] = np.nan  # a bias
            z = np.full((m + 1, width + 2), UNTOUCHED, dtype)
            row_kernel(
                z.ravel(), 1, width + 2, a.ravel(), 2, k + 3, w.ravel(), 3, width + 5, k, m, vectors, kind(floor)
            )
            expected = np.full(z.shape, UNTOUCHED, dtype)
            expected[:m, 1:-1] = np.maximum(a[:, 2:-1] @ w[:k, 3:-2] + w[k, 3:-2], floor)
            np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_first(dtype):
    lanes = simd.lanes(dtype)
    source = np.arange(1, 3 * lanes).astype(dtype)
    for n in (1, 2, lanes - 1, lanes, lanes + 1, 10 * lanes):
        target = np.full(3 * lanes, UNTOUCHED, dtype)
        copy_first(target, 1, source, 2, n)
        expected = np.full(3 * lanes, UNTOUCHED, dtype)
        expected[1 : 1 + min(n, lanes)] = source[2 : 2 + min(n, lanes)]
        np.testing.assert_array_equal(target, expected)


def from_panels(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, n):
    """Call `transposed_kernel` on A[k, m] laid out as n panels [m][k / n]."""
    width = k // n
    stored = a.reshape(n, width, lda).transpose(0, 2, 1).reshape(-1)
    transposed_kernel(
        c, c_at, ldc, stored, a_at * width, width, b, b_at, ldb, width, m, v, accumulate, n, lda * width
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, simd.PANEL_VECTORS + 1))
@pytest.mark.parametrize("accumulate", [False, True])
def test_multiply(dtype, vectors, accumulate):
    width = vectors * simd.lanes(dtype)
    for m in range(1, 50):
        for n_ahead in (0, width):  # elements to prefetch, which change no result
            check_product(
                lambda *args, n=n_ahead: multiply(*args, width, accumulate, n), m, width, 1 + m % 5, dtype, accumulate
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, simd.PANEL_VECTORS + 1))
@pytest.mark.parametrize("accumulate", [False, True])
def test_gradient_kernel(dtype, vectors, accumulate):
    own = np.arange(1000).astype(dtype)
    for m in simd.heights(vectors):
        for k in CONTRACTIONS:
            for n_own in (1, 16, 300):
                check_product(
                    lambda *args, n=n_own: gradient_by_unit(*args, vectors, accumulate, own, 7, n),
                    m, vectors * simd.lanes(dtype), k, dtype, accumulate,
                )  # fmt: skip
    np.testing.assert_array_equal(own, np.arange(1000))


def gradient_by_unit(c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, *rest):
    """Call `gradient_kernel` on A[k, m] laid out as A[m, k]."""
    gradient_kernel(c, c_at, ldc, a.reshape(k, lda).T.reshape(-1), a_at * k, k, b, b_at, ldb, k, *rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_moments", [0, 1, 2])
def test_weight_gradient(dtype, n_moments):
    rng = np.random.default_rng(0)
    for vectors in range(1, simd.PANEL_VECTORS + 1):
        width = vectors * simd.lanes(dtype)
        for m in range(1, simd.PANEL_VECTORS * simd.lanes(dtype) + 1):
            k = 1 + m % 5
            a, b, c = (integers(rng, shape, dtype) for shape in [(m + 2, k + 3), (k, width), (m, width)])
            w, moments = np.arange(m * width + 5).astype(dtype), np.zeros(n_moments * (m * width + 5), dtype)
            for accumulate in (False, True):
                expected = (c if accumulate else 0) + a[1 : m + 1, :k] @ b
                weight_gradient(c.reshape(-1), 0, a.reshape(-1), k + 3, k + 3, b.reshape(-1), 0, k, m, width,
                                accumulate, w, 3, moments, m * width + 5)
                np.testing.assert_array_equal(c, expected)
            np.testing.assert_array_equal(w, np.arange(m * width + 5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_block(dtype):
    n = simd.lanes(dtype)
    source = np.arange((n + 2) * (n + 3)).reshape(n + 2, n + 3).astype(dtype)
    target = np.full((n + 1, n + 5), UNTOUCHED, dtype)
    expected = target.copy()
    expected[1:, 2 : n + 2] = source[1 : n + 1, 2 : n + 2].T
    transpose_block(target.reshape(-1), n + 5 + 2, n + 5, source.reshape(-1), n + 3 + 2, n + 3)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_block(dtype):
    n = simd.lanes(dtype)
    source = np.arange(40 * (n + 3)).reshape(40, n + 3).astype(dtype)
    index = np.random.default_rng(0).permutation(39)[: n + 2]
    target = np.full((n + 1, n + 5), UNTOUCHED, dtype)
    expected = target.copy()
    expected[1:, 2 : n + 2] = source[index[1 : n + 1] + 1, 2 : n + 2].T
    gather_block(target.reshape(-1), n + 5 + 2, n + 5, source.reshape(-1), n + 3 + 2, n + 3, index, 1)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_dot_block(dtype, k):
    lanes = simd.lanes(dtype)
    most_rows, most_columns = simd._dot_shape(lanes)
    assert lanes % most_columns == 0  # a panel of lanes has room for whole blocks
    rng = np.random.default_rng(0)
    ld, ldt = k * lanes + 3, most_columns + 5
    for m in range(1, most_rows + 1):
        for n in range(1, most_columns + 1):
            a, b = integers(rng, (m, ld), dtype), integers(rng, (n, ld), dtype)
            target = np.full((most_rows + 1, ldt), UNTOUCHED, dtype)
            expected = target.copy()
            expected[:m, 2 : 2 + most_columns] = 0
            expected[:m, 2 : 2 + n] = a[:, : k * lanes] @ b[:, : k * lanes].T
            dot_block(target.reshape(-1), 2, ldt, a.reshape(-1), 0, m, b.reshape(-1), 0, n, ld, k)
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 30])
def test_sum_block(dtype, k):
    lanes = simd.lanes(dtype)
    rng, ld = np.random.default_rng(0), k * lanes + 3
    for n in range(1, lanes + 1):
        b, target = integers(rng, (n, ld), dtype), np.full(lanes + 2, UNTOUCHED, dtype)
        sum_block(target, 1, b.reshape(-1), 0, n, ld, k)
        np.testing.assert_array_equal(target[1 : n + 1], b[:, : k * lanes].sum(axis=1))
        assert not target[n + 1 : -1].any()
        assert target[0] == target[-1] == UNTOUCHED


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_squares(dtype):
    rng = np.random.default_rng(0)
    for vectors in range(12):
        x = integers(rng, vectors * simd.lanes(dtype), dtype)
        assert sum_of_squares(x) == (x * x).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 97, 129])
def test_product_by_unit(dtype, m):
    rng, lanes = np.random.default_rng(m), simd.lanes(dtype)
    for vectors, k in [(1, 1), (2, 3), (3, 5), (4, 2), (7, 9)]:
        width, ld = vectors * lanes, vectors * lanes + 5
        a, b = integers(rng, (k, m), dtype), integers(rng, (k, ld), dtype)
        c = np.full((m, ld), UNTOUCHED, dtype)
        in_panels = reference.to_panels(a, panels(m, lanes))
        product_by_unit(c.reshape(-1), 0, in_panels, 0, k, m, m, b.reshape(-1), 0, k, ld, width, GOES_ON)
        np.testing.assert_array_equal(c[:, :width], a.T @ b[:, :width])
        assert (c[:, width:] == UNTOUCHED).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_out", [1, 2, 7, 16, 17, 48, 49, 65, 97, 129, 1200])
@pytest.mark.parametrize("n_in", [1, 5, 8, 15, 33, 100])
def test_layer_backward(dtype, n_out, n_in):
    rng, lanes = np.random.default_rng(n_out), simd.lanes(dtype)
    layer = np.zeros(plan.N_LAYER_FIELDS, np.int64)
    layer[[plan.N_IN, plan.N_OUT, plan.WEIGHTS]] = n_in, n_out, 3
    w = integers(rng, (n_in + 1, n_out), dtype)
    params = np.concatenate([np.zeros(3, dtype), reference.to_panels(w, panels(n_out, lanes))])
    for vectors in (1, 4, 7):
        width, ld = vectors * lanes, vectors * lanes + 5
        dz = integers(rng, (n_out, ld), dtype)
        scratch = np.concatenate([dz.reshape(-1), np.full(n_in * ld, UNTOUCHED, dtype)])
        layer_backward(layer, scratch, dz.size, 0, params, ld, width, GOES_ON)
        da = scratch[dz.size :].reshape(n_in, ld)
        np.testing.assert_array_equal(da[:, :width], w[:n_in] @ dz[:, :width])
        assert (da[:, width:] == UNTOUCHED).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_team_that_is_to_stop_begins_no_further_panel(dtype):
    """A layer of a large network takes longer than Ctrl-C should. Here the first panel written is the word to stop."""
    n, width, lanes = 100, 64, simd.lanes(dtype)
    first = panels(n, lanes)[0][1]
    layer = np.zeros(plan.N_LAYER_FIELDS, np.int64)
    layer[[plan.N_IN, plan.N_OUT]] = n
    params, ones = np.ones((n + 1) * 2 * n, dtype), np.ones((n, width), dtype)

    c = np.zeros((n, width), dtype)
    product_by_unit(c.reshape(-1), 0, params, 0, n, n, n, ones.reshape(-1), 0, n, width, width, stopped_by(c, width))
    assert (c[:first] == n).all() and not c[first:].any()

    units = np.stack([ones, np.zeros_like(ones)])
    layer_backward(layer, units.reshape(-1), n * width, 0, params, width, width, stopped_by(units[1], width))
    assert units[1, :first].all() and not units[1, first:].any()

    c, rows = np.zeros((n, width), dtype), np.arange(width)
    rows_to_units(c.reshape(-1), 0, width, ones.reshape(-1), 0, rows, 0, width, n, width, stopped_by(c, width))
    assert c[:, :lanes].all() and not c[:, lanes:].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_units", [1, 2, 3, 4, 5, 8, 16, 17, 31, 48, 49, 64, 65, 100])
@pytest.mark.parametrize("n_rows", [1, 5, 16, 31, 32])
@pytest.mark.parametrize("is_large", [False, True])
def test_rows_to_units(dtype, n_units, n_rows, is_large):
    """Rows anywhere in X, its first and its last among them; of a large X, rows are asked for ahead."""
    lanes = simd.lanes(dtype)
    width, first = -(-n_rows // lanes) * lanes, 2
    n_all = products.L2 // (n_units * np.dtype(dtype).itemsize) + 41 if is_large else 41
    ld = width + lanes
    X = np.random.default_rng(0).normal(size=(n_all, n_units)).astype(dtype)
    index = np.concatenate([[0, 0, n_all - 2, -1], np.random.default_rng(1).permutation(40)])[: first + n_rows]
    scratch = np.full((n_units + 1, ld), UNTOUCHED, dtype)
    rows_to_units(scratch.reshape(-1), 0, ld, X.reshape(-1), n_units, index, first, n_rows, n_units, width, GOES_ON)
    np.testing.assert_array_equal(scratch[:n_units, :n_rows], X[index[first:] + 1].T)
    assert (scratch[:n_units, n_rows:width] == 0).all()
    assert (scratch[:n_units, width:] == UNTOUCHED).all()
    assert (scratch[n_units] == UNTOUCHED).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_units", [1, 3, 8, 16, 17, 48, 49, 64, 65, 100])
def test_units_to_rows(dtype, n_units):
    lanes = simd.lanes(dtype)
    width, capacity, first = 2 * lanes, 5 * lanes, lanes
    ld, padded = width + lanes, -(-n_units // lanes) * lanes
    matrix = np.random.default_rng(0).normal(size=(capacity, n_units)).astype(dtype)
    rows = reference.to_panels(matrix, panels(n_units, lanes))
    scratch = np.zeros((padded, ld), dtype)
    scratch[:n_units, :width] = -matrix[first : first + width].T
    units_to_rows(rows, 0, capacity, first, scratch.reshape(-1), 0, ld, n_units, width)
    matrix[first : first + width] *= -1
    np.testing.assert_array_equal(rows, reference.to_panels(matrix, panels(n_units, lanes)))
