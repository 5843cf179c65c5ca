"""Gradients and optimizers against scikit-learn's own code, from the same weights, in float64."""

import numpy as np
import pytest
from helpers import assert_close, targets_for
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

import fastnn
from fastnn.kernels.activations import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TOLERANCE = 1e-10
HIDDEN = (20, 9)


def fitted_pair(output, activation, n=60, n_in=11):
    """scikit-learn's estimator after one epoch, a network of the same weights, X, and targets of both kinds."""
    rng = np.random.default_rng(0)
    X, n_out = rng.normal(size=(n, n_in)), {"identity": 3, "softmax": 4}.get(output, 1)
    settings = {"hidden_layer_sizes": HIDDEN, "activation": activation, "alpha": 0.3, "max_iter": 1, "random_state": 0}
    if output in ("identity", "exp"):
        T = targets_for(output, rng, n, n_out)
        loss = "poisson" if output == "exp" else "squared_error"
        sk = MLPRegressor(**settings, loss=loss).fit(X, T if n_out > 1 else T[:, 0])
    else:
        labels = rng.integers(0, max(2, n_out), n)
        sk = MLPClassifier(**settings).fit(X, labels)
        T = sk._label_binarizer.transform(labels).astype(float)
    net = fastnn.MLP((n_in, *HIDDEN, n_out), activation, output, dtype="float64")
    net.weights, net.biases = sk.coefs_, sk.intercepts_
    return sk, net, X, T


def sklearn_gradients(sk, X, T, sample_weight=None):
    activations = [X, *(np.empty((len(X), len(b))) for b in sk.intercepts_)]
    deltas = [np.empty_like(a) for a in activations[1:]]
    dw, db = [np.empty_like(w) for w in sk.coefs_], [np.empty_like(b) for b in sk.intercepts_]
    return sk._backprop(X, T, sample_weight, activations, deltas, dw, db)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ["identity", "logistic", "softmax", "exp"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients(output, activation, weighted):
    sk, net, X, T = fitted_pair(output, activation)
    weight = np.arange(len(X)) % 3 * 0.5 if weighted else None
    loss, dw, db = net.loss_and_gradients(X, T, weight, alpha=sk.alpha)
    sk_loss, sk_dw, sk_db = sklearn_gradients(sk, X, T, weight)
    if output == "identity":  # scikit-learn's squared error is a mean over the outputs, its gradient is of the sum
        n_out = T.shape[1]
        penalty = net.loss_and_gradients(X, T, weight, alpha=sk.alpha)[0] - net.loss_and_gradients(X, T, weight)[0]
        loss = (loss - penalty) / n_out + penalty
    assert abs(loss - sk_loss) <= TOLERANCE * abs(sk_loss)
    assert_close(dw, sk_dw, TOLERANCE)
    assert_close(db, sk_db, TOLERANCE)


# name: (fastnn's, scikit-learn's)
RULES = {
    "adam": (lambda: fastnn.Adam(0.01), lambda params: AdamOptimizer(params, 0.01)),
    "sgd": (lambda: fastnn.SGD(0.1, 0.0, False), lambda params: SGDOptimizer(params, 0.1, "constant", 0.0, False)),
    "momentum": (lambda: fastnn.SGD(0.1, 0.9, False), lambda params: SGDOptimizer(params, 0.1, "constant", 0.9, False)),
    "nesterov": (lambda: fastnn.SGD(0.1, 0.9, True), lambda params: SGDOptimizer(params, 0.1, "constant", 0.9, True)),
}


@pytest.mark.parametrize("output", ["identity", "logistic", "softmax"])
@pytest.mark.parametrize("rule", RULES)
def test_ten_steps(rule, output):
    sk, net, X, T = fitted_pair(output, "tanh")
    make_ours, make_theirs = RULES[rule]
    params = sk.coefs_ + sk.intercepts_
    ours, theirs = make_ours(), make_theirs(params)
    for start in range(0, len(X), 6):
        _, dw, db = sklearn_gradients(sk, X[start : start + 6], T[start : start + 6])
        theirs.update_params(params, dw + db)
    net.train_epoch(X, T, ours, batch_size=6, alpha=sk.alpha)
    assert ours.steps == 10
    assert_close(net.weights, sk.coefs_, TOLERANCE)
    assert_close(net.biases, sk.intercepts_, TOLERANCE)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights(activation):
    sk, _, X, _ = fitted_pair("softmax", activation)
    sk._random_state = np.random.RandomState(5)
    sk._initialize(np.zeros((1, 4)), [X.shape[1], *HIDDEN, 4], np.float64)
    net = fastnn.MLP((X.shape[1], *HIDDEN, 4), activation, dtype="float64", random_state=5)
    for ours, theirs in zip([*net.weights, *net.biases], [*sk.coefs_, *sk.intercepts_], strict=True):
        np.testing.assert_array_equal(ours, theirs)
