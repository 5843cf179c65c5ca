"""Our estimators and scikit-learn's own, made and trained alike: the data, the models, and the grid of comparisons.

test_parity.py asserts that they agree over the grid; bench/parity.py writes by how much into the documentation.
"""

import contextlib
import functools
import itertools
import warnings

import numpy as np
from scipy import sparse
from sklearn import neural_network as sklearn_nn
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import _multilayer_perceptron as sklearn_mlp

import fastnn

N_ROWS, N_FEATURES = 83, 6
ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
PROBLEMS = {
    "binary": ("MLPClassifier", {}),
    "multiclass": ("MLPClassifier", {}),
    "multilabel": ("MLPClassifier", {}),
    "regression": ("MLPRegressor", {}),
    "three outputs": ("MLPRegressor", {}),
    "poisson": ("MLPRegressor", {"loss": "poisson"}),
    "poisson, three outputs": ("MLPRegressor", {"loss": "poisson"}),
}
STOCHASTIC = {"alpha": 0.01, "max_iter": 25, "tol": 1e-2, "n_iter_no_change": 3}
SOLVERS = {
    "adam": {**STOCHASTIC, "solver": "adam", "learning_rate_init": 0.01},
    "sgd": {**STOCHASTIC, "solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0},
    "nesterov": {**STOCHASTIC, "solver": "sgd", "learning_rate_init": 0.01},
    "lbfgs": {"solver": "lbfgs", "alpha": 1.0, "max_iter": 20},
}
VARIANTS = ("plain", "shuffle off", "early stopping", "weights", "sparse", "warm start", "partial_fit")

# L-BFGS has no `partial_fit`. It takes all rows at once, so that both libraries ignore `shuffle` and `early_stopping`.
GRID = [
    (problem, solver, activation, variant)
    for problem, solver, activation, variant in itertools.product(PROBLEMS, SOLVERS, ACTIVATIONS, VARIANTS)
    if (solver, variant) != ("lbfgs", "partial_fit")
]


@functools.cache
def data(problem):
    rng = np.random.RandomState(1)
    X = rng.standard_normal((N_ROWS, N_FEATURES))
    scores = X @ rng.standard_normal((N_FEATURES, 3)) + 0.3 * rng.standard_normal((N_ROWS, 3))
    y = {
        "binary": np.where(scores[:, 0] > 0, 8, 6),
        "multiclass": np.array([7, 3, 5])[scores.argmax(axis=1)],
        "multilabel": (scores > 0).astype(int),
        "regression": scores[:, 0],
        "three outputs": scores,
        "poisson": rng.poisson(np.exp(0.3 * scores[:, 0])),
        "poisson, three outputs": rng.poisson(np.exp(0.3 * scores)),
    }[problem]
    return X, y


def make_both(problem, **params):
    """Return fastnn's estimator and scikit-learn's, with the same parameters."""
    name, own = PROBLEMS[problem]
    params = {"hidden_layer_sizes": (9, 5), "batch_size": 20, "random_state": 3, "max_iter": 5, **own, **params}
    return [getattr(module, name)(**params) for module in (fastnn, sklearn_nn)]


def fit_both(problem, sample_weight=None, dtype=np.float64, **params):
    """Return both estimators fitted to the same data."""
    X, y = data(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [model.fit(X.astype(dtype), y, sample_weight) for model in make_both(problem, **params)]


# -- the grid ---------------------------------------------------------------------------------------------------------


def needs_mend(problem, solver):
    """Whether scikit-learn hands L-BFGS another loss's gradient: that of the sum of squared errors, not of the mean."""
    return (problem, solver) == ("three outputs", "lbfgs")


@contextlib.contextmanager
def mended_sklearn():
    """Let scikit-learn's squared error be the sum over the outputs, whose gradient it computes."""
    losses = sklearn_mlp.LOSS_FUNCTIONS
    mean = losses["squared_error"]
    losses["squared_error"] = lambda y, outputs, weight=None: y.shape[1] * mean(y, outputs, weight)
    try:
        yield
    finally:
        losses["squared_error"] = mean


def train_both(problem, solver, activation, variant):
    """Return both estimators, trained as a cell of the grid says, and the rows that they were trained on."""
    X, y = data(problem)
    if variant == "sparse":
        X = sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0.0))
    params = {
        **SOLVERS[solver],
        "activation": activation,
        "shuffle": variant != "shuffle off",
        "early_stopping": variant == "early stopping",
        "validation_fraction": 0.2,
        "warm_start": variant == "warm start",
    }
    # Each model has a stream of its own, so that the numbers that are left in it tell what was drawn.
    models = [model.set_params(random_state=np.random.RandomState(3)) for model in make_both(problem, **params)]
    with warnings.catch_warnings(), mended_sklearn() if needs_mend(problem, solver) else contextlib.nullcontext():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model in models:
            train(model, X, y, variant)
    if needs_mend(problem, solver):
        theirs = models[1]
        rows = N_ROWS if variant != "weights" else weights().sum()
        penalty = theirs.alpha / 2 * sum((array**2).sum() for array in theirs.coefs_) / rows
        theirs.loss_ = (theirs.loss_ - penalty) / theirs.n_outputs_ + penalty  # as it reports it unmended
    return *models, X


def train(model, X, y, variant):
    if variant == "partial_fit":
        classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        model.partial_fit(X, y, **({"classes": classes} if is_classifier(model) else {}))
        for rows in 3 * [slice(0, 50), slice(50, None)]:
            model.partial_fit(X[rows], y[rows])
    elif variant == "warm start":
        model.fit(X, y).set_params(max_iter=10).fit(X[::-1], y[::-1])
    else:
        model.fit(X, y, weights() if variant == "weights" else None)


def weights():
    return np.random.RandomState(1).uniform(0.5, 2.0, N_ROWS)


def losses_of(model):
    return getattr(model, "loss_curve_", [model.loss_])


def outputs_of(model, X):
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)


def deviation(ours, theirs):
    """Largest difference, relative to the largest number that should have come out."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
