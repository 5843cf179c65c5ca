"""What a new process waits for: import, compilation, the first fit.

`python bench/startup.py [--repeats N]` compares processes with compiled kernels on disk, from import to a model fitted
on digits in one epoch, with processes that import scikit-learn; they take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's bench

from bench import command_line

IMPORT_SKLEARN = "import sklearn.datasets, sklearn.neural_network"

FIT_DIGITS = """
import warnings
warnings.simplefilter("ignore")
from sklearn.datasets import load_digits
from fastnn import MLPClassifier
X, y = load_digits(return_X_y=True)
MLPClassifier(max_iter=1, random_state=0).fit(X.astype("{dtype}"), y)
"""

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

# Two threads share the rows, so that what they need is compiled too.
FIRST_CALL = """
import time, numpy, fastnn
fastnn.set_num_threads(2)
X, y = numpy.zeros((3000, 64), "{dtype}"), numpy.arange(3000) % 10
net = fastnn.MLP((64, 64, 10), dtype="{dtype}")
def seconds():
    start = time.perf_counter()
    {call}
    return time.perf_counter() - start
print(seconds() - seconds())
"""
CALLS = {"epoch": "net.train_epoch(X, y, fastnn.Adam(), 300)", "forward": "net.forward(X)"}


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
    """What a new process does, once Python runs: imports and fit; cold, there is no machine code on disk."""

    rounds, number, repeat, warmup_time = 3, 1, 1, 0

    def setup(self):
        subprocess.run([sys.executable, "-c", FIRST_FIT], check=True)

    def timeraw_warm(self):
        return FIRST_FIT

    def timeraw_cold(self):
        return EMPTY_CACHE + FIRST_FIT


class Compile:
    """What training compiles, and what prediction does."""

    params = (list(CALLS), ["float32", "float64"])
    param_names = ("kernel", "dtype")
    unit = "seconds"

    def track_compile_seconds(self, kernel, dtype):
        code = FIRST_CALL.format(call=CALLS[kernel], dtype=dtype)
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": folder}, text=True,
                stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
        return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=command_line.at_least(1), default=11, metavar="N")
    repeats = parser.parse_args().repeats
    scripts = {IMPORT_SKLEARN: "import scikit-learn"}
    scripts |= {FIT_DIGITS.format(dtype=dtype): f"fit in {dtype}" for dtype in ("float32", "float64")}
    for script in scripts:
        seconds(script)  # leaves kernels and bytecode on disk
    taken = {script: [] for script in scripts}
    for _ in range(repeats):
        for script in scripts:
            taken[script].append(seconds(script))
    base = taken[IMPORT_SKLEARN]
    for script, name in scripts.items():
        beyond = statistics.median(mine - theirs for mine, theirs in zip(taken[script], base, strict=True))
        median = statistics.median(taken[script])
        print(f"{name:20}  median {median:.2f} s, {beyond:+.2f} s beyond the import of scikit-learn")


def seconds(script):
    """Time of a process that runs a script with this checkout's fastnn."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})
    return time.perf_counter() - begin


if __name__ == "__main__":
    command_line.run(main)
