"""Models go to scikit-learn and back unharmed; its names can lead to fastnn's classes, in a script left as it is."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import shared_parameters
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fastnn
from fastnn.interop import FITTED, SklearnExchange

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
SETTINGS = {"hidden_layer_sizes": (7, 5), "max_iter": 5, "random_state": 0, "learning_rate_init": 0.01}


PAIRS = {MLPClassifier: fastnn.MLPClassifier, MLPRegressor: fastnn.MLPRegressor}

rng = np.random.default_rng(0)
N = 60
X = rng.normal(size=(N, 4))
SCORES = X @ rng.normal(size=(4, 3))
LABELS = SCORES.argmax(axis=1)
# task: (scikit-learn's class, parameters, targets)
TASKS = {
    "binary": (MLPClassifier, {}, LABELS > 0),
    "multiclass": (MLPClassifier, {"activation": "tanh"}, LABELS),
    "multilabel": (MLPClassifier, {"activation": "logistic"}, (SCORES > 0).astype(int)),
    "two words": (MLPClassifier, {}, np.where(LABELS > 0, "yes", "no")),
    "three words": (MLPClassifier, {"solver": "sgd"}, np.array(["low", "middle", "high"])[LABELS]),
    "one class": (MLPClassifier, {}, np.zeros(N, int)),
    "early stopping": (MLPClassifier, {"early_stopping": True, "validation_fraction": 0.2}, LABELS),
    "lbfgs, classes": (MLPClassifier, {"solver": "lbfgs"}, LABELS),
    "regression": (MLPRegressor, {}, SCORES[:, 0]),
    "three outputs": (MLPRegressor, {"activation": "identity"}, SCORES),
    "poisson": (MLPRegressor, {"loss": "poisson"}, np.exp(SCORES[:, 0]).round()),
    "lbfgs, regression": (MLPRegressor, {"solver": "lbfgs", "hidden_layer_sizes": ()}, SCORES[:, 0]),
}


def fitted(task, dtype="float64", **settings):
    """scikit-learn's model of a task, its rows and its targets."""
    cls, parameters, y = TASKS[task]
    rows, y = X.astype(dtype), y.astype(dtype) if cls is MLPRegressor else y
    return cls(**{**SETTINGS, **parameters, **settings}).fit(rows, y), rows, y


def exchanged(model):
    return PAIRS[type(model)].from_sklearn(model)


def same(ours, theirs):
    """Equal in value and, for arrays, in dtype; whatever the containers hold."""
    if isinstance(theirs, list) and theirs and isinstance(theirs[0], np.ndarray):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, np.ndarray):
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    if hasattr(theirs, "y_type_"):
        return ours.y_type_ == theirs.y_type_ and np.array_equal(ours.classes_, theirs.classes_)
    return ours == theirs


def assert_same_state(ours, theirs):
    assert shared_parameters(ours) == shared_parameters(theirs)
    for name in FITTED:
        assert hasattr(ours, name) == hasattr(theirs, name), name
        if hasattr(theirs, name):
            assert same(getattr(ours, name), getattr(theirs, name)), name


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task", TASKS)
def test_from_sklearn(task, dtype):
    theirs, rows, y = fitted(task, dtype)
    ours = exchanged(theirs)
    assert_same_state(ours, theirs)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    if isinstance(theirs, MLPClassifier):
        np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
        np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), **tolerance)
        np.testing.assert_allclose(ours.predict_log_proba(rows), theirs.predict_log_proba(rows), **tolerance)
    else:
        assert ours.predict(rows).shape == theirs.predict(rows).shape
        np.testing.assert_allclose(ours.predict(rows), theirs.predict(rows), **tolerance)
    assert ours.score(rows, y) == pytest.approx(theirs.score(rows, y), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task", TASKS)
def test_there_and_back(task, dtype):
    theirs, rows, _ = fitted(task, dtype)
    back = exchanged(theirs).to_sklearn()
    assert type(back) is type(theirs)
    assert_same_state(back, theirs)
    assert same(back.predict(rows), theirs.predict(rows))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "three words", "regression", "poisson"])
def test_what_fastnn_has_trained(task):
    cls, parameters, y = TASKS[task]
    ours = PAIRS[cls](**{**SETTINGS, **parameters}).fit(X, y)
    theirs = ours.to_sklearn()
    assert type(theirs) is cls
    assert_same_state(theirs, ours)
    predict = "predict_proba" if cls is MLPClassifier else "predict"
    np.testing.assert_allclose(getattr(theirs, predict)(X), getattr(ours, predict)(X), rtol=1e-12, atol=1e-12)


def test_every_parameter_goes_along():
    parameters = {
        "hidden_layer_sizes": [3], "activation": "tanh", "solver": "sgd", "alpha": 0.1, "batch_size": 16,
        "learning_rate": "invscaling", "learning_rate_init": 0.01, "power_t": 0.4, "max_iter": 3, "shuffle": False,
        "random_state": 3, "tol": 1e-3, "verbose": 0, "warm_start": True, "momentum": 0.8, "nesterovs_momentum": False,
        "early_stopping": False, "validation_fraction": 0.3, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-7,
        "n_iter_no_change": 4, "max_fun": 99,
    }  # fmt: skip
    theirs = MLPClassifier(**parameters).fit(X, LABELS)
    assert set(parameters) == set(theirs.get_params())
    ours = exchanged(theirs)
    assert shared_parameters(ours) == ours.to_sklearn().get_params() == parameters
    assert ours.set_params(n_jobs=1).to_sklearn().get_params() == parameters


def test_feature_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    theirs = MLPClassifier(**SETTINGS).fit(frame, LABELS)
    ours = exchanged(theirs)
    assert ours.feature_names_in_.tolist() == ours.to_sklearn().feature_names_in_.tolist() == list("abcd")
    np.testing.assert_array_equal(ours.predict(frame), theirs.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        ours.predict(frame.rename(columns={"a": "z"}))


def test_nothing_is_shared():
    theirs, rows, _ = fitted("multiclass", random_state=np.random.RandomState(0))
    before = theirs.predict_proba(rows)
    ours = exchanged(theirs)
    back = ours.to_sklearn()
    for model in (ours, back):
        assert model.random_state is not theirs.random_state
        for array in (*model.coefs_, *model.intercepts_, model.classes_):
            array[...] = 0
        model.loss_curve_.clear()
    np.testing.assert_array_equal(theirs.predict_proba(rows), before)
    assert len(theirs.loss_curve_) == SETTINGS["max_iter"]


@pytest.mark.parametrize("task", ["binary", "three words", "multilabel", "three outputs", "early stopping"])
def test_scikit_learns_model_needs_no_fastnn(task):
    theirs, rows, _ = fitted(task)
    stored = pickle.dumps(exchanged(theirs).to_sklearn())
    assert b"fastnn" not in stored
    np.testing.assert_array_equal(pickle.loads(stored).predict(rows), theirs.predict(rows))


def test_what_scikit_learn_keeps_for_itself_is_not_loaded():
    class Loaded(SklearnExchange, BaseEstimator):
        pass

    theirs, _, _ = fitted("binary")
    loaded = Loaded()
    loaded.__setstate__(theirs.__getstate__())
    assert {name for name in vars(theirs) if not name.startswith("_")} <= set(vars(loaded))
    assert {name for name in vars(loaded) if name.startswith("_")} == {"_label_binarizer", "_no_improvement_count"}


# -- training goes on -------------------------------------------------------------------------------------------------


def assert_same_weights(ours, theirs):
    for a, b in zip([*ours.coefs_, *ours.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "three words", "regression", "three outputs"])
def test_partial_fit_goes_on_with_new_moments(task):
    theirs, rows, y = fitted(task)
    back = exchanged(theirs).to_sklearn()
    del theirs._optimizer
    for model in (back, theirs):
        model.partial_fit(rows, y).partial_fit(rows, y)
    assert_same_weights(back, theirs)
    assert len(back.loss_curve_) == SETTINGS["max_iter"] + 2
    assert back.t_ == theirs.t_


@pytest.mark.parametrize("task", ["binary", "three words", "poisson", "lbfgs, classes", "lbfgs, regression"])
def test_warm_start_goes_on(task):
    theirs, rows, y = fitted(task, warm_start=True)
    back = exchanged(theirs).to_sklearn()
    for model in (back, theirs):
        model.fit(rows, y)
    assert_same_weights(back, theirs)
    assert back.loss_ == theirs.loss_


def test_warm_start_with_early_stopping_keeps_the_best():
    theirs, rows, y = fitted("early stopping", warm_start=True)
    back = exchanged(theirs).to_sklearn()
    back.best_validation_score_ = 2.0  # more than any epoch will reach
    back.fit(rows, y)
    assert_same_weights(back, theirs)
    assert len(back.validation_scores_) > SETTINGS["max_iter"]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MLPRegressor(), LogisticRegression(), fastnn.MLPClassifier(), MLPClassifier, None])
def test_from_sklearn_takes_the_counterpart_alone(model):
    with pytest.raises(TypeError, match=r"must be a fitted sklearn.*\.MLPClassifier, got "):
        fastnn.MLPClassifier.from_sklearn(model)


def test_the_found_type_is_named():
    with pytest.raises(TypeError, match=r"MLPRegressor, got sklearn\.linear_model\._logistic\.LogisticRegression"):
        fastnn.MLPRegressor.from_sklearn(LogisticRegression())


@pytest.mark.parametrize("model", [MLPClassifier(), None])
def test_to_sklearn_takes_fastnns_estimators_alone(model):
    from fastnn.interop import to_sklearn

    with pytest.raises(TypeError, match="must be a fitted estimator of fastnn, got "):
        to_sklearn(model)


def test_what_is_not_fitted_is_refused():
    with pytest.raises(NotFittedError, match="This MLPClassifier instance is not fitted yet"):
        fastnn.MLPClassifier.from_sklearn(MLPClassifier())
    with pytest.raises(NotFittedError, match="instance is not fitted yet"):
        fastnn.MLPRegressor().to_sklearn()


# -- the patch: each in a process of its own --------------------------------------------------------------------------


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options)


def check(script, *arguments):
    done = python("-c", script, *arguments)
    assert done.returncode == 0, done.stderr


def test_patch_and_unpatch():
    """As often as one likes; without a patch there is nothing to take back, and scikit-learn finds what is there."""
    check("""
from sklearn import neural_network
from sklearn.neural_network import _multilayer_perceptron, MLPClassifier, MLPRegressor
import fastnn
fastnn.unpatch_sklearn()
assert neural_network.MLPClassifier is MLPClassifier
for _ in range(2):
    for _ in range(2):
        fastnn.patch_sklearn()
        for module in (neural_network, _multilayer_perceptron):
            assert module.MLPClassifier is fastnn.MLPClassifier
            assert module.MLPRegressor is fastnn.MLPRegressor
    for _ in range(2):
        fastnn.unpatch_sklearn()
        for module in (neural_network, _multilayer_perceptron):
            assert module.MLPClassifier is MLPClassifier
            assert module.MLPRegressor is MLPRegressor
assert MLPClassifier.__module__.startswith("sklearn")

fastnn.patch_sklearn()
from sklearn.utils.discovery import all_estimators
names = [name for name, _ in all_estimators()]
assert len(names) == len(set(names))
for kind in ("classifier", "regressor"):
    name = "MLP" + kind.capitalize()
    assert dict(all_estimators(type_filter=kind))[name] is getattr(fastnn, name)
fastnn.unpatch_sklearn()
assert names == [name for name, _ in all_estimators()]
""")


def test_exchange_while_patched():
    check("""
import pickle, warnings
import numpy as np
from sklearn.neural_network import MLPClassifier
import fastnn
from fastnn.interop import SklearnExchange, from_sklearn
warnings.simplefilter("ignore")
X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
fastnn.patch_sklearn()
theirs = MLPClassifier((3,), max_iter=2, random_state=0).fit(X, y)
ours = from_sklearn(theirs, fastnn.MLPClassifier)
assert type(ours) is fastnn.MLPClassifier
assert type(ours.to_sklearn()) is MLPClassifier
np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
try:
    pickle.dumps(theirs)
    raise AssertionError("its name leads to another class")
except pickle.PicklingError:
    fastnn.unpatch_sklearn()
assert type(pickle.loads(pickle.dumps(ours.to_sklearn()))) is MLPClassifier
""")


def test_scikit_learns_pickles_are_loaded_as_fastnns(tmp_path):
    theirs, rows, _ = fitted("three words")
    (tmp_path / "model").write_bytes(pickle.dumps(theirs))
    np.savez(tmp_path / "expected.npz", X=rows, labels=theirs.predict(rows))
    check(
        """
import pickle, sys
import numpy as np, fastnn
fastnn.patch_sklearn()
model = pickle.load(open(sys.argv[1] + "/model", "rb"))
expected = np.load(sys.argv[1] + "/expected.npz")
assert type(model) is fastnn.MLPClassifier
np.testing.assert_array_equal(model.predict(expected["X"]), expected["labels"])
""",
        str(tmp_path),
    )


# -- python -m fastnn run ---------------------------------------------------------------------------------------------


def run(*arguments, **options):
    return python("-m", "fastnn", "run", *map(str, arguments), **options)


@pytest.fixture
def script(tmp_path):
    def write(text, name="script.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("arguments", [[], ["--help"], ["bench", "-x", "--", "a b", "--epochs=0"]])
def test_a_script_finds_what_python_gives_it(script, arguments):
    path = script("""
import sys, beside
print(sys.argv, sys.path[0], __name__, sys.modules["__main__"].__dict__ is globals())
""")
    script("", name="beside.py")
    done, plain = run(path, *arguments), python(str(path), *arguments)
    assert done.stdout == plain.stdout != ""
    assert done.returncode == 0


def test_a_script_is_the_main_module_after_its_end_and_knows_its_place(script, tmp_path):
    """Its files are found when it has gone to another folder, its classes by threads and functions that come later."""
    path = script("""
import atexit, os, pickle, sys, threading
class Foo: pass
def save():
    print(len(pickle.dumps(Foo())))
def save_late():
    threading.main_thread().join()
    save()
print(sys.argv, os.path.abspath(__file__), __annotations__, __spec__)
os.chdir(os.path.dirname(os.getcwd()))
print(os.path.isfile(__file__))
atexit.register(save)
threading.Thread(target=save_late).start()
""")
    done, plain = run(path.name, cwd=tmp_path), python(path.name, cwd=tmp_path)
    assert done.stdout == plain.stdout and done.stdout.count("\n") == 4, done.stderr


def test_a_link_leads_to_the_modules_beside_the_script(script, tmp_path):
    path = script("import sys; print(sys.path[0])")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.py"
    link.symlink_to(path)
    assert run(link).stdout == python(str(link)).stdout


def test_no_folder_is_put_on_the_path_where_python_puts_none(script):
    path = script("import sys; print(sys.path[0])")
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = run(path, env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != str(path.parent)


def test_a_script_trains_with_fastnn(script):
    done = run(
        script("""
import numpy as np
from sklearn.neural_network import MLPClassifier
model = MLPClassifier((3,), max_iter=300, tol=1, random_state=0).fit(np.eye(4), [0, 0, 1, 1])
print(type(model).__module__, model.n_iter_)
""")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fastnn.estimators 12\n"


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [("sys.exit(3)", 3, ""), ("sys.exit()", 0, ""), ("sys.exit('so it ends')", 1, "so it ends\n")],
)
def test_the_script_sets_the_exit_code(script, statement, code, message):
    done = run(script(f"import sys; {statement}"))
    assert done.returncode == code
    assert done.stderr == message


def test_an_exception_ends_in_its_own_traceback(script):
    path = script("def fail():\n    return 1 / 0\n\nfail()\n")
    done, plain = run(path), python(str(path))
    assert done.returncode == plain.returncode == 1
    assert done.stderr.endswith(plain.stderr.removeprefix("Traceback (most recent call last):\n"))
    assert "During handling" not in done.stderr


@pytest.mark.parametrize("name", ["no/such/script.py", "."])
def test_a_missing_script_is_named(name):
    done = run(name, "--epochs", "3")
    assert done.returncode == 2
    assert done.stderr == f"python -m fastnn run: error: {name} is not a file; give the script to run\n"


def test_metadata_requests_go_both_ways():
    with config_context(enable_metadata_routing=True):
        theirs = MLPClassifier(max_iter=2).set_fit_request(sample_weight=True).fit([[0.0], [1.0]], [0, 1])
        ours = fastnn.MLPClassifier.from_sklearn(theirs)
        for model in (ours, ours.to_sklearn()):
            assert model.get_metadata_routing().fit.requests["sample_weight"] is True
