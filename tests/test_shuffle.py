"""Shuffling in pieces: NumPy's order, NumPy's state of the generator, and Ctrl-C between two pieces."""

import numpy as np
import pytest

import fastnn
from fastnn.kernels import shuffle

PIECE = 100


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(shuffle, "ROWS_AT_ONCE", PIECE)


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize("n", [1, 2, PIECE, PIECE + 1, PIECE + 2, 2 * PIECE, 2 * PIECE + 1, 2 * PIECE + 2, 12_345])
def test_as_numpy_shuffles(n, bits, in_pieces):
    for seed in range(20):
        ours, theirs = np.random.RandomState(bits(seed)), np.random.RandomState(bits(seed))
        order, expected = np.arange(n), np.arange(n)
        for _ in range(2):
            shuffle.shuffle(order, ours)
            theirs.shuffle(expected)
            np.testing.assert_array_equal(order, expected)
        assert ours.bytes(100) == theirs.bytes(100)


def test_as_numpy_shuffles_more_rows_than_16_bits_count():
    ours, theirs = np.random.RandomState(0), np.random.RandomState(0)
    order, expected = np.arange(shuffle.ROWS_AT_ONCE + 70_000), np.arange(shuffle.ROWS_AT_ONCE + 70_000)
    shuffle.shuffle(order, ours)
    theirs.shuffle(expected)
    assert np.array_equal(order, expected) and ours.bytes(100) == theirs.bytes(100)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_does_not_depend_on_the_pieces(early_stopping, monkeypatch):
    X, y = np.random.default_rng(0).random((250, 3)), np.arange(250) % 3

    def fitted():
        model = fastnn.MLPClassifier((4,), max_iter=3, random_state=0, early_stopping=early_stopping)
        return model.fit(X, y).loss_curve_

    expected = fitted()
    monkeypatch.setattr(shuffle, "ROWS_AT_ONCE", PIECE)
    assert fitted() == expected


def test_ctrl_c_between_two_pieces_of_an_order(monkeypatch, in_pieces):
    """It ends a fit with a usable model before the order is drawn to its end."""
    pieces = []

    class Interrupted(np.random.RandomState):
        def randint(self, *arguments, **others):
            pieces.append(super().randint(*arguments, **others))
            if len(pieces) == 2:
                raise KeyboardInterrupt
            return pieces[-1]

    X, y = np.random.default_rng(0).random((1000, 3)), np.arange(1000) % 3
    model = fastnn.MLPClassifier((4,), random_state=Interrupted(0))
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)
    assert len(pieces) == 2
    assert model.n_iter_ == 0 and np.isfinite(model.predict_proba(X)).all()
