"""Check a few networks against the reference, serial and on threads, with the settings of this process's environment.

Run by test_simd_widths.py, one process per setting. `width_job.py BITS` checks that vectors are so wide.
"""

import itertools
import sys

import numpy as np
from helpers import DTYPES, bits, check_against_reference, csr, problem

import fastnn
from fastnn import model
from fastnn.kernels import simd

CASES = [
    ((2, 4, 1), 5, "logistic", "logistic"),
    ((7, 33, 17, 3), 50, "tanh", "softmax"),
    ((31, 16, 9), 481, "identity", "identity"),
    ((65, 130, 97, 5), 33, "tanh", "exp"),
    ((200, 49, 48, 10), 2100, "logistic", "softmax"),
]


def trained(case, dtype, n_threads, sparse):
    sizes, n, activation, output = case
    net, X, T = problem(sizes, n, activation, output, dtype)
    X = csr(n, sizes[0], dtype) if sparse else X
    with fastnn.threads(n_threads):
        net.train_epoch(X, T, fastnn.Adam(), 77, alpha=0.1)
    return bits(net)


def check_training(sizes, n, activation, output, dtype, sparse):
    """Epochs of both optimizers in an order of their own, from class indices too: nothing is read beyond its end."""
    net, X, T = problem(sizes, n, activation, output, dtype)
    X, order = csr(n, sizes[0], dtype) if sparse else X, np.random.default_rng(0).integers(0, n, 2 * n)
    targets = [T, np.arange(n) % sizes[-1]] if output == "softmax" else [T]
    for rule, y in itertools.product((fastnn.Adam, fastnn.SGD), targets):
        net = fastnn.MLP(sizes, activation, output, dtype, random_state=0)
        assert np.isfinite(net.train_epoch(X, y, rule(), 77, order, 0.1, np.ones(n)))


def main(expected_bits, thread_dtypes):
    assert expected_bits == simd.SIMD_BITS
    for dtype in DTYPES:
        for sizes, n, activation, output in CASES:
            weight = (np.arange(1, n + 1) % 3).astype(dtype)
            net, X, T = problem(sizes, n, activation, output, dtype)
            check_against_reference(net, X, T, None, weight, 0.1)
            check_against_reference(net, csr(n, sizes[0], dtype), T, None, weight, 0.1)
            for sparse in (False, True):
                check_training(sizes, n, activation, output, dtype, sparse)
    model.FLOPS_PER_THREAD = 1e-9
    for dtype in thread_dtypes:
        for case, sparse in itertools.product(CASES, (False, True)):
            assert trained(case, dtype, 3, sparse) == trained(case, dtype, 1, sparse), (case, dtype, sparse)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
