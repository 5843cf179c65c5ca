"""scikit-learn's private names lead to what they lead to in scikit-learn's own model of the same weights."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron, MLPClassifier, MLPRegressor
from sklearn_versions import SCORES_WORDS

import fastnn
from fastnn.interop import ORIGINALS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
LABELS = (X @ rng.normal(size=(3, 3))).argmax(axis=1)
SETTINGS = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0, "alpha": 0.5}
# name: (class, parameters, y, y as the network is trained on it)
TASKS = {
    "binary": (MLPClassifier, {}, LABELS > 0, (LABELS > 0)[:, None]),
    "words": (MLPClassifier, {"activation": "tanh"}, np.array(["a", "b", "c"])[LABELS], np.eye(3)[LABELS]),
    "labels": (MLPClassifier, {"activation": "logistic"}, np.eye(3, dtype=int)[LABELS], np.eye(3)[LABELS]),
    "one target": (MLPRegressor, {}, X[:, 0], X[:, :1]),
    "two targets": (MLPRegressor, {"activation": "identity"}, X[:, :2], X[:, :2]),
    "Poisson": (MLPRegressor, {"loss": "poisson"}, LABELS.astype(float), LABELS[:, None].astype(float)),
}


@pytest.fixture(params=TASKS)
def task(request):
    cls, parameters, y, targets = TASKS[request.param]
    ours = getattr(fastnn, cls.__name__)(**{**SETTINGS, **parameters}).fit(X, y)
    return ours, ours.to_sklearn(), y, targets


def buffers(model, rows):
    n = model.n_layers_ - 1
    return [rows, *n * [None]], n * [None], n * [None], n * [None]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("to_rows", [np.array, sparse.csr_array])
def test_layers_of_a_forward_pass_are_scikit_learns(task, to_rows):
    ours, theirs, _, _ = task
    rows = to_rows(X)
    activations = buffers(ours, rows)[0]
    assert ours._forward_pass(activations) is activations  # filled in place
    assert_same(activations[1:], theirs._forward_pass(buffers(theirs, rows)[0])[1:])
    for check_input in (True, False):
        outputs = ours._forward_pass_fast(rows, check_input=check_input)
        np.testing.assert_allclose(outputs, activations[-1], rtol=1e-14)
        np.testing.assert_allclose(outputs, ours._outputs(rows), rtol=1e-12)


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 40)])
def test_backpropagation_is_scikit_learns(task, weights):
    ours, theirs, _, targets = task
    mine, others = buffers(ours, X), buffers(theirs, X)
    loss, *gradients = ours._backprop(X, targets, weights, *mine)
    their_loss, *their_gradients = theirs._backprop(X, targets, weights, *others)
    np.testing.assert_allclose(loss, their_loss, rtol=1e-12)
    for one, other in zip((*mine[1:], *gradients), (*others[1:], *their_gradients), strict=True):
        assert_same(one, other)


def test_packed_gradients_of_the_kernels_are_those_of_backpropagation(task):
    ours, _, _, targets = task
    packed = np.concatenate([array.ravel() for array in (*ours.coefs_, *ours.intercepts_)])
    packed[3] += 0.1
    loss, gradient = ours._loss_grad_lbfgs(packed, X, targets)
    assert ours.coefs_[0].ravel()[3] == packed[3]  # as scikit-learn leaves them
    expected, coef_grads, intercept_grads = ours._backprop(X, targets, None, *buffers(ours, X))
    if ours.n_outputs_ == 1 or ours.out_activation_ != "identity":  # scikit-learn's gradient of several is n times that
        np.testing.assert_allclose(loss, expected, rtol=1e-10)
    for (start, end, shape), of_layer in zip(ours._coef_indptr, coef_grads, strict=True):
        np.testing.assert_allclose(gradient[start:end].reshape(shape), of_layer, rtol=1e-9, atol=1e-12)
    for (start, end), of_layer in zip(ours._intercept_indptr, intercept_grads, strict=True):
        np.testing.assert_allclose(gradient[start:end], of_layer, rtol=1e-9, atol=1e-12)


def test_packed_parameters_go_where_scikit_learn_has_them(task):
    ours, _, y, _ = task
    theirs = ORIGINALS[type(ours).__name__](**{**SETTINGS, "solver": "lbfgs"}).fit(X, y)
    assert ours._coef_indptr == theirs._coef_indptr
    assert ours._intercept_indptr == theirs._intercept_indptr
    packed = rng.normal(size=ours._intercept_indptr[-1][1])
    ours._unpack(packed)
    theirs._unpack(packed)
    assert_same(ours.coefs_, theirs.coefs_)
    assert_same(ours.intercepts_, theirs.intercepts_)
    np.testing.assert_allclose(ours._forward_pass_fast(X), ours._outputs(X), rtol=1e-10)


def test_predictions_and_scores_are_scikit_learns(task):
    ours, theirs, y, _ = task
    for check_input in (True, False):
        predicted = ours._predict(X, check_input=check_input)
        np.testing.assert_array_equal(predicted, theirs._predict(X, check_input=check_input))
        assert predicted.shape == ours.predict(X).shape
    if y.dtype.kind == "U" and not SCORES_WORDS:
        return
    for weights in (None, np.arange(40.0)):
        np.testing.assert_allclose(ours._score(X, y, weights), theirs._score(X, y, weights), rtol=1e-12)


def test_score_of_outputs_that_are_not_finite_is_nan():
    model = fastnn.MLPRegressor(**SETTINGS).fit(X, LABELS)
    model.intercepts_[-1][:] = np.inf
    assert np.isnan(model._score(X, LABELS))


def test_generator_is_that_of_the_last_fit_and_not_in_pickles():
    generator = np.random.RandomState(0)
    model = fastnn.MLPRegressor(**{**SETTINGS, "random_state": generator}).fit(X, LABELS)
    assert model._random_state is generator
    assert not hasattr(pickle.loads(pickle.dumps(model)), "_random_state")
    seeded = fastnn.MLPRegressor(**SETTINGS).fit(X, LABELS)
    theirs = MLPRegressor(**SETTINGS).fit(X, LABELS)
    assert seeded._random_state.randint(1 << 30) == theirs._random_state.randint(1 << 30)


def test_best_weights_are_there_after_early_stopping_alone():
    model = fastnn.MLPClassifier(**SETTINGS, early_stopping=True).fit(X, LABELS)
    assert model._best_coefs is model.coefs_
    assert model._best_intercepts is model.intercepts_
    model.set_params(early_stopping=False).fit(X, LABELS)
    assert not hasattr(model, "_best_coefs")
    assert not hasattr(model, "_best_intercepts")
    assert not hasattr(fastnn.MLPClassifier(), "_best_coefs")


def test_what_is_assigned_is_there_until_the_next_fit():
    model = fastnn.MLPClassifier(**SETTINGS).fit(X, LABELS)
    indptr = model._coef_indptr
    for name in ("_best_coefs", "_best_intercepts", "_coef_indptr", "_intercept_indptr"):
        setattr(model, name, [1])
        assert getattr(model, name) == [1]
    model.fit(X, LABELS)
    assert model._coef_indptr == indptr
    assert not hasattr(model, "_best_coefs")


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_all_that_scikit_learns_model_has_can_be_written_into_ours(solver, early_stopping):
    settings = {**SETTINGS, "solver": solver, "early_stopping": early_stopping}
    theirs = MLPClassifier(**settings).fit(X, LABELS)
    ours = fastnn.MLPClassifier(**settings)
    for name, value in vars(theirs).items():
        setattr(ours, name, value)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))
    if solver != "lbfgs":
        again.set_params(early_stopping=False).partial_fit(X, LABELS)
        ours.set_params(early_stopping=False).partial_fit(X, LABELS)
    assert np.isfinite(ours.predict_proba(X)).all()


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_optimizer_of_a_loaded_model_is_there_and_goes_on(solver):
    model = fastnn.MLPRegressor(**{**SETTINGS, "solver": solver, "learning_rate": "invscaling"}).fit(X, LABELS)
    again, unasked = (pickle.loads(pickle.dumps(model)) for _ in range(2))
    assert again._optimizer.learning_rate == model._optimizer.learning_rate
    for each in (model, again, unasked):
        each.partial_fit(X, LABELS)
    assert (again.predict(X) == model.predict(X)).all() and (unasked.predict(X) == model.predict(X)).all()
    assert not hasattr(model.discard_optimizer(), "_optimizer")
    assert not hasattr(fastnn.MLPRegressor(), "_optimizer")


@pytest.mark.parametrize("cls", [fastnn.MLPClassifier, fastnn.MLPRegressor])
def test_instances_are_multilayer_perceptrons_of_scikit_learn(cls):
    assert isinstance(cls(), BaseMultilayerPerceptron)
    assert not isinstance(cls(), MLPClassifier | MLPRegressor)


@pytest.mark.parametrize("name", ["_backprop", "_init_coef", "_predict", "_update_no_improvement_count"])
def test_class_that_overrides_what_training_does_not_call_is_refused(name):
    cls = type("Changed", (fastnn.MLPRegressor,), {name: lambda self, *_: None})
    with pytest.raises(TypeError, match=f"Changed overrides {name}, which .* scikit-learn's own class"):
        cls().fit(X, LABELS)
    with pytest.raises(TypeError, match=name):
        type("Derived", (cls,), {})().fit(X, LABELS)


def test_method_that_is_overridden_later_is_refused(monkeypatch):
    def ignored(*args):
        return None

    cls = type("Changed", (fastnn.MLPRegressor,), {})
    cls(**SETTINGS).fit(X, LABELS)._backprop = ignored
    model = cls(**SETTINGS)
    model._backprop = ignored
    with pytest.raises(TypeError, match="Changed overrides _backprop"):
        model.fit(X, LABELS)
    monkeypatch.setattr(fastnn.MLPRegressor, "_forward_pass", ignored)
    with pytest.raises(TypeError, match="Changed overrides _forward_pass"):
        cls().partial_fit(X, LABELS)


def test_class_with_its_own_loop_over_private_methods_trains_as_from_scikit_learn():
    def steps(self, X, y, sample_weight=None, incremental=False):
        super(type(self), self)._fit(X, y, sample_weight, incremental)
        for _ in range(3):
            _, coef_grads, _ = self._backprop(X, y[:, None], sample_weight, *buffers(self, X))
            for coefs, gradients in zip(self.coefs_, coef_grads, strict=True):
                coefs -= 0.1 * gradients
        return self

    ours, theirs = (
        type("Stepping", (cls,), {"_fit": steps})(**SETTINGS).fit(X, LABELS)
        for cls in (fastnn.MLPRegressor, MLPRegressor)
    )
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
