"""What a new process waits for.

`python bench/startup.py [--repeats N]` compares processes with compiled kernels on disk, from import to a model fitted
on digits in one epoch, with processes that import scikit-learn; they take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT_SKLEARN = "import sklearn.datasets, sklearn.neural_network"

FIT_DIGITS = """
import warnings
warnings.simplefilter("ignore")
from sklearn.datasets import load_digits
from fastnn import MLPClassifier
X, y = load_digits(return_X_y=True)
MLPClassifier(max_iter=1, random_state=0).fit(X.astype("{dtype}"), y)
"""

FIRST_EPOCH = """
import numpy, fastnn
net = fastnn.MLP((2, 4, 1), output="logistic", random_state=0)
net.train_epoch(numpy.zeros((10, 2), "float32"), numpy.zeros(10, int), fastnn.Adam())
"""

EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class Startup:
    timeout = 120
    number, repeat = 1, (3, 5, 10.0)

    def setup(self):
        """Leave compiled kernels on disk for the processes to be timed."""
        subprocess.run([sys.executable, "-c", FIRST_EPOCH], check=True)

    def timeraw_import(self):
        return "import fastnn"

    def timeraw_import_network(self):
        return "from fastnn import MLP"

    def timeraw_first_epoch_from_cache(self):
        return FIRST_EPOCH

    def timeraw_first_epoch_compiled(self):
        return EMPTY_CACHE + FIRST_EPOCH


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11, metavar="N")
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
    main()
