"""Rows in a file, as `numpy.memmap`, are read where they lie: never written, and never copied whole."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import DTYPES, bits

import fastnn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_the_same_as_from_memory(mode, dtype, tmp_path):
    X, y = np.random.default_rng(0).normal(size=(300, 20)).astype(dtype), np.arange(300) % 3
    path = tmp_path / "X"
    X.tofile(path)
    mapped = np.memmap(path, dtype, mode, shape=X.shape)

    nets = [fastnn.MLP((20, 9, 3), dtype=dtype, random_state=0) for _ in range(2)]
    models = [fastnn.MLPClassifier((9,), max_iter=3, random_state=0) for _ in range(2)]
    for net, model, rows in zip(nets, models, (X, mapped), strict=True):
        net.train_epoch(rows, y, fastnn.Adam(), 32, np.arange(300)[::-1])
        model.fit(rows, y)
    assert bits(nets[0]) == bits(nets[1])
    assert nets[0].forward(X).tobytes() == nets[1].forward(mapped).tobytes()
    assert models[0].predict_proba(X).tobytes() == models[1].predict_proba(mapped).tobytes()
    assert path.read_bytes() == X.tobytes()


# The limit is set when everything is imported, compiled and started.
SCRIPT = """if True:
    import re, resource, sys, warnings
    import numpy as np
    import fastnn

    ROOM, COLUMNS = 2**25, 1024
    warnings.simplefilter("ignore")

    def network(X, y):
        net = fastnn.MLP((COLUMNS, 8, 3))
        net.train_epoch(X, y, fastnn.Adam(), 128, np.arange(len(X))[::-1])
        net.loss_and_gradients(X, y)
        net.forward(X)

    def classifier(X, y):
        model = fastnn.MLPClassifier((8,), max_iter=2).fit(X, y)
        model.predict(X), model.predict_proba(X), model.score(X, y), model.predict(np.asarray(X))
        model.partial_fit(X, y)

    def early_stopping(X, y):
        fastnn.MLPClassifier((8,), max_iter=2, early_stopping=True).fit(X, y)

    def regressor(X, y):
        fastnn.MLPRegressor(hidden_layer_sizes=(8,), max_iter=2).fit(X, y / 2).score(X, y / 2)

    def diverging(X, y):
        try:
            fastnn.MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", learning_rate_init=1e30).fit(X, y / 2)
        except ValueError as error:
            assert "Likely causes: the learning rate is 1e+30" in str(error), error

    def copy(X, y):
        try:
            np.array(X[: len(X) // 4])
        except MemoryError:
            print("no room for a copy")

    X = np.memmap(sys.argv[1], np.float32, "r", shape=(8 * ROOM // (4 * COLUMNS), COLUMNS))
    y, use = np.arange(len(X)) % 3, globals()[sys.argv[2]]
    use(np.array(X[:4096]), y[:4096])
    private = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    resource.setrlimit(resource.RLIMIT_DATA, (private + ROOM,) * 2)
    assert X.nbytes == 8 * ROOM
    use(X, y)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """256 MB, most of them a hole in the file."""
    path = tmp_path_factory.mktemp("large") / "X"
    X = np.memmap(path, np.float32, "w+", shape=(2**16, 1024))
    X[::4096] = np.random.default_rng(0).normal(size=(16, 1024))
    del X
    yield path
    path.unlink()


def run(path, use):
    return subprocess.run([sys.executable, "-c", SCRIPT, path, use], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux'")
@pytest.mark.parametrize("use", ["network", "classifier", "early_stopping", "regressor", "diverging"])
def test_rows_are_not_copied(use, large):
    """The file is four times as large as all the memory there is to take, and more.

    The limit is RLIMIT_DATA, of private memory: the pages of a file that is mapped to be read are not private, a copy
    of them is. RLIMIT_AS would count the mapping itself, and no file could be larger than what it leaves.
    """
    done = run(large, use)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux'")
def test_there_is_no_room_for_a_copy(large):
    """Not of a quarter of the file either, with what malloc has free within the limit. Guards the test above."""
    assert run(large, "copy").stdout == "no room for a copy\n"
