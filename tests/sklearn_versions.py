"""What differs between the supported versions of scikit-learn, as far as tests depend on it."""

import importlib.util

import pytest
import sklearn
from sklearn.utils import estimator_checks

VERSION = ".".join(sklearn.__version__.split(".")[:2])

# version: tests in scikit-learn's neural_network/tests/test_mlp.py, checks of a classifier, checks of a regressor
COUNTS = {"1.7": (58, 66, 59), "1.9": (59, 67, 60)}

HAS_CALLBACKS = importlib.util.find_spec("sklearn.callback") is not None
REFUSES_ZERO_WEIGHTS = VERSION not in ("1.7", "1.8")
NAMES_RARE_CLASSES = VERSION != "1.7"
SCORES_WORDS = VERSION != "1.7"  # in its private methods
KNOWS_POLARS = VERSION not in ("1.7", "1.8")  # these read names by a protocol that polars 2 no longer has


def counts():
    """The counts of this scikit-learn; a test that asks for them is skipped where nobody has counted."""
    if VERSION not in COUNTS:
        pytest.skip(f"not counted for scikit-learn {VERSION}")
    return COUNTS[VERSION]


def parametrize_with_checks(estimators):
    """scikit-learn's own decorator, which before 1.9 hands pytest a generator, deprecated there."""
    mark = estimator_checks.parametrize_with_checks(estimators)
    names, cases = mark.args
    return pytest.mark.parametrize(names, list(cases), **mark.kwargs)
