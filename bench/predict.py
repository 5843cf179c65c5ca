"""Prediction: ten thousand rows, where throughput counts, and one row, where latency does."""

from bench.suite import DTYPES, NETS, THREADS, BestOf, classifier, network, rows

CALLS = 100  # of one row, in one timing: some microseconds each


class Predict(BestOf):
    params = (["2-4-1", "64-64-10", "784-256-128-10"], DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")

    def setup(self, net, dtype, threads):
        self.X, y = rows(net, dtype, 10_000)
        self.model = classifier(net, threads).fit(self.X[:200], y[:200])
        self.model.predict(self.X)

    def time_predict(self, net, dtype, threads):
        self.best(lambda: self.model.predict(self.X))


class Latency(BestOf):
    """One row, by the estimator and by the network under it."""

    params = (list(NETS), DTYPES, THREADS)
    param_names = ("net", "dtype", "threads")

    def setup(self, net, dtype, threads):
        X, y = rows(net, dtype, 128)
        self.row = X[:1]
        self.model, self.network = classifier(net, threads).fit(X, y), network(net, dtype, threads)
        self.out = self.network.forward(self.row)
        self.model.predict(self.row)

    def time_predict(self, net, dtype, threads):
        self.best(lambda: self.repeated(self.model.predict, self.row))

    def time_forward(self, net, dtype, threads):
        self.best(lambda: self.repeated(self.network.forward, self.row, self.out))

    @staticmethod
    def repeated(predict, *arguments):
        for _ in range(CALLS):
            predict(*arguments)
