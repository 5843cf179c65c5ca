"""The engine at every vector width, and with Numba's bounds checks, each in a process of its own.

LLVM splits vectors wider than the machine's, so that every width runs everywhere. This machine's own width is what
all the other tests run at. Threads are compared in one dtype, which saves compilations.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn.kernels import simd

JOB = Path(__file__).with_name("width_job.py")
OTHER_WIDTHS = [bits for bits in (128, 256, 512) if bits != simd.SIMD_BITS]
SETTINGS = {
    **{f"{bits} bits": ({"FASTNN_SIMD_BITS": str(bits)}, bits, ["float32"]) for bits in OTHER_WIDTHS},
    "bounds checks": ({"NUMBA_BOUNDSCHECK": "1"}, simd.SIMD_BITS, []),
}


@pytest.fixture(scope="session")
def jobs():
    """All the processes, started together: they spend their time in the compiler."""
    root = str(JOB.parents[1])
    running = {}
    for name, (variables, bits, dtypes) in SETTINGS.items():
        command = [sys.executable, str(JOB), str(bits), *dtypes]
        environment = {**os.environ, **variables, "PYTHONPATH": root}
        running[name] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", SETTINGS)
def test_at(name, jobs):
    _, errors = jobs[name].communicate(timeout=600)
    assert jobs[name].returncode == 0, errors
