"""Prediction: one row, where latency counts, and a thousand, where throughput does."""

import numpy as np

NETS = {"64-64-10": (64, 64, 10), "784-256-128-10": (784, 256, 128, 10)}
# One row takes a microsecond or so, less than a clock is good for.
CALLS = {1: 1_000, 1_000: 5}


class Forward:
    params = (list(NETS), list(CALLS), [1, 2])
    param_names = ("net", "rows", "threads")
    number, rounds, repeat, min_run_count = 1, 2, (5, 50, 2.0), 5

    def setup(self, net, rows, threads):
        import fastnn

        fastnn.set_num_threads(threads)
        self.model = fastnn.MLP(NETS[net], random_state=0)
        self.X = np.random.default_rng(0).standard_normal((rows, NETS[net][0]), "float32")
        self.out = self.model.forward(self.X)

    def time_forward(self, net, rows, threads):
        for _ in range(CALLS[rows]):
            self.model.forward(self.X, self.out)
