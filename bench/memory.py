"""Peaks of a whole process; what remains when the import's is taken off is the job's."""

from bench.suite import DTYPES, classifier, network, rows


class Memory:
    params = (["64-64-10", "784-256-128-10"], DTYPES)
    param_names = ("net", "dtype")

    def peakmem_fit(self, net, dtype):
        classifier(net).fit(*rows(net, dtype, 10_000))

    def peakmem_predict(self, net, dtype):
        X, _ = rows(net, dtype, 10_000)
        network(net, dtype).forward(X)


def peakmem_import():
    from fastnn import MLPClassifier  # noqa: F401
