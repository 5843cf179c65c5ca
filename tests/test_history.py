"""The history of fits, and the picture of it."""

import builtins
import math
import pickle

import joblib
import numpy as np
import pytest

import fastnn
from fastnn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def lengths(model):
    return {name: len(column) for name, column in model.history_.items()}


@pytest.mark.parametrize("early_stopping", [False, True])
def test_one_row_for_each_epoch(early_stopping):
    model = MLPClassifier(max_iter=7, early_stopping=early_stopping, random_state=0).fit(X, Y)
    names = {"loss", "learning_rate", "seconds", *(["validation_score"] if early_stopping else [])}
    assert lengths(model) == dict.fromkeys(names, 7)
    assert model.history_["loss"] is model.loss_curve_
    assert model.history_["learning_rate"] == 7 * [0.001]
    assert all(seconds > 0 for seconds in model.history_["seconds"])
    if early_stopping:
        assert model.history_["validation_score"] == model.validation_scores_
    assert all(type(value) is float for column in model.history_.values() for value in column)


def test_the_rate_is_that_of_the_epoch():
    model = MLPClassifier(
        solver="sgd", learning_rate="invscaling", learning_rate_init=0.5, power_t=1.0, max_iter=3, random_state=0
    ).fit(X, Y)
    assert model.history_["learning_rate"] == [0.5, 0.5 / 61, 0.5 / 121]


def test_lbfgs_has_the_loss_of_each_iteration():
    model = MLPRegressor(solver="lbfgs", max_iter=9, random_state=0).fit(X, Y)
    assert lengths(model) == {"loss": model.n_iter_, "seconds": model.n_iter_} and model.n_iter_ > 3
    assert model.history_["loss"][-1] == model.loss_ < model.history_["loss"][0]


def test_fits_that_go_on():
    model = MLPClassifier(max_iter=3, warm_start=True, random_state=0).fit(X, Y).fit(X, Y)
    assert lengths(model) == {"loss": 6, "learning_rate": 6, "seconds": 6}
    model.set_params(early_stopping=True).fit(X, Y)
    scores = model.history_["validation_score"]
    assert list(map(math.isnan, scores)) == 6 * [True] + 3 * [False]
    model.set_params(early_stopping=False).fit(X, Y)
    assert lengths(model) == dict.fromkeys(lengths(model), 12) and math.isnan(scores[-1])
    assert lengths(model.set_params(warm_start=False).fit(X, Y)) == {"loss": 3, "learning_rate": 3, "seconds": 3}


def test_partial_fit():
    model = MLPClassifier(random_state=0)
    for _ in range(4):
        model.partial_fit(X, Y, classes=[0, 1])
    assert lengths(model) == {"loss": 4, "learning_rate": 4, "seconds": 4}


def test_from_scikit_learn():
    model = MLPClassifier.from_sklearn(MLPClassifier(max_iter=3, random_state=0).fit(X, Y).to_sklearn())
    assert not hasattr(model, "history_")
    model.set_params(warm_start=True).fit(X, Y)
    assert lengths(model) == {"loss": 6, "learning_rate": 6, "seconds": 6}
    assert list(map(math.isnan, model.history_["seconds"])) == 3 * [True] + 3 * [False]


def without_seconds(model):
    return {name: column for name, column in model.history_.items() if name != "seconds"}


GOING_ON = {
    "warm start": lambda model: model.fit(X, Y),
    "partial_fit": lambda model: model.set_params(early_stopping=False).partial_fit(X, Y),
}


@pytest.mark.parametrize("go_on", GOING_ON.values(), ids=GOING_ON)
@pytest.mark.parametrize(
    "settings",
    [{}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "invscaling"}, {"solver": "lbfgs"}],
    ids=str,
)
def test_pickles_have_all_but_the_seconds(settings, go_on):
    model = MLPClassifier(max_iter=3, random_state=0, warm_start=True, **settings).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    assert without_seconds(again) == without_seconds(model) and list(again.history_) == list(model.history_)
    assert list(map(math.isnan, again.history_["seconds"])) == 3 * [True]
    assert all(type(value) is float for column in again.history_.values() for value in column)
    if model.solver == "lbfgs":
        return
    assert again.history_["loss"] is again.loss_curve_ and again.loss_curve_ == model.loss_curve_
    assert again.validation_scores_ == model.validation_scores_
    n = 3 + go_on(model).n_iter_
    assert lengths(go_on(again)) == lengths(model) == dict.fromkeys(model.history_, n)
    np.testing.assert_equal(without_seconds(again), without_seconds(model))
    assert list(map(math.isnan, again.history_["seconds"])) == 3 * [True] + (n - 3) * [False]


def test_pickles_of_what_callbacks_wrote():
    class Logs(fastnn.Callback):
        def on_epoch_end(self, fit):
            fit.log("same", 7)
            if fit.epoch == 2:
                fit.log("second", 2)

    model = MLPClassifier(max_iter=3, random_state=0, callbacks=[Logs()]).fit(X, Y)
    model.callbacks = None
    model.history_["words"] = ["a", "a", "a"]
    again = pickle.loads(pickle.dumps(model)).history_
    assert again["same"] == [7, 7, 7] and again["words"] == ["a", "a", "a"]
    np.testing.assert_equal(again["second"], [math.nan, 2, math.nan])


def test_pickles_from_before_columns_were_packed():
    model = MLPClassifier(max_iter=1, random_state=0).fit(X, Y)
    state = {**model.__getstate__(), "history_": model.history_, "loss_curve_": model.loss_curve_}
    old = MLPClassifier.__new__(MLPClassifier)
    old.__setstate__(pickle.loads(pickle.dumps(state)))
    assert old.history_ == model.history_ and old.history_["loss"] is old.loss_curve_


@pytest.mark.parametrize("repeats", [1, 50])
def test_pickles_have_each_bit_of_numbers_of_all_kinds(repeats):
    kinds = [0.0, -0.0, math.inf, -math.inf, 5e-324, -1.7e308, 1 / 3, *RNG.normal(size=20).tolist(), math.nan]
    model = MLPClassifier(max_iter=1, random_state=0).fit(X, Y)
    model.loss_curve_ = model.history_["loss"] = repeats * kinds
    model.history_.update(own=[*kinds[1:], 1.0], none=[], short=[-0.0])
    again = pickle.loads(pickle.dumps(model))
    assert again.history_["loss"] is again.loss_curve_
    for name in ("loss", "own", "none", "short"):
        assert np.array(again.history_[name]).tobytes() == np.array(model.history_[name]).tobytes()
        assert all(type(value) is float for value in again.history_[name])


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_equal_fits_give_equal_pickles(settings):
    first, second = (MLPClassifier(max_iter=3, random_state=0, **settings).fit(X, Y) for _ in range(2))
    assert first.history_["seconds"] != second.history_["seconds"]
    assert pickle.dumps(first) == pickle.dumps(second)
    assert joblib.hash(first) == joblib.hash(second) == joblib.hash(pickle.loads(pickle.dumps(first)))


# -- plot_history -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.mark.parametrize("early_stopping", [False, True])
def test_plot_history(early_stopping, pyplot):
    model = MLPClassifier(max_iter=5, early_stopping=early_stopping, random_state=0).fit(X, Y)
    axes = fastnn.plot_history(model)
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert axes.lines[0].get_ydata().tolist() == model.loss_curve_
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert len(axes.figure.axes) == 1 + early_stopping
    axes.figure.canvas.draw()


def test_plot_on_axes_that_are_there(pyplot):
    _, (left, right) = pyplot.subplots(1, 2)
    model = MLPRegressor(solver="lbfgs", max_iter=5, random_state=0).fit(X, Y)
    assert fastnn.plot_history(model, ax=right) is right
    assert right.lines and not left.lines and len(pyplot.get_fignums()) == 1


def test_plot_without_a_history():
    with pytest.raises(ValueError, match="MLPClassifier has no history to plot; fit it first"):
        fastnn.plot_history(MLPClassifier())


def test_plot_without_matplotlib(monkeypatch):
    model = MLPClassifier(max_iter=2, random_state=0).fit(X, Y)
    load = builtins.__import__

    def without(name, *args):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"plot_history needs matplotlib: python -m pip install 'fastnn\[plot\]'"):
        fastnn.plot_history(model)


def test_a_saved_model_has_its_history_and_no_callbacks(tmp_path):
    pytest.importorskip("safetensors")
    settings = {"max_iter": 3, "early_stopping": True, "random_state": 0, "warm_start": True}
    model = MLPClassifier(**settings, callbacks=[fastnn.ProgressBar("1h"), fastnn.CSVLog(tmp_path / "log")]).fit(X, Y)
    model.save(tmp_path / "model")
    again = fastnn.load(tmp_path / "model")
    assert again.history_ == model.history_ and again.callbacks is None
    assert lengths(again.fit(X, Y)) == dict.fromkeys(model.history_, 6)
