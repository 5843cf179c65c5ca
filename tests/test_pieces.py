"""What is done to large arrays in pieces: the same as at once, and Ctrl-C between two of them."""

import threading

import numpy as np
import pytest
from helpers import csr
from sklearn import neural_network

from fastnn import MLPClassifier, MLPRegressor, pieces, rows

SHAPES = [(0,), (1,), (6,), (7,), (20,), (0, 3), (5, 3), (3, 20), (4, 0)]


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "ENTRIES_AT_ONCE", 7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_make_the_whole(shape, order, small_pieces):
    array = np.asarray(np.random.default_rng(0).normal(size=shape), order=order)
    for copy in (pieces.copied(array), pieces.converted(array, np.float32), pieces.mapped(np.abs, array, "float64")):
        assert copy.flags.c_contiguous and not np.shares_memory(copy, array)
    assert np.array_equal(pieces.copied(array), array)
    assert np.array_equal(pieces.converted(array, np.float32), array.astype("float32"))
    assert np.array_equal(pieces.mapped(np.abs, array, "float64"), np.abs(array))
    assert (pieces.converted(array, np.float64) is array) == array.flags.c_contiguous
    indices = np.random.default_rng(0).permutation(len(array)).repeat(2)
    assert np.array_equal(pieces.taken(array, indices), array[indices])


def test_what_is_not_finite_is_found_in_any_piece(small_pieces):
    for at in range(20):
        array = np.zeros(20)
        assert pieces.is_finite(array)
        array[at] = np.inf
        assert not pieces.is_finite(array)


def test_an_order_is_made_in_pieces(small_pieces):
    for n in (1, 6, 7, 8, 35):
        assert np.array_equal(pieces.indices(n), np.arange(n))


@pytest.mark.parametrize("n_rows", [1, 30, 200, 1000])
def test_most_entries_of_any_rows(n_rows, small_pieces):
    X = csr(200, 10)
    found, counts = rows.Rows.of(X, 10, X.dtype), np.diff(X.indptr)
    for order in (None, np.arange(200), np.arange(50, 150)[::-1]):
        expected = np.sort(counts if order is None else counts[order])[-n_rows:].sum()
        assert found.most_entries(n_rows, order) == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("kind", ["float32", "float64", "int", "fortran", "csr", "csc"])
def test_a_fit_does_not_depend_on_the_pieces(kind, estimator, solver, monkeypatch):
    X, y, weights = csr(60, 5), np.arange(60) % 2, np.arange(60.0)
    X = X.asformat(kind) if kind in ("csr", "csc") else np.asarray(X.toarray(), order="F" if kind == "fortran" else "C")
    X = X.astype(kind) if kind in ("float32", "float64", "int") else X

    def fitted():
        model = estimator(hidden_layer_sizes=(4,), solver=solver, max_iter=3, random_state=0, early_stopping=True)
        return model.fit(X, y, weights).predict(X).tobytes(), model.loss_

    expected = fitted()
    monkeypatch.setattr(pieces, "ENTRIES_AT_ONCE", 7)
    assert fitted() == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_between_two_pieces_of_the_rows(solver, early_stopping, small_pieces, monkeypatch):
    """As in training: a model, that of the fit before with `warm_start`."""
    X, y = np.random.default_rng(0).random((60, 5), "float32"), np.arange(60) % 3
    model = MLPClassifier((4,), solver=solver, warm_start=True, random_state=0, max_iter=2, tol=1e9)
    before = model.fit(X.astype("float64"), y).predict_proba(X) if solver == "adam" else None
    model.set_params(early_stopping=early_stopping)
    parts, n_parts = pieces.parts, []

    def interrupted(n, width=1):
        for part in parts(n, width):
            n_parts.append(part)
            yield part
            if width == 5:  # of rows
                raise KeyboardInterrupt

    monkeypatch.setattr(pieces, "parts", interrupted)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)
    monkeypatch.setattr(pieces, "parts", parts)
    assert n_parts[-1] == slice(0, 1)
    assert np.isfinite(model.predict_proba(X)).all()
    if before is None:
        assert model.n_iter_ == 0 and np.isnan(model.loss_)
    else:
        np.testing.assert_array_equal(model.predict_proba(X), before)


@pytest.mark.parametrize("rows_at_once", [10**6, 5])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_caller_gets_the_draws_of_the_split_and_its_errors(rows_at_once, monkeypatch):
    """Also where the rows are so many that another thread draws them, with settings of its own."""
    monkeypatch.setattr("fastnn.base.ROWS_AT_ONCE", rows_at_once)
    X, y = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    draws = [np.random.RandomState(0) for _ in range(2)]
    for model, state in zip((MLPClassifier, neural_network.MLPClassifier), draws, strict=True):
        model((4,), early_stopping=True, max_iter=1, tol=0, random_state=state).fit(X, y)
    assert draws[0].randint(2**31) == draws[1].randint(2**31)
    with pytest.raises(ValueError, match=r"test_size=0\.0 should be either positive"):
        MLPClassifier((4,), early_stopping=True, validation_fraction=0.0).fit(X, y)


def test_a_split_that_was_cut_off_draws_from_nobody_elses(monkeypatch):
    monkeypatch.setattr("fastnn.base.ROWS_AT_ONCE", 5)
    given = []

    def interrupted(n_rows, strata, fraction, random_state):
        given.append(random_state)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnn.base.validation_split", interrupted)
    state = np.random.RandomState(0)
    with pytest.warns(UserWarning, match="interrupted"):
        MLPClassifier((4,), early_stopping=True, random_state=state).fit(np.eye(60), np.arange(60) % 2)
    assert given and given[0] is not state


def test_ctrl_c_while_the_validation_rows_are_drawn(monkeypatch):
    """A new model has no epoch behind it, and all that others look at; the thread that Ctrl-C comes to only waits."""
    drawers = []

    def interrupted(*arguments):
        drawers.append(threading.current_thread())
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnn.base.ROWS_AT_ONCE", 5)
    monkeypatch.setattr("fastnn.base.validation_split", interrupted)
    X, y = np.random.default_rng(0).random((60, 3)), np.arange(60) % 3
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = MLPClassifier((4,), early_stopping=True).fit(X, y)
    assert drawers and threading.main_thread() not in drawers
    assert (model.n_iter_, model.loss_curve_, model.validation_scores_) == (0, [], [])
    assert np.isnan(model.loss_) and np.isfinite(model.predict_proba(X)).all()
