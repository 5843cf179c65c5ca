"""What a new process waits for: import, compilation, the first fit.

`python bench/startup.py [--repeats N] [--cold N]` compares processes from import to a model fitted on digits in one
epoch with processes that import scikit-learn; they take turns. Warm, compiled kernels are on disk; cold, nothing is.
Where a median is beyond its goal, the exit code is 1.
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


# Seconds that a fit may take beyond the import of scikit-learn.
GOALS = {"warm": 0.6, "cold": 8.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=command_line.at_least(1), default=11, metavar="N", help="warm starts (11)")
    parser.add_argument("--cold", type=command_line.at_least(1), default=3, metavar="N", help="cold starts (3)")
    options = parser.parse_args()
    fits = {dtype: FIT_DIGITS.format(dtype=dtype) for dtype in ("float32", "float64")}
    for script in (IMPORT_SKLEARN, *fits.values()):
        seconds(script)  # leaves kernels and bytecode on disk
    are_reached = [
        report(state, dtype, [(seconds(IMPORT_SKLEARN), seconds(prologue + fit)) for _ in range(n)])
        for state, prologue, n in (("warm", "", options.repeats), ("cold", EMPTY_CACHE, options.cold))
        for dtype, fit in fits.items()
    ]
    return 0 if all(are_reached) else 1


def report(state, dtype, pairs):
    """Print what fits took beyond the import of scikit-learn, and return whether that is within the goal."""
    beyond, goal = statistics.median(fit - base for base, fit in pairs), GOALS[state]
    total, is_reached = statistics.median(fit for _, fit in pairs), beyond <= goal
    print(f"{state} fit in {dtype}: {total:.2f} s, {beyond:.2f} s beyond the import of scikit-learn; "
          f"goal {goal:.1f} s {'reached' if is_reached else 'NOT reached'}")  # fmt: skip
    return is_reached


def seconds(script):
    """Time of a process that runs a script with this checkout's fastnn; its bytecode is kept, as an installed one's."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, env={**environment, "PYTHONPATH": path})
    return time.perf_counter() - begin


if __name__ == "__main__":
    command_line.run(main)
