"""The estimators inside what scikit-learn's users put them into: the same numbers come out as with scikit-learn's."""

import _thread
import contextlib
import copy
import ctypes
import io
import os
import pickle
import subprocess
import sys
import threading

import joblib
import numpy as np
import pytest
import threadpoolctl
from helpers import Pause
from scipy import sparse
from sklearn import config_context, datasets
from sklearn import neural_network as sklearn_nn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    TunedThresholdClassifierCV,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_versions import HAS_CALLBACKS, KNOWS_POLARS

import fastnn
from fastnn import lbfgs
from fastnn.model import MLP

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = datasets.make_classification(90, 6, n_informative=4, n_classes=3, random_state=0)
IS_TWO = Y == 2
LABELS = np.stack([Y == 0, Y > 0, X[:, 0] > 0], axis=1).astype(int)
TARGETS = np.stack([X[:, 0] + X[:, 1], X[:, 2] * X[:, 3]], axis=1)
NAMES = ["a", "b", "c", "d", "e", "f"]
BACKENDS = ("loky", "threading")
RTOL = 1e-7


def classifier(library, **params):
    settings = {"hidden_layer_sizes": (8,), "max_iter": 15, "learning_rate_init": 0.02, "random_state": 0, **params}
    return library.MLPClassifier(**settings)


def regressor(library, **params):
    settings = {"hidden_layer_sizes": (8,), "max_iter": 15, "learning_rate_init": 0.02, "random_state": 0, **params}
    return library.MLPRegressor(**settings)


def both(compute):
    """What comes out with our estimators and with scikit-learn's."""
    return [compute(library) for library in (fastnn, sklearn_nn)]


def assert_same(compute):
    ours, theirs = both(compute)
    np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=RTOL)


# -- ensembles, searches and other wrappers ---------------------------------------------------------------------------

CLASSIFIERS = {
    "pipeline": lambda mlp: make_pipeline(StandardScaler(), mlp),
    "columns": lambda mlp: make_pipeline(make_column_transformer((StandardScaler(), [0, 2, 3])), mlp),
    "grid search": lambda mlp: GridSearchCV(mlp, {"alpha": [1e-4, 10.0], "hidden_layer_sizes": [(), (5,)]}, cv=3),
    "halving": lambda mlp: HalvingGridSearchCV(mlp, {"alpha": [1e-4, 1.0, 10.0]}, cv=3, random_state=0),
    "halving of epochs": lambda mlp: HalvingGridSearchCV(
        mlp, {"alpha": [1e-4, 1.0, 10.0]}, cv=3, random_state=0, resource="max_iter", max_resources=9
    ),
    "stacking": lambda mlp: StackingClassifier([("mlp", mlp), ("linear", LogisticRegression())], cv=3),
    "voting": lambda mlp: VotingClassifier([("mlp", mlp), ("linear", LogisticRegression())], voting="soft"),
    "bagging": lambda mlp: BaggingClassifier(mlp, n_estimators=3, random_state=0),
    "boosting": lambda mlp: AdaBoostClassifier(mlp, n_estimators=3, random_state=0),
    "one against rest": lambda mlp: OneVsRestClassifier(mlp),
    "calibration": lambda mlp: CalibratedClassifierCV(mlp, cv=3),
    "isotonic calibration": lambda mlp: CalibratedClassifierCV(mlp, cv=3, method="isotonic"),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_in(name):
    assert_same(lambda library: CLASSIFIERS[name](classifier(library)).fit(X, Y).predict_proba(X))


def test_one_against_one():
    assert_same(lambda library: OneVsOneClassifier(classifier(library)).fit(X, Y).predict(X))


def test_tuned_threshold():
    ours, theirs = both(lambda library: TunedThresholdClassifierCV(classifier(library), cv=3).fit(X, IS_TWO))
    assert ours.best_threshold_ == pytest.approx(theirs.best_threshold_, rel=RTOL)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_labels_one_by_one():
    assert_same(lambda library: np.array(MultiOutputClassifier(classifier(library)).fit(X, LABELS).predict_proba(X)))
    assert_same(lambda library: ClassifierChain(classifier(library), random_state=0).fit(X, LABELS).predict_proba(X))


REGRESSORS = {
    "targets one by one": lambda mlp: MultiOutputRegressor(mlp),
    "chain": lambda mlp: RegressorChain(mlp),
    "scaled targets": lambda mlp: TransformedTargetRegressor(mlp, transformer=StandardScaler()),
}
REGRESSORS_OF_ONE_TARGET = {
    "stacking": lambda mlp: StackingRegressor([("mlp", mlp), ("linear", Ridge())], cv=3),
    "voting": lambda mlp: VotingRegressor([("mlp", mlp), ("linear", Ridge())]),
    "boosting": lambda mlp: AdaBoostRegressor(mlp, n_estimators=3, random_state=0),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressor_in(name):
    assert_same(lambda library: REGRESSORS[name](regressor(library)).fit(X, TARGETS).predict(X))


@pytest.mark.parametrize("name", REGRESSORS_OF_ONE_TARGET)
def test_regressor_of_one_target_in(name):
    assert_same(lambda library: REGRESSORS_OF_ONE_TARGET[name](regressor(library)).fit(X, TARGETS[:, 0]).predict(X))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("search", ["grid search", "halving"])
def test_search_with_workers(search, backend):
    with joblib.parallel_config(backend, n_jobs=2):
        ours = CLASSIFIERS[search](classifier(fastnn)).fit(X, Y)
    theirs = CLASSIFIERS[search](classifier(sklearn_nn)).fit(X, Y)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    assert ours.best_params_ == theirs.best_params_


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutation_importance(backend):
    def importances(library, n_jobs):
        model = classifier(library).fit(X, Y)
        return permutation_importance(model, X, Y, n_repeats=3, random_state=0, n_jobs=n_jobs).importances

    with joblib.parallel_config(backend):
        ours = importances(fastnn, 2)
    np.testing.assert_allclose(ours, importances(sklearn_nn, None))


def test_partial_dependence():
    assert_same(lambda library: partial_dependence(regressor(library).fit(X, TARGETS[:, 0]), X, [0]).average)


def test_selection_of_features():
    ours, theirs = both(
        lambda library: SequentialFeatureSelector(classifier(library), n_features_to_select=2, cv=2).fit(X, Y)
    )
    np.testing.assert_array_equal(ours.support_, theirs.support_)


@pytest.mark.parametrize("in_part", [False, True])
def test_learning_curve(in_part):
    def scores(library):
        return learning_curve(
            classifier(library), X, Y, train_sizes=[0.4, 0.7, 1.0], cv=3, exploit_incremental_learning=in_part,
        )[1:]  # fmt: skip

    assert_same(scores)


def test_cross_validation_returns_models():
    def probabilities(library):
        found = cross_validate(classifier(library), X, Y, cv=3, return_estimator=True)
        return [model.predict_proba(X) for model in found["estimator"]]

    assert_same(probabilities)


# -- metadata, configuration, display ---------------------------------------------------------------------------------


def test_weights_are_routed():
    weight = np.random.RandomState(0).uniform(0.1, 2.0, len(X))

    def search(library):
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            classifier(library).set_fit_request(sample_weight=True),
        )
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        return GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=3, scoring=scorer)

    with config_context(enable_metadata_routing=True):
        assert_same(lambda library: search(library).fit(X, Y, sample_weight=weight).predict_proba(X))
        weighted, unweighted = search(fastnn).fit(X, Y, sample_weight=weight), search(fastnn).fit(X, Y)
    assert not np.allclose(weighted.predict_proba(X), unweighted.predict_proba(X))


def test_requests_are_those_of_sklearn():
    ours, theirs = both(lambda library: classifier(library).get_metadata_routing())
    assert str(ours) == str(theirs)


def test_html_view_links_to_the_documentation():
    assert "sklearn.neural_network.MLPClassifier.html" in classifier(fastnn)._repr_html_()
    pipeline = make_pipeline(StandardScaler(), regressor(fastnn))
    assert "sklearn.neural_network.MLPRegressor.html" in pipeline._repr_html_()


def test_representation_is_that_of_sklearn():
    ours, theirs = both(lambda library: repr(classifier(library, alpha=1.0)))
    assert ours == theirs


def test_configuration_is_heeded():
    bad = X.copy()
    bad[0, 0] = np.nan
    model = classifier(fastnn).fit(X, Y)
    with config_context(assume_finite=True):
        assert np.isnan(model.predict_proba(bad[:1])).all()
    with config_context(skip_parameter_validation=True):
        assert classifier(fastnn, alpha=np.float32(0.5)).fit(X, Y).n_iter_ == 15
    with pytest.raises(ValueError, match="NaN"):
        model.predict(bad)


# -- frames, labels, sparse data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"] if KNOWS_POLARS else ["pandas"])
def test_frames(library):
    frame = pytest.importorskip(library).DataFrame(dict(zip(NAMES, X.T, strict=True)))
    model = classifier(fastnn, early_stopping=True).fit(frame, Y)
    assert list(model.feature_names_in_) == NAMES
    plain = classifier(fastnn, early_stopping=True).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(frame), plain.predict_proba(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPClassifier was fitted with"):
        model.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but MLPClassifier was fitted without feature names"):
        plain.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[NAMES[::-1]])


def test_frames_through_a_column_transformer():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=NAMES)
    frame["colour"] = np.array(["red", "green", "blue"])[Y]

    def model_of(library):
        columns = ColumnTransformer([("numbers", StandardScaler(), NAMES[:4])], verbose_feature_names_out=False)
        return make_pipeline(columns.set_output(transform="pandas"), classifier(library)).fit(frame, frame["colour"])

    ours, theirs = both(model_of)
    assert list(ours[-1].feature_names_in_) == NAMES[:4]
    np.testing.assert_array_equal(ours.predict(frame), theirs.predict(frame))
    np.testing.assert_allclose(ours.predict_proba(frame), theirs.predict_proba(frame), rtol=RTOL)


@pytest.mark.parametrize(
    "labels",
    [
        Y, Y.astype(np.int8), Y.astype(np.float32), Y == 2, np.array(["x", "yy", "zzz"])[Y],
        np.array(["x", "yy", "zzz"], object)[Y], Y.tolist(), 3 - Y.astype(np.uint8),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}",
)  # fmt: skip
def test_labels_come_back_as_with_sklearn(labels):
    ours, theirs = both(lambda library: classifier(library).fit(X, labels))
    assert ours.classes_.dtype == theirs.classes_.dtype and ours.predict(X).dtype == theirs.predict(X).dtype
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, labels) == theirs.score(X, labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, bool])
@pytest.mark.parametrize("targets_dtype", [np.float32, np.float64, np.int64])
def test_dtypes_come_out_as_with_sklearn(dtype, targets_dtype):
    ours, theirs = both(
        lambda library: regressor(library, max_iter=2).fit(X.astype(dtype), TARGETS.astype(targets_dtype))
    )
    assert [array.dtype for array in ours.coefs_] == [array.dtype for array in theirs.coefs_]
    assert ours.predict(X.astype(dtype)).dtype == theirs.predict(X.astype(dtype)).dtype


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_labels(container):
    ours, theirs = both(lambda library: classifier(library).fit(X, container(LABELS)).predict(X))
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours.toarray(), theirs.toarray())


# -- copies and files -------------------------------------------------------------------------------------------------

MODELS = {
    "classifier": lambda: classifier(fastnn).fit(X, Y),
    "binary, sgd": lambda: classifier(fastnn, solver="sgd").fit(X, IS_TWO),
    "labels, early stopping": lambda: classifier(fastnn, early_stopping=True).fit(X, LABELS),
    "lbfgs": lambda: classifier(fastnn, solver="lbfgs", activation="tanh").fit(X, Y),
    "float32": lambda: classifier(fastnn, activation="logistic").fit(X.astype(np.float32), Y),
    "regressor": lambda: regressor(fastnn).fit(X, TARGETS),
    "poisson": lambda: regressor(fastnn, loss="poisson", activation="identity").fit(X, np.abs(TARGETS[:, 0])),
}


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def through_cloudpickle(model):
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(model))


def through_skops(model):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    assert untrusted == [f"fastnn.estimators.{type(model).__name__}"]  # all else are arrays and builtins
    return skops.loads(data, trusted=untrusted)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": through_joblib,
    "cloudpickle": through_cloudpickle,
    "skops": through_skops,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_copies_are_equal(name, way):
    model = MODELS[name]()
    twin = WAYS[way](model)
    for array, copied in zip(model.coefs_ + model.intercepts_, twin.coefs_ + twin.intercepts_, strict=True):
        np.testing.assert_array_equal(array, copied, strict=True)
        assert not np.shares_memory(array, copied)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X), strict=True)
    assert twin.n_iter_ == model.n_iter_ and twin.get_params() == model.get_params()


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("way", WAYS)
def test_training_goes_on_in_a_copy(solver, way):
    model = classifier(fastnn, solver=solver).fit(X, Y)
    twin = WAYS[way](model)
    for each in (model, twin):
        each.partial_fit(X, Y).partial_fit(X[:40], Y[:40])
    assert twin.loss_curve_ == model.loss_curve_
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("way", WAYS)
def test_unfitted_models_are_copied(way):
    assert WAYS[way](classifier(fastnn)).get_params() == classifier(fastnn).get_params()


def test_clone_is_unfitted():
    model = clone(MODELS["classifier"]())
    assert model.get_params() == classifier(fastnn).get_params()
    assert not [name for name in vars(model) if name.endswith("_") or name.startswith("_")]


PREDICT = """
import pickle, sys
import numpy as np
models, X = pickle.load(open(sys.argv[1], "rb"))
pickle.dump([[model.predict(X.astype(model.coefs_[0].dtype)), model.predict(X[:1])] for model in models],
            open(sys.argv[2], "wb"))
"""


def test_a_new_process_predicts_without_compiling(tmp_path):
    models, cache = [make() for make in MODELS.values()], tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "models").write_bytes(pickle.dumps((models, X)))
    subprocess.run(
        [sys.executable, "-c", PREDICT, str(tmp_path / "models"), str(tmp_path / "predictions")],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)}, check=True,
    )  # fmt: skip
    assert not [path for path in cache.rglob("*") if path.is_file()]
    predictions = pickle.loads((tmp_path / "predictions").read_bytes())
    for model, (all_rows, one_row) in zip(models, predictions, strict=True):
        dtype = model.coefs_[0].dtype
        for predicted, expected in [(all_rows, model.predict(X.astype(dtype))), (one_row, model.predict(X[:1]))]:
            assert predicted.dtype == expected.dtype
            np.testing.assert_allclose(predicted, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_from_the_keyboard_ends_adam(ctrl_c_raises, monkeypatch):
    train, timer = MLP.train, threading.Timer(0.2, _thread.interrupt_main)

    def train_until_interrupted(*args):
        if timer.ident is None:
            timer.start()
        return train(*args)

    classifier(fastnn).fit(X, Y)  # compiles, where nothing did so far
    monkeypatch.setattr(MLP, "train", train_until_interrupted)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = classifier(fastnn, max_iter=10**5, tol=0.0, n_iter_no_change=np.inf).fit(X, Y)
    timer.join()
    assert 0 < model.n_iter_ == len(model.loss_curve_) < 10**5
    assert np.isfinite(model.predict_proba(X)).all()


def test_ctrl_c_ends_lbfgs(monkeypatch):
    evaluation, calls = MLP.evaluation, []

    @contextlib.contextmanager
    def interrupted(*args):
        with evaluation(*args) as evaluate:

            def counted():
                calls.append(args)
                if len(calls) == 6:
                    raise KeyboardInterrupt
                return evaluate()

            yield counted

    monkeypatch.setattr(MLP, "evaluation", interrupted)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = classifier(fastnn, solver="lbfgs").fit(X, Y)
    monkeypatch.undo()
    assert 0 < model.n_iter_ < 6
    same = classifier(fastnn, solver="lbfgs", max_iter=model.n_iter_).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), same.predict_proba(X))
    assert model.loss_ == same.loss_


def test_ctrl_c_while_the_blas_libraries_are_looked_for(ctrl_c_raises, monkeypatch):
    """The system tells threadpoolctl of them in a callback, which would lose the exception."""
    controller = threadpoolctl.ThreadpoolController

    def interrupt():
        _thread.interrupt_main()

    def interrupted():
        ctypes.CFUNCTYPE(None)(interrupt)()
        return controller()

    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", interrupted)
    lbfgs._blas.cache_clear()
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        classifier(fastnn, solver="lbfgs").fit(X, Y)


# -- callbacks --------------------------------------------------------------------------------------------------------

SOLVERS_WITH_EPOCHS = {"adam": {}, "sgd": {"solver": "sgd"}, "lbfgs": {"solver": "lbfgs", "tol": 0.0}}
needs_callbacks = pytest.mark.skipif(not HAS_CALLBACKS, reason="this scikit-learn has no callbacks")


class Recorder:
    """Remembers what it is told, and answers or raises in the epoch asked for."""

    def __init__(self, stop_in=None, raise_in=None):
        self.stop_in, self.raise_in, self.events, self.losses = stop_in, raise_in, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        self.losses.append(fitted_estimator.score(X, y))
        n_epochs = self.events.count("end epoch")
        if n_epochs == self.raise_in:
            raise RuntimeError("from a callback")
        return n_epochs == self.stop_in


@needs_callbacks
@pytest.mark.parametrize("solver", SOLVERS_WITH_EPOCHS)
def test_callbacks_hear_of_each_epoch(solver):
    recorder = Recorder()
    model = classifier(fastnn, max_iter=4, **SOLVERS_WITH_EPOCHS[solver]).set_callbacks(recorder).fit(X, Y)
    epochs = 4 * ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    plain = classifier(fastnn, max_iter=4, **SOLVERS_WITH_EPOCHS[solver]).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    assert model.loss_ == plain.loss_


@needs_callbacks
@pytest.mark.parametrize("solver", SOLVERS_WITH_EPOCHS)
def test_callbacks_see_the_model_of_each_epoch(solver):
    recorder = Recorder()
    classifier(fastnn, max_iter=4, **SOLVERS_WITH_EPOCHS[solver]).set_callbacks(recorder).fit(X, Y)
    scores = [
        classifier(fastnn, max_iter=n, **SOLVERS_WITH_EPOCHS[solver]).fit(X, Y).score(X, Y) for n in (1, 2, 3, 4, 4)
    ]
    assert recorder.losses == scores


@needs_callbacks
@pytest.mark.parametrize("solver", SOLVERS_WITH_EPOCHS)
def test_callbacks_may_ask_to_stop(solver):
    settings = SOLVERS_WITH_EPOCHS[solver]
    model = classifier(fastnn, **settings).set_callbacks(Recorder(stop_in=3)).fit(X, Y)
    assert model.n_iter_ == 3
    same = classifier(fastnn, max_iter=3, **settings).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), same.predict_proba(X))


@needs_callbacks
@pytest.mark.parametrize("solver", SOLVERS_WITH_EPOCHS)
def test_an_error_in_a_callback_leaves_a_usable_model(solver):
    settings, recorder = SOLVERS_WITH_EPOCHS[solver], Recorder(raise_in=2)
    model = classifier(fastnn, **settings).set_callbacks(recorder)
    with pytest.raises(RuntimeError, match="from a callback"):
        model.fit(X, Y)
    assert recorder.events[-1] == "teardown" and model.n_iter_ == 2
    same = classifier(fastnn, max_iter=2, **settings).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), same.predict_proba(X))
    whole = classifier(fastnn, **settings).fit(X, Y)
    np.testing.assert_array_equal(model.set_callbacks().fit(X, Y).predict_proba(X), whole.predict_proba(X))


def test_a_search_without_callbacks_costs_no_more_calls(monkeypatch):
    train, calls = MLP.train, []

    def counted(*args):
        calls.append(args)
        return train(*args)

    monkeypatch.setattr(MLP, "train", counted)
    model = classifier(fastnn, max_iter=20)
    model.fit(X, Y)
    alone = len(calls)
    GridSearchCV(model, {"alpha": [1e-4]}, cv=2, refit=False).fit(X, Y)
    assert 0 < len(calls) - alone <= 2 * alone


@needs_callbacks
def test_callbacks_of_a_fit_that_goes_on_in_the_middle_of_an_epoch(tmp_path):
    def told(*callbacks):
        return classifier(fastnn, batch_size=10, callbacks=[*callbacks, fastnn.Checkpoint(tmp_path / "c")])

    n_batches = -(-len(X) // 10)
    told(Pause(2 * n_batches + 1)).fit(X, Y)
    recorder = Recorder()
    told().set_callbacks(recorder).fit(X, Y)
    names = [event for event in recorder.events if event.endswith(" epoch")]
    assert names[:4] == 2 * ["begin epoch", "end epoch"]


@needs_callbacks
def test_no_callbacks_on_partial_fit():
    recorder = Recorder()
    classifier(fastnn).set_callbacks(recorder).partial_fit(X, Y, classes=[0, 1, 2])
    assert recorder.events == []


@needs_callbacks
def test_scores_are_monitored():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    model = classifier(fastnn, max_iter=6).set_callbacks(monitor).fit(X, Y)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 6 and scores[-1] == model.score(X, Y)


@needs_callbacks
def test_progress_is_shown(capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    classifier(fastnn, max_iter=6).set_callbacks(ProgressBar()).fit(X, Y)
    assert "MLPClassifier - fit" in capsys.readouterr().out
