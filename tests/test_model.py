"""fastnn.MLP against the reference: outputs, losses, gradients and training, for every shape and option."""

import _thread
import copy
import itertools
import pickle
import threading
import time
import tracemalloc

import numba
import numpy as np
import pytest
import reference
from helpers import (
    DTYPES,
    TOLERANCE,
    assert_close,
    bits,
    check_against_reference,
    csr,
    expected_forward,
    expected_gradients,
    parameters64,
    problem,
    watch_calls,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
from fastnn import MLP, model, pieces
from fastnn.kernels import epoch, forward, jit
from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.losses import OUTPUTS

WIDTHS = [7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 50, 63, 64, 65, 95, 96, 97, 128, 129, 130]
ROWS = [0, 1, 15, 16, 17, 33, 200]
# In float32 a pre-activation next to 0 may fall on relu's other side: relu has an exact test of its own.
SMOOTH = [name for name in ACTIVATIONS if name != "relu"]


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(DTYPES))
    width = st.integers(1, 130) | st.sampled_from(WIDTHS)
    sizes = [draw(width) for _ in range(2 + draw(st.integers(0, 4)))]
    names = st.sampled_from(SMOOTH if dtype == "float32" else ACTIVATIONS)
    return {
        "sizes": sizes,
        "n": draw(st.sampled_from(ROWS)),
        "activation": [draw(names) for _ in sizes[2:]],
        "output": draw(st.sampled_from(OUTPUTS)),
        "dtype": dtype,
        "seed": draw(st.integers(0, 1000)),
    }


def some_weights(n, dtype):
    """Sample weights, every third of them 0, their sum not."""
    return (np.arange(1, n + 1) % 3 * 0.7).astype(dtype)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases(), st.booleans(), st.sampled_from([0.0, 0.3]))
def test_any_shape(case, weighted, alpha):
    net, X, T = problem(**case)
    check_against_reference(net, X, T, None, some_weights(len(X), net.dtype) if weighted else None, alpha)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_around_an_unroll(width, dtype):
    for n in (1, 17, 33):
        check_against_reference(*problem((width, width, 3), n, dtype=dtype))
        check_against_reference(*problem((3, width, width), n, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "n"), [((200, 64, 3), 5000), ((3, 5, 2), 16_000)], ids=["wide", "narrow"])
def test_more_rows_than_a_workspace_holds(sizes, n, dtype):
    net, X, T = problem(sizes, n, dtype=dtype)
    check_against_reference(net, X, T, None, some_weights(n, dtype), 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(200, 64, 3), (3, 5, 2)], ids=["wide", "narrow"])
def test_batch_sizes_in_any_sequence(sizes, dtype):
    """Workspaces are kept and lent again: none may be lent to a batch it does not fit."""
    net, X, T = problem(sizes, 16_000, dtype=dtype)
    for n in (2048, 2049, 5000, 1, 2048, 15_360, 15_361, 16_000, 480, 481, 479):
        check_against_reference(net, X[:n], T[:n])
    for n in (2048, 5000):
        losses = [net.train_epoch(X[:n], T[:n], fastnn.SGD(1e-9), batch_size=n)]
        losses.append(expected_gradients(net, X[:n], T[:n])[0])
        assert abs(losses[0] - losses[1]) < 1e-5


def train_like_reference(net, X, T, batch_size, alpha=0.0, weight=None, order=None, tolerance=1e-11):
    order = range(len(X)) if order is None else order
    batches = reference.batches_of(order, batch_size)
    expected_w, expected_b, expected = reference.train(
        *parameters64(net), net.activations, net.output, X.astype(float), T.astype(float), "Adam",
        {"learning_rate": 0.01}, batches, weight, alpha,
    )  # fmt: skip
    kwargs = {} if isinstance(order, range) else {"order": np.array(order)}
    loss = net.train_epoch(X, T, fastnn.Adam(0.01), batch_size, alpha=alpha, sample_weight=weight, **kwargs)
    assert abs(loss - expected) < tolerance * (1 + abs(expected))
    assert_close(net.weights, expected_w, tolerance)
    assert_close(net.biases, expected_b, tolerance)


@pytest.mark.parametrize("sizes", [(200, 64, 3), (3, 5, 2)], ids=["wide", "narrow"])
@pytest.mark.parametrize(("n", "batch_size"), [(50, 7), (100, 100), (10, 64), (4500, 2048), (15_400, 15_370)])
def test_training_equals_the_references(sizes, n, batch_size):
    train_like_reference(*problem(sizes, n), batch_size, 0.01, some_weights(n, "float64"))


@pytest.mark.parametrize("sizes", [(200, 64, 3), (3, 5, 2)], ids=["wide", "narrow"])
def test_after_a_full_workspace_a_fuller_one(sizes):
    """A batch of just the capacity of a workspace, then a batch of more."""
    net, X, T = problem(sizes, 16_000)
    for n in (2048, 3000, 15_360, 15_500):
        train_like_reference(net, X[:n], T[:n], n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 16, 17, 49, 65, 130])
def test_relu_on_integers_is_exact(width, dtype):
    """Every sum is a small integer or half of one, so that any order of summation gives the same bits."""
    rng = np.random.default_rng(width)
    net = fastnn.MLP((width, 5, width), "relu", "identity", dtype=dtype)
    net.weights = [rng.integers(-1, 2, w.shape) for w in net.weights]
    net.biases = [rng.integers(-1, 2, b.shape) for b in net.biases]
    X, T = rng.integers(-2, 3, (64, width)).astype(dtype), rng.integers(-2, 3, (64, width)).astype(dtype)
    loss, dw, db = net.loss_and_gradients(X, T)
    expected, expected_dw, expected_db = expected_gradients(net, X, T)
    assert loss == expected
    for g, e in zip([*dw, *db], [*expected_dw, *expected_db], strict=True):
        np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradients_are_the_slopes_of_the_loss(activation, output):
    net, X, T = problem((4, 6, 5, 3), 20, activation, output)
    weight, alpha, h = some_weights(20, "float64"), 0.2, 1e-6
    _, dw, db = net.loss_and_gradients(X, T, weight, alpha)

    def loss_with(params, layer, index, value):
        stored = params[layer].copy()
        stored[index] = value
        params[layer] = stored
        return net.loss_and_gradients(X, T, weight, alpha)[0]

    for params, gradients in ((net.weights, dw), (net.biases, db)):
        for layer in range(3):
            for index in np.ndindex(params[layer].shape):
                old = params[layer][index]
                slope = loss_with(params, layer, index, old + h) - loss_with(params, layer, index, old - h)
                loss_with(params, layer, index, old)
                assert abs(slope / (2 * h) - gradients[layer][index]) < 1e-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_one_hot_targets(dtype):
    net, X, _ = problem((6, 9, 4), 50, "tanh", "softmax", dtype)
    labels = np.random.default_rng(0).integers(0, 4, 50)
    T = reference.one_hot(labels, 4).astype(dtype)
    check_against_reference(net, X, T, labels)
    for kind in ("int8", "uint8", "int32", "uint64", ">i4"):
        pairs = zip(net.loss_and_gradients(X, labels.astype(kind))[1], net.loss_and_gradients(X, T)[1], strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("output", ["identity", "logistic", "exp"])
@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "bool"])
def test_one_output_takes_flat_targets(output, kind):
    net, X, _ = problem((6, 9, 1), 30, "tanh", output)
    y = np.random.default_rng(0).integers(0, 2, 30).astype(kind)
    check_against_reference(net, X, y.astype(float)[:, None], y)
    assert net.loss_and_gradients(X, y)[0] == net.loss_and_gradients(X, y[:, None])[0]


def test_one_row_is_a_row_of_many():
    net, X, _ = problem((6, 9, 4), 5)
    assert net.forward(X[0]).shape == (4,)
    np.testing.assert_allclose(net.forward(X[0]), net.forward(X)[0], rtol=1e-14)
    out = np.empty(4)
    assert np.shares_memory(net.forward(X[0], out=out), out)


def test_out_is_written_and_returned():
    net, X, _ = problem((6, 9, 4), 20)
    out = np.full((22, 4), np.nan)
    assert net.forward(X, out=out[1:-1]).base is out
    np.testing.assert_array_equal(out[1:-1], net.forward(X))
    assert np.isnan(out[[0, -1]]).all()


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (lambda net: np.empty((20, 4), "float32"), TypeError, "out must be .* float64, got dtype float32; use"),
        (lambda net: [[0.0] * 4] * 20, TypeError, "out must be .*, got list; use"),
        (lambda net: np.empty((4, 20)), ValueError, r"out must have shape \(20, 4\), got \(4, 20\); leave it out"),
        (lambda net: np.empty((4, 20)).T, ValueError, "out must be C-contiguous.*, got not contiguous; use"),
        (lambda net: read_only(np.empty((20, 4))), ValueError, "out must be .* writeable, got read-only; use"),
        (lambda net: net.flat_parameters[:80].reshape(20, 4), ValueError, "share memory with the network's parameters"),
    ],
)
def test_out_that_does_not_fit_is_refused(out, error, message):
    net, X, _ = problem((6, 9, 4), 20)
    before = net.forward(X)
    with pytest.raises(error, match=message):
        net.forward(X, out=out(net))
    np.testing.assert_array_equal(net.forward(X), before)


def test_out_may_not_be_a_part_of_X_nor_X_of_out():
    net, X, _ = problem((4, 9, 4), 20)
    for rows, out in ((X, X), (X[1:], X[:-1]), (X, X[:]), (X[:], X)):
        with pytest.raises(ValueError, match="out must not share memory with X"):
            net.forward(rows, out=out)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", ["read-only", "memmap"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_read_only_are_predicted_as_quickly(kind, dtype, tmp_path, monkeypatch):
    """Straight away, and with the same bits; and nothing is written to them."""
    net, X, _ = problem((20, 10, 3), 5, dtype=dtype)
    expected = net.forward(X)
    if kind == "memmap":
        X.tofile(tmp_path / "X")
        frozen = np.memmap(tmp_path / "X", dtype, "r", shape=X.shape)
    else:
        frozen = read_only(X.copy())
    monkeypatch.setattr(model.Rows, "of", None)
    for rows in (slice(0, 5), slice(2, 3), 4):
        assert np.array_equal(net.forward(frozen[rows]), expected[rows])
    out = np.empty((1, 3), dtype)
    assert net.forward(frozen[1:2], out) is out and np.array_equal(out, expected[1:2])
    assert not frozen.flags.writeable and np.array_equal(frozen, X)


def test_spare_workspaces_for_prediction_are_bounded():
    net, X, _ = problem((4, 9, 4), 20)
    net.forward(X)
    net._spare_forward.extend(net._spare_forward.copy() * 100)
    net.forward(X)
    assert len(net._spare_forward) <= 20


def test_no_rows():
    net, X, T = problem((6, 9, 4), 0)
    assert net.forward(X).shape == (0, 4)
    for call in (lambda: net.loss_and_gradients(X, T), lambda: net.train_epoch(X, T, fastnn.SGD())):
        with pytest.raises(ValueError, match="X"):
            call()


def test_weights_of_zero_change_nothing():
    net, X, T = problem((6, 9, 4), 20)
    loss, dw, _ = net.loss_and_gradients(X, T, np.zeros(20))
    assert loss == 0
    assert not np.any(dw[0])


def test_weight_two_is_a_row_twice():
    net, X, T = problem((6, 9, 4), 20)
    weighted = net.loss_and_gradients(X, T, np.repeat([2, 1], 10), alpha=0.1)
    twice = net.loss_and_gradients(np.vstack([X[:10], X]), np.vstack([T[:10], T]), alpha=0.1)
    assert abs(weighted[0] - twice[0]) < 1e-13
    assert_close(weighted[1] + weighted[2], twice[1] + twice[2], 1e-12)


# -- the order of training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], list(range(29, -1, -1)), [7]])
def test_order(order):
    train_like_reference(*problem((6, 9, 4), 30), 4, 0.01, some_weights(30, "float64") + 0.1, order)


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_is_a_gather(dtype):
    order = np.random.default_rng(0).permutation(100)
    one, X, T = problem((6, 9, 4), 100, dtype=dtype)
    two, *_ = problem((6, 9, 4), 100, dtype=dtype)
    loss = one.train_epoch(X, T, fastnn.Adam(), 32, order=order.astype("int32"))
    assert loss == two.train_epoch(X[order], T[order], fastnn.Adam(), 32)
    assert bits(one) == bits(two)


def test_no_order_is_the_rows_as_they_lie():
    one, X, T = problem((6, 9, 4), 100)
    two, *_ = problem((6, 9, 4), 100)
    one.train_epoch(X, T, fastnn.Adam(), 32)
    two.train_epoch(X, T, fastnn.Adam(), 32, order=np.arange(100))
    assert bits(one) == bits(two)


def test_batch_longer_than_the_data_is_the_data():
    one, X, T = problem((6, 9, 4), 100)
    two, *_ = problem((6, 9, 4), 100)
    one.train_epoch(X, T, fastnn.Adam(), 10**12)
    two.train_epoch(X, T, fastnn.Adam(), 100)
    assert bits(one) == bits(two)


@pytest.mark.parametrize("optimizer", [fastnn.Adam, fastnn.SGD])
def test_epochs_equal_their_batches_one_by_one(optimizer):
    """To the bit, where the last batch is so large that a call for it alone sums its gradients as a longer one does."""
    one, X, T = problem((6, 9, 4), 120)
    two, *_ = problem((6, 9, 4), 120)
    assert len({one._layout.is_narrow(n_rows, False) for n_rows in (24, 32)}) == 1
    whole, by_batch = optimizer(), optimizer()
    for _ in range(3):
        one.train_epoch(X, T, whole, 32)
        for start in range(0, 120, 32):
            two.train_epoch(X[start : start + 32], T[start : start + 32], by_batch, 32)
    assert bits(one) == bits(two)
    assert whole.steps == by_batch.steps == 12


@pytest.mark.parametrize("is_listened_to", [False, True])
@pytest.mark.parametrize("sizes", [(6, 9, 4), (200, 64, 4)], ids=["narrow", "wide"])
def test_calls_cut_short_for_ctrl_c_change_nothing(sizes, is_listened_to, monkeypatch):
    """Neither those of a batch each, nor those of a batch that Ctrl-C may stop."""
    one, X, T = problem(sizes, 100)
    two, *_ = problem(sizes, 100)
    losses, calls = [one.train_epoch(X, T, fastnn.Adam(), 32)], []
    flops = two._flops_within_step(two.examples(X, T).rows, 32)
    monkeypatch.setattr(model, "FLOPS_PER_CALL", flops if is_listened_to else flops + 1)
    watch_calls(monkeypatch, epoch, lambda code, *args: calls.append(threading.current_thread()) or code(*args))
    losses.append(two.train_epoch(X, T, fastnn.Adam(), 32))
    assert losses[0] == losses[1]
    assert bits(one) == bits(two)
    assert 1 < len(calls) <= 4 and (threading.main_thread() in calls) != is_listened_to


def test_predictions_are_cut_for_ctrl_c_by_the_time_they_take(monkeypatch):
    """The first of several calls has operations that take as long in one dtype as in the other."""
    monkeypatch.setattr(model, "FLOPS_PER_THREAD", 1.0)  # no row is short
    monkeypatch.setattr(model, "FLOPS_AT_ONCE", 0)
    monkeypatch.setattr(model, "FLOPS_PER_FORWARD", 20 * 2 * (6 * 9 + 9 * 4))
    monkeypatch.setattr(model, "rows_of_next_call", lambda rows, step, seconds: 2 * rows)
    calls = []
    watch_calls(monkeypatch, forward, lambda code, crew, arguments: calls.append(arguments[1]) or code(crew, arguments))
    for dtype, rows in (("float32", 20), ("float64", 10)):
        net, X, _ = problem((6, 9, 4), 100, dtype=dtype)
        calls.clear()
        outputs = net.forward(X)
        assert [len(call) for call in calls[:2]] == [rows, 2 * rows] and sum(map(len, calls)) == 100
        assert_close([outputs], [expected_forward(net, X)], TOLERANCE[dtype])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_ctrl_c_stops_within_a_batch(n_threads, ctrl_c_raises, monkeypatch):
    """A batch that takes a second and more is not finished, and what has been begun of it is left usable."""
    net, X = MLP((200, 700, 700, 10)), np.random.default_rng(0).random((60_000, 200), "float32")
    y, adam, done = np.arange(len(X)) % 10, fastnn.Adam(), []

    def interrupted(code, crew, arguments):
        timer = threading.Timer(0.1, _thread.interrupt_main)
        timer.start()
        code(crew, arguments)
        timer.join()
        done.append(arguments[-3][-2])  # epochs gone through

    watch_calls(monkeypatch, epoch, interrupted)
    with fastnn.threads(n_threads):
        for call in (
            lambda: net.train_epoch(X, y, adam, batch_size=len(X)),
            lambda: net.loss_and_gradients(X, y),
        ):
            with pytest.raises(KeyboardInterrupt):
                call()
            assert adam.steps == 0 and net.is_finite()
    assert done == [0, 0]
    monkeypatch.undo()
    assert np.isfinite(net.train_epoch(X[:100], y[:100], adam))


def test_ctrl_c_while_moments_are_made_leaves_the_optimizer_new(ctrl_c_raises, monkeypatch):
    net, X, T = problem((4, 3), 20)
    adam, twin, other = fastnn.Adam(), copy.deepcopy(net), fastnn.Adam()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model, "empty", lambda *_: _thread.interrupt_main() or time.sleep(1))
        net.train_epoch(X, T, adam)
    assert net.train_epoch(X, T, adam) == twin.train_epoch(X, T, other)
    assert bits(net) == bits(twin)


def test_the_update_counts_among_what_a_call_has_time_for(monkeypatch):
    """Of many weights and batches of a row it takes most of the time: they lie in memory, with their moments."""
    net, X, T = problem((100, 100), 20, dtype="float32")
    monkeypatch.setattr(model, "FLOPS_PER_CALL", 5 * model.FLOPS_BESIDE_WEIGHT * 100 * 100)
    calls = []

    def counted(code, crew, arguments):
        calls.append(arguments[2] - arguments[1])
        code(crew, arguments)

    watch_calls(monkeypatch, epoch, counted)
    net.train_epoch(X, T, fastnn.Adam(), batch_size=1)
    assert 1 <= calls[0] < 5 and sum(calls) == 20


def test_ctrl_c_between_the_batches_of_a_call_leaves_their_steps(ctrl_c_raises, monkeypatch):
    """A single tile is updated or not: the weights, and what goes on from them, are as if trained by parts."""
    net, X, T = problem((4, 4), 1_000_000, output="identity")  # half a million steps, however late the signal
    parts, adam, other = copy.deepcopy(net), fastnn.Adam(), fastnn.Adam()

    def interrupt(result):
        while result[-1] < 100:
            time.sleep(1e-4)
        _thread.interrupt_main()

    def watched(code, crew, arguments):
        if adam.steps:  # the first call has a single batch
            threading.Thread(target=interrupt, args=arguments[-3:-2]).start()
        code(crew, arguments)

    watch_calls(monkeypatch, epoch, watched)
    monkeypatch.setattr("fastnn.model.FLOPS_PER_CALL", 1.0)  # batches that take long, as it were
    monkeypatch.setattr("fastnn.model.rows_of_next_call", lambda rows, step, seconds: len(X))
    with pytest.raises(KeyboardInterrupt):
        net.train_epoch(X, T, adam, batch_size=2)
    monkeypatch.undo()
    done = 2 * adam.steps
    assert 200 <= done < len(X)
    parts.train_epoch(X[:done], T[:done], other, batch_size=2)
    assert (bits(net), adam.steps) == (bits(parts), other.steps)
    for each, optimizer in ((net, adam), (parts, other)):
        each.train_epoch(X[done:], T[done:], optimizer, batch_size=2)
    assert bits(net) == bits(parts)


def test_whether_many_parameters_are_finite_is_found_without_a_mask_of_them():
    """After Ctrl-C it is to be found out quickly."""
    net = MLP((2000, 2000, 10))
    tracemalloc.start()
    try:
        assert net.is_finite()
        assert tracemalloc.get_traced_memory()[1] < 1.5 * pieces.ENTRIES_AT_ONCE < net.flat_parameters.size / 2
    finally:
        tracemalloc.stop()
    for at in (0, pieces.ENTRIES_AT_ONCE, net.flat_parameters.size - 1):
        for value in (np.nan, np.inf, -np.inf):
            before, net.flat_parameters[at] = net.flat_parameters[at], value
            assert not net.is_finite()
            net.flat_parameters[at] = before
    assert net.is_finite()


def test_optimizer_belongs_to_one_network():
    one, X, T = problem((6, 9, 4), 10)
    two, *_ = problem((6, 9, 4), 10)
    optimizer = fastnn.Adam()
    one.train_epoch(X, T, optimizer)
    before = bits(two)
    with pytest.raises(ValueError, match="optimizer"):
        two.train_epoch(X, T, optimizer)
    assert bits(two) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_reaches_the_loss(dtype):
    net, X, T = problem((6, 9, 4), 40, dtype=dtype)
    X[7, 2] = np.nan
    assert np.isnan(net.loss_and_gradients(X, T)[0])
    assert np.flatnonzero(np.isnan(net.forward(X)).any(axis=1)).tolist() == [7]


def test_initial_weights():
    net = fastnn.MLP((30, 40, 10), "logistic", dtype="float64", random_state=3)
    same = fastnn.MLP((30, 40, 10), "logistic", dtype="float64", random_state=np.random.RandomState(3))
    assert bits(net) == bits(same) != bits(fastnn.MLP((30, 40, 10), "logistic", dtype="float64", random_state=4))
    bound = np.sqrt(2 / 70)
    assert 0.9 * bound < np.abs(net.weights[0]).max() <= bound


def test_what_describes_the_network_stays():
    net = MLP((3, 4, 2))
    for name, value in {"sizes": (1, 4, 2), "activations": ("tanh",), "output": "exp", "dtype": "float64"}.items():
        with pytest.raises(AttributeError):
            setattr(net, name, value)


def test_ctrl_c_counts_the_steps_taken(monkeypatch):
    """The signal arrives as soon as the compiled call is back."""
    net, twin = (MLP((3, 4, 2), random_state=0) for _ in range(2))
    X, y = np.random.default_rng(0).random((40, 3), "float32"), np.arange(40) % 2
    adam, whole = fastnn.Adam(), fastnn.Adam()

    def interrupted(code, *args):
        code(*args)
        raise KeyboardInterrupt

    watch_calls(monkeypatch, epoch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        net.train_epoch(X, y, adam, batch_size=8)
    monkeypatch.undo()
    twin.train_epoch(X, y, whole, batch_size=8)
    assert adam.steps == whole.steps == 5
    net.train_epoch(X, y, adam, batch_size=8)
    twin.train_epoch(X, y, whole, batch_size=8)
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_numpys_own_object_after_a_pickle(dtype):
    """Then an array's dtype is found to be the same without a look into it."""
    net = pickle.loads(pickle.dumps(MLP((3, 4, 2), dtype=dtype)))
    assert net.dtype is np.dtype(dtype) is MLP((3, 4, 2), dtype=pickle.loads(pickle.dumps(np.dtype(dtype)))).dtype


def test_moments_that_do_not_fit_are_refused():
    net, adam = MLP((3, 4, 2)), fastnn.Adam()
    X, y = np.zeros((5, 3), "float32"), np.zeros(5, int)
    net.train_epoch(X, y, adam)
    for wrong in (adam.moments[:-1], adam.moments.astype("float64"), None):
        adam.moments = wrong
        with pytest.raises(ValueError, match=r"optimizer\.moments must be an array of"):
            net.train_epoch(X, y, adam)


def test_batches_of_like_sizes_share_buffers():
    net = MLP((784, 256, 10))
    for n in range(1500, 1505):
        net.loss_and_gradients(np.zeros((n, 784), "float32"), np.zeros(n, int))
        net.forward(np.zeros((n, 784), "float32"))
    assert len(net._spare) == len(net._spare_forward) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", ["identity", "logistic", "softmax", "exp"])
def test_a_row_has_the_same_outputs_whichever_rows_it_comes_with(dtype, output):
    net, X, _ = problem((13, 50, 7), 200, "tanh", output, dtype)
    whole = net.forward(X)
    for n in [*range(1, 51), 95, 97, 145]:
        assert np.array_equal(net.forward(X[:n]), whole[:n])
    assert np.array_equal(net.forward(X[150]), whole[150])
    read_only = X.copy()
    read_only.flags.writeable = False
    assert np.array_equal(net.forward(read_only), whole)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_row_of_a_network_that_takes_fewer_rows_at_once(n_threads):
    @numba.njit(**jit.FLAGS)
    def rows_of_block(layers, params, is_sparse):
        return forward.rows_of_block(layers, params, is_sparse)

    net = MLP((5400, 100, 4), random_state=0)
    work = model.ForwardWorkspace(net._layout, net._activation_codes(), net._output_code, net._params, 1)
    layers = work._arrays[0].reshape(-1)
    assert rows_of_block(layers, net._params, False) == 24
    assert rows_of_block(layers, net._params, True) == 48
    X = np.random.default_rng(0).normal(size=(99, 5400)).astype("float32")
    with fastnn.threads(n_threads):
        whole = net.forward(X)
        assert np.array_equal(net.forward(X[:25]), whole[:25])
        assert np.array_equal(net.forward(X[50:]), whole[50:])
    assert np.array_equal([net.forward(row) for row in X[::7]], whole[::7])


def test_a_pickle_may_be_made_while_another_thread_predicts_for_the_first_time():
    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            net.forward(np.zeros((1, 3), "float32"))
            return False

    net = MLP((3, 2))
    vars(net)[Name("key")] = None
    assert any(isinstance(name, Name) for name in net.__getstate__())


def test_attributes_of_a_subclass_survive_a_pickle():
    net = pickle.loads(pickle.dumps(Named("x")))
    assert net.name == "x"
    assert bits(net) == bits(Named("x"))


class Named(MLP):
    def __init__(self, name):
        super().__init__((2, 3), random_state=0)
        self.name = name


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 47, 48, 49, 400, 401])
def test_whether_rows_are_finite_is_seen_as_they_are_read(n, dtype, n_threads, monkeypatch):
    """In whichever block of rows, and by whichever thread; what comes after a refusal is as ever."""
    monkeypatch.setattr("fastnn.model.FLOPS_PER_THREAD", 1.0)
    net, rng = MLP((33, 20, 3), dtype=dtype, random_state=0), np.random.default_rng(0)
    X = rng.standard_normal((n, 33)).astype(dtype)
    X[0, :3] = np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    with fastnn.threads(n_threads):
        expected = net.forward(X)
        np.testing.assert_array_equal(net.forward_if_finite(X), expected)
        for row, column, value in itertools.product((0, n // 2, n - 1), (0, 16, 32), (np.nan, np.inf, -np.inf)):
            bad = X.copy()
            bad[row, column] = value
            assert net.forward_if_finite(bad) is None
            assert net.forward(bad).shape == expected.shape  # which takes it
        np.testing.assert_array_equal(net.forward_if_finite(X), expected)


def test_rows_that_are_not_as_kernels_take_them_are_not_looked_at():
    net, X = MLP((3, 2), dtype="float64"), np.zeros((4, 3))
    parts = X[:0], X[0], X[::2], X[:, :2], X.T[:, :3]
    kinds = X.tolist(), X.astype("f4"), X.astype(">f8"), np.asfortranarray(X), np.ma.array(X), None
    for other in (*parts, *kinds, csr(4, 3, "float64")):
        assert net.forward_if_finite(other) is None
