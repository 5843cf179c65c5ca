"""What the airspeed velocity suites share: the networks, rows to learn, and how a call is timed."""

import math
import time
import warnings

import numpy as np

NETS = {
    "2-4-1": (2, 4, 1), "64-64-10": (64, 64, 10), "784-256-128-10": (784, 256, 128, 10),
    "784-1024-1024-10": (784, 1024, 1024, 10),
}  # fmt: skip
DTYPES = ["float32", "float64"]
THREADS = [1, 2]


class BestOf:
    """Each of asv's samples is the best of a burst of calls; asv takes the median of samples from several processes.

    What disturbs a machine slows a call and never speeds it up, so the best is what comes back from run to run. asv
    asks `timer` before and after a sample; here that clock goes forward by the best call alone.
    """

    rounds, repeat, number, warmup_time = 5, 3, 1, 0
    burst = 0.15  # seconds
    clock = 0.0

    def timer(self):
        return self.clock

    def best(self, call):
        best, end = math.inf, time.perf_counter() + self.burst
        while (start := time.perf_counter()) < end:
            call()
            best = min(best, time.perf_counter() - start)
        self.clock += best


def rows(net, dtype, n_rows):
    """Return random rows, and classes of them that can be learnt."""
    n_in, *_, n_out = NETS[net]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_in), dtype)
    return X, (X @ rng.standard_normal((n_in, max(2, n_out)), dtype)).argmax(axis=1)


def network(net, dtype, threads=1):
    import fastnn

    fastnn.set_num_threads(threads)
    output = "softmax" if NETS[net][-1] > 1 else "logistic"
    return fastnn.MLP(NETS[net], output=output, dtype=dtype, random_state=0)


def classifier(net, threads=1, epochs=1):
    """Return an estimator that does not warn of epochs that are too few, as they are on purpose."""
    import fastnn

    warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
    fastnn.set_num_threads(threads)
    return fastnn.MLPClassifier(NETS[net][1:-1], batch_size=128, max_iter=epochs, random_state=0)
