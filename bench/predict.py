"""Prediction: ten thousand rows, where throughput counts, and one row, where latency does."""

import numpy as np

from bench.suite import DTYPES, NETS, THREADS, BestOf, classifier, network, rows

CALLS = 100  # of one row, in one timing: some microseconds each


class Predict(BestOf):
    params = (list(NETS), DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")
    n_rows = 10_000

    def setup(self, net, dtype, threads):
        self.X, y = rows(net, dtype, self.n_rows)
        self.classifier = classifier(net, threads).fit(self.X[:200], y[:200])
        self.network = network(net, dtype, threads)
        self.out = self.network.forward(self.X)
        self.classifier.predict(self.X)

    def time_predict(self, net, dtype, threads):
        self.best(lambda: self.classifier.predict(self.X))

    def time_forward(self, net, dtype, threads):
        self.best(lambda: self.network.forward(self.X, self.out))


class Latency(Predict):
    params = (list(NETS), DTYPES)
    param_names = ("net", "dtype")
    n_rows = 200

    def setup(self, net, dtype):
        super().setup(net, dtype, 1)
        self.row, self.out = self.X[:1], np.empty_like(self.out[:1])
        self.classifier.predict(self.row)

    def time_predict(self, net, dtype):
        self.best(lambda: self.repeated(self.classifier.predict, self.row))

    def time_forward(self, net, dtype):
        self.best(lambda: self.repeated(self.network.forward, self.row, self.out))

    @staticmethod
    def repeated(predict, *arguments):
        for _ in range(CALLS):
            predict(*arguments)
