"""The same parameters and seed give the numbers that scikit-learn's own estimators give."""

import pickle
import warnings

import numpy as np
import pytest
from parity_grid import ACTIVATIONS, GRID, PROBLEMS, VARIANTS, data, fit_both, make_both, train_both
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.neural_network import _multilayer_perceptron as sklearn_mlp

from fastnn import base
from fastnn.model import MLP

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RTOL = 1e-9
# Each iteration of L-BFGS starts from the rounding errors of all those before it, and enlarges them.
LBFGS_RTOL = 1e-6


def assert_same_model(ours, theirs, X, rtol=RTOL):
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_"):
        assert_same_record(getattr(ours, name, None), getattr(theirs, name, None), rtol)
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    y, expected = ours.predict(X), theirs.predict(X)
    assert type(y) is type(expected) and y.shape == expected.shape and y.dtype == expected.dtype
    if is_classifier(ours):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert np.all(y == expected)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=rtol, atol=rtol)
    else:
        np.testing.assert_allclose(y, expected, rtol=rtol, atol=rtol)


def assert_same_record(ours, theirs, rtol):
    """Nothing kept by either, or the same numbers."""
    assert (ours is None) == (theirs is None)
    if ours is not None:
        np.testing.assert_allclose(ours, theirs, rtol=rtol)


# -- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "solver", "activation", "variant"), GRID, ids=lambda word: word.replace(" ", "_"))
def test_grid(problem, solver, activation, variant):
    ours, theirs, X = train_both(problem, solver, activation, variant)
    assert ours.random_state.randint(2**30) == theirs.random_state.randint(2**30)
    assert_same_model(ours, theirs, X, LBFGS_RTOL if solver == "lbfgs" else RTOL)


def test_grid_is_whole():
    assert len(GRID) == len(PROBLEMS) * len(ACTIVATIONS) * (4 * len(VARIANTS) - 1)


# -- bit for bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_initial_weights_are_bit_equal(problem, activation, dtype):
    # A learning rate this small leaves every weight as it was drawn.
    ours, theirs = fit_both(
        problem, dtype=dtype, activation=activation, max_iter=1, learning_rate_init=1e-300, solver="sgd"
    )  # fmt: skip
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"early_stopping": True, "shuffle": False}], ids=str)
def test_split_and_shuffles_are_bit_equal(problem, params, monkeypatch):
    ours, theirs = spy_on_rows(monkeypatch, data(problem)[0])
    fit_both(problem, batch_size="auto", **params)
    assert len(ours) == len(theirs) == 5 + params.get("early_stopping", False)
    for rows, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(rows, expected)


def spy_on_rows(monkeypatch, X):
    """Return lists that either library's training fills with rows of X: those held out, then those of each epoch.

    An epoch has to be a single batch.
    """
    ours, theirs = [], []
    their_class = sklearn_mlp.BaseMultilayerPerceptron
    our_split, our_epochs, their_split, their_batch = (
        base.validation_split, MLP.train, sklearn_mlp.train_test_split, their_class._backprop
    )  # fmt: skip

    def spy_on_our_split(*args):
        parts = our_split(*args)
        ours.append(X[parts[1]])
        return parts

    def spy_on_our_epochs(net, examples, n_rows, optimizer, batch_size, orders, alpha, epochs):
        same_order = orders is None or len(orders) == n_rows < epochs.n * n_rows
        rows = X if orders is None else X[orders]
        ours.extend([rows] * epochs.n if same_order else np.split(rows, epochs.n))
        return our_epochs(net, examples, n_rows, optimizer, batch_size, orders, alpha, epochs)

    def spy_on_their_split(*args, **kwargs):
        parts = their_split(*args, **kwargs)
        theirs.append(parts[1])
        return parts

    def spy_on_their_batch(model, X, *args):
        theirs.append(X.copy())
        return their_batch(model, X, *args)

    monkeypatch.setattr(base, "validation_split", spy_on_our_split)
    monkeypatch.setattr(MLP, "train", spy_on_our_epochs)
    monkeypatch.setattr(sklearn_mlp, "train_test_split", spy_on_their_split)
    monkeypatch.setattr(their_class, "_backprop", spy_on_their_batch)
    return ours, theirs


# -- settings that change between fits -------------------------------------------------------------------------------


SGD = {"solver": "sgd", "learning_rate_init": 0.05}
CHANGES = [
    (SGD, {"learning_rate_init": 0.2, "momentum": 0.1}), (SGD, {"learning_rate": "invscaling"}),
    ({**SGD, "learning_rate": "invscaling"}, {"power_t": 0.0, "learning_rate_init": 0.2}),
    ({**SGD, "learning_rate": "adaptive", "tol": 10, "n_iter_no_change": 1}, {"learning_rate": "constant"}),
    ({**SGD, "learning_rate": "invscaling"}, {"solver": "adam"}),
    ({"solver": "adam", "learning_rate": "invscaling", "tol": 10, "n_iter_no_change": 1}, {"solver": "sgd"}),
    ({}, {"activation": "tanh"}), (SGD, {"activation": "identity"}), ({}, {"alpha": 10.0, "batch_size": 7}),
    ({}, {"shuffle": False, "beta_1": 0.1}), ({}, {"early_stopping": False, "n_iter_no_change": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "change"), CHANGES, ids=str)
@pytest.mark.parametrize("way", ["partial_fit", "partial_fit, pickled", "warm start"])
def test_settings_that_change(before, change, way):
    """What goes on with the settings it began with, and what takes the new ones."""
    X, y = data("multiclass")
    models = make_both("multiclass", warm_start=way == "warm start", **before)
    for i, model in enumerate(models):
        train_again = model.fit if way == "warm start" else model.partial_fit
        train_again(X, y, **({} if way == "warm start" else {"classes": np.unique(y)}))
        if way == "partial_fit, pickled":
            models[i] = model = pickle.loads(pickle.dumps(model))
        model.set_params(**change)
        for _ in range(4):
            model.fit(X, y) if way == "warm start" else model.partial_fit(X, y)
    assert_same_model(*models, X)


@pytest.mark.parametrize("solver", [{}, SGD], ids=str)
def test_partial_fit_after_a_warm_fit_of_a_loaded_model(solver):
    X, y = data("multiclass")
    models = make_both("multiclass", warm_start=True, **solver)
    models = [pickle.loads(pickle.dumps(model.fit(X, y))) for model in models]
    for model in models:
        model.fit(X, y).partial_fit(X, y)
    assert_same_model(*models, X)


@pytest.mark.parametrize(("first", "second"), [("multiclass", "multilabel"), ("binary", "multilabel")])
def test_indicators_after_classes_are_refused(first, second):
    X, y = data(first)
    classes, y = np.unique(y, return_inverse=True)
    for model in make_both(first):
        model.partial_fit(X, y, classes=np.unique(y))
        with pytest.raises(ValueError, match=r"The object was not fitted with multilabel input\."):
            model.partial_fit(X, data(second)[1][:, : len(classes)])


# -- parameters, weights and dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("weights", ["random", "some zero", "scalar"])
def test_sample_weight_matches_sklearn(problem, weights):
    random = np.random.RandomState(0).uniform(0.1, 3.0, 83)
    sample_weight = {"random": random, "some zero": random * (np.arange(83) % 3 > 0), "scalar": 2.5}[weights]
    ours, theirs = fit_both(problem, sample_weight, alpha=0.5)
    assert_same_model(ours, theirs, data(problem)[0])


@pytest.mark.parametrize("params", [
    {"shuffle": False}, {"batch_size": "auto"}, {"batch_size": 1}, {"batch_size": 83}, {"alpha": 0},
    {"hidden_layer_sizes": ()}, {"hidden_layer_sizes": 4}, {"hidden_layer_sizes": [np.int64(3), 4, 5]},
    {"hidden_layer_sizes": np.array([3, 2])}, {"momentum": 1, "solver": "sgd"}, {"beta_1": 0, "beta_2": 0.5},
    {"n_iter_no_change": np.inf}, {"nesterovs_momentum": np.bool_(False), "solver": "sgd"},
    {"hidden_layer_sizes": (), "activation": "tanh"}, {"hidden_layer_sizes": (), "activation": "logistic"},
    {"nesterovs_momentum": False, "solver": "sgd"}, {"learning_rate": "invscaling", "solver": "sgd", "power_t": 0.3},
    {"learning_rate": "adaptive", "solver": "sgd", "tol": 10, "n_iter_no_change": 1},
    {"solver": "lbfgs", "max_fun": 4, "max_iter": 200}, {"solver": "lbfgs", "hidden_layer_sizes": ()},
], ids=str)  # fmt: skip
def test_parameters_match_sklearn(params):
    ours, theirs = fit_both("multiclass", **params)
    assert_same_model(ours, theirs, data("multiclass")[0])


@pytest.mark.parametrize("problem", PROBLEMS)
def test_float32_stays_float32(problem):
    ours, theirs = fit_both(problem, dtype=np.float32)
    X = data(problem)[0].astype(np.float32)
    assert all(array.dtype == np.float32 for array in ours.coefs_ + ours.intercepts_)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    if problem in ("binary", "multiclass", "multilabel"):
        assert ours.predict_proba(X).dtype == ours.predict_log_proba(X).dtype == np.float32
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-3)
    else:
        assert ours.predict(X).dtype == np.float32
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-2, atol=1e-3)


def test_a_single_class():
    X = data("binary")[0]
    assert_same_model(*(model.fit(X, ["only"] * len(X)) for model in make_both("binary")), X)


def test_a_single_class_is_right_while_it_is_validated():
    X = data("binary")[0]
    ours, theirs = (model.fit(X, np.zeros(len(X), int)) for model in make_both("binary", early_stopping=True))
    assert ours.validation_scores_ == theirs.validation_scores_ and ours.n_iter_ == theirs.n_iter_


def test_validation_rows_without_weight_are_refused_in_scikit_learns_words():
    X, y = data("binary")
    ours, _ = make_both("binary", early_stopping=True)
    with pytest.raises(ValueError, match=r"Sample weights must contain at least one non-zero number\."):
        ours.fit(X, y, np.zeros(len(X)))


def test_sparse_indicators():
    X, y = data("multilabel")
    ours, theirs = (model.fit(X, sparse.csr_array(y)).predict(X) for model in make_both("multilabel"))
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours.toarray(), theirs.toarray())


def test_warnings_name_the_line_that_calls_fit():
    X, y = data("binary")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_both("binary")[0].fit(X, y)
    assert [warning.filename for warning in caught] == [__file__]
