"""The estimators against scikit-learn's own: the same parameters, numbers, messages and stopping."""

import functools
import inspect
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import OWN_PARAMETERS
from parity_grid import PROBLEMS, data, fit_both
from scipy import sparse
from sklearn import config_context
from sklearn import neural_network as sklearn_nn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.utils._param_validation import make_constraint
from sklearn_versions import REFUSES_ZERO_WEIGHTS

import fastnn
from fastnn import MLPClassifier, MLPRegressor, fitted
from fastnn.model import MLP
from fastnn.training import AdaptiveRate, ConstantRate, InverseScalingRate, LossPlateau


@functools.cache
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:400] / 16, y[:400]


# -- data of any kind --------------------------------------------------------------------------------------------------


def test_a_batch_without_weight_is_harmless():
    X, y = data("regression")
    model = MLPRegressor(batch_size=20, shuffle=False, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y, np.arange(83) >= 20)
    assert np.isfinite(model.loss_curve_).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_of_numpy_that_are_soon_too_small():
    X, y = data("binary")
    parameters = {"max_iter": np.int8(100), "batch_size": np.uint8(20), "n_iter_no_change": np.int8(5), "n_jobs": True}
    model = MLPClassifier(**parameters, hidden_layer_sizes=(np.int8(3),), random_state=0).fit(X, y)
    plain = MLPClassifier(max_iter=100, batch_size=20, n_iter_no_change=5, hidden_layer_sizes=3, random_state=0)
    assert model.loss_curve_ == plain.fit(X, y).loss_curve_


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.uint8, bool])
def test_other_dtypes_become_float64(dtype):
    X, y = (data("binary")[0] * 3).astype(np.int64) % 2, data("binary")[1]
    model = MLPClassifier(max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X.astype(dtype), y)
    assert model.coefs_[0].dtype == np.float64
    np.testing.assert_array_equal(model.predict_proba(X.astype(dtype)), model.predict_proba(X.astype(float)))


def test_predict_takes_the_other_float_dtype():
    model, _ = fit_both("multiclass")
    X = data("multiclass")[0]
    np.testing.assert_allclose(model.predict_proba(X.astype(np.float32)), model.predict_proba(X), rtol=1e-4)
    assert model.predict_proba(X.astype(np.float32)).dtype == np.float64


def test_x_in_any_memory_order():
    X, y = data("multiclass")
    models = [MLPClassifier(max_iter=3, random_state=0) for _ in range(3)]
    for model, rows in zip(models, (X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]), strict=True):
        with pytest.warns(ConvergenceWarning):
            model.fit(rows, y)
        assert model.loss_curve_ == models[0].loss_curve_
        np.testing.assert_array_equal(model.predict_proba(rows), models[0].predict_proba(X))


def test_read_only_arrays():
    X, y = (array.copy() for array in data("regression"))
    X.flags.writeable = y.flags.writeable = False
    model = MLPRegressor(max_iter=2)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert model.predict(X).shape == y.shape


@pytest.mark.parametrize("y", [[True, False], [1.0, 2.0], ["b", "a"], np.array(["x", "yy"], object)], ids=repr)
def test_labels_of_any_kind(y):
    X = np.array([[0.0], [1.0]])
    model = MLPClassifier(solver="sgd", learning_rate_init=0.5, random_state=0).fit(X, y)
    assert list(model.predict(X)) == list(y)
    assert model.predict(X).dtype == model.classes_.dtype


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [
    {"tol": 1e-2},
    {"solver": "sgd", "learning_rate_init": 0.1, "tol": 1e-2},
    {"solver": "sgd", "learning_rate_init": 0.3, "learning_rate": "adaptive", "tol": 1e-2, "n_iter_no_change": 2},
], ids=str)  # fmt: skip
def test_stops_at_the_epoch_of_sklearn(params):
    X, y = digits()
    models = [
        module.MLPClassifier(hidden_layer_sizes=20, random_state=0, **params) for module in (fastnn, sklearn_nn)
    ]  # fmt: skip
    for model in models:
        model.fit(X, y)
    assert models[0].n_iter_ == models[1].n_iter_ < 200
    if "solver" in params:
        assert models[0]._optimizer.learning_rate == models[1]._optimizer.learning_rate
    np.testing.assert_array_equal(models[0].predict(X), models[1].predict(X))
    assert models[0].score(X, y) == models[1].score(X, y)


@pytest.mark.parametrize("patience", [1, 3])
def test_stops_after_more_than_n_iter_no_change_epochs(patience):
    X, y = data("regression")
    model = MLPRegressor(tol=1e9, n_iter_no_change=patience, random_state=0).fit(X, y)
    # The first epoch improves on an infinite loss, whatever the tolerance.
    assert model.n_iter_ == patience + 2
    assert model._no_improvement_count == patience + 1


def test_no_warning_when_the_last_epoch_converges():
    X, y = data("regression")
    assert MLPRegressor(tol=1e9, n_iter_no_change=1, max_iter=3).fit(X, y).n_iter_ == 3


def test_plateau_ignores_nan():
    plateau = LossPlateau(tol=0.1, patience=1)
    for loss in (1.0, 0.95, np.nan, 0.95, 0.93):
        plateau.update(loss, print)
    assert plateau.count == 2 and plateau.is_reached and plateau.best == 0.93


def test_plateau_can_be_out_of_reach():
    plateau = LossPlateau(tol=0.0, patience=np.inf)
    for _ in range(5):
        plateau.update(1.0, print)
    assert not plateau.is_reached


def test_schedules():
    optimizer = fastnn.SGD(0.5)
    ConstantRate().on_epoch_end(optimizer, 9)
    assert ConstantRate().on_plateau(optimizer) == (True, "Stopping.") and optimizer.learning_rate == 0.5
    InverseScalingRate(0.5, 0.5).on_epoch_end(optimizer, 99)
    assert optimizer.learning_rate == 0.05
    assert AdaptiveRate().on_plateau(optimizer) == (False, "Setting learning rate to 0.010000")
    optimizer.learning_rate = 1e-6
    assert AdaptiveRate().on_plateau(optimizer) == (True, "Learning rate too small. Stopping.")


# -- what the user sees -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [
    {"tol": 1e9, "n_iter_no_change": 2},
    {"tol": 1e9, "n_iter_no_change": 2, "solver": "sgd"},
    {"tol": 1e9, "n_iter_no_change": 1, "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 1e-4},
], ids=str)  # fmt: skip
def test_verbose_prints_what_sklearn_prints(params, capsys):
    X, y = data("multiclass")
    printed = []
    for module in (fastnn, sklearn_nn):
        module.MLPClassifier(random_state=0, verbose=True, **params).fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_silent_by_default(capsys):
    X, y = data("regression")
    MLPRegressor(tol=1e9).fit(X, y)
    assert capsys.readouterr().out == ""


def test_warns_when_max_iter_is_reached():
    message = "Stochastic Optimizer: Maximum iterations (3) reached and the optimization hasn't converged yet."
    with pytest.warns(ConvergenceWarning, match=f"^{re.escape(message)}$") as record:
        MLPRegressor(max_iter=3).fit(*data("regression"))
    assert record[0].filename == __file__


def test_warns_when_the_batch_is_larger_than_the_data():
    message = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as record:
        model = MLPRegressor(batch_size=84, tol=1e9, random_state=0).fit(*data("regression"))
    assert record[0].filename == __file__
    whole = MLPRegressor(batch_size=83, tol=1e9, random_state=0).fit(*data("regression"))
    assert model.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("size", [0, -5])
def test_a_batch_of_less_than_a_row_is_clipped_where_parameters_are_not_validated(size):
    X, y = data("regression")
    one = MLPRegressor(batch_size=1, tol=1e9, random_state=0).fit(X, y)
    with config_context(skip_parameter_validation=True), pytest.warns(UserWarning, match="It is going to be clipped"):
        model = MLPRegressor(batch_size=size, tol=1e9, random_state=0).fit(X, y)
    assert model.loss_curve_ == one.loss_curve_


def test_warns_about_a_column_of_targets():
    X, y = data("regression")
    with pytest.warns(DataConversionWarning):
        model = MLPRegressor(tol=1e9).fit(X, y[:, None])
    assert model.predict(X).shape == y.shape


@pytest.mark.parametrize("epochs", [0, 11])
def test_ctrl_c_leaves_a_usable_model(epochs, monkeypatch):
    train = MLP.train

    def interrupted(*args):
        if epochs:
            train(*args)  # Ctrl-C comes during the compiled call, and takes effect after it
        raise KeyboardInterrupt

    monkeypatch.setattr(MLP, "train", interrupted)
    X, y = data("multiclass")
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = MLPClassifier().fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == epochs
    assert model.predict(X).shape == y.shape


TOGETHER = {
    "to a plateau": {"tol": 0.05, "n_iter_no_change": 3},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2, "max_iter": 60},
    "to the last epoch": {"max_iter": 7},
    "no plateau ever": {"n_iter_no_change": np.inf, "max_iter": 30},
    "as they lie": {"shuffle": False, "max_iter": 25},
    "diverging": {"solver": "sgd", "learning_rate_init": 1e10, "max_iter": 20, "activation": "identity"},
}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_epochs_in_one_call_are_the_same_as_one_at_a_time(name, monkeypatch):
    X, y = data("multiclass")
    train, n_together = MLP.train, []

    def fitted(most):
        rng = np.random.RandomState(0)
        model = MLPClassifier((8,), random_state=rng, **TOGETHER[name])
        monkeypatch.setattr(MLP, "epochs_per_call", lambda *_: most)
        monkeypatch.setattr(MLP, "train", lambda *args: n_together.append(args[-1].n) or train(*args))
        error = None
        try:
            model.fit(X * (1e10 if name == "diverging" else 1), y)
        except ValueError as raised:
            error = str(raised)
        parameters = [w.tobytes() for w in model.coefs_ + model.intercepts_]
        return error, model.n_iter_, np.array(model.loss_curve_).tobytes(), parameters, rng.random_sample()

    one_at_a_time = fitted(1)
    assert set(n_together) == {1}
    n_together.clear()
    assert fitted(1000) == one_at_a_time
    assert max(n_together) > 1


def test_diverged_weights_are_an_error():
    X, y = data("regression")
    model = MLPRegressor(solver="sgd", learning_rate_init=1e10, max_iter=20, activation="identity")
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        model.fit(X * 1e10, y)


@pytest.mark.parametrize(("params", "error", "message"), [
    ({"hidden_layer_sizes": [3, -1]}, ValueError, "hidden_layer_sizes must be > 0, got [3, -1]."),
    ({"hidden_layer_sizes": (0,)}, ValueError, "hidden_layer_sizes must be > 0, got [0]."),
    ({"hidden_layer_sizes": True}, TypeError, "hidden_layer_sizes must be integers, got [True]"),
    ({"hidden_layer_sizes": (2.5,)}, TypeError, "hidden_layer_sizes must be integers, got [2.5]"),
    ({"activation": "gelu"}, ValueError, "The 'activation' parameter of MLPClassifier must be a str among"),
    ({"alpha": -1}, ValueError, "The 'alpha' parameter of MLPClassifier must be a float in the range [0.0, inf)"),
    ({"momentum": 1.1}, ValueError, "The 'momentum' parameter of MLPClassifier must be"),
    ({"n_iter_no_change": 1.5}, ValueError, "The 'n_iter_no_change' parameter of MLPClassifier must be"),
], ids=str)  # fmt: skip
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MLPClassifier(**params).fit(*data("binary"))


@pytest.mark.parametrize(("X", "y", "weight", "message"), [
    ([[np.nan]], [1.0], None, "Input X contains NaN.\nMLPRegressor does not accept missing values encoded as NaN"),
    ([[1.0]], [np.inf], None, "Input y contains infinity"),
    ([[1.0]], [1.0, 2.0], None, "inconsistent numbers of samples"),
    ([[1.0]], [1.0], [1.0, 2.0], "sample_weight.shape == (2,), expected (1,)"),
    pytest.param(
        [[1.0]], [1.0], [0.0], "Sample weights must contain at least one non-zero number.",
        marks=pytest.mark.skipif(not REFUSES_ZERO_WEIGHTS, reason="this scikit-learn takes weights of 0"),
    ),
    ([[1.0]], [1.0], [np.nan], "Input sample_weight contains NaN"),
], ids=str)  # fmt: skip
def test_bad_data(X, y, weight, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MLPRegressor().fit(X, y, weight)


def test_text_is_no_target_of_a_regressor():
    with pytest.raises(TypeError, match="Cannot cast"):
        MLPRegressor().fit([[0.0], [1.0]], ["1", "2"])


def test_bad_prediction_input():
    with pytest.raises(NotFittedError, match="This MLPClassifier instance is not fitted yet"):
        MLPClassifier().predict_proba([[0.0]])
    model, _ = fit_both("binary")
    with pytest.raises(ValueError, match="X has 1 features, but MLPClassifier is expecting 6 features as input"):
        model.predict([[0.0]])


def test_unlabelled_targets_are_refused():
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit([[0.0], [1.0]], [0.5, 1.5])
    with pytest.raises(ValueError, match="Multioutput target data is not supported with label binarization"):
        MLPClassifier().fit([[0.0], [1.0]], [[0, 2], [1, 3]])


# -- citizenship ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_signature_is_that_of_sklearn(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (fastnn, sklearn_nn))
    assert [(p.name, p.kind, p.default) for p in ours.values() if p.name not in OWN_PARAMETERS] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert set(list(ours)[len(theirs) :]) == OWN_PARAMETERS
    assert all(ours[name].default is None for name in OWN_PARAMETERS)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_constraints_are_those_of_sklearn(name):
    ours, theirs = (
        {parameter: [str(make_constraint(each)) for each in allowed] for parameter, allowed in constraints.items()}
        for constraints in (getattr(module, name)._parameter_constraints for module in (fastnn, sklearn_nn))
    )
    assert ours.keys() == theirs.keys() | OWN_PARAMETERS
    for parameter, allowed in theirs.items():
        assert sorted(map(sorted, ours[parameter])) == sorted(map(sorted, allowed)), parameter


@pytest.mark.parametrize("problem", PROBLEMS)
def test_pickle_and_clone(problem):
    model, _ = fit_both(problem)
    X, y = data(problem)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.loss_curve_ == model.loss_curve_ and loaded.score(X, y) == model.score(X, y)
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "coefs_")


@pytest.mark.parametrize(("solver", "most"), [("adam", 3.2), ("sgd", 2.2), ("lbfgs", 1.1)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pickle_holds_the_parameters_once_and_each_moment_once(solver, most):
    X, y = data("regression")
    model = MLPRegressor(hidden_layer_sizes=(200, 200), tol=1e9, solver=solver, max_iter=3).fit(X, y)
    n_bytes = sum(array.nbytes for array in model.coefs_ + model.intercepts_)
    assert len(pickle.dumps(model)) < most * n_bytes
    assert len(pickle.dumps(model.discard_optimizer())) < 1.1 * n_bytes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_pickle_of_a_small_network_after_many_epochs(early_stopping):
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    model = MLPClassifier(random_state=0, n_iter_no_change=200, early_stopping=early_stopping).fit(X, y)
    n_bytes = sum(array.nbytes for array in model.coefs_ + model.intercepts_)
    assert model.n_iter_ == 200 and n_bytes == 4 * (65 * 100 + 101 * 10)
    assert len(pickle.dumps(model)) < 3.2 * n_bytes
    assert len(pickle.dumps(model.discard_optimizer())) < 1.1 * n_bytes


def test_refit_starts_anew():
    X, y = data("multiclass")
    model = MLPClassifier(random_state=0, tol=1e9).fit(X, y)
    curve, probabilities = model.loss_curve_, model.predict_proba(X)
    model.fit(X[:, :3], y == 3)
    assert model.n_features_in_ == 3 and model.n_outputs_ == 1
    model.fit(X, y)
    assert model.loss_curve_ == curve
    np.testing.assert_array_equal(model.predict_proba(X), probabilities)


def test_predictions_follow_the_coefs():
    model, theirs = fit_both("multiclass")
    X = data("multiclass")[0]
    model.coefs_[0][:3] = 0.0
    theirs.coefs_[0][:3] = 0.0
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-8)
    net = model._network()
    assert model._network() is net
    model.intercepts_ = theirs.intercepts_ = [b + 1.0 for b in theirs.intercepts_]
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-8)


HOLDERS = {
    "lists": lambda model: (model.coefs_, lambda lists, value: lists[0].fill(value)),
    "an array": lambda model: (model.coefs_[0], lambda array, value: array.fill(value)),
    "a view": lambda model: (model.coefs_[0].T[:2], lambda view, value: view.fill(value)),
    "a view of a view": lambda model: (model.coefs_[0].reshape(-1)[1:], lambda view, value: view.fill(value)),
    "a memoryview": lambda model: (memoryview(model.coefs_[0]), lambda view, value: view.__setitem__((0, 0), value)),
    "an iterator": lambda model: (iter(model.coefs_), lambda arrays, value: next(arrays).fill(value)),
    "intercepts": lambda model: (model.intercepts_[-1], lambda array, value: array.__setitem__(0, value)),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_predictions_follow_whoever_holds_the_coefs(holder):
    model, _ = fit_both("multiclass")
    X = data("multiclass")[0]
    held, write = HOLDERS[holder](model)
    for _ in range(3):
        model.predict_proba(X)
    before = model.predict_proba(X)
    write(held, 0.5)
    after = model.predict_proba(X)
    del held
    assert not np.array_equal(before, after)
    for _ in range(2):
        np.testing.assert_array_equal(model.predict_proba(X), after)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), after)
    assert "_coefs_" not in vars(model)  # there is nothing to follow any more


def test_coefs_that_are_only_read_change_nothing():
    """A prediction meanwhile, in a thread that looks on, takes what training has done for nothing that was written."""
    model, _ = fit_both("multiclass")
    X, net, held = data("multiclass")[0], model._network(), model.coefs_
    net.flat_parameters[:] *= 0.5  # as by a fit in another thread
    trained = net.snapshot()
    model.predict(X)
    assert np.array_equal(net.snapshot(), trained)
    held[0][:] = 0
    model.predict(X)
    assert not net.weights[0].any() and net.weights[1].any()


def test_coefs_that_nobody_holds_are_taken_back():
    model, _ = fit_both("multiclass")
    X = data("multiclass")[0]
    model.coefs_[0][0, 0] = 0.5
    model.predict_proba(X)
    assert not {"_coefs_", "_intercepts_", "_followed"} & set(vars(model))
    assert model.coefs_[0][0, 0] == 0.5 and model.coefs_ is model.coefs_


@pytest.mark.parametrize("change", [np.asfortranarray, lambda w: w.astype(np.float32), lambda w: np.array(w)[:]])
def test_coefs_that_were_assigned_stay_as_they_are(change):
    model, theirs = fit_both("multiclass")
    X = data("multiclass")[0]
    model.coefs_ = [change(w) for w in model.coefs_]
    model.predict_proba(X)
    memory = [w if w.base is None else w.base for w in model.coefs_]
    kinds = [(w.dtype, w.flags.f_contiguous) for w in model.coefs_]
    model.predict_proba(X)
    assert kinds == [(w.dtype, w.flags.f_contiguous) for w in model.coefs_]
    for ours, w in zip(memory, theirs.coefs_, strict=True):
        ours *= 2
        w *= 2
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize("through", [lambda model: model, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize(("n_rows", "message"), [
    (5, "coefs_[0] must have a row for each feature of X, the shape (6, 9), got (5, 9)"),
    (7, "coefs_[0] must have a row for each feature of X, the shape (6, 9), got (7, 9)"),
    (0, "coefs_ must be a list of arrays (n_in, n_out) of real numbers, one per layer, got [((0, 9), 'float64'),"),
])  # fmt: skip
def test_coefs_of_other_inputs_are_refused(n_rows, message, through):
    model, _ = fit_both("multiclass")
    X, y = data("multiclass")
    model.coefs_[0] = np.ones((n_rows, 9))
    with pytest.raises(ValueError, match=re.escape(message)):
        through(model).predict(X)
    with pytest.raises(ValueError, match=re.escape(message)):
        through(model).partial_fit(X, y)


def test_no_write_to_the_coefs_is_lost_among_threads():
    model, _ = fit_both("multiclass")
    X = data("multiclass")[0]
    end = threading.Event()

    def predict():
        while not end.is_set():
            model.predict_proba(X)

    others = [threading.Thread(target=predict) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for i in range(300):
            model.intercepts_[0][0] = i
            model._network()
            assert model.intercepts_[0][0] == i
    finally:
        end.set()
        for other in others:
            other.join()


def test_coefs_are_plain_arrays():
    model, _ = fit_both("multiclass")
    for arrays in (model.coefs_, model.intercepts_):
        assert type(arrays) is list
        assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays)


def test_feature_names():
    pandas = pytest.importorskip("pandas")
    X, y = data("binary")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = MLPClassifier(tol=1e9).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcdef")
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPClassifier was fitted with"):
        model.predict(X)


def test_pipeline_and_grid_search():
    X, y = digits()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(tol=1e-2, learning_rate_init=0.01, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__hidden_layer_sizes": [(), (20,)]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.85


@pytest.mark.parametrize("module", ["fastnn", "fastnn.training"])
def test_imports_without_sklearn(module):
    code = f"import sys, {module}; assert not any(name.split('.')[0] == 'sklearn' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_text_is_refused_in_predict():
    """As by scikit-learn, which converts it in `fit`."""
    X, y = data("binary")
    model = MLPClassifier(tol=1e9).fit(X, y)
    with pytest.raises(ValueError, match="dtype='numeric' is not compatible with arrays of bytes/strings"):
        model.predict(X.astype(str))


def test_warns_where_code_has_no_name():
    X, y = data("binary")
    with pytest.warns(ConvergenceWarning):
        exec("MLPClassifier(max_iter=1).fit(X, y)", {"MLPClassifier": MLPClassifier, "X": X, "y": y})


def test_a_failed_partial_fit_leaves_what_can_be_pickled():
    X, y = data("poisson")
    model = MLPRegressor(loss="poisson", random_state=0)
    with pytest.raises(ValueError, match="at least 0"):
        model.partial_fit(X, -1.0 - y)
    loaded = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert np.isfinite(loaded.loss_)


def test_a_loaded_model_has_its_parameters_once():
    X, y = data("binary")
    loaded = pickle.loads(pickle.dumps(MLPClassifier(tol=1e9).fit(X, y)))
    loaded.predict(X)
    assert not {"_saved", "_coefs_", "_intercepts_", "_followed"} & set(vars(loaded))
    assert loaded.coefs_[0].shape == (6, 100)


def test_arrays_can_be_deleted():
    X, y = data("binary")
    model = MLPClassifier(tol=1e9).fit(X, y)
    del model.coefs_
    assert not hasattr(model, "coefs_") and hasattr(model, "intercepts_")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("coefs_", lambda arrays: None),
        ("coefs_", lambda arrays: []),
        ("coefs_", lambda arrays: [1, 2]),
        ("coefs_", lambda arrays: arrays[:1]),
        ("coefs_", lambda arrays: [arrays[0][..., None], arrays[1]]),
        ("coefs_", lambda arrays: [arrays[0].astype(complex), arrays[1]]),
        ("coefs_", lambda arrays: [arrays[0][:, 1:], arrays[1][1:]]),
        ("intercepts_", lambda arrays: 5),
        ("intercepts_", lambda arrays: [arrays[0][None], arrays[1]]),
    ],
)
def test_arrays_that_are_none_of_a_network_are_told(name, change):
    X, y = data("binary")
    model = MLPClassifier(tol=1e9).fit(X, y)
    whole = getattr(model, name)
    setattr(model, name, change(whole))
    with pytest.raises(ValueError, match=f"^{name} must "):
        model.predict(X)
    setattr(model, name, whole)
    model.predict(X)


def test_masked_coefs_are_refused():
    X, y = data("regression")
    model = MLPRegressor(tol=1e9).fit(X, y)
    model.coefs_[0] = np.ma.masked_array(model.coefs_[0], mask=model.coefs_[0] > 0)
    with pytest.raises(ValueError, match="coefs_ must be plain arrays, got a masked one"):
        model.predict(X)


@pytest.mark.parametrize("to_rows", [np.array, sparse.csr_array])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_rows_beyond_the_range_of_a_float32_model_are_refused(to_rows):
    X, y = data("multiclass")
    model = MLPClassifier(tol=1e9).fit(X.astype("float32"), y)
    with pytest.raises(ValueError, match=r"X must be within the range of float32, .* got 1e\+39"):
        model.predict(to_rows([[*np.zeros(X.shape[1] - 1), 1e39]]))
    with config_context(assume_finite=True):
        model.predict(to_rows([[*np.zeros(X.shape[1] - 1), 1e39]]))
    assert len(model.predict(to_rows(X))) == len(X)


def test_pruned_coefs():
    X, y = data("regression")
    model = MLPRegressor(tol=1e9, random_state=0).fit(X, y)
    expected = model.predict(X)
    model.coefs_[0] = sparse.csr_array(model.coefs_[0])
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("change", ["loaded", "other activation"])
def test_a_write_is_not_lost_to_a_network_that_another_thread_makes_meanwhile(change, monkeypatch):
    model, theirs = fit_both("binary")
    X = data("binary")[0]
    model = pickle.loads(pickle.dumps(model))
    if change == "other activation":
        model.predict(X)
        model.activation = theirs.activation = "tanh"
    holder, name = (fitted, "with_parameters") if change == "loaded" else (MLP, "with_functions")
    make, others = getattr(holder, name), []

    def write():
        model.coefs_[0][:3] = 0.0
        model.predict(X)

    def slowly(*args, **kwargs):
        net = make(*args, **kwargs)
        if not others:
            others.append(threading.Thread(target=write))
            others[0].start()
            others[0].join(0.5)
        return net

    monkeypatch.setattr(holder, name, slowly)
    model.predict(X)
    others[0].join()
    theirs.coefs_[0][:3] = 0.0
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-8)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("way", ["adam", "lbfgs", "partial_fit"])
@pytest.mark.parametrize("sizes", [(7,), 3, (4, 2), ()], ids=str)
def test_other_hidden_layers_than_those_a_training_goes_on_with(way, sizes):
    X, y = data("regression")
    solver = way if way == "lbfgs" else "adam"
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=2, warm_start=True, random_state=0, solver=solver)
    twin = clone(model)
    go_on = MLPRegressor.partial_fit if way == "partial_fit" else MLPRegressor.fit
    go_on(go_on(twin, X, y), X, y)
    go_on(model, X, y).set_params(hidden_layer_sizes=sizes)
    message = f"hidden_layer_sizes={sizes} is not used: .* of [4] units; to begin anew, call fit with warm_start=False"
    with pytest.warns(UserWarning, match=re.escape(message).replace(r"\.\*", ".*")):
        go_on(model, X, y)
    np.testing.assert_array_equal(model.predict(X), twin.predict(X))
    assert model.set_params(warm_start=False).fit(X, y).n_layers_ == len(np.atleast_1d(sizes)) + 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_another_loss_than_that_of_the_first_fit_is_not_used():
    X, y = data("regression")
    settings = {"hidden_layer_sizes": (3,), "max_iter": 2, "warm_start": True, "random_state": 0}
    model, twin = (MLPRegressor(**settings).fit(X, y) for _ in range(2))
    with pytest.warns(UserWarning, match="loss='poisson' is not used"):
        model.set_params(loss="poisson").fit(X, y)
    np.testing.assert_array_equal(model.predict(X), twin.fit(X, y).predict(X))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_that_cancel_each_other_out_are_refused(solver):
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="sample_weight must not add up to 0"):
        MLPClassifier((2,), solver=solver).fit(X, y, [1, 2, -1, -2])


@pytest.mark.parametrize("model", [MLPClassifier, MLPRegressor])
def test_wrong_arguments_are_refused_in_the_name_of_the_class(model):
    with pytest.raises(TypeError, match=f"^{model.__name__}.__init__.. got an unexpected keyword argument 'hiden"):
        model(hiden_layer_sizes=(3,))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_subclass_with_scikit_learns_parameters_alone():
    class Own(MLPClassifier):
        def __init__(self, width=3):
            self.width = width
            vars(self).update(sklearn_nn.MLPClassifier((width,), max_iter=2, tol=1e9).get_params())
            self.loss = "log_loss"

    assert clone(Own(4)).fit(np.eye(4), [0, 1, 0, 1]).coefs_[0].shape == (4, 4)


@pytest.mark.parametrize("model", [MLPClassifier, MLPRegressor])
def test_the_documentation_is_of_this_version(model):
    assert "not supported" not in model.__doc__.lower()


def test_subnormal_weights_count_as_zero():
    X, y = data("regression")
    weight = np.r_[1e-40, np.ones(len(X) - 1)]
    fits = [MLPRegressor(tol=1e9, random_state=0).fit(X.astype("float32"), y, w)
            for w in (weight, np.where(weight < 1e-30, 0, weight))]  # fmt: skip
    np.testing.assert_array_equal(fits[0].coefs_[0], fits[1].coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("dtype", "weight"), [("float32", 1e-40), ("float64", 1e-310)])
def test_subnormal_weights_alone_are_refused_as_zeros_are(dtype, weight, solver):
    X, y = np.eye(4, dtype=dtype), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
        MLPClassifier((2,), solver=solver).fit(X, y, np.full(4, weight, dtype))


def unaligned(array):
    return np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_rows_that_lie_askew_are_taken(solver):
    X, y = np.random.default_rng(0).random((60, 5)), np.arange(60) / 60
    S = sparse.csr_matrix(X)
    S.data = np.repeat(S.data, 2)[::2]
    whole = MLPRegressor(hidden_layer_sizes=(4,), solver=solver, max_iter=3, random_state=0).fit(X, y)
    for askew in (unaligned(X), S):
        model = clone(whole).fit(askew, unaligned(y))
        np.testing.assert_allclose(model.predict(askew), whole.predict(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_of_objects_are_predicted_from():
    X = np.random.default_rng(0).random((40, 2))
    model = MLPRegressor(max_iter=3).fit(X, X[:, 0])
    frame = pytest.importorskip("pandas").DataFrame(X, dtype="category").astype({0: "category"})
    np.testing.assert_array_equal(model.predict(frame), model.predict(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_refused_poisson_fit_leaves_the_model_as_it_was():
    X, y = np.random.default_rng(0).random((40, 2)), np.arange(40.0)
    model = MLPRegressor(loss="poisson", max_iter=3).fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match=r"y must be at least 0 for loss 'poisson', got -1\.0"):
        model.fit(X, y - 1)
    assert model.n_iter_ == 3 and np.array_equal(model.predict(X), before)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64, ">i4", bool, float, str, object])
@pytest.mark.parametrize("n_classes", [1, 2, 3, 5, 8])
def test_classes_are_those_of_the_label_binarizer(n_classes, dtype):
    y = (np.arange(8) % n_classes).astype(str if dtype is object else dtype).astype(dtype)
    expected = LabelBinarizer().fit(y)
    found = MLPClassifier((2,), max_iter=1).fit(np.eye(8), y)._label_binarizer
    assert vars(found).keys() == vars(expected).keys()
    assert (found.y_type_, found.sparse_input_) == (expected.y_type_, expected.sparse_input_)
    assert found.classes_.dtype == expected.classes_.dtype
    np.testing.assert_array_equal(found.classes_, expected.classes_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", ["classes", "two classes", "labels"])
def test_losses_of_a_model_that_is_sure_are_sklearns(labels, dtype):
    """Its probabilities are kept from 0 and 1; of one next to 1 scikit-learn's loss has few digits."""
    rng = np.random.default_rng(0)
    X = (300 * rng.standard_normal((120, 6))).astype(dtype)
    y = {"classes": rng.integers(0, 3, 120), "two classes": rng.integers(0, 2, 120),
         "labels": rng.integers(0, 2, (120, 3))}[labels]  # fmt: skip
    for solver in ("adam", "sgd"):
        ours, theirs = (
            each((8,), solver=solver, random_state=0, max_iter=5, learning_rate_init=1e-4).fit(X, y)
            for each in (fastnn.MLPClassifier, sklearn_nn.MLPClassifier)
        )
        rtol = 1e-9 if (labels, dtype) == ("classes", "float64") else 1e-3
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    ours, theirs = (
        each((8,), solver="lbfgs", random_state=0, max_iter=1).fit(X, y)
        for each in (fastnn.MLPClassifier, sklearn_nn.MLPClassifier)
    )
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-3)
