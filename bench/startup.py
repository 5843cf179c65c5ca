"""What a new process waits for: import, compilation, the first fit."""

import os
import subprocess
import sys
import tempfile

from bench.suite import DTYPES

FIRST_FIT = """
import numpy, fastnn
X, y = numpy.zeros((10, 2), "float32"), numpy.arange(10) % 2
fastnn.MLPClassifier((4,), n_iter_no_change=1, tol=9).fit(X, y)
"""

EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""

# Two threads share the batches, so that what they need is compiled too.
FIRST_EPOCH = """
import time, numpy, fastnn
fastnn.set_num_threads(2)
X, y = numpy.zeros((3000, 64), "{dtype}"), numpy.arange(3000) % 10
def train(model=fastnn.MLP((64, 64, 10), dtype="{dtype}")):
    start = time.perf_counter()
    model.train_epoch(X, y, fastnn.Adam(), 300)
    return time.perf_counter() - start
print(train() - train())
"""


class Import:
    rounds, number, repeat = 5, 1, 3

    def setup(self):
        """Leave bytecode on disk."""
        subprocess.run([sys.executable, "-c", "from fastnn import MLPClassifier, MLP"], check=True)

    def timeraw_package(self):
        return "import fastnn"

    def timeraw_network(self):
        return "from fastnn import MLP"

    def timeraw_classifier(self):
        return "from fastnn import MLPClassifier"


class FirstFit:
    """A whole process, from its start; cold, there is no machine code on disk."""

    rounds, number, repeat, warmup_time = 3, 1, 1, 0

    def setup(self):
        subprocess.run([sys.executable, "-c", FIRST_FIT], check=True)

    def timeraw_warm(self):
        return FIRST_FIT

    def timeraw_cold(self):
        return EMPTY_CACHE + FIRST_FIT


class Compile:
    params = (DTYPES,)
    param_names = ("dtype",)
    unit = "seconds"

    def track_compile_seconds(self, dtype):
        code = FIRST_EPOCH.format(dtype=dtype)
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": folder}, text=True,
                stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
        return float(done.stdout)
