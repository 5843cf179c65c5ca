"""A saved model comes back as it was; a file that is damaged, hostile or newer is refused, and costs no memory."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
from pathlib import Path

import fuzz_saved
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import scipy.sparse
from helpers import DTYPES, bits
from sklearn import neural_network as sklearn_nn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import fastnn
from fastnn import saving

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SETTINGS = {"hidden_layer_sizes": (7, 5), "max_iter": 4, "random_state": 0, "learning_rate_init": 0.01}
N_MUTATIONS = 10_000 if os.environ.get("FASTNN_FULL") == "1" else 300

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
SCORES = X @ rng.normal(size=(4, 3))
LABELS = SCORES.argmax(axis=1)
WORDS = np.array(["low", "middle", "high"])[LABELS]
MODELS = {
    "integers": (fastnn.MLPClassifier, {}, LABELS),
    "small integers": (fastnn.MLPClassifier, {}, LABELS.astype(np.uint8)),
    "bools": (fastnn.MLPClassifier, {}, LABELS > 0),
    "floats": (fastnn.MLPClassifier, {}, LABELS * np.float32(2)),
    "words": (fastnn.MLPClassifier, {"activation": "tanh", "alpha": 1 / 3}, WORDS),
    "long words": (fastnn.MLPClassifier, {}, WORDS.astype("<U30")),
    "objects": (fastnn.MLPClassifier, {"solver": "sgd"}, WORDS.astype(object)),
    "one class": (fastnn.MLPClassifier, {}, np.zeros(60, int)),
    "multilabel": (fastnn.MLPClassifier, {"activation": "logistic"}, (SCORES > 0).astype(int)),
    "sparse labels": (fastnn.MLPClassifier, {}, scipy.sparse.csr_matrix((SCORES > 0).astype(int))),
    "early stopping": (fastnn.MLPClassifier, {"early_stopping": True, "n_iter_no_change": np.inf}, LABELS),
    "lbfgs": (fastnn.MLPClassifier, {"solver": "lbfgs"}, WORDS),
    "no hidden layer": (fastnn.MLPClassifier, {"hidden_layer_sizes": ()}, LABELS),
    "sizes in a list": (fastnn.MLPRegressor, {"hidden_layer_sizes": [3]}, SCORES[:, 0]),
    "sizes in an array": (fastnn.MLPRegressor, {"hidden_layer_sizes": np.array([3, 2], np.int32)}, SCORES),
    "poisson": (fastnn.MLPRegressor, {"loss": "poisson", "activation": "identity"}, np.exp(SCORES)),
}


def fitted(name, dtype="float64", **changes):
    cls, params, y = MODELS[name]
    return cls(**{**SETTINGS, **params, **changes}).fit(X.astype(dtype), y)


def reloaded(model, folder):
    path = folder / "model.safetensors"
    model.save(path)
    return fastnn.load(path)


def outputs(model):
    """Everything a model says of X, as bytes."""
    predict = getattr(model, "predict_proba", model.predict)
    said = [model.predict(X), predict(X), predict(X.astype("float32"))]
    return [(part.dtype, part.shape, (part.toarray() if hasattr(part, "toarray") else part).tobytes())
            if part.dtype != object else list(part) for part in said]  # fmt: skip


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


# -- as it was --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_an_estimator_comes_back_as_it_was(name, dtype, tmp_path):
    model = fitted(name, dtype)
    twin = reloaded(model, tmp_path)
    assert type(twin) is type(model)
    assert outputs(twin) == outputs(model)
    assert twin.score(X, MODELS[name][2]) == model.score(X, MODELS[name][2])
    ours, theirs = model.get_params(), twin.get_params()
    assert ours.keys() == theirs.keys()
    assert all(same(ours[key], theirs[key]) for key in ours)
    public = [key for key in vars(model) if key.endswith("_") and not key.startswith("_")]
    assert {"n_iter_", "loss_", "n_features_in_", "n_outputs_", "out_activation_"} <= {*public}
    for key in (*public, "_no_improvement_count"):
        if hasattr(model, key):
            assert same(getattr(model, key), getattr(twin, key)), key
    assert [w.dtype for w in twin.coefs_] == [w.dtype for w in model.coefs_]


@pytest.mark.parametrize("name", MODELS)
def test_training_goes_on_as_if_never_saved(name, tmp_path):
    model = fitted(name, warm_start=True)
    twin, y = reloaded(model, tmp_path), MODELS[name][2]
    assert outputs(clone(twin).fit(X, y)) == outputs(clone(model).fit(X, y))
    assert outputs(twin.fit(X, y)) == outputs(model.fit(X, y))
    assert getattr(twin, "loss_curve_", None) == getattr(model, "loss_curve_", None)


def test_partial_fit_begins_a_new_optimizer(tmp_path):
    model = fitted("words")
    twin = reloaded(model, tmp_path)
    assert outputs(twin.partial_fit(X, WORDS)) == outputs(model.discard_optimizer().partial_fit(X, WORDS))


def test_names_of_features(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "length in µm", "d"])
    model = fastnn.MLPClassifier(**SETTINGS).fit(frame, WORDS)
    twin = reloaded(model, tmp_path)
    assert same(twin.feature_names_in_, model.feature_names_in_)
    assert (twin.predict(frame) == model.predict(frame)).all()
    with pytest.raises(ValueError, match="feature names"):
        twin.predict(frame.rename(columns={"a": "z"}))


def test_models_of_scikit_learn(tmp_path):
    theirs = sklearn_nn.MLPClassifier(**SETTINGS).fit(X, WORDS)
    twin = reloaded(fastnn.MLPClassifier.from_sklearn(theirs), tmp_path)
    assert (twin.predict(X) == theirs.predict(X)).all()
    assert twin.loss_curve_ == theirs.loss_curve_


def test_what_was_written_to_the_weights_is_saved(tmp_path):
    model = fitted("words")
    model.coefs_[0][:] = 0
    model.activation = "logistic"
    assert outputs(reloaded(model, tmp_path)) == outputs(model)


def test_a_loaded_model_can_be_saved_and_pickled(tmp_path):
    model = fitted("words")
    twin = reloaded(reloaded(model, tmp_path), tmp_path)
    assert outputs(pickle.loads(pickle.dumps(twin))) == outputs(model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [(), ("tanh",), ("relu", "identity", "logistic")])
@pytest.mark.parametrize("output", ["identity", "logistic", "softmax", "exp"])
def test_a_network_comes_back_as_it_was(hidden, output, dtype, tmp_path):
    net = fastnn.MLP((4, *range(5, 5 + len(hidden)), 3), hidden, output, dtype, random_state=0)
    net.biases[0] = np.array([-0.0, *np.full(net.sizes[1] - 1, 1e-3)])
    twin = reloaded(net, tmp_path)
    assert repr(twin) == repr(net)
    assert bits(twin) == bits(net)
    rows = X.astype(dtype)
    assert twin.forward(rows).tobytes() == net.forward(rows).tobytes()


def test_a_network_needs_no_scikit_learn(tmp_path):
    script = (
        "import sys, fastnn; fastnn.MLP((2, 2)).save(sys.argv[1]); fastnn.load(sys.argv[1]);"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "net")], check=True, timeout=120)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_tensors_are_those_of_a_torch_sequential(tmp_path):
    model = fitted("words")
    model.save(tmp_path / "model")
    tensors = safetensors.numpy.load_file(tmp_path / "model")
    assert sorted(tensors) == [f"{index}.{kind}" for index in (0, 2, 4) for kind in ("bias", "weight")]
    for layer, (weights, biases) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        assert tensors[f"{2 * layer}.weight"].tobytes() == weights.T.tobytes()
        assert tensors[f"{2 * layer}.bias"].tobytes() == biases.tobytes()


def test_torch_takes_the_weights(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    model = fitted("words")
    model.save(tmp_path / "model")
    twin = torch.nn.Sequential(
        torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).double()
    twin.load_state_dict(load_file(tmp_path / "model"), strict=True)
    with torch.no_grad():
        probabilities = torch.softmax(twin(torch.from_numpy(X)), 1).numpy()
    np.testing.assert_allclose(probabilities, model.predict_proba(X), rtol=1e-10)


def test_the_same_model_is_the_same_bytes(tmp_path):
    fitted("words").save(tmp_path / "a")
    fastnn.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_other_new_files(umask, tmp_path):
    before = os.umask(umask)
    try:
        fastnn.MLP((2, 2)).save(tmp_path / "net")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net").stat().st_mode) == 0o666 & ~umask


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = fastnn.MLP((2, 2))
    Path("folder").mkdir()
    Path("link").symlink_to("folder/net")
    for path in ("net", Path("netz größer"), "link", "n" * 255, b"bytes"):
        net.save(path)
        assert bits(fastnn.load(path)) == bits(net)
    assert Path("link").is_symlink()
    for path in ("none/net", "folder"):
        with pytest.raises(OSError):
            net.save(path)
        with pytest.raises(OSError):
            fastnn.load(path)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files on this system")
def test_what_is_no_regular_file_stays(tmp_path):
    """Or root would replace /dev/null for all processes."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe must be a regular file, not a folder, a device or a pipe; use another"):
        fastnn.MLP((2, 2)).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(OSError, match=f"^{path} must be a regular file"):
            fastnn.load(path)


def test_a_path_with_nul():
    message = r"^path must be one that files can have, got 'a\\x00b'; use one without NUL$"
    for call in (fastnn.load, fastnn.MLP((2, 2)).save):
        with pytest.raises(ValueError, match=message):
            call("a\0b")


def test_a_file_keeps_its_permissions(tmp_path):
    path, link, net = tmp_path / "net", tmp_path / "link", fastnn.MLP((2, 2))
    link.symlink_to(path)
    net.save(path)
    for mode in (0o600, 0o440):
        path.chmod(mode)
        for name in (path, link):
            net.save(name)
            assert stat.S_IMODE(path.stat().st_mode) == mode


# -- what ends the writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(error, moment, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    path = tmp_path / "net"
    old = fastnn.MLP((2, 2))
    old.save(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, fail)
        with pytest.raises(type(error)):
            fastnn.MLP((3, 3)).save(path)
    assert bits(fastnn.load(path)) == bits(old)
    assert os.listdir(tmp_path) == ["net"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The limit of a file's size ends the writing in its middle, as a full disk does."""
    script = """if True:
        import resource, sys, fastnn
        large = fastnn.MLP((300, 300))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            large.save(sys.argv[1])
        except OSError as error:
            print(error.errno)
    """
    path = tmp_path / "net"
    old = fastnn.MLP((2, 2))
    old.save(path)
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout
    assert bits(fastnn.load(path)) == bits(old)
    assert os.listdir(tmp_path) == ["net"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_the_old_file(moment, tmp_path):
    script = (
        "import os, signal, sys, fastnn\n"
        f"os.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fastnn.MLP((3, 3)).save(sys.argv[1])"
    )
    path = tmp_path / "net"
    old = fastnn.MLP((2, 2))
    old.save(path)
    done = subprocess.run([sys.executable, "-c", script, path], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert bits(fastnn.load(path)) == bits(old)


# -- what cannot be saved ---------------------------------------------------------------------------------------------


def test_an_unfitted_model(tmp_path):
    with pytest.raises(NotFittedError):
        fastnn.MLPClassifier().save(tmp_path / "model")


class Derived(fastnn.MLPRegressor):
    pass


def replaced(model, **attributes):
    vars(model).update(attributes)
    return model


# what is wrong: (error, message, the model)
UNSAVABLE = {
    "random state": (
        TypeError, r"random_state .*pickle, got RandomState.*set_params",
        lambda: fitted("words", random_state=np.random.RandomState(0)),
    ),
    "callable": (TypeError, "alpha .*set_params", lambda: replaced(fitted("words"), alpha=len)),
    "classes": (
        TypeError, "classes_ cannot be saved.*array.*labels that are strings",
        lambda: replaced(fitted("words"), classes_=np.array([None, 1, pd.Timestamp(0)], object)),
    ),
    "classes of another kind": (
        TypeError, "classes_ cannot be saved",
        lambda: replaced(fitted("words"), classes_=np.array([1, 2, 3], "M8[s]")),
    ),
    "objects that are not strings": (
        TypeError, "classes_ cannot be saved",
        lambda: replaced(fitted("words"), classes_=np.array([1, 2, 3], object)),
    ),
    "number of classes": (
        ValueError, "classes_ cannot be 2 for 3 outputs", lambda: replaced(fitted("words"), classes_=np.array([1, 2])),
    ),
    "parameter": (ValueError, "'alpha' parameter", lambda: replaced(fitted("words"), alpha=-1.0)),
    "subclass": (
        TypeError, "not classes made from them, got .*Derived; pickle", lambda: Derived(**SETTINGS).fit(X, LABELS),
    ),
    "weights": (
        ValueError, "'2.weight' must be finite",
        lambda: replaced(fitted("words"), _coefs_=[np.ones((4, 7)), np.full((7, 5), np.nan), np.ones((5, 3))]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAVABLE)
def test_what_cannot_be_saved_is_named(name, tmp_path):
    error, message, make = UNSAVABLE[name]
    with pytest.raises(error, match=message):
        make().save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for use in (fastnn.MLP((2, 2)).save, fastnn.load):
        with pytest.raises(ImportError, match=r"pip install 'fastnn\[save\]'"):
            use(tmp_path / "net")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sound files of many kinds."""
    folder = tmp_path_factory.mktemp("files")
    fastnn.MLP((4, 5, 3), "tanh").save(folder / "net.safetensors")
    fastnn.MLP((4, 5, 6, 1), ["relu", "identity"], "logistic", "float64").save(folder / "net64.safetensors")
    for name in ("bools", "words", "objects", "multilabel", "early stopping", "sizes in an array", "poisson"):
        fitted(name, "float32" if name == "words" else "float64").save(folder / f"{name}.safetensors")
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    fastnn.MLPRegressor(**SETTINGS).fit(frame, SCORES).save(folder / "names.safetensors")
    return folder


def changed(files, path, change, name="words"):
    """A file whose configuration is changed by a function."""
    header, tensors = fuzz_saved.split((files / f"{name}.safetensors").read_bytes())
    config = json.loads(header["__metadata__"]["fastnn"])
    change(config)
    header["__metadata__"]["fastnn"] = json.dumps(config)
    path.write_bytes(fuzz_saved.joined(header, tensors))
    return path


def at(*keys, value):
    """A change that sets one value of the configuration."""

    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def test_many_sizes_allow_no_more_than_their_tensors(files, tmp_path):
    """What a file may say of tensors grows with the sizes that itself says."""
    path = changed(files, tmp_path / "net", at("sizes", value=60_000 * [1]))
    header, tensors = fuzz_saved.split(path.read_bytes())
    header["a"] = 1_000_000 * [{"a": 1}]
    path.write_bytes(fuzz_saved.joined(header, tensors))
    with pytest.raises(ValueError, match="characters of tensors, more than those of a network take"):
        fastnn.load(path)


def test_a_record_that_is_too_long(tmp_path, monkeypatch):
    """The message tells how the model can be saved all the same."""
    model = fitted("words", max_iter=100, tol=0)
    monkeypatch.setattr(saving, "MOST_TEXT", 3000)
    with pytest.raises(ValueError, match=r"^all but the weights must be at most 3000 .* `del model\.history_"):
        model.save(tmp_path / "model")
    del model.history_, model.loss_curve_
    model.save(tmp_path / "model")
    assert fastnn.load(tmp_path / "model").n_iter_ == 100


@pytest.mark.parametrize("rate", [1, np.float32(0.1), np.int64(1)])
def test_rates_that_are_no_floats(rate, tmp_path):
    class SetAgain(fastnn.Callback):
        def on_epoch_begin(self, fit):
            fit.learning_rate = rate

    told = [SetAgain(), fastnn.JSONLinesLog(tmp_path / "log")]
    model = fitted("words", learning_rate_init=rate, max_iter=2, callbacks=told)
    assert model.history_["learning_rate"] == 2 * [float(rate)]
    model.save(tmp_path / "model")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no such folder; make it first: '{tmp_path}/models'"):
        fastnn.MLP((2, 1), random_state=0).save(tmp_path / "models" / "net")


# message: the change
REFUSED = {
    "MLPClassifier has no 'callbacks'": at("parameters", "callbacks", value=None),
    "of dtype <U9999999 are more than 65536 bytes each":
        at("fitted", "classes_", value={"array": ["a", "b", "c"], "dtype": "<U9999999"}),
    "format version is 2, .* upgrade fastnn": at("format_version", value=2),
    "format version must be 1, got 0": at("format_version", value=0),
    "has no 'compression'; upgrade fastnn": at("compression", value="none"),
    "has no 'dropout'; upgrade fastnn": at("parameters", "dropout", value=0.5),
    "has no 'future_'; upgrade fastnn": at("fitted", "future_", value=[]),
    "model must be one of MLP, .* got 'Booster'": at("model", value="Booster"),
    "'alpha' parameter": at("parameters", "alpha", value="much"),
    "'max_iter' parameter": at("parameters", "max_iter", value=2.5),
    "activations must be 'tanh' for each of 2": at("activations", value=["tanh", "relu"]),
    "activations must be 'relu' for each of 2": at("parameters", "activation", value="relu"),
    "output must be one of": at("output", value="exp"),
    "output cannot be 'logistic' for multiclass": at("output", value="logistic"),
    "layers of .4, 7, 5, 4. units": at("sizes", value=[4, 7, 5, 4]),
    "layers of .4, 1000000, 1000000, 3. units": at("sizes", value=[4, 1_000_000, 1_000_000, 3]),
    "its 6 tensors are not those of 1000000 sizes": at("sizes", value=[1] * 1_000_000),
    "at most 16777216 characters": at("parameters", "hidden_layer_sizes", value=[[]] * 5_000_000),
    "sizes must be two positive integers": at("sizes", value=[4, 7.0, 5, 3]),
    "classes_ cannot be 2 for 3 outputs": at("fitted", "classes_", value={"array": [0, 1], "dtype": "<i8"}),
    "classes_ cannot be 'high'": at("fitted", "classes_", value="high"),
    "more than 67108864 bytes": at("fitted", "classes_", value={"array": ["a"] * 5000, "dtype": "<U9999"}),
    "dtype of an array cannot be": at("fitted", "classes_", value={"array": ["a"] * 3, "dtype": "|V9999999"}),
    "cannot be of .'a', 'b', 1": at("fitted", "classes_", value={"array": ["a", "b", 1], "dtype": "<U1"}),
    "classes_ must be in order": at("fitted", "classes_", value={"array": ["b", "a", "c"], "dtype": "<U1"}),
    "each once, got .'a', 'a', 'b'": at("fitted", "classes_", value={"array": ["a", "a", "b"], "dtype": "<U1"}),
    "cannot hold": at("fitted", "classes_", value={"array": ["a", "b", "long"], "dtype": "<U1"}),
    "n_iter_ cannot be -1": at("fitted", "n_iter_", value=-1),
    "loss_curve_ cannot be": at("fitted", "loss_curve_", value=[0.1, "low"]),
    "feature_names_in_ must be 4 names, got 1":
        at("fitted", "feature_names_in_", value={"array": ["a"], "dtype": "|O"}),
    "stands for no value": at("parameters", "alpha", value={"call": "os.system"}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_a_configuration_that_cannot_be_is_refused(message, files, tmp_path):
    path = changed(files, tmp_path / "changed", REFUSED[message])
    with pytest.raises(ValueError, match=message) as refusal:
        fastnn.load(path)
    assert str(path) in str(refusal.value)


def test_an_older_file_may_lack_parameters(files, tmp_path):
    path = changed(files, tmp_path / "older", lambda config: config["parameters"].pop("max_fun"))
    assert fastnn.load(path).max_fun == 15_000


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, files, tmp_path):
    tensors = safetensors.numpy.load_file(files / "net.safetensors")
    tensors["2.bias"][1] = value
    with safetensors.safe_open(files / "net.safetensors", framework="numpy") as file:
        safetensors.numpy.save_file(tensors, tmp_path / "net", file.metadata())
    with pytest.raises(ValueError, match=r"'2\.bias' must be finite"):
        fastnn.load(tmp_path / "net")


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_weights_of_another_dtype_are_refused(dtype, files, tmp_path):
    tensors = safetensors.numpy.load_file(files / "net.safetensors")
    with safetensors.safe_open(files / "net.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    for names in (tensors, ["2.bias"]):
        mixed = {name: tensor.astype(dtype) if name in names else tensor for name, tensor in tensors.items()}
        safetensors.numpy.save_file(mixed, tmp_path / "net", metadata)
        with pytest.raises(ValueError, match="all float32 or all float64"):
            fastnn.load(tmp_path / "net")


def test_files_of_others_are_refused(tmp_path):
    safetensors.numpy.save_file({"0.weight": np.ones((2, 2))}, tmp_path / "weights")
    (tmp_path / "pickle").write_bytes(pickle.dumps(fastnn.MLP((2, 2))))
    (tmp_path / "empty").touch()
    for name, message in (("weights", "fastnn did not save it"), ("pickle", "header"), ("empty", "header")):
        with pytest.raises(ValueError, match=f"{name} is not a model that can be loaded: .*{message}"):
            fastnn.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        fastnn.load(tmp_path / "missing")


@pytest.mark.parametrize("depth", [200, 900, 100_000])
@pytest.mark.parametrize("nested", [("[", "]"), ('{"a":', "}"), ('{"tuple": [', "]}")])
def test_deep_nesting_is_refused(depth, nested, files, tmp_path):
    header, tensors = fuzz_saved.split((files / "words.safetensors").read_bytes())
    deep = nested[0] * depth + "1" + nested[1] * depth
    config = json.loads(header["__metadata__"]["fastnn"])
    config["parameters"]["verbose"] = "deep"
    header["__metadata__"]["fastnn"] = json.dumps(config).replace('"deep"', deep)
    for data in (fuzz_saved.joined(header, tensors), fuzz_saved.joined(deep.encode(), b"")):
        (tmp_path / "deep").write_bytes(data)
        with pytest.raises(ValueError, match="deep is not a model"):
            fastnn.load(tmp_path / "deep")


# The header of "net" as JSON, where these are the offsets: 0.bias [0, 20], 0.weight [20, 100], 2.bias [100, 112],
# 2.weight [112, 172]. What is wrong: (what is replaced in it, by what, bytes at the end of the file).
LIES = {
    "a tensor twice":
        ('"0.bias": ', '"0.bias": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}, "0.bias": ', 0),
    "a name of two tensors":
        ('"2.bias": ', '"0.bias": {"dtype": "F32", "shape": [5], "data_offsets": [100, 120]}, "2.bias": ', 8),
    "a dtype twice": ('"dtype": "F32"', '"dtype": "F64", "dtype": "F32"', 0),
    "all metadata twice": ('"__metadata__": ', '"__metadata__": {"fastnn": "{}"}, "__metadata__": ', 0),
    "the configuration twice": ('"fastnn": ', '"fastnn": "{}", "fastnn": ', 0),
    "a field of the configuration twice": (r'\"model\": ', r'\"model\": \"MLPRegressor\", \"model\": ', 0),
    "two tensors in one place": ("[100, 112]", "[88, 100]", 0),
    "tensors that overlap": ("[20, 100]", "[16, 96]", 0),
    "a gap": ("[112, 172]", "[116, 176]", 4),
    "a gap and an overlap": ("[100, 112]", "[104, 116]", 0),
    "data of no tensor": ("{", "{", 8),
    "an end before the begin": ("[20, 100]", "[100, 20]", 0),
    "an end beyond the file": ("[112, 172]", "[112, 4294967296]", 0),
    "an end beyond 63 bits": ("[112, 172]", "[112, 9223372036854775920]", 0),
    "an end beyond 64 bits": ("[112, 172]", "[112, 18446744073709551788]", 0),
    "2 to the 64 entries": ("[5, 4]", "[4294967296, 4294967296]", 0),
    "too many entries in no bytes":
        ('[3, 5], "data_offsets": [112, 172]', '[4294967296, 4294967296], "data_offsets": [112, 112]', 0),
    "2 to the 64 bytes more": ("[5, 4]", "[4611686018427387909, 4]", 0),
    "12 exabytes": (
        '[3, 5], "data_offsets": [112, 172]',
        '[1152921504606846976, 3], "data_offsets": [112, 13835058055282163824]', 0,
    ),
    "a negative shape": ("[5, 4]", "[-5, -4]", 0),
    "other metadata before": ('"fastnn": ', '"format": "pt", "fastnn": ', 0),
    "other metadata after": ('"}, ', '", "format": "pt"}, ', 0),
    "metadata of many names": ('"}, ', '"' + 200_000 * ', "": ""' + "}, ", 0),
    "many tensors": ('"}, ', '"}, ' + 200_000 * '"": [], ', 0),
    "many numbers in the place of a shape": ('"shape": [5, 4]', '"shape": [' + 3000 * "1, " + "1]", 0),
    "many objects in the place of a shape": ('"shape": [5, 4]', '"shape": [' + 400 * '{"a": {}}, ' + "1]", 0),
    "a text of nothing, long, and many tensors":
        ('{"fastnn": "', '{"fastnn": "' + 200_000 * " " + '"}, "a": [' + 400_000 * "[]," + '[]], "b": {"c": "', 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def lying(files, tmp_path_factory):
    """A folder of files whose headers lie, by the names of the lies."""
    folder = tmp_path_factory.mktemp("lying")
    header, tensors = fuzz_saved.split((files / "net.safetensors").read_bytes())
    text = json.dumps(header)
    for name, (old, new, n_bytes) in LIES.items():
        assert old in text
        (folder / name).write_bytes(fuzz_saved.joined(text.replace(old, new, 1).encode(), tensors + bytes(n_bytes)))
    return folder


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused(name, lying):
    faults = "header|2 times; each name|format_version in its metadata must be|Expecting value"
    with pytest.raises(ValueError, match=f"{name} is not a model that can be loaded: .*({faults})"):
        fastnn.load(lying / name)


def test_a_header_longer_than_all_is_not_read(files, tmp_path):
    path = tmp_path / "net"
    path.write_bytes((2**62).to_bytes(8, "little") + (files / "net.safetensors").read_bytes()[8:])
    with pytest.raises(ValueError, match=f"its header must be at most {2**26} bytes, got {2**62}"):
        fastnn.load(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux'")
def test_a_header_that_lies_costs_no_memory(lying):
    script = """if True:
        import pathlib, resource, sys
        import fastnn, fuzz_saved, safetensors.numpy
        fuzz_saved.limit_memory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in pathlib.Path(sys.argv[1]).iterdir():
            try:
                fastnn.load(path)
            except ValueError:
                print(path.name)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 8192  # kB
    """
    folder = Path(fuzz_saved.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, lying], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(LIES)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux'")
def test_damaged_files_are_refused_or_predict(files):
    """FASTNN_FULL=1 goes through 10 000 of them; `fuzz_saved` says how they are made, and that memory is limited."""
    done = subprocess.run(
        [sys.executable, fuzz_saved.__file__, files, str(N_MUTATIONS), "0"], capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(counts)  # what the full round comes to, shown by -s
    assert sum(counts.values()) == N_MUTATIONS
    assert counts["refused"] > counts["loaded"] > N_MUTATIONS // 100


def test_the_limit_of_memory_holds(files):
    """Guards the test above."""
    script = (
        "import fuzz_saved, numpy; fuzz_saved.limit_memory()\n"
        "try: numpy.empty(2 * fuzz_saved.HEADROOM, numpy.uint8)\n"
        "except MemoryError: print('refused')"
    )
    folder = Path(fuzz_saved.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr
