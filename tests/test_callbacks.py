"""Callbacks: what they hear, what they may do, and that they cost nothing where there are none."""

import copy
import csv
import io
import json
import logging
import math
import pickle
import re
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
import sklearn
from helpers import Pause, csr, watch_calls
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn_versions import HAS_CALLBACKS
from subprocesses import run_script

import fastnn
from fastnn import (
    Callback,
    CSVLog,
    EarlyStopping,
    JSONLinesLog,
    LearningRateSchedule,
    MLPClassifier,
    MLPRegressor,
    ProgressBar,
    TimeBudget,
    callbacks,
    lbfgs,
)
from fastnn.kernels import epoch
from fastnn.model import MLP, rows_of_next_call

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 5))
Y = (X[:, 0] + 0.5 * RNG.normal(size=100) > 0).astype(int)
X_VAL, Y_VAL = X[:30], Y[:30]


class Recorder(Callback):
    """Remembers the moments, and in the one asked for stops or raises."""

    def __init__(self, stop_at=None, raise_at=None):
        self.stop_at, self.raise_at = stop_at, raise_at

    def hear(self, *moment):
        self.moments.append(moment)
        if moment == self.raise_at:
            raise RuntimeError("from a callback")
        return moment == self.stop_at

    def on_fit_begin(self, fit):
        self.moments = []
        self.hear("fit begins")

    def on_epoch_begin(self, fit):
        self.hear("epoch begins", fit.epoch)

    def on_epoch_end(self, fit):
        assert fit.epoch == fit.model.n_iter_ == len(fit.history["loss"]) and fit.loss == fit.model.loss_
        return self.hear("epoch ends", fit.epoch)

    def on_fit_end(self, fit):
        self.hear("fit ends")


class BatchRecorder(Recorder):
    def on_batch_end(self, fit):
        assert fit.model.predict(X).shape == Y.shape
        return self.hear("batch ends", fit.epoch, fit.batch)


def classifier(*told, **params):
    settings = {"random_state": 0, "max_iter": 3, "batch_size": 40, "hidden_layer_sizes": (8,), **params}
    return MLPClassifier(**settings, callbacks=list(told) or None)


def assert_same(model, other):
    for array, expected in zip([*model.coefs_, *model.intercepts_], [*other.coefs_, *other.intercepts_], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert model.loss_curve_ == other.loss_curve_ and model.n_iter_ == other.n_iter_


# -- moments ----------------------------------------------------------------------------------------------------------


def test_moments():
    recorder, batches = Recorder(), BatchRecorder()
    model = classifier(recorder, batches).fit(X, Y)
    epochs = [moment for e in range(3) for moment in [("epoch begins", e), ("epoch ends", e + 1)]]
    assert recorder.moments == [("fit begins",), *epochs, ("fit ends",)]
    assert [m for m in batches.moments if m[0] != "batch ends"] == recorder.moments
    assert [m[1:] for m in batches.moments if m[0] == "batch ends"] == [(e, b) for e in range(3) for b in (1, 2, 3)]
    assert_same(model, classifier().fit(X, Y))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("rows", [X, csr(100, 30)], ids=["dense", "sparse"])
def test_batch_by_batch_is_the_same_to_the_bit(rows, early_stopping, dtype):
    settings = {"early_stopping": early_stopping, "batch_size": 7, "alpha": 0.1}
    weight = RNG.uniform(0.5, 2, 100)

    class Batches(Callback):
        def on_batch_end(self, fit):
            assert fit.n_batches == -(-(90 if early_stopping else 100) // 7)

    rows = rows.astype(dtype)
    assert_same(classifier(Batches(), **settings).fit(rows, Y, weight), classifier(**settings).fit(rows, Y, weight))


def test_chunks_of_a_long_epoch(monkeypatch):
    """Every call takes a second, as it were, so that none has more than a batch."""
    monkeypatch.setattr("fastnn.training.rows_of_next_call", lambda rows, step, seconds: step)
    heard = []

    class Chunks(Callback):
        def on_chunk_end(self, fit):
            heard.append((fit.epoch, fit.batch))
            return fit.epoch == 2

    model = classifier(Chunks()).fit(X, Y)
    assert heard == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]  # the last chunk of an epoch is its end
    assert model.n_iter_ == len(model.loss_curve_) == 2 and model.t_ == 200


class Stop(Callback):
    def on_epoch_end(self, fit):
        return fit.epoch == 2


class Mask(Callback):
    """Prunes all weights from the first input."""

    def on_epoch_end(self, fit):
        fit.model.coefs_[0][0] = 0


@pytest.mark.parametrize("looks", [[], [Recorder()], [EarlyStopping(X_VAL, Y_VAL, restore_best=False)]])
def test_what_a_callback_writes_to_the_arrays_is_trained_on(looks):
    """Whoever else predicts in that moment, or does not."""

    class Assign(Callback):
        def on_epoch_end(self, fit):
            weights, biases = fit.parameters
            weights[0][0] = 0
            fit.parameters = weights, biases

    model = classifier(Mask(), *looks).fit(X, Y)
    assert not model.coefs_[0][0].any() and model.coefs_[0][1].all()
    assert_same(model, classifier(*looks, Mask()).fit(X, Y))
    assert_same(model, classifier(Assign()).fit(X, Y))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_training_that_is_broken_off_warns(solver):
    """As in the fits of a search that come after a budget has been used up."""
    budget, told = TimeBudget(0), r"^The training was broken off after [01] of at most 50 epochs, by a TimeBudget"
    with pytest.warns(ConvergenceWarning, match=told):
        model = MLPClassifier(max_iter=50, solver=solver, callbacks=[budget]).fit(X, Y)
    assert model.n_iter_ < 2
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        classifier(Pause(6), max_iter=2).fit(X, Y)  # the last batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(Stop(), max_iter=50).fit(X, Y)


def test_the_log_says_what_has_ended_a_training(caplog):
    caplog.set_level(logging.INFO, "fastnn")
    classifier(Stop(), max_iter=50).fit(X, Y)
    assert caplog.messages == ["Stop ended the training after 2 epochs"]
    caplog.clear()
    classifier(tol=10, n_iter_no_change=2, max_iter=50).fit(X, Y)
    expected = "Training loss did not improve more than tol=10.000000 for 2 consecutive epochs. Stopping."
    assert caplog.messages == [expected]


def test_who_reads_the_arrays_in_another_thread_and_predicts_changes_nothing():
    """Though the model has the arrays anew after each batch."""

    class Batches(Callback):
        def on_batch_end(self, fit):
            pass

    def read():
        while not is_over.is_set():
            arrays = model.coefs_, model.intercepts_
            model.predict(X[:5])
            del arrays

    expected = classifier(max_iter=15).fit(X, Y)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for _ in range(20):
            model, is_over = classifier(Batches(), max_iter=15).fit(X, Y), threading.Event()
            with ThreadPoolExecutor(1) as pool:
                reader = pool.submit(read)
                model.fit(X, Y)
                is_over.set()
                reader.result()
            assert_same(model, expected)
    finally:
        sys.setswitchinterval(before)


def test_without_callbacks_nothing_is_called_for_them(monkeypatch):
    calls, train = [], MLP.train
    monkeypatch.setattr(MLP, "train", lambda *args: calls.append(args) or train(*args))
    monkeypatch.setattr(MLP, "train_part", None)
    monkeypatch.setattr(callbacks.Fit, "__init__", None)
    for told in (None, [], ()):
        MLPClassifier(max_iter=5, callbacks=told).fit(X, Y)
    assert 3 <= len(calls) <= 15


def test_without_batch_moments_an_epoch_is_one_call(monkeypatch):
    calls = []
    watch_calls(monkeypatch, epoch, lambda code, *args: calls.append(args) or code(*args))
    classifier(Recorder(), max_iter=30, batch_size=10).fit(X, Y)
    assert len(calls) < 30 + 10  # until it is known how long they take, the first epochs go in parts


@pytest.mark.parametrize("stop_at", [("epoch ends", 2), ("batch ends", 1, 3)])
def test_stopping_at_the_end_of_an_epoch(stop_at):
    recorder = BatchRecorder(stop_at)
    assert_same(classifier(recorder).fit(X, Y), classifier(max_iter=2).fit(X, Y))
    assert recorder.moments[-1] == ("fit ends",)


def test_stopping_in_the_middle_of_an_epoch():
    model = classifier(BatchRecorder(("batch ends", 1, 1))).fit(X, Y)
    assert model.n_iter_ == len(model.loss_curve_) == 1
    after = classifier(max_iter=1).fit(X, Y).predict_proba(X)
    assert np.isfinite(model.predict_proba(X)).all() and not np.array_equal(model.predict_proba(X), after)


MOMENTS = [("fit begins",), ("epoch begins", 1), ("batch ends", 1, 2), ("epoch ends", 2), ("fit ends",)]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_an_error_leaves_a_usable_model(solver, moment):
    recorder, other = BatchRecorder(raise_at=moment), Recorder()
    model = classifier(other, recorder, solver=solver, early_stopping=solver == "adam")
    if solver == "lbfgs" and moment[0] == "batch ends":
        pytest.skip("L-BFGS has no batches")
    with pytest.raises(RuntimeError, match="from a callback"):
        model.fit(X, Y)
    assert model.predict(X).shape == Y.shape and np.isfinite(model.predict_proba(X)).all()
    if solver != "lbfgs":
        assert model.n_iter_ == len(model.loss_curve_) == len(model.history_.get("loss", []))
    if moment[0] != "fit begins":
        assert other.moments[-1] == ("fit ends",)
    settings = {"solver": solver, "early_stopping": solver == "adam"}
    whole = classifier(**settings).fit(X, Y)
    np.testing.assert_array_equal(model.set_params(callbacks=None).fit(X, Y).predict_proba(X), whole.predict_proba(X))


def test_partial_fit_is_not_told():
    recorder = Recorder(raise_at=("fit begins",))
    classifier(recorder).partial_fit(X, Y, classes=[0, 1])


@pytest.mark.skipif(not HAS_CALLBACKS, reason="this scikit-learn has no callbacks")
def test_together_with_those_of_scikit_learn():
    from sklearn.callback import ScoringMonitor

    monitor, recorder = ScoringMonitor(scoring="accuracy"), Recorder(("epoch ends", 2))
    model = classifier(recorder).set_callbacks(monitor).fit(X, Y)
    assert model.n_iter_ == 2
    assert len([row for row in monitor.get_logs().data if row["task_name"] == "epoch"]) == 2


# -- as a parameter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [3, "ProgressBar", Recorder()])
def test_callbacks_are_a_list(told):
    with pytest.raises(ValueError, match="The 'callbacks' parameter of MLPClassifier must be an instance of 'list'"):
        MLPClassifier(callbacks=told).fit(X, Y)


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match=r"^callbacks must be a list of fastnn\.Callback objects, got 'x' in it$"):
        MLPClassifier(callbacks=["x"]).fit(X, Y)


def test_clones_pickles_and_scikit_learns_estimators(tmp_path):
    early, bar = EarlyStopping(X_VAL, Y_VAL), CSVLog(tmp_path / "log")
    model = classifier(early, bar)
    twin = clone(model)
    assert twin.callbacks[0] is not early and twin.callbacks[0].X_val is early.X_val
    model.fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert_same(again.fit(X, Y), model)
    theirs = model.to_sklearn()
    assert "callbacks" not in theirs.get_params()
    assert MLPClassifier.from_sklearn(theirs).callbacks is None


def test_pickles_from_before_there_were_callbacks():
    model = classifier().fit(X, Y)
    state = model.__getstate__()
    del state["callbacks"], state["history_"]
    old = MLPClassifier.__new__(MLPClassifier)
    old.__setstate__(state)
    assert old.get_params() == model.get_params()
    assert len(old.set_params(warm_start=True).fit(X, Y).history_["seconds"]) == 6


def test_grid_search():
    early = EarlyStopping(X_VAL, Y_VAL, patience=1)
    search = GridSearchCV(classifier(early, max_iter=20), {"alpha": [0.1, 1.0]}, cv=2).fit(X, Y)
    assert search.best_estimator_.n_iter_ < 20 and not hasattr(early, "best_epoch_")


# -- early stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", [None, "accuracy"])
@pytest.mark.parametrize(
    ("rows", "y", "message"),
    [
        (X_VAL[:, 1:], Y_VAL, "X has 4 features, but MLPClassifier is expecting 5 features"),
        (X_VAL, Y_VAL[1:], "inconsistent numbers of samples"),
        (X_VAL * np.nan, Y_VAL, "contains NaN"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_before_the_training(rows, y, message, scoring):
    model = classifier(EarlyStopping(rows, y, scoring))
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert model.n_iter_ == 0


@pytest.mark.parametrize("scoring", [None, "accuracy", "roc_auc", "neg_log_loss", lambda m, X, y: m.predict(X).mean()])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_early_stopping(scoring, solver):
    early = EarlyStopping(X_VAL, Y_VAL, scoring, patience=3, min_delta=1e-3)
    settings = {"max_iter": 60, "learning_rate_init": 0.05, "tol": 0.0, "solver": solver}
    model = classifier(early, **settings).fit(X, Y)
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring or (lambda m, X, y: m.score(X, y))
    scores = model.history_["validation_score"]
    best, best_epoch, since = -math.inf, 0, 0
    for n, score in enumerate(scores, 1):
        since = 0 if score > best + 1e-3 else since + 1
        best, best_epoch = (score, n) if not since else (best, best_epoch)
        assert (since >= 3) <= (n == len(scores))
    assert model.n_iter_ == len(scores) and (since == 3 or len(scores) == 60)
    assert (early.best_score_, early.best_epoch_) == (best, best_epoch) and scorer(model, X_VAL, Y_VAL) == best
    at_best = classifier(**{**settings, "max_iter": best_epoch}).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), at_best.predict_proba(X))


def test_early_stopping_with_the_last_weights():
    early = EarlyStopping(X_VAL, Y_VAL, lambda *_: 0.0, patience=2, restore_best=False)
    assert_same(classifier(early, max_iter=9).fit(X, Y), classifier(max_iter=3).fit(X, Y))


def test_scores_that_are_not_numbers_do_not_count():
    early = EarlyStopping(X_VAL, Y_VAL, lambda *_: math.nan, patience=2)
    model = classifier(early, max_iter=9).fit(X, Y)
    assert model.n_iter_ == 2 and early.best_epoch_ == 0


def test_two_scores_of_an_epoch(tmp_path):
    """The history has the last one told of, so that all its columns are as long as the losses."""
    first, second = (EarlyStopping(X_VAL, Y_VAL, lambda *_, score=score: score) for score in (0.25, 0.75))
    for told, settings in (([first, second], {}), ([second], {"early_stopping": True})):
        log = tmp_path / "log"
        model = classifier(*told, JSONLinesLog(log), max_iter=4, **settings).fit(X, Y)
        assert model.history_["validation_score"] == [0.75] * 4
        assert [json.loads(line)["validation_score"] for line in log.read_text().splitlines()] == [0.75] * 4


class LogEverywhere(Callback):
    """Logs each moment of an epoch; an error ends the second one."""

    def on_epoch_begin(self, fit):
        fit.log("number", fit.epoch + 1)
        fit.log("rate", fit.learning_rate)

    def on_batch_end(self, fit):
        fit.log("batch", fit.epoch + fit.batch / fit.n_batches)
        if fit.epoch == 2:
            raise ZeroDivisionError

    def on_epoch_end(self, fit):
        fit.log("rate", -fit.epoch)


def test_values_are_of_the_epoch_that_goes_on():
    model = classifier(LogEverywhere(), max_iter=4)
    with pytest.raises(ZeroDivisionError):
        model.fit(X, Y)
    history = model.history_
    assert [history[name] for name in ("number", "batch", "rate")] == [[1, 2], [1, 2], [-1, -2]]


@pytest.mark.parametrize("name", ["epoch", "loss", "learning_rate", "seconds"])
def test_names_of_columns_that_the_training_writes(name):
    class Log(Callback):
        def on_batch_end(self, fit):
            fit.log(name, 0.0)

    with pytest.raises(ValueError, match=f"^name must not be one of epoch, .*, seconds, got '{name}'; use another$"):
        classifier(Log()).fit(X, Y)


def test_what_is_no_value_of_an_epoch():
    class Log(Callback):
        def on_fit_begin(self, fit):
            fit.log("early", 1.0)

    class Number(Callback):
        def on_epoch_end(self, fit):
            fit.log(3, 1.0)

    with pytest.raises(ValueError, match=r"^'early' must be a value of an epoch; log it in on_epoch_begin or later$"):
        classifier(Log()).fit(X, Y)
    with pytest.raises(TypeError, match=r"^name must be a string, got 3$"):
        classifier(Number()).fit(X, Y)


def test_a_difference_that_no_float_can_tell():
    assert EarlyStopping(X_VAL, Y_VAL, min_delta=10**400).min_delta == math.inf
    with pytest.raises(TypeError, match=r"^scoring must return a number, got 1000"):
        classifier(EarlyStopping(X_VAL, Y_VAL, lambda *_: 10**400)).fit(X, Y)


def test_a_model_is_saved_and_plotted_while_others_write_its_history(tmp_path):
    class Watch(Callback):
        def on_batch_end(self, fit):
            fit.log("batch", fit.batch)
            fit.model.save(tmp_path / "model")

        def on_epoch_end(self, fit):
            fit.model.save(tmp_path / "model")
            fastnn.plot_history(fit.model, axes)
            assert fastnn.load(tmp_path / "model").n_iter_ == fit.epoch

    from matplotlib.figure import Figure

    axes = Figure().subplots()
    classifier(Watch(), EarlyStopping(X_VAL, Y_VAL)).fit(X, Y)
    assert [len(line.get_ydata()) for line in axes.lines] == [1, 2, 3]


SETTINGS = [
    *((EarlyStopping, "patience", "an integer, at least 1", wrong) for wrong in (0, 2.5, "3", None, True, math.inf)),
    *((EarlyStopping, "min_delta", "a number, at least 0", wrong) for wrong in (-1.0, math.nan, "3", None, True, 1j)),
    *((EarlyStopping, name, "", np.timedelta64(5, "m")) for name in ("patience", "min_delta")),
    *((EarlyStopping, "restore_best", "True or False", wrong) for wrong in (None, 2, "no")),
    *((EarlyStopping, "scoring", "a function such as lambda model, X, y:", wrong) for wrong in (3, b"r2", ["r2"])),
    *((LearningRateSchedule, "rate", "a function such as lambda epoch:", wrong) for wrong in (0.1, None, "x")),
]


@pytest.mark.parametrize(("kind", "name", "must", "wrong"), SETTINGS, ids=lambda value: repr(value)[:20])
def test_settings_that_cannot_be_are_told_by_name(kind, name, must, wrong):
    given = (X_VAL, Y_VAL) if kind is EarlyStopping else ()
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be {must}.* got {re.escape(repr(wrong))}$"):
        kind(*given, **{name: wrong})


@pytest.mark.parametrize("wrong", ["high", None, np.ones(2), 1j], ids=repr)
def test_functions_must_return_numbers(wrong):
    message = f"must return a number, got {re.escape(repr(wrong))} from it$"
    with pytest.raises(TypeError, match="^scoring " + message):
        classifier(EarlyStopping(X_VAL, Y_VAL, lambda *_: wrong)).fit(X, Y)
    with pytest.raises(TypeError, match="^rate " + message):
        classifier(LearningRateSchedule(lambda _: wrong)).fit(X, Y)


# -- what belongs to one fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [
    (CSVLog, CSVLog), (CSVLog, JSONLinesLog), (CSVLog, fastnn.Checkpoint), (fastnn.Checkpoint, fastnn.Checkpoint),
])  # fmt: skip
def test_two_callbacks_that_would_write_to_one_file(first, second, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    told = Recorder()
    message = rf"^path of {second.__name__} must be one that nothing else writes to, got .*/link; use another$"
    with pytest.raises(ValueError, match=message):
        classifier(told, first(tmp_path / "file"), second(tmp_path / "link")).fit(X, Y)
    assert not hasattr(told, "moments") and not (tmp_path / "file").exists()


def test_a_log_where_a_checkpoint_keeps_the_one_before(tmp_path):
    with pytest.raises(ValueError, match=r"must be one that nothing else writes to, got .*c\.previous"):
        classifier(CSVLog(tmp_path / "c.previous"), fastnn.Checkpoint(tmp_path / "c")).fit(X, Y)


@pytest.mark.parametrize("kind", ["the object", "the file"])
def test_two_fits_at_once_do_not_share(kind, tmp_path):
    """One within the other, as if in another thread; both in a row may have them."""
    saved = fastnn.Checkpoint(tmp_path / "c", every=0)
    twin = saved if kind == "the object" else fastnn.Checkpoint(tmp_path / "c")

    class FitAnother(Callback):
        def on_epoch_end(self, fit):
            with pytest.raises(ValueError, match="must be of one fit at a time" if twin is saved else "nothing else"):
                classifier(twin, alpha=0.5).fit(X, Y)

    model = classifier(saved, FitAnother()).fit(X, Y)
    assert_same(classifier(twin).fit(X, Y), model)  # from the file, which is of the outer fit


def test_callbacks_without_a_state_may_be_shared():
    bar = ProgressBar()

    class FitAnother(Callback):
        def on_epoch_end(self, fit):
            classifier(bar).fit(X, Y)

    classifier(bar, bar, FitAnother()).fit(X, Y)


# -- time and rate ----------------------------------------------------------------------------------------------------


def test_time_budget(monkeypatch, caplog):
    """An epoch takes ten seconds, and one more would not be over within the minute."""
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(TimeBudget, "on_chunk_end", Callback.on_chunk_end)

    class Clock(Callback):
        def on_epoch_end(self, fit):
            now[0] += 10

    budget = TimeBudget("1min")
    with caplog.at_level(logging.INFO, "fastnn"):
        model = classifier(Clock(), budget, max_iter=20).fit(X, Y)
    assert "the time budget of 1min is used up after 5 epochs" in caplog.text
    assert_same(model, classifier(max_iter=5).fit(X, Y))
    assert classifier(Clock(), budget, max_iter=20).fit(X, Y).n_iter_ == 1  # of the job, not of each fit


def test_time_budget_counts_scores_but_no_compile(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(TimeBudget, "on_chunk_end", Callback.on_chunk_end)

    def wait(seconds, result=None):
        now[0] += seconds
        return result

    class Compile(Callback):
        rank = -1

        def on_fit_begin(self, fit):  # of all the last that is told
            wait(30)

    scored = EarlyStopping(X, Y, lambda *_: wait(10, 0.0), patience=99)
    assert classifier(TimeBudget(85), Compile(), scored, max_iter=20).fit(X, Y).n_iter_ == 5  # 30, 40, ... 80


def test_time_budget_counts_no_compile_before_a_resumed_epoch(tmp_path, monkeypatch):
    now = [0.0]

    class Clock(Callback):
        rank = -1

        def on_fit_begin(self, fit):
            now[0] += 30

        def on_batch_end(self, fit):
            now[0] += 1

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("fastnn.training.rows_of_next_call", lambda rows, step, seconds: step)
    told = [Clock(), fastnn.Checkpoint(tmp_path / "c")]
    classifier(*told, Pause(5), batch_size=10, max_iter=20).fit(X, Y)
    assert classifier(*told, TimeBudget(60), batch_size=10, max_iter=20).fit(X, Y).n_iter_ == 3
    assert now[0] == 35 + 59


def test_time_budget_in_another_process(monkeypatch):
    """Its clock may have begun at another time; and one that is set back does not matter within a process."""
    clock, day = [1000.0], [5e8]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(callbacks.time, "time", lambda: day[0])
    budget = TimeBudget("1h")
    day[0] -= 86400
    sent = pickle.dumps(budget)
    clock[0], day[0] = 20.0, day[0] + 600
    assert pickle.loads(sent)._deadline == clock[0] + 3000


def test_time_budget_within_an_epoch(monkeypatch):
    monkeypatch.setattr("fastnn.training.rows_of_next_call", lambda rows, step, seconds: step)
    model = classifier(TimeBudget(0)).fit(X, Y)
    assert model.n_iter_ == 0 and model.predict(X).shape == Y.shape


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_learning_rate_schedule(solver):
    rates = [0.1, 0.01, 0.02]
    model = classifier(LearningRateSchedule(rates.__getitem__), solver=solver).fit(X, Y)
    assert model.history_["learning_rate"] == rates
    assert model.loss_curve_[0] == classifier(solver=solver, learning_rate_init=0.1, max_iter=1).fit(X, Y).loss_
    with pytest.raises(ValueError, match="the solver 'lbfgs' has no learning rate"):
        classifier(LearningRateSchedule(rates.__getitem__), solver="lbfgs").fit(X, Y)


# -- logs -------------------------------------------------------------------------------------------------------------


def test_a_column_that_comes_too_late_for_a_table(tmp_path):
    class Late(Callback):
        def on_epoch_end(self, fit):
            if fit.epoch > 1:
                fit.log("late", fit.epoch)

    with pytest.warns(UserWarning, match="late came after the first epoch, .*log; use JSONLinesLog") as warned:
        classifier(Late(), CSVLog(tmp_path / "log")).fit(X, Y)
    assert sum("late" in str(one.message) for one in warned) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_csv_log(tmp_path):
    scores = iter([0.5, math.nan, 0.25])
    told = [CSVLog(tmp_path / "log"), EarlyStopping(X_VAL, Y_VAL, lambda *_: next(scores))]
    (tmp_path / "log").write_text("from another day")
    model = classifier(*told).fit(X, Y)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log").read_text())))
    for name, column in model.history_.items():
        assert repr([float(row[name]) for row in rows]) == repr(column)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_json_lines_log(tmp_path):
    scores = iter([0.5, math.nan, 0.25])
    told = [JSONLinesLog(tmp_path / "log"), EarlyStopping(X_VAL, Y_VAL, lambda *_: next(scores))]
    model = classifier(*told).fit(X, Y)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row["loss"] for row in rows] == model.loss_curve_
    assert [row["validation_score"] for row in rows] == [0.5, None, 0.25]
    assert rows[0].keys() == {"epoch", *model.history_}


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("kind", ["CSVLog", "JSONLinesLog"])
def test_a_log_on_a_full_disk_does_not_end_the_training(kind, tmp_path):
    """No file may grow beyond some lines, until the third epoch is over; what has been written is whole lines."""
    script = f"""
        import resource, sys, warnings
        import numpy as np, fastnn
        class Room(fastnn.Callback):
            def on_epoch_begin(self, fit):
                if fit.epoch == 2:
                    assert open(sys.argv[1]).read()[-1] == chr(10)  # while it is full too
                size = 130 if fit.epoch < 3 else resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        fastnn.MLP((1, 1)).train_epoch(np.ones((1, 1), "float32"), np.ones(1), fastnn.SGD())  # compiled and kept
        X = np.ones((40, 2))
        told = [Room(), fastnn.{kind}(sys.argv[1])]
        with warnings.catch_warnings(record=True) as caught:
            fastnn.MLPClassifier(max_iter=5, random_state=0, callbacks=told).fit(X, X[:, 0])
        print(*[warning.message for warning in caught if "cannot be written" in str(warning.message)])
    """
    out, _ = run_script(script, tmp_path / "log")
    assert "log cannot be written" in out and "File too large; the training goes on" in out
    text = (tmp_path / "log").read_text()
    rows = list(csv.DictReader(io.StringIO(text)) if kind == "CSVLog" else map(json.loads, text.splitlines()))
    epochs = [int(row["epoch"]) for row in rows]
    assert epochs[0] == 1 and epochs[-2:] == [4, 5] and len(epochs) < 5
    assert all(math.isfinite(float(row["loss"])) for row in rows)


def test_a_model_can_be_copied_while_its_logs_are_open(tmp_path, monkeypatch):
    copies = []

    class Keep(Callback):
        def on_epoch_end(self, fit):
            copies.append((copy.deepcopy(fit.model), pickle.loads(pickle.dumps(fit.model))))

    told = [
        Keep(), CSVLog(tmp_path / "table"), JSONLinesLog(tmp_path / "log"), fastnn.Checkpoint(tmp_path / "c"),
        EarlyStopping(X, Y, restore_best=False), ProgressBar(), TimeBudget("1h"),
    ]  # fmt: skip
    monkeypatch.setattr(callbacks, "_shows_bars", lambda: True)
    model = classifier(*told)
    Keep.__reduce__ = lambda self: (Callback, ())
    model.fit(X, Y)
    assert [kept.n_iter_ for pair in copies for kept in pair] == [1, 1, 2, 2, 3, 3]
    assert_same(copies[-1][1], model)
    assert_same(copies[0][0].fit(X, Y), model)


def test_a_line_is_there_as_soon_as_its_epoch_is_over(tmp_path):
    class Look(Callback):
        rank = 2

        def on_epoch_end(self, fit):
            assert len((tmp_path / "log").read_text().splitlines()) == fit.epoch

    classifier(Look(), JSONLinesLog(tmp_path / "log"), solver="lbfgs").fit(X, Y)


UNHEARD = """
    import os, sys
    import numpy as np
    from fastnn.kernels import jit
    import fastnn
    jit._warn("compiling")
    fastnn.MLPClassifier(max_iter=2, callbacks=[fastnn.ProgressBar(every=0)]).fit(np.eye(4), [0, 1, 0, 1])
    print("done", flush=True)
    os._exit(0)  # what Python itself makes of it in the end is no matter here
"""


@pytest.mark.parametrize("stderr", [
    "sys.stderr = None",  # as Python has it after 2>&-
    "sys.stderr.close()",
    "sys.stderr = type('Logger', (), {'write': lambda *_: None, 'flush': lambda *_: None})()",
    pytest.param("sys.stderr = open('/dev/full', 'w', buffering=1)", marks=pytest.mark.skipif(
        sys.platform != "linux", reason="a disk that is always full"
    )),
])  # fmt: skip
def test_a_job_whose_stderr_takes_nothing_goes_on(stderr):
    setup = f"import sys, warnings; warnings.simplefilter('ignore'); {stderr}\n"
    assert run_script(setup + textwrap.dedent(UNHEARD))[0] == "done\n"


def test_progress_in_lines(capsys, monkeypatch):
    monkeypatch.setattr("fastnn.callbacks.time.monotonic", lambda: 0.0)  # whatever is to be compiled first
    classifier(ProgressBar(every=0), early_stopping=True).fit(X, Y)
    lines = [line for line in capsys.readouterr().err.splitlines() if "batch" not in line]
    assert len(lines) == 3  # the last one once
    assert re.fullmatch(r"epoch 1/3: loss 0\.\d+, validation score [\d.]+, 0 s", lines[0])
    classifier(ProgressBar(every="1h")).fit(X, Y)
    assert re.fullmatch(r"epoch 3/3: loss 0\.\d+, 0 s", capsys.readouterr().err.strip())


def test_progress_within_a_long_epoch(capsys, monkeypatch):
    monkeypatch.setattr("fastnn.training.rows_of_next_call", lambda *_: 10)
    now = [0.0]
    monkeypatch.setattr("fastnn.callbacks.time.monotonic", lambda: now[0])

    class Clock(Callback):
        def on_chunk_end(self, fit):
            now[0] += 7

    classifier(Clock(), ProgressBar(every="10s"), batch_size=10, max_iter=2).fit(X[:50], Y[:50])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["epoch 1/2: batch 2/5, 14 s", "epoch 1/2: batch 4/5, 28 s"]
    assert lines[2] == "epoch 2/2: batch 2/5, 42 s" and re.fullmatch(r"epoch 2/2: loss [\d.]+, 56 s", lines[-1])
    monkeypatch.setattr(callbacks, "_shows_bars", lambda: True)
    classifier(ProgressBar(), batch_size=10, max_iter=2).fit(X[:50], Y[:50])
    assert re.search(r"1/2 .*loss=[\d.]+, batch=4/5", capsys.readouterr().err)


def test_progress_in_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "_shows_bars", lambda: True)
    model = classifier(ProgressBar()).fit(X, Y)
    err = capsys.readouterr().err
    assert "3/3" in err and "loss=" in err and "epoch" in err
    pickle.dumps(model)


def test_notebooks_get_the_bar_of_notebooks(monkeypatch):
    """tqdm.auto tells what runs; its widgets are not needed to see which bar it would be."""
    from tqdm import auto, notebook

    bars = []

    class Shown(notebook.tqdm):
        def __init__(self, **settings):
            bars.append([settings, 0, False])

        def set_postfix(self, shown, refresh=True):
            assert "loss" in shown or "batch" in shown

        def update(self):
            bars[-1][1] += 1

        def close(self):
            bars[-1][2] = True

        def __del__(self):
            pass

    monkeypatch.setattr(sys, "stderr", None)  # no terminal
    assert not callbacks._shows_bars()
    monkeypatch.setattr(auto, "tqdm", Shown)
    classifier(ProgressBar()).fit(X, Y)
    assert bars == [[{"total": 3, "initial": 0, "unit": "epoch"}, 3, True]]


def test_nothing_is_printed_unless_asked(tmp_path):
    """Once the kernels are on disk: on neither stream, but for scikit-learn's own warning of too few epochs."""
    script = f"""
        import warnings
        import numpy as np
        from sklearn.exceptions import ConvergenceWarning
        import fastnn

        warnings.simplefilter("ignore", ConvergenceWarning)
        X = np.ones((40, 2))
        told = [
            fastnn.Checkpoint({str(tmp_path / "c")!r}), fastnn.CSVLog({str(tmp_path / "l")!r}), fastnn.TimeBudget(0),
        ]
        for callbacks in (None, told, told):
            model = fastnn.MLPClassifier(max_iter=2, callbacks=callbacks).fit(X, X[:, 0])
            model.predict(X)
    """
    run_script(script)
    assert run_script(script) == ("", "")


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_calls_are_cut_by_the_time_they_take(monkeypatch):
    """Ctrl-C takes effect between calls: those of a slow machine have fewer batches, and at least one."""
    assert rows_of_next_call(1000, 10, 0.1) == 1000
    assert rows_of_next_call(1000, 10, 1.0) == 100
    assert rows_of_next_call(1000, 10, 100.0) == 10
    assert rows_of_next_call(1000, 10, 0.0) == 8000
    calls = []
    whole = classifier(batch_size=10).fit(X, Y)
    watch_calls(monkeypatch, epoch, lambda code, *args: calls.append(args) or code(*args))
    monkeypatch.setattr("fastnn.model.FLOPS_PER_CALL", 1.0)
    monkeypatch.setattr("fastnn.model.FLOPS_PER_EPOCHS", 1.0)
    monkeypatch.setattr("fastnn.model.rows_of_next_call", lambda rows, step, seconds: 2 * step)
    assert_same(classifier(batch_size=10).fit(X, Y), whole)
    assert len(calls) == 3 * (1 + 5)


@pytest.mark.parametrize("batch_size", [10, 100])
@pytest.mark.parametrize("told", [[], [BatchRecorder()]], ids=["alone", "callbacks"])
def test_ctrl_c_in_any_compiled_call_leaves_a_usable_model(told, batch_size, monkeypatch):
    calls = []

    def interrupted(code, *args):
        calls.append(args)
        code(*args)
        if len(calls) == 3:
            raise KeyboardInterrupt

    watch_calls(monkeypatch, epoch, interrupted)
    monkeypatch.setattr("fastnn.model.FLOPS_PER_CALL", 1.0)
    monkeypatch.setattr("fastnn.model.FLOPS_PER_EPOCHS", 1.0)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = classifier(batch_size=batch_size, activation="tanh").set_params(callbacks=told).fit(X, Y)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.history_["seconds"]) <= 3
    assert np.isfinite(model.predict_proba(X)).all()


# -- losses that are not finite ---------------------------------------------------------------------------------------

ERROR = (
    r"^Solver produced non-finite parameter weights\. The input data may contain large values and need to be"
    r" preprocessed\. Training diverged in epoch {}, step {}; the last finite weights were kept\. Likely causes: {}"
)


@pytest.mark.parametrize("told", [None, [Recorder()], [BatchRecorder()]], ids=["alone", "epochs", "batches"])
def test_the_step_is_found_and_the_weights_before_it_are_kept(told):
    """A single row is out of all proportion, and comes in the sixth batch."""
    rows = X.copy()
    rows[57] = 1e200
    settings = {"solver": "sgd", "shuffle": False, "batch_size": 10, "random_state": 0, "activation": "identity"}
    model = MLPRegressor(**settings, callbacks=told)
    if told and isinstance(told[0], BatchRecorder):
        told[0].hear = lambda *moment: None
    with pytest.raises(ValueError, match=ERROR.format(1, 6, r"the largest value in X is 1e\+200 \(scale the features")):
        model.fit(rows, Y)
    before = MLPRegressor(**settings, max_iter=1).fit(X[:50], Y[:50])
    np.testing.assert_array_equal(model.predict(X), before.predict(X))
    assert model.n_iter_ == len(model.loss_curve_) == 1 and not np.isfinite(model.loss_)


@pytest.mark.parametrize("batch_size", [1, 10, 100])
@pytest.mark.parametrize("shuffle", [False, True])
def test_steps_of_several_epochs_are_gone_through_again(batch_size, shuffle):
    settings = {
        "solver": "sgd", "batch_size": batch_size, "random_state": 0, "activation": "identity", "shuffle": shuffle,
        "momentum": 0.5, "learning_rate_init": 30.0 if batch_size == 100 else 0.8, "hidden_layer_sizes": (4,),
        "max_iter": 400,
    }  # fmt: skip
    model = MLPRegressor(**settings)
    with pytest.raises(ValueError, match=r"Training diverged in epoch \d+, step \d+.*the learning rate is") as raised:
        model.fit(X, Y)
    at, step = map(int, re.search(r"epoch (\d+), step (\d+)", str(raised.value)).groups())
    assert all(np.isfinite(w).all() for w in [*model.coefs_, *model.intercepts_])

    class Watch(Callback):
        """Looks at each step of a second training."""

        bad = None

        def on_batch_end(self, fit):
            finite = all(np.isfinite(w).all() for w in [*fit.net.weights, *fit.net.biases])
            if not finite and self.bad is None:
                self.bad = (fit.epoch + 1, fit.batch)
            if self.bad is None:
                self.parameters = fit.parameters

    watch = Watch()
    with pytest.raises(ValueError, match="non-finite"):
        MLPRegressor(**settings, callbacks=[watch]).fit(X, Y)
    assert (at, step) <= watch.bad  # the loss may have been infinite before the weights were
    if (at, step) == watch.bad:
        for ours, theirs in zip(model.coefs_, watch.parameters[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_poisson_loss_that_overflows_is_told_of(dtype):
    model = MLPRegressor("poisson", solver="sgd", learning_rate_init=10.0, random_state=0, max_iter=20)
    with pytest.raises(ValueError, match=ERROR.format(2, 1, "the learning rate is 10 ")):
        model.fit(X.astype(dtype), (7 * Y).astype(dtype))
    assert np.isfinite(model.coefs_[0]).all() and model.n_iter_ < 20


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["X", "sparse X", "y"])
def test_what_is_not_finite_is_named_where_nobody_looks_for_it(where, bad):
    rows, y = X.copy(), Y.astype(float)
    (y if where == "y" else rows)[57] = bad
    message = rf"non-finite.*in epoch 1, step 1; .*kept\. Likely cause: {where[-1]} holds NaN or infinity \("
    with sklearn.config_context(assume_finite=True), pytest.raises(ValueError, match=message):
        MLPRegressor(random_state=0).fit(scipy.sparse.csr_array(rows) if where == "sparse X" else rows, y)


def test_early_stopping_keeps_the_best_weights():
    rows = np.vstack([X, np.full((1, 5), 1e300)])
    model = MLPRegressor(random_state=0, early_stopping=True, solver="sgd", learning_rate_init=1e10)
    with pytest.warns(ConvergenceWarning, match=r"^Training diverged in epoch 1, step \d.*best weights before that"):
        model.fit(rows, np.append(Y, 0))
    assert np.isfinite(model.predict(X)).all()


def test_the_best_weights_of_a_callback_are_kept():
    rates = fastnn.LearningRateSchedule(lambda epoch: 1e-3 if epoch < 3 else 1e10)
    early = EarlyStopping(X, Y)
    model = MLPRegressor(solver="sgd", random_state=0, batch_size=10, callbacks=[rates, early])
    with pytest.warns(ConvergenceWarning, match=r"^Training diverged in epoch 4, step \d.*best weights before that"):
        model.fit(X, Y.astype(float))
    assert early.best_epoch_ == 3 and model.score(X, Y) == early.best_score_
    early = EarlyStopping(X, Y, restore_best=False)
    with pytest.raises(ValueError, match="Training diverged in epoch 4"):
        model.set_params(callbacks=[rates, early]).fit(X, Y.astype(float))


def test_what_a_callback_has_set_may_be_the_cause():
    class Spoil(Callback):
        def on_epoch_begin(self, fit):
            if fit.epoch == 2:
                fit.model.coefs_[0][0] = np.nan

    message = r"diverged in epoch 3; the last finite .*rate is .*Or a callback has set weights that lead there\.$"
    with pytest.raises(ValueError, match=message):
        MLPRegressor(random_state=0, callbacks=[Spoil()]).fit(X, Y)


def test_an_infinite_loss_of_finite_weights_is_a_warning():
    """The square is too large for a float, its gradient is not, and the step is a small one."""
    y = np.where(np.arange(100) == 57, 1e160, Y).astype(float)
    settings = {"solver": "sgd", "learning_rate_init": 1e-300, "batch_size": 10, "shuffle": False, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match=r"in epoch 1, step 6: the loss is inf\. The last finite.*in y"):
        model = MLPRegressor(**settings).fit(X, y)
    assert model.n_iter_ == 1 and np.isfinite(model.predict(X)).all()


def test_partial_fit_keeps_finite_weights():
    model = MLPRegressor(random_state=0, solver="sgd").partial_fit(X, Y)
    before = model.predict(X)
    with pytest.raises(ValueError, match=r"non-finite.*Training diverged; the last finite weights were kept"):
        model.partial_fit(X * 1e250, Y)
    np.testing.assert_array_equal(model.predict(X), before)


def test_lbfgs_keeps_finite_weights():
    model = MLPRegressor(random_state=0, solver="lbfgs").fit(X * 1e200, Y)  # the loss overflows
    assert all(np.isfinite(w).all() for w in model.coefs_)


def test_lbfgs_tells_of_weights_that_are_not_finite(monkeypatch):
    """SciPy's minimiser was not seen to return such; if it does, it is said."""
    minimise = lbfgs.minimise

    def broken(*arguments):
        result = minimise(*arguments)
        result.x = result.x * np.nan
        return result

    monkeypatch.setattr(lbfgs, "minimise", broken)
    model = MLPRegressor(random_state=0, solver="lbfgs", max_iter=5)
    with pytest.raises(ValueError, match="The last finite weights were kept"):
        model.fit(X, Y)
    assert all(np.isfinite(w).all() for w in model.coefs_)


def test_callbacks_are_not_told_of_an_epoch_that_diverged(tmp_path):
    recorder = Recorder()
    log, saved = JSONLinesLog(tmp_path / "log"), fastnn.Checkpoint(tmp_path / "c", every=0)
    model = MLPRegressor(solver="sgd", learning_rate_init=1e3, random_state=0, callbacks=[recorder, log, saved])
    with pytest.raises(ValueError, match="diverged in epoch"):
        model.fit(X, Y)
    assert recorder.moments[-2:] == [("epoch begins", model.n_iter_ - 1), ("fit ends",)]
    with pytest.raises(ValueError, match="diverged in epoch"):
        model.fit(X, Y)
