"""Loops and elements of arrays become the IR that Python's meaning of them asks for."""

import numba
import numpy as np
import pytest

from fastnn.kernels import jit as jit_module
from fastnn.kernels.jit import jit, jit_apart


@jit
def note(out, at, value):
    out[at] = value
    return at + 1


@jit_apart
def visit(out, values, start, stop, step):
    """Note what a range goes through by elements from the end, in each of the ways to write it."""
    at, last = 0, 0
    for i in range(stop):
        at = note(out, at, values[i - stop])
    for i in range(start, stop):
        at = note(out, at, i)
    for i in range(start, stop, 3):
        last = i
        at = note(out, at, last)
    for i in range(start, stop, step):
        at = note(out, at, i)
    out[-1] = at + last
    return out.size + out.shape[0]


called = numba.njit(lambda *arguments: visit(*arguments))


@pytest.mark.parametrize("start, stop, step", [(0, 7, 2), (2, 6, 1), (5, 2, 4), (5, -2, -3), (3, 3, 1), (-4, 5, 5)])
def test_ranges_and_elements(start, stop, step):
    values = np.arange(10, 17)
    expected, found = np.zeros(60, np.int64), np.zeros(60, np.int64)
    assert called(found, values, start, stop, step) == 120
    numbers = [
        *[values[i - stop] for i in range(stop)],
        *range(start, stop), *range(start, stop, 3), *range(start, stop, step),
    ]  # fmt: skip
    expected[: len(numbers)] = numbers
    expected[-1] = len(numbers) + ([0, *range(start, stop, 3)][-1])
    np.testing.assert_array_equal(found, expected)


@jit_apart
def second(first, value):
    return value


def store(out):
    out[0] = second(out, out[1])


def test_no_other_machine_code_finds_an_entrys_own_functions(monkeypatch):
    """They lack the arguments that they do not use."""
    monkeypatch.setattr(jit_module, "cache_folder", lambda: None)
    out = np.array([1, 2])
    jit_module.entry_point(store, numba.types.void(numba.types.int64[::1]), "store")(out)
    assert out.tolist() == [2, 2]
    assert numba.njit(lambda first, value: second(first, value))(out, 7) == 7
