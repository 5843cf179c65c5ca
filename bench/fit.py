"""Training: how long a fit takes, how near an epoch comes to the machine's limit, and whether it still learns."""

import itertools
import time

import numpy as np

from bench.peak import peak_gflops
from bench.suite import DTYPES, NETS, THREADS, BestOf, classifier, network, rows

ROWS = {"2-4-1": 20_000, "64-64-10": 10_000, "784-256-128-10": 1_000}


class Fit(BestOf):
    """Three epochs of the classifier, some ten milliseconds."""

    params = (list(ROWS), DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")

    def setup(self, net, dtype, threads):
        self.X, self.y = rows(net, dtype, ROWS[net])
        self.model = classifier(net, threads, epochs=3)
        self.model.fit(self.X, self.y)

    def time_fit(self, net, dtype, threads):
        self.best(lambda: self.model.fit(self.X, self.y))


class SmallFit(BestOf):
    """Twenty rows, one epoch: what the estimator does around its epochs."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        self.X, self.y = rows("2-4-1", dtype, 20)
        self.model = classifier("2-4-1").set_params(batch_size=20)  # a larger one is warned of, each time
        self.model.fit(self.X, self.y)

    def time_fit(self, dtype):
        self.best(lambda: self.model.fit(self.X, self.y))


class ShareOfPeak:
    """The time of an epoch over that of its products at the micro-kernel's peak: 1.25 is 80 % of the peak.

    The share the other way up, because asv takes what is smaller for the better.
    """

    params = (["64-64-10", "784-256-128-10"], DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")
    unit = "times the limit"
    n_rows = 5_120

    def setup(self, net, dtype, threads):
        import fastnn

        X, y = rows(net, dtype, self.n_rows)
        model, order = network(net, dtype, threads), np.random.default_rng(0).permutation(self.n_rows)
        self.train = lambda: model.train_epoch(X, y, fastnn.Adam(), 128, order)
        self.train()

    def track_epoch_over_limit(self, net, dtype, threads):
        peaks, times = [], []
        for _ in range(15):  # next to each other, so that both see the machine in the same states
            peaks.append(peak_gflops(dtype, threads))
            start = time.perf_counter()
            self.train()
            times.append(time.perf_counter() - start)
        return round(min(times) * max(peaks) * 1e9 / _flops(NETS[net], self.n_rows), 3)


def _flops(sizes, n_rows):
    products = sum(i * o for i, o in itertools.pairwise(sizes))
    return 2 * n_rows * (3 * products - sizes[0] * sizes[1])


class Loss:
    """Guards against 'faster but wrong': the same bits are expected from one commit to the next on one machine."""

    params = (["64-64-10"], DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")
    unit = "loss"

    def track_loss_after_n_steps(self, net, dtype, threads):
        return classifier(net, threads, epochs=20).fit(*rows(net, dtype, 1_000)).loss_
