"""Peaks of a whole process; what remains when that of its import is taken off is the job's."""

import subprocess
import sys

from bench.suite import DTYPES, classifier, network, rows


class Memory:
    params = (["64-64-10", "784-256-128-10"], DTYPES)
    param_names = ("net", "dtype")

    def setup(self, net, dtype):
        """Leave kernels on disk, by a process of its own: the compiler's memory would be the peak."""
        command = [sys.executable, "-m", "fastnn", "warmup", "--dtype", dtype]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    def peakmem_classifier_fit(self, net, dtype):
        classifier(net).fit(*rows(net, dtype, 10_000))

    def peakmem_network_forward(self, net, dtype):
        X, _ = rows(net, dtype, 10_000)
        network(net, dtype).forward(X)


def peakmem_import_classifier():
    from fastnn import MLPClassifier  # noqa: F401


def peakmem_import_network():
    from fastnn import MLP  # noqa: F401
