"""What a new process waits for."""

import subprocess
import sys

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
