"""What the documentation promises and no single result shows: determinism, memory, purity of dtype, threads, forks."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numba
import numpy as np
import pytest
from helpers import DTYPES, bits, problem, watch_calls

import fastnn
from fastnn import model, parallel
from fastnn.kernels import activations, elementary, losses, optimizers

# (sizes, activation, output, rows, batch size): narrow and wide, odd batches, more rows than a workspace holds.
NETS = {
    "tiny": ((2, 4, 1), "logistic", "logistic", 333, 33),
    "narrow": ((20, 30, 5), "relu", "softmax", 2001, 1201),
    "narrow, full batch": ((6, 9, 2), "tanh", "identity", 15_500, 15_500),
    "linear": ((30, 7), "identity", "exp", 500, 77),
    "wide": ((130, 97, 64, 10), "tanh", "softmax", 700, 129),
    "wide, full batch": ((130, 97, 10), "relu", "identity", 2500, 2500),
}
NETS_BY_DTYPE = [(name, dtype) for name in NETS for dtype in DTYPES]


def trained(name, dtype, n_threads):
    """Bits of the parameters and the losses after an epoch of each optimizer, and of the outputs."""
    sizes, activation, output, n, batch_size = NETS[name]
    net, X, T = problem(sizes, n, activation, output, dtype)
    weight = (np.arange(n) % 3).astype(dtype)
    with fastnn.threads(n_threads):
        losses = [net.train_epoch(X, T, fastnn.Adam(0.01), batch_size, np.arange(n)[::-1], 0.1, weight)]
        losses.append(net.train_epoch(X, T, fastnn.SGD(0.01), batch_size))
        loss, dw, db = net.loss_and_gradients(X, T, weight, 0.1)
        outputs = net.forward(X)
    return bits(net), [*losses, loss], [g.tobytes() for g in [*dw, *db]], outputs.tobytes()


@pytest.fixture
def parallel_always(monkeypatch):
    """Small networks on as many threads as allowed."""
    monkeypatch.setattr(model, "FLOPS_PER_THREAD", 1e-9)


@pytest.mark.parametrize(("name", "dtype"), NETS_BY_DTYPE)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, parallel_always):
    serial = trained(name, dtype, 1)
    for n_threads in (2, 3, 7):
        assert trained(name, dtype, n_threads) == serial


def threads_asked_for(monkeypatch, entry):
    """The list of how many threads each call of an entry point asks for, which grows call by call."""
    asked = []

    def watch(code, crew, arguments):
        asked.append(arguments[0])
        code(crew, arguments)

    watch_calls(monkeypatch, entry, watch)
    return asked


def test_threads_are_used(parallel_always, monkeypatch):
    """Guards the test above: a team is what runs there."""
    asked = threads_asked_for(monkeypatch, model.epoch)
    trained("tiny", "float64", 1)
    assert set(asked) == {1}
    asked.clear()
    trained("tiny", "float64", 2)
    assert set(asked) == {2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_prediction_just_too_long_for_one_thread_takes_two(goes_on, dtype, monkeypatch):
    """It may be longer if it is not one of a run of calls."""
    monkeypatch.setattr(parallel.Run, "goes_on", lambda run: goes_on)
    asked = threads_asked_for(monkeypatch, model.forward)
    net = fastnn.MLP((64, 64, 10), dtype=dtype, random_state=0)
    flops = 2_000_000 if goes_on else 6_000_000
    most = flops // (2 * (64 * 64 + 64 * 10) * net.dtype.itemsize // 4)
    with fastnn.threads(8):
        for n in (most, most + 1):
            net.forward(np.zeros((n, 64), dtype))
    assert asked == [1, 2 if goes_on else 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_call_gives_the_same_bits_again(dtype):
    assert trained("wide", dtype, 2) == trained("wide", dtype, 2)


def test_number_of_threads():
    before = fastnn.get_num_threads()
    with fastnn.threads(5):
        assert fastnn.get_num_threads() == 5
        with fastnn.threads(1):
            assert fastnn.get_num_threads() == 1
        assert fastnn.get_num_threads() == 5
    assert fastnn.get_num_threads() == before
    seen = []
    with fastnn.threads(5):
        other = threading.Thread(target=lambda: seen.append(fastnn.get_num_threads()))
        other.start()
        other.join()
    assert seen == [before]  # `threads` is for the Python thread that enters it


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_python_threads_train_at_once(name, parallel_always):
    """Each its own network, and together one network's forward."""
    alone = [trained(name, dtype, 2) for dtype in DTYPES]
    together = {}

    def train(dtype):
        together[dtype] = trained(name, dtype, 2)

    workers = [threading.Thread(target=train, args=[dtype]) for dtype in DTYPES]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [together[dtype] for dtype in DTYPES] == alone


def test_python_threads_share_one_network():
    net, X, _ = problem((130, 97, 10), 700)
    expected, found = net.forward(X).tobytes(), []

    def predict():
        for _ in range(20):
            found.append(net.forward(X).tobytes())

    workers = [threading.Thread(target=predict) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 60
    assert set(found) == {expected}


# -- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sizes", [(20, 30, 5), (130, 97, 10)], ids=["narrow", "wide"])
def test_training_allocates_nothing_in_the_long_run(sizes, n_threads, parallel_always):
    net, X, T = problem(sizes, 3000, dtype="float32")
    optimizer, order = fastnn.Adam(), np.arange(3000)
    with fastnn.threads(n_threads):
        for _ in range(3):
            net.train_epoch(X, T, optimizer, 100, order)
        gc.collect()
        tracemalloc.start()
        try:
            net.train_epoch(X, T, optimizer, 100, order)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(20):
                net.train_epoch(X, T, optimizer, 100, order)
            _, peak = tracemalloc.get_traced_memory()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 2_000  # what tracemalloc and the garbage collector themselves leave
    assert peak - before < 40_000


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sizes", [(20, 30, 5), (130, 97, 10)], ids=["narrow", "wide"])
def test_prediction_into_an_array_needs_no_memory_however_many_rows(sizes, n_threads, parallel_always):
    net = fastnn.MLP(sizes, random_state=0)
    with fastnn.threads(n_threads):
        for n in (1_000, 20_000):
            X, out = np.ones((n, sizes[0]), np.float32), np.empty((n, sizes[-1]), np.float32)
            net.forward(X[:1000], out[:1000])
            gc.collect()
            tracemalloc.start()
            try:
                net.forward(X, out)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 10_000  # arguments and views


def run_script(script, *arguments, **environment):
    """Run a script in a process of its own; return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak is reset by way of Linux' /proc")
def test_peak_memory_of_an_epoch():
    """60 000 rows of 784 stay under 1.1 times the data and 50 MB.

    Counted from what the process holds resident after it has imported everything and trained another network on a
    few rows, which loads or compiles the kernels, and before it makes the data. One count of the data is the data.
    """
    script = """
        import re
        import numpy as np
        import fastnn

        def status(field):
            return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

        few = np.ones((300, 784), np.float32), np.zeros(300, int)
        fastnn.MLP((784, 100, 10)).train_epoch(*few, fastnn.Adam())
        baseline = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
        X, y = np.ones((60_000, 784), np.float32), np.zeros(60_000, int)
        net = fastnn.MLP((784, 100, 10))
        net.train_epoch(X, y, fastnn.Adam(), 128, np.arange(60_000))
        print(status("VmHWM") - baseline, X.nbytes)
    """
    peak, data = map(int, run_script(script).split())
    assert data < peak < 1.1 * data + 50e6


# -- dtype --------------------------------------------------------------------------------------------------------

ELEMENTARY = ("exp", "expm1", "log", "log1p", "tanh", "logistic")


def elementwise(function):
    def loop(x):
        for i in range(x.size):
            x[i] = function(x[i])

    return loop, 1


FUNCTIONS = {
    **{name: elementwise(getattr(elementary, name)) for name in ELEMENTARY},
    "activation_forward": (lambda z: [activations.activation_forward(code, z) for code in range(4)], 1),
    "activation_backward": (lambda dz, a: [activations.activation_backward(code, dz, a) for code in range(4)], 2),
    "output_forward": (lambda z, w: [losses.output_forward(code, z, 1, w) for code in range(4)], 2),
    "loss_backward": (lambda z, t, s, e, w: [losses.loss_backward(code, z, t, s, e, w, s[0]) for code in range(4)], 5),
    "sgd_update": (lambda w, g, m, c: optimizers.sgd_update(w, g, m, c), 4),
    "adam_update": (lambda w, g, m, v, c: optimizers.adam_update(w, g, m, v, c), 5),
}


def conversions(function, n_arrays, real):
    """Whether the compiled function converts between float32 and float64."""
    vector = numba.types.Array(real, 1, "C")
    compiled = numba.njit((vector,) * n_arrays, error_model="numpy")(function)
    return any(word in compiled.inspect_llvm(compiled.signatures[0]) for word in (" fpext ", " fptrunc "))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_computed_in_float32(name):
    assert not conversions(*FUNCTIONS[name], numba.float32)


def test_conversions_are_found():
    """Guards the test above."""

    def widen(x):
        for i in range(x.size):
            x[i] = x[i] * 0.1

    assert conversions(widen, 1, numba.float32)
    assert not conversions(widen, 1, numba.float64)


# -- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_trains():
    script = """
        import os, signal
        import numpy as np
        import fastnn
        from fastnn import model, parallel

        model.FLOPS_PER_THREAD = 1e-9
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(500, 20)).astype("float32"), rng.integers(0, 5, 500)

        def train():
            net = fastnn.MLP((20, 100, 5), random_state=0)
            with fastnn.threads(2):
                net.train_epoch(X, y, fastnn.Adam(), 100)
            return net.weights[0].tobytes()

        expected = train()
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that hangs dies
            os._exit(0 if train() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0, "the child"
        assert train() == expected, "the parent, afterwards"
    """
    run_script(script, PYTHONWARNINGS="ignore::DeprecationWarning")
