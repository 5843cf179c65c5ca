"""What several test files share: networks, targets that suit an output, closeness by norm."""

import functools
import sys

import numpy as np
import reference
import scipy.sparse

import fastnn
from fastnn import interop
from fastnn.kernels.team import STOP

OWN_PARAMETERS = set(interop.OWN_PARAMETERS)
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def targets_for(output, rng, n, n_out, dtype="float64"):
    """Random targets in the domain of a loss, some of them 0."""
    if output == "softmax":
        return reference.one_hot(rng.integers(0, n_out, n), n_out).astype(dtype)
    if output == "logistic":
        return rng.integers(0, 2, (n, n_out)).astype(dtype)
    if output == "exp":
        return rng.poisson(1.0, (n, n_out)).astype(dtype)
    return rng.normal(size=(n, n_out)).astype(dtype)


def problem(sizes, n, activation="tanh", output="softmax", dtype="float64", seed=0):
    """A network and rows for it."""
    rng = np.random.default_rng(seed)
    net = fastnn.MLP(sizes, activation, output, dtype=dtype, random_state=seed)
    return net, rng.normal(size=(n, sizes[0])).astype(dtype), targets_for(output, rng, n, sizes[-1], dtype)


def stopped_by(array, at):
    """State of a team that is to stop as soon as a number other than 0 is written to a place of an array."""
    whole = array.reshape(-1).view(np.int64)
    at = at * array.itemsize // whole.itemsize
    return whole[at - STOP : at + 1]


def csr(n, n_columns, dtype="float64", density=0.2, seed=0):
    """Sparse rows, every other one empty or so, with entries in any order, some in one place."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(n_columns, density, n) * rng.integers(0, 2, n)
    indices, indptr = rng.integers(0, n_columns, counts.sum()), np.concatenate([[0], np.cumsum(counts)])
    return scipy.sparse.csr_matrix((rng.normal(size=indices.size).astype(dtype), indices, indptr), (n, n_columns))


def parameters64(net):
    return [w.astype(np.float64) for w in net.weights], [b.astype(np.float64) for b in net.biases]


def expected_forward(net, X):
    return reference.forward(*parameters64(net), net.activations, net.output, reference.dense(X.astype(np.float64)))


def expected_gradients(net, X, T, sample_weight=None, alpha=0.0):
    s = None if sample_weight is None else sample_weight.astype(np.float64)
    X, T = reference.dense(X.astype(np.float64)), T.astype(np.float64)
    return reference.loss_and_gradients(*parameters64(net), net.activations, net.output, X, T, s, alpha)


def assert_close(actual, expected, tolerance):
    """Each array within `tolerance` of the largest element expected of it."""
    assert len(actual) == len(expected)
    for layer, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape
        error = np.max(np.abs(a - e), initial=0.0)
        assert error <= tolerance * (np.max(np.abs(e), initial=0.0) + 1e-3), f"layer {layer}: off by {error}"


def check_against_reference(net, X, T, y=None, sample_weight=None, alpha=0.0):
    """Outputs, loss and gradients of a network equal the reference's; `y` is what stands for T, if not T."""
    tolerance = TOLERANCE[net.dtype.name]
    outputs = net.forward(X)
    assert outputs.dtype == net.dtype
    assert_close([outputs], [expected_forward(net, X)], tolerance)
    if not X.shape[0]:
        return
    loss, dw, db = net.loss_and_gradients(X, T if y is None else y, sample_weight, alpha)
    expected, expected_dw, expected_db = expected_gradients(net, X, T, sample_weight, alpha)
    assert {g.dtype for g in [*dw, *db]} == {net.dtype}
    assert abs(loss - expected) <= 5 * tolerance * (1 + abs(expected))
    assert_close(dw, expected_dw, tolerance)
    assert_close(db, expected_db, tolerance)


def bits(net):
    """The parameters as bytes."""
    return [p.tobytes() for p in [*net.weights, *net.biases]]


def shared_parameters(model):
    """The parameters that scikit-learn's estimator has as well."""
    return {name: value for name, value in model.get_params().items() if name not in OWN_PARAMETERS}


def watch_calls(monkeypatch, entry, watch):
    """Have the compiled calls of an entry point, such as `epoch`, made by watch(code, crew, arguments)."""
    code = entry.code
    monkeypatch.setattr(entry, "code", lambda *kind: functools.partial(watch, code(*kind)))


def interrupted_calls(call, is_watched):
    """Yield after calls, each with Ctrl-C at the next one of the moments that Python looks for it, what ended them.

    Those are, in the functions whose code is watched, where one begins, or one of C has returned. A call that goes on
    after Ctrl-C yields None.
    """
    n_ends = n_moments = 0

    def interrupt(frame, event, argument):
        nonlocal n_moments
        if event in ("call", "c_return") and is_watched(frame.f_code):
            n_moments += 1
            if n_moments == n_ends + 1:
                raise KeyboardInterrupt

    while True:
        n_moments, end = 0, None
        sys.setprofile(interrupt)
        try:
            call()
        except KeyboardInterrupt as error:
            end = error
        finally:
            sys.setprofile(None)
        if n_moments <= n_ends:
            return
        n_ends += 1
        yield end


class Pause(fastnn.Callback):
    """Breaks the training off at each batch asked for, counted over all epochs."""

    def __init__(self, *batches):
        self.batches = batches

    def on_batch_end(self, fit):
        if fit.epoch * fit.n_batches + fit.batch in self.batches:
            fit.pause()
