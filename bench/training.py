"""Training: the time of an epoch, how near it comes to the machine's limit, and whether it still learns."""

import itertools
import time

import numpy as np

from bench.peak import peak_gflops

NETS = {"2-4-1": (2, 4, 1), "64-64-10": (64, 64, 10), "784-256-128-10": (784, 256, 128, 10)}


class Job:
    """A network on random rows whose classes can be learnt; its kernels are ready before anything is timed."""

    def __init__(self, sizes, batch, n_rows, n_threads=1, dtype="float32"):
        import fastnn

        fastnn.set_num_threads(n_threads)
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((n_rows, sizes[0]), dtype)
        score = self.X @ rng.standard_normal((sizes[0], max(2, sizes[-1])), dtype)
        self.y = score.argmax(axis=1)
        self.order, self.batch = rng.permutation(n_rows), batch
        self.model = fastnn.MLP(
            sizes, output="softmax" if sizes[-1] > 1 else "logistic", dtype=dtype, random_state=0
        )
        self.optimizer = fastnn.Adam()

    def train(self):
        return self.model.train_epoch(self.X, self.y, self.optimizer, self.batch, self.order)


class Epoch:
    params = (list(NETS), [32, 256], [1, 2])
    param_names = ("net", "batch", "threads")
    # `setup` makes asv time single calls; so one epoch lasts milliseconds, and there are many.
    number, rounds, repeat, min_run_count = 1, 2, (5, 50, 2.0), 5

    def setup(self, net, batch, threads):
        self.job = Job(NETS[net], batch, 20_480 if net != "784-256-128-10" else 5_120, threads)
        self.job.train()

    def time_train_epoch(self, net, batch, threads):
        self.job.train()


class PercentOfPeak:
    params = (["64-64-10", "784-256-128-10"], ["float32", "float64"])
    param_names = ("net", "dtype")
    unit = "%"

    def setup(self, net, dtype):
        self.job = Job(NETS[net], 128, 5_120, 2, dtype)
        self.job.train()

    def track_percent_of_peak(self, net, dtype):
        shares = []
        for _ in range(7):  # next to each other, so that both see the machine in the same state
            peak = peak_gflops(dtype, 2)
            start = time.perf_counter()
            self.job.train()
            shares.append(_flops(NETS[net], len(self.job.X)) / (time.perf_counter() - start) / 1e9 / peak)
        return 100 * float(np.median(shares))


def _flops(sizes, n_rows):
    products = sum(i * o for i, o in itertools.pairwise(sizes))
    return 2 * n_rows * (3 * products - sizes[0] * sizes[1])


class Loss:
    """Guards against 'faster but wrong': the same bits are expected from one commit to the next on one machine."""

    params = (["float32", "float64"], [1, 2])
    param_names = ("dtype", "threads")
    unit = "loss"

    def track_loss_after_n_steps(self, dtype, threads):
        job = Job((20, 50, 30, 4), 100, 1_000, threads, dtype)
        return [job.train() for _ in range(20)][-1]


class Memory:
    """Peaks of a whole process; what remains when the import's is taken off is training's."""

    def peakmem_import(self):
        import fastnn.model  # noqa: F401

    def peakmem_train(self):
        job = Job((784, 256, 128, 10), 128, 5_120)
        job.train()
