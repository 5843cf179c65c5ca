"""Wrong input: an error that names the parameter, before any kernel runs. Unusual input: taken, or refused clearly."""

import numpy as np
import pytest
from helpers import DTYPES, bits, problem, watch_calls

import fastnn
from fastnn.kernels import epoch

N, SIZES = 10, (3, 4, 2)
NET, X, T = problem(SIZES, N)
LABELS = np.arange(N) % 2
WIDE = np.zeros((2 * N, 6))


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel was about to run")

    watch_calls(monkeypatch, epoch, refuse)
    monkeypatch.setitem(vars(NET), "_code", refuse)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# (arguments in place of the right ones, parameter the message names)
BAD_X = {
    "list": X.tolist(),
    "None": None,
    "float32": X.astype("float32"),
    "integers": X.astype(int),
    "object": X.astype(object),
    "text": X.astype(str),
    "big-endian": X.astype(">f8"),
    "one column too many": np.zeros((N, 4)),
    "three dimensions": X[None],
    "no dimension": np.array(1.0),
    "every other row": np.zeros((2 * N, 3))[::2],
    "columns of more": WIDE[:N, :3],
    "Fortran order": np.asfortranarray(X),
    "backwards": X[::-1],
}
BAD_Y = {
    "None": None,
    "0-d": np.array(1.0),
    "0-d integer": np.array(1),
    "too short": LABELS[:-1],
    "too long": np.append(LABELS, 0),
    "negative": LABELS - 1,
    "too large": LABELS + 1,
    "too large, unsigned": (LABELS - 1).astype("uint64"),
    "float labels": LABELS.astype(float),
    "a column of labels": LABELS[:, None],
    "targets of three": np.zeros((N, 3)),
    "targets too short": T[:-1],
    "transposed": T.T,
    "object": T.astype(object),
    "text": LABELS.astype(str),
    "complex": T.astype(complex),
    "targets above 1": T + 2,
    "targets below 0": T - 2,
    "ragged": [[1.0], [1.0, 2.0]],
}
BAD_WEIGHT = {
    "too short": np.ones(N - 1),
    "too long": np.ones(N + 1),
    "column": np.ones((N, 1)),
    "number": 1.0,
    "text": ["1"] * N,
    "object": np.ones(N, object),
    "subnormal": np.r_[1e-310, np.ones(N - 1)],
    "huge": np.full(N, 3e307),
}
BAD_ALPHA = {
    "negative": -1.0, "NaN": np.nan, "inf": np.inf, "text": "1", "None": None, "list": [0.1], "complex": 1j,
    "beyond floats": 10**400,
}  # fmt: skip
BAD_ORDER = {
    "empty": [],
    "negative": [0, -1],
    "too large": [N],
    "float": [0.0, 1.0],
    "bool": [True] * N,
    "two dimensions": [[0, 1]],
    "number": 3,
    "text": ["0"],
}
BAD_BATCH = {"zero": 0, "negative": -1, "float": 2.0, "text": "auto", "None": None, "bool": True}
BAD_OPTIMIZER = {"None": None, "name": "adam", "class": fastnn.Adam}


def table(**named):
    return [
        pytest.param(parameter, value, id=f"{parameter}-{what}")
        for parameter, values in named.items()
        for what, value in values.items()
    ]


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(("parameter", "value"), table(X=BAD_X, y=BAD_Y, sample_weight=BAD_WEIGHT, alpha=BAD_ALPHA))
def test_loss_and_gradients_refuses(parameter, value):
    with pytest.raises((ValueError, TypeError), match=rf"\b{parameter}\b"):
        NET.loss_and_gradients(**{"X": X, "y": LABELS, parameter: value})


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("parameter", "value"),
    table(
        X=BAD_X, y=BAD_Y, sample_weight=BAD_WEIGHT, alpha=BAD_ALPHA, order=BAD_ORDER, batch_size=BAD_BATCH,
        optimizer=BAD_OPTIMIZER,
    ),
)  # fmt: skip
def test_train_epoch_refuses(parameter, value):
    before = bits(NET)
    with pytest.raises((ValueError, TypeError), match=rf"\b{parameter}\b"):
        NET.train_epoch(**{"X": X, "y": LABELS, "optimizer": fastnn.Adam(), parameter: value})
    assert bits(NET) == before


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(("parameter", "value"), table(X=BAD_X))
def test_forward_refuses(parameter, value):
    with pytest.raises((ValueError, TypeError), match=rf"\b{parameter}\b"):
        NET.forward(value)


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    "out",
    [
        np.empty((N, 3)),
        np.empty((N - 1, 2)),
        np.empty(2 * N),
        np.empty((N, 2), "float32"),
        np.empty((N, 2), ">f8"),
        read_only(np.empty((N, 2))),
        WIDE[:N, :2],
        np.empty((N, 2), order="F"),
        [[0.0] * 2] * N,
    ],
    ids=["shape", "rows", "flat", "dtype", "big-endian", "read-only", "strided", "Fortran", "list"],
)
def test_out_is_refused(out):
    with pytest.raises((ValueError, TypeError), match="out"):
        NET.forward(X, out=out)


@pytest.mark.usefixtures("no_kernel")
def test_a_refused_call_does_not_claim_the_optimizer():
    optimizer = fastnn.Adam()
    with pytest.raises(ValueError, match="y"):
        NET.train_epoch(X, LABELS[:-1], optimizer)
    assert optimizer.owner is None


@pytest.mark.parametrize(
    ("parameter", "value"),
    table(
        sizes={
            "one": (3,), "none": (), "text": "34", "zero": (3, 0), "negative": (3, -1), "float": (3, 4.0),
            "bool": (3, True), "number": 3, "None": None,
        },
        activation={
            "unknown": "elu", "upper case": "ReLU", "too few": (), "too many": ["relu", "tanh"], "None": None,
            "code": 3, "not hashable": [["relu"]],
        },
        output={"unknown": "linear", "None": None, "code": 0, "not hashable": ["softmax"]},
        dtype={
            "half": "float16", "integer": int, "complex": complex, "big-endian": ">f4", "unknown": "float7",
            "None": None,
        },
        random_state={"bool": True, "text": "one", "negative": -1, "float": 0.5},
    ),
)  # fmt: skip
def test_constructor_refuses(parameter, value):
    with pytest.raises((ValueError, TypeError), match=parameter):
        fastnn.MLP(**{"sizes": SIZES, parameter: value})


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, True])
def test_threads_refuses(n):
    for call in (lambda: fastnn.set_num_threads(n), lambda: fastnn.threads(n).__enter__()):
        with pytest.raises(ValueError, match="threads"):
            call()


# -- unusual, and taken -------------------------------------------------------------------------------------------


def trained(X, y, **kwargs):
    net, *_ = problem(SIZES, N)
    net.train_epoch(X, y, fastnn.SGD(0.1), 4, **kwargs)
    return bits(net)


def test_read_only_arrays_give_the_same_bits_and_stay_as_they_are():
    frozen = [read_only(array) for array in (X, T, np.ones(N), np.arange(N))]
    copies = [array.copy() for array in frozen]
    weight, order = frozen[2:]
    assert trained(*frozen[:2], sample_weight=weight, order=order) == trained(
        X, T, sample_weight=np.ones(N), order=np.arange(N)
    )
    assert NET.forward(frozen[0]).tobytes() == NET.forward(X).tobytes()
    for array, before in zip(frozen, copies, strict=True):
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, before)


def test_writeable_arrays_stay_as_they_are():
    arrays = [X.copy(), T.copy(), np.ones(N), np.arange(N)]
    trained(*arrays[:2], sample_weight=arrays[2], order=arrays[3])
    for array, before in zip(arrays, (X, T, np.ones(N), np.arange(N)), strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "y",
    [
        T.tolist(),
        np.asfortranarray(T),
        np.repeat(T, 2, axis=0)[::2],
        T.astype(">f8"),
        T.astype("float32"),
        T.astype(bool),
        T.astype(int),
    ],
    ids=["list", "Fortran", "strided", "big-endian", "float32", "bool", "integers"],
)
def test_targets_in_any_form(y):
    assert trained(X, y) == trained(X, T)


@pytest.mark.parametrize(
    "y",
    [LABELS.tolist(), LABELS.astype(">i2"), LABELS.astype("uint8"), np.repeat(LABELS, 2)[::2], LABELS.astype(bool)],
    ids=["list", "big-endian", "unsigned", "strided", "bool"],
)
def test_labels_in_any_form(y):
    assert trained(X, y) == trained(X, LABELS)


def test_order_and_weights_in_any_form():
    plain = trained(X, T, order=np.arange(N)[::-1].copy(), sample_weight=np.full(N, 2.0))
    assert trained(X, T, order=list(range(N))[::-1], sample_weight=[2] * N) == plain
    assert trained(X, T, order=np.arange(N, dtype="uint8")[::-1], sample_weight=np.full(N, 2, ">f4")) == plain


def test_numpy_numbers_are_numbers():
    net, *_ = problem(SIZES, N)
    net.train_epoch(X, T, fastnn.SGD(np.float32(0.5)), np.int8(4), alpha=np.float32(0.5))
    twin, *_ = problem(SIZES, N)
    twin.train_epoch(X, T, fastnn.SGD(0.5), 4, alpha=0.5)
    assert bits(net) == bits(twin)
    assert fastnn.MLP(np.array(SIZES)).sizes == SIZES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("output", ["identity", "softmax", "logistic", "exp"])
def test_not_finite_inputs_neither_hang_nor_crash(dtype, bad, activation, output):
    net, rows, targets = problem((3, 4, 2), 20, activation, output, dtype)
    good = np.ones(20, bool)
    rows[13, 1], good[13] = bad, False
    np.testing.assert_array_equal(np.isfinite(net.forward(rows))[good], True)
    net.loss_and_gradients(rows, targets)
    net.train_epoch(rows, targets, fastnn.Adam(), 8)


def test_subclasses_of_array_will_do():
    class Named(np.ndarray):
        pass

    assert trained(X.view(Named), T.view(Named)) == trained(X, T)
    np.testing.assert_array_equal(NET.forward(X.view(Named)), NET.forward(X))


def test_masked_rows_are_refused():
    """A mask would be lost on the way into the kernels."""
    with pytest.raises(TypeError, match=r"X must be a plain NumPy array .*, got MaskedArray; use X\.filled"):
        NET.forward(np.ma.masked_array(X, mask=X > 0))
