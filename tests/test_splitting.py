"""The split is scikit-learn's: the same rows, the same errors, the same state of the generator afterwards."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split
from sklearn_versions import NAMES_RARE_CLASSES

from fastnn.splitting import validation_split


def scikit_learns(n_rows, y, fraction, random_state):
    """The split as scikit-learn's own fit asks for it, with the bool column that its LabelBinarizer leads to."""
    column = None if y is None else y.reshape(-1, 1).astype(bool)
    return train_test_split(np.arange(n_rows), test_size=fraction, random_state=random_state, stratify=column)


def outcome(split, n_rows, y, fraction, seed):
    """The indices and the next draw of the generator, or the error."""
    random_state = np.random.RandomState(seed)
    try:
        train, validation = split(n_rows, y, fraction, random_state)
    except ValueError as error:
        return type(error), str(error)
    return train.tolist(), validation.tolist(), random_state.randint(2**31)


def rare(names):
    """What scikit-learn says of classes with too few rows."""
    return r"least populated class.*" + (names if NAMES_RARE_CLASSES else "in y has only 1 member,")


def classes(n_rows, n_positive, seed):
    y = np.zeros(n_rows)
    y[np.random.RandomState(seed).permutation(n_rows)[:n_positive]] = 1
    return y


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("n_rows", [10, 11, 57, 200, 1001])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.8, 1.0])
def test_two_classes(n_rows, share, fraction):
    for seed in range(20):
        y = classes(n_rows, round(share * n_rows), seed)
        ours, theirs = (outcome(split, n_rows, y, fraction, seed) for split in (validation_split, scikit_learns))
        assert ours == theirs


@pytest.mark.parametrize("fraction", [0.1, 0.33, 0.9])
@pytest.mark.parametrize("n_rows", [2, 3, 10, 101])
def test_no_classes_to_keep_in_proportion(n_rows, fraction):
    for seed in range(20):
        ours, theirs = (outcome(split, n_rows, None, fraction, seed) for split in (validation_split, scikit_learns))
        assert ours == theirs


@pytest.mark.parametrize("dtype", ["bool", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_any_encoding_of_two_classes(dtype, shape):
    y = classes(50, 20, 0).astype(dtype).reshape(shape)
    assert outcome(validation_split, 50, y, 0.2, 3) == outcome(scikit_learns, 50, y, 0.2, 3)


def test_nothing_is_lost_and_the_balance_is_kept():
    y = classes(1000, 300, 0)
    train, validation = validation_split(1000, y, 0.1, np.random.RandomState(0))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert len(validation) == 100
    assert y[validation].sum() == 30


@pytest.mark.parametrize(
    ("y", "fraction", "message"),
    [
        ([1] + 9 * [0], 0.2, rare(r"\['True'\]")),
        ([0] + 9 * [1], 0.2, rare(r"\['False'\]")),
        ([0, 1], 0.5, rare(r"\['False', 'True'\]")),
        (5 * [0, 1], 0.1, "test_size = 1 should be greater or equal to the number of classes = 2"),
        (5 * [0, 1], 0.9, "train_size = 1 should be greater or equal to the number of classes = 2"),
        ([1], 0.5, "With n_samples=1"),
        (5 * [0, 1], 0.0, "test_size"),
    ],
)
def test_errors_are_scikit_learns_own(y, fraction, message):
    y = np.array(y)
    with pytest.raises(ValueError, match=message):
        validation_split(len(y), y, fraction, np.random.RandomState(0))
    assert outcome(validation_split, len(y), y, fraction, 0) == outcome(scikit_learns, len(y), y, fraction, 0)


def test_the_rows_that_scikit_learn_validates_on():
    """Its own fit, watched from inside, after the draws for the initial weights."""
    from sklearn.neural_network import MLPClassifier

    class Watched(MLPClassifier):
        def _update_no_improvement_count(self, early_stopping, X, y, sample_weight):
            self.held_out = X.ravel().tolist()
            raise KeyboardInterrupt

    X, y = np.arange(60.0).reshape(-1, 1), classes(60, 25, 0).astype(int)
    with pytest.warns(UserWarning, match="interrupted"):
        model = Watched((3,), early_stopping=True, random_state=7, shuffle=False).fit(X / 60, y)
    random_state = np.random.RandomState(7)
    for fan_in, fan_out in ((1, 3), (3, 1)):
        random_state.uniform(size=(fan_in, fan_out))
        random_state.uniform(size=fan_out)
    _, validation = validation_split(60, y, 0.1, random_state)
    assert (X[validation].ravel() / 60).tolist() == model.held_out
