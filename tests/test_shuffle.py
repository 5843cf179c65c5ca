"""Orders of many rows: drawn as NumPy draws them, in pieces that Ctrl-C can end."""

import numpy as np
import pytest

from fastnn.kernels import shuffle as module
from fastnn.kernels.shuffle import shuffle

SIZES = [0, 1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 1000, 4097]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "MANY", 0)
    monkeypatch.setattr(module, "PIECE", 7)


@pytest.mark.parametrize("generator", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize("n", SIZES)
def test_as_numpy(n, generator):
    ours, theirs = (np.random.RandomState(generator(5)) for _ in range(2))
    order, expected = np.arange(n)[::-1].copy(), np.arange(n)[::-1].copy()
    for _ in range(3):
        shuffle(order, ours)
        theirs.shuffle(expected)
        np.testing.assert_array_equal(order, expected)
    assert ours.randint(2**31) == theirs.randint(2**31)


def test_in_one_call_and_with_numpy(monkeypatch):
    orders = []
    for many, piece in ((0, 10**6), (0, 100), (10**6, 7)):
        monkeypatch.setattr(module, "MANY", many)
        monkeypatch.setattr(module, "PIECE", piece)
        orders.append(np.arange(3000))
        shuffle(orders[-1], np.random.RandomState(0))
    np.testing.assert_array_equal(orders[1], orders[0])
    np.testing.assert_array_equal(orders[2], orders[0])


def test_ctrl_c_leaves_the_random_state(monkeypatch):
    exchange, calls = module.exchange(), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        exchange(*arguments)

    monkeypatch.setattr(module, "exchange", lambda: interrupted)
    random_state = np.random.RandomState(0)
    with pytest.raises(KeyboardInterrupt):
        shuffle(np.arange(1000), random_state)
    assert len(calls) == 3
    assert random_state.randint(2**31) == np.random.RandomState(0).randint(2**31)
