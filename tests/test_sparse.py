"""Sparse rows: fastnn.MLP takes a CSR matrix for the array that it stands for."""

import gc
import tracemalloc
import types

import numba
import numpy as np
import pytest
from helpers import (
    DTYPES,
    TOLERANCE,
    assert_close,
    bits,
    check_against_reference,
    csr,
    stopped_by,
    targets_for,
    watch_calls,
)
from scipy import sparse

import fastnn
from fastnn import model, plain
from fastnn.kernels import epoch, forward, plan, simd
from fastnn.kernels import sparse as kernels
from fastnn.kernels.losses import OUTPUTS
from fastnn.layout import MAX_CAPACITY

N_IN = (1, 47, 48, 49, 65, 200)
N_OUT = (1, 16, 48, 49, 100)
SHAPES = [(i, o, *rest) for i in N_IN for o in N_OUT for rest in ((), (5,))]
OPTIMIZERS = {
    "Adam": fastnn.Adam,
    "SGD": lambda: fastnn.SGD(0.01, nesterov=False),
    "Nesterov": lambda: fastnn.SGD(0.01),
}


def network(sizes, output="softmax", dtype="float64", activation="tanh"):
    return fastnn.MLP(sizes, activation, output, dtype=dtype, random_state=0)


def weights_for(n, dtype):
    """Sample weights, every third of them 0, their sum not."""
    return (np.arange(1, n + 1) % 3 * 0.7).astype(dtype)


# -- kernels ------------------------------------------------------------------------------------------------------


@numba.njit
def sparse_row(z, z_at, data, indices, at, n, w, w_at, bias, v):
    simd.sparse_row(z, z_at, data, at, indices, at, n, w, w_at, bias, v)


@numba.njit
def sparse_tile(c, c_at, values, places, at, n, b, b_at, v):
    simd.sparse_tile(c, c_at, values, at, places, at, n, b, b_at, v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, simd.PANEL_VECTORS + 1))
@pytest.mark.parametrize("n", [0, 1, 2, 7, 40])
def test_kernels(n, vectors, dtype):
    rng = np.random.default_rng(n)
    width, n_units, n_rows = vectors * simd.lanes(dtype), 9, 6
    values, units = rng.integers(-4, 5, n + 3).astype(dtype), rng.integers(0, n_units, n + 3).astype(np.int32)
    w, b = (rng.integers(-4, 5, (many, width)).astype(dtype) for many in (n_units + 1, n_rows))
    z = np.full(width + 4, 99, dtype)
    sparse_row(z, 2, values, units, 3, n, w.reshape(-1), 0, n_units, vectors)
    np.testing.assert_array_equal(z[2:-2], w[n_units] + values[3:] @ w[units[3:]])
    assert (z[[0, 1, -2, -1]] == 99).all()
    rows = rng.integers(0, n_rows, n + 3)
    c, expected = np.ones((n_units + 2, width), dtype), np.ones((n_units + 2, width), dtype)
    np.add.at(expected, 1 + units[3:], values[3:, None] * b[rows[3:]])
    sparse_tile(c.reshape(-1), width, values, rows << simd.UNIT_BITS | units, 3, n, b.reshape(-1), 0, vectors)
    np.testing.assert_array_equal(c, expected)


@numba.njit
def sort_entries(low, high, layout, layers_of, data, indices, indptr, buckets, values, identity, state):
    kernels.sort_entries(0, 0, low, high, layout, layers_of, data, indices, indptr, identity[:0], buckets, values,
                         identity, state)  # fmt: skip


@numba.njit
def sparse_forward(n_rows, layout, layers_of, data, indices, indptr, params, scratch, identity, state):
    kernels.sparse_forward(0, 0, 0, n_rows, layout, layers_of, data, indices, indptr, identity[:0], params, scratch,
                           identity, state)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_team_that_is_to_stop_goes_no_further(dtype):
    """Rows of many entries may take longer than Ctrl-C should. Here the first that is written is the word to stop."""
    n, n_in, n_out, lanes = 40, 5, 100, simd.lanes(dtype)
    X = sparse.csr_matrix(np.ones((n, n_in), dtype))
    rows = X.data, X.indices, X.indptr.astype(np.int64)
    layer, layout, identity = np.zeros((1, 1, plan.N_LAYER_FIELDS), np.int64), np.zeros(99, np.int64), np.arange(n)
    layer[0, 0, [plan.N_IN, plan.N_OUT, plan.OUTPUT_UNITS]] = n_in, n_out, 1000

    layout[plan.ENTRIES] = at = 100
    buckets, values = np.zeros(at + n * (n_in + 1), np.int64), np.zeros(n * (n_in + 1), dtype)
    sort_entries(0, n, layout, layer, *rows, buckets, values, identity, stopped_by(buckets, at + 1))
    assert buckets[at + 1 : at + n_in].all() and not buckets[at + n_in + 1 :].any()

    scratch, params = np.zeros(1000 + n_out * 64, dtype), np.ones((n_in + 1) * 2 * n_out, dtype)
    state = stopped_by(scratch, 1000)
    sparse_forward(n, layout, layer, *rows, params, scratch, identity, state)
    assert 0 < np.count_nonzero(scratch[1000:]) <= simd.PANEL_VECTORS * lanes * lanes


# -- the same as the array ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape(dtype):
    for sizes in SHAPES:
        for n in (1, 17, 33):
            T = targets_for("identity", np.random.default_rng(0), n, sizes[-1], dtype)
            check_against_reference(network(sizes, "identity", dtype), csr(n, sizes[0], dtype), T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_with_weights_and_penalty(output, dtype):
    T = targets_for(output, np.random.default_rng(0), 100, 4, dtype)
    net, weight = network((200, 49, 4), output, dtype), weights_for(100, dtype)
    check_against_reference(net, csr(100, 200, dtype), T, None, weight, 0.3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(i, o, *rest) for i in (1, 49, 65, 200) for o in (16, 49) for rest in ((), (5,))])
def test_sums_of_integers_are_exact(sizes, dtype):
    """Any order of summation then gives the same bits, and equal gradients give equal updates."""
    rng = np.random.default_rng(1)
    X = csr(64, sizes[0], dtype)
    X.data = rng.integers(-2, 3, X.nnz).astype(dtype)
    T = rng.integers(-2, 3, (64, sizes[-1])).astype(dtype)
    for optimizer in OPTIMIZERS.values():
        results = []
        for rows in (X, X.toarray()):
            net = network(sizes, "identity", dtype, "relu")
            net.weights = [np.sign(np.round(2 * w)) for w in network(sizes).weights]
            net.biases = [np.ones_like(b) for b in net.biases]
            found = [net.forward(rows), *net.loss_and_gradients(rows, T)[1:]]
            loss = net.train_epoch(rows, T, optimizer(), 64)
            results.append(([part.tobytes() for part in (found[0], *found[1], *found[2])], loss, bits(net)))
        assert results[0] == results[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sizes", [(200, 49, 5), (65, 3)])
def test_epochs(sizes, optimizer, dtype):
    X, rng = csr(150, sizes[0], dtype), np.random.default_rng(0)
    T, weight = targets_for("softmax", rng, 150, sizes[-1], dtype), weights_for(150, dtype)
    nets, losses = [network(sizes, dtype=dtype) for _ in range(2)], []
    for net, rows in zip(nets, (X, X.toarray()), strict=True):
        mine, order = OPTIMIZERS[optimizer](), np.random.default_rng(0)
        losses.append([net.train_epoch(rows, T, mine, 32, order.permutation(150), 0.1, weight) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=20 * TOLERANCE[dtype])
    # Adam divides by the size of the gradient: where that is all rounding, so is the update.
    assert_close(*([*net.weights, *net.biases] for net in nets), 100 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_a_workspace_holds(dtype):
    n = 2 * MAX_CAPACITY + 77
    X, T = csr(n, 65, dtype), targets_for("softmax", np.random.default_rng(0), n, 3, dtype)
    net, twin = network((65, 17, 3), dtype=dtype), network((65, 17, 3), dtype=dtype)
    check_against_reference(net, X, T, None, weights_for(n, dtype), 0.1)
    losses = [net.train_epoch(X, T, fastnn.SGD(0.1), n), twin.train_epoch(X.toarray(), T, fastnn.SGD(0.1), n)]
    np.testing.assert_allclose(*losses, rtol=10 * TOLERANCE[dtype])
    assert_close(net.weights, twin.weights, 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("n", [0, 1, 40])
def test_no_entries(n):
    X, T = sparse.csr_array((n, 70)), targets_for("softmax", np.random.default_rng(0), n, 4)
    check_against_reference(network((70, 20, 4)), X, T)


@pytest.mark.parametrize("sizes", [(70, 4), (70, 5, 4)])
def test_no_rows(sizes):
    assert network(sizes).forward(sparse.csr_array((0, 70))).shape == (0, 4)


def test_no_rows_to_train_on():
    with pytest.raises(ValueError, match="X must have at least one row"):
        network((70, 4)).train_epoch(sparse.csr_array((0, 70)), np.zeros(0, int), fastnn.SGD())


def test_one_row_in_the_order_again_and_again():
    """More entries in a round than any rows of the matrix have, each taken once."""
    X = csr(50, 200, density=0.01)
    full = int(np.diff(X.indptr).argmax())
    T, order = targets_for("softmax", np.random.default_rng(0), 50, 4), [full] * 300
    net, twin = network((200, 20, 4)), network((200, 20, 4))
    net.train_epoch(X, T, fastnn.SGD(), 300, order)
    twin.train_epoch(X.toarray(), T, fastnn.SGD(), 300, order)
    assert_close(net.weights, twin.weights, 1e-12)


def test_dense_and_sparse_batches_in_turn():
    """Workspaces are kept and lent again: those for arrays and those for matrices of more or fewer entries."""
    net, twin = network((65, 17, 3)), network((65, 17, 3))
    mine, its = fastnn.SGD(), fastnn.SGD()
    for density in (0.1, 0.9, 0.01, 0.5):
        X, T = csr(40, 65, density=density), targets_for("softmax", np.random.default_rng(0), 40, 3)
        for rows in (X, X.toarray()):
            net.train_epoch(rows, T, mine, 20)
            twin.train_epoch(X.toarray(), T, its, 20)
    assert_close(net.weights, twin.weights, 1e-12)


def forms(X):
    """The same matrix as other classes, with other indices, and memory that cannot be written to."""
    wide = X.copy()
    wide.indices, wide.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    odd = types.SimpleNamespace(
        format="csr", shape=X.shape, data=np.append(X.data, [7.0, 7.0]),
        indices=np.append(X.indices, [-1, 1000]).astype(">i8"), indptr=X.indptr.astype(np.uint16),
    )  # fmt: skip
    frozen = X.copy()
    for part in (frozen.data, frozen.indices, frozen.indptr):
        part.flags.writeable = False
    return {"csr_array": sparse.csr_array(X), "int64": wide, "entries to spare": odd, "read-only": frozen}


@pytest.mark.parametrize("name", forms(csr(3, 4)))
def test_any_form_gives_the_same_bits(name):
    X, y = csr(50, 65), np.arange(50) % 3
    found = []
    for rows in (X, forms(X)[name]):
        net = network((65, 17, 3))
        loss = net.train_epoch(rows, y, fastnn.Adam(), 20)
        found.append((loss, bits(net), net.forward(rows).tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.ones((1, 3)), ValueError, r"X\.data must have one dimension, got shape \(1, 3\); use X\.data\.ravel"),
        ([1.0] * 3, TypeError, r"X\.data must be a NumPy array, got list; use numpy\.asarray\(X\.data\)"),
    ],
)
def test_entries_of_another_kind_are_refused(data, error, message):
    X = sparse.csr_matrix(np.eye(3))
    X.data = data
    with pytest.raises(error, match=message):
        network((3, 2)).forward(X)


def test_nan_reaches_its_own_row_alone():
    X = csr(40, 65, density=0.9)
    rows = np.flatnonzero(np.diff(X.indptr))
    X.data[X.indptr[rows[3]]] = np.nan
    net = network((65, 17, 3))
    assert np.flatnonzero(np.isnan(net.forward(X)).any(axis=1)).tolist() == [rows[3]]
    assert np.isnan(net.loss_and_gradients(X, np.zeros(40, int))[0])


# -- promises -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parallel_always(monkeypatch):
    monkeypatch.setattr(model, "FLOPS_PER_THREAD", 1e-9)


PREDICTORS = [(13, 50, 7), (65, 130, 3), (200, 33), (1, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", PREDICTORS)
@pytest.mark.parametrize("n", [1, 47, 48, 49, 200])
def test_outputs_are_those_of_the_array(n, sizes, dtype):
    """But for rounding: entries add up in their own order, those of one place one by one."""
    net, X = network(sizes, "identity", dtype), csr(n, sizes[0], dtype)
    dense = net.forward(X.toarray())
    np.testing.assert_allclose(net.forward(X), dense, rtol=0, atol=16 * np.finfo(dtype).eps * np.abs(dense).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", PREDICTORS)
def test_a_row_has_the_same_outputs_whichever_rows_it_comes_with(sizes, dtype, parallel_always, monkeypatch):
    """And however many threads share out the rows, or the panels of a few, and however many calls there are."""
    net, X = network(sizes, dtype=dtype), csr(200, sizes[0], dtype)
    with fastnn.threads(1):
        whole = net.forward(X)
    for n_threads in (1, 2, 3, 7):
        with fastnn.threads(n_threads):
            for n in (1, 2, 17, 47, 48, 49, 97, 200):
                assert np.array_equal(net.forward(X[:n]), whole[:n])
                assert np.array_equal(net.forward(X[200 - n :]), whole[200 - n :])
    assert all(np.array_equal(net.forward(X[[r]])[0], whole[r]) for r in range(0, 200, 7))
    flops_of_row = net._flops_of_forward(100, model.Rows.of(X, sizes[0], net.dtype)) / 100
    for rows in (0.5, 48, 49, 199):
        monkeypatch.setattr(model, "FLOPS_PER_FORWARD", (rows + 0.5) * flops_of_row)
        assert np.array_equal(net.forward(X), whole)


def test_outputs_where_they_are_wanted():
    net, X = network((65, 17, 3)), csr(60, 65)
    out = np.full((62, 3), np.nan)
    assert net.forward(X, out[1:-1]).base is out
    assert np.array_equal(out[1:-1], net.forward(X))
    assert np.isnan(out[[0, -1]]).all()
    full = sparse.csr_array(np.ones((60, 3)))
    with pytest.raises(ValueError, match="out must not share memory with X"):
        network((3, 2, 3)).forward(full, full.data.reshape(60, 3))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_prediction_holds_little_beside_its_outputs(n_threads, parallel_always):
    """No dense X, which would be 160 MB, and no hidden units of all rows, which would be 5 MB."""
    n = 20_000
    X, net = csr(n, 2000, "float32", 0.01), network((2000, 64, 2), dtype="float32")
    with fastnn.threads(n_threads):
        net.forward(X[:100])
        tracemalloc.start()
        try:
            out = net.forward(X)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < out.nbytes + X.indptr.size * (8 + 4) + 100_000  # row pointers as int64, and room for their check


def trained(sizes, n, batch_size, dtype, n_threads):
    X, T = csr(n, sizes[0], dtype), targets_for("softmax", np.random.default_rng(0), n, sizes[-1], dtype)
    net, weight = network(sizes, dtype=dtype), weights_for(n, dtype)
    with fastnn.threads(n_threads):
        losses = [net.train_epoch(X, T, fastnn.Adam(), batch_size, np.arange(n)[::-1], 0.1, weight)]
        losses.append(net.train_epoch(X, T, fastnn.SGD(), batch_size))
        loss, dw, db = net.loss_and_gradients(X, T, weight, 0.1)
        outputs = net.forward(X)
    return bits(net), [*losses, loss], [g.tobytes() for g in (*dw, *db, outputs)]


@pytest.mark.usefixtures("parallel_always")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "n", "batch_size"),
    [((200, 49, 10), 333, 77), ((65, 3), 100, 33), ((20, 16, 2), 50, 5), ((65, 17, 3), 2500, 2500)],
)
def test_any_number_of_threads_gives_the_same_bits(sizes, n, batch_size, dtype):
    serial = trained(sizes, n, batch_size, dtype, 1)
    for n_threads in (2, 3, 7):
        assert trained(sizes, n, batch_size, dtype, n_threads) == serial


@pytest.mark.usefixtures("parallel_always")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_training_allocates_nothing_in_the_long_run(n_threads):
    """But for arrays of a number for each row that a call works with, and no matrix of entries."""
    n = 1000
    X, y, rng = csr(n, 2000, "float32", 0.05), np.zeros(n, int), np.random.default_rng(0)
    X.sum_duplicates()
    net, optimizer, order = network((2000, 20, 2), dtype="float32"), fastnn.Adam(), np.arange(n)
    with fastnn.threads(n_threads):
        for _ in range(3):
            net.train_epoch(X, y, optimizer, 100, order)
        gc.collect()
        tracemalloc.start()
        try:
            net.train_epoch(X, y, optimizer, 100, order)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(20):
                rng.shuffle(order)
                net.train_epoch(X, y, optimizer, 100, order)
            _, peak = tracemalloc.get_traced_memory()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 2_000  # what tracemalloc and the garbage collector themselves leave
    assert peak - before < 60_000 < X.nnz * 4


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_estimators_never_make_x_dense(form, early_stopping):
    """It would be 160 MB; what a fit holds beside the parameters are some copies of X as it is."""
    X = csr(2000, 20_000, "float32", 0.002).asformat(form)
    y = np.arange(X.shape[0]) % 2
    model = fastnn.MLPClassifier((4,), max_iter=1, early_stopping=early_stopping)
    model.fit(X[:20], y[:20])  # imports and compiles
    tracemalloc.start()
    try:
        model.fit(X, y).predict_proba(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("wrong", ["row -1", "row 6", "ends too far", "goes down"])
def test_no_column_leads_out_of_the_matrix(wrong):
    """SciPy makes CSR of CSC without a look at what the columns say, and would write there."""
    X = sparse.csc_matrix(np.ones((6, 5)))
    y, model = np.arange(6) % 2, fastnn.MLPClassifier((4,), solver="lbfgs", max_iter=2, random_state=0)
    with pytest.warns(match="lbfgs failed to converge"):
        model.fit(X, y)
    expected = model.predict_proba(X)
    if wrong.startswith("row"):
        X.indices[3] = int(wrong.removeprefix("row"))
    else:
        X.indptr[2] = {"ends too far": 10**6, "goes down": 3}[wrong]
    message = r"X.indices must lie in \[0, 6\)" if wrong.startswith("row") else "X.indptr must go from 0 in 5 steps"
    for call in (lambda: model.predict(X), lambda: fastnn.MLPClassifier().fit(X, y)):
        with pytest.raises(ValueError, match=message):
            call()
    assert (model.predict_proba(sparse.csc_matrix(np.ones((6, 5)))) == expected).all()


def test_numpys_prediction_holds_no_hidden_units_of_all_rows():
    X, W = np.ones((20_000, 2), "float32"), [np.ones((2, 500), "float32"), np.ones((500, 1), "float32")]
    tracemalloc.start()
    try:
        plain.forward(X, W, [w[0] for w in W], ["relu"], "identity")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6 < len(X) * 500 * 4


def test_no_buffer_grows_with_the_inputs(monkeypatch):
    """Beside the parameters and moments, which have to: 100 000 inputs and a batch of 1000 would be 400 MB."""
    X, y = csr(1000, 100_000, "float32", 1e-4), np.zeros(1000, int)
    net, optimizer = network((100_000, 4, 2), dtype="float32"), fastnn.Adam()
    net.train_epoch(X[:10], y[:10], optimizer, 10)
    tracemalloc.start()
    try:
        net.train_epoch(X, y, optimizer, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3e6


# -- what is refused ----------------------------------------------------------------------------------------------


def changed(**parts):
    X = csr(6, 5, density=0.9)
    X.sum_duplicates()
    as_they_are = {name: getattr(X, name) for name in ("shape", "data", "indices", "indptr")}
    return types.SimpleNamespace(**{**as_they_are, "format": "csr", **parts})


GOOD = changed()
BAD = {
    "CSC": sparse.csc_matrix((6, 5)),
    "COO": sparse.coo_array((6, 5)),
    "one column too many": sparse.csr_matrix((6, 6)),
    "one row": sparse.csr_array(np.arange(5.0)),
    "float32": sparse.csr_matrix((6, 5), dtype="float32"),
    "integers": sparse.csr_matrix((6, 5), dtype=int),
    "data of another dtype": changed(data=GOOD.data.astype("float32")),
    "data big-endian": changed(data=GOOD.data.astype(">f8")),
    "data strided": changed(data=np.repeat(GOOD.data, 2)[::2]),
    "data a list": changed(data=GOOD.data.tolist()),
    "data a column": changed(data=GOOD.data[:, None]),
    "data masked": changed(data=np.ma.masked_array(GOOD.data)),
    "data short": changed(data=GOOD.data[:-1]),
    "data and indices short": changed(data=GOOD.data[:-1], indices=GOOD.indices[:-1]),
    "indices short": changed(indices=GOOD.indices[:-1]),
    "indices float": changed(indices=GOOD.indices.astype(float)),
    "indices bool": changed(indices=GOOD.indices.astype(bool)),
    "indices missing": changed(indices=None),
    "index negative": changed(indices=GOOD.indices - 1),
    "index too large": changed(indices=GOOD.indices + 1),
    "index beyond int32": changed(indices=GOOD.indices.astype(np.int64) + 2**32),
    "indptr short": changed(indptr=GOOD.indptr[:-1]),
    "indptr long": changed(indptr=np.append(GOOD.indptr, GOOD.indptr[-1])),
    "indptr empty": changed(indptr=GOOD.indptr[:0]),
    "indptr from 1": changed(indptr=np.maximum(GOOD.indptr, 1)),
    "indptr from below 0": changed(indptr=np.where(np.arange(7) == 0, -1, GOOD.indptr)),
    "indptr down": changed(indptr=np.r_[GOOD.indptr[:3], 0, GOOD.indptr[4:]]),
    "indptr down, unsigned": changed(indptr=np.r_[GOOD.indptr[:3], 0, GOOD.indptr[4:]].astype("uint64")),
    "indptr too far": changed(indptr=np.r_[GOOD.indptr[:-1], GOOD.indptr[-1] + 1]),
    "indptr beyond int64": changed(indptr=np.append(GOOD.indptr[:-1].astype("uint64"), np.uint64(2**63))),
    "indptr float": changed(indptr=GOOD.indptr.astype(float)),
}


@pytest.mark.parametrize("X", BAD.values(), ids=BAD)
def test_refused_before_a_kernel_runs(X, monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel was about to run")

    for entry in (epoch, forward):
        watch_calls(monkeypatch, entry, refuse)
    net, y = network((5, 4, 2)), np.zeros(6, int)
    for call in (
        lambda: net.forward(X),
        lambda: net.loss_and_gradients(X, y),
        lambda: net.train_epoch(X, y, fastnn.SGD()),
    ):
        with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
            call()


def test_the_matrix_that_the_bad_ones_are_made_of_is_taken():
    assert network((5, 4, 2)).forward(GOOD).shape == (6, 2)


def test_other_formats_hear_what_to_do():
    with pytest.raises(TypeError, match=r"CSR matrix, got csc_matrix; use X.tocsr\(\)"):
        network((5, 4, 2)).forward(BAD["CSC"])


def test_out_apart_from_the_entries():
    X = sparse.csr_matrix(np.ones((6, 5)))
    with pytest.raises(ValueError, match="out must not share memory with X"):
        network((5, 4, 2)).forward(X, out=X.data[:12].reshape(6, 2))
