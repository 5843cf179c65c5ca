"""What differs between the supported versions of scikit-learn, as far as tests depend on it."""

import importlib.util

import pytest
import sklearn
from sklearn.utils import estimator_checks

# version: tests in scikit-learn's neural_network/tests/test_mlp.py, checks of a classifier, checks of a regressor
COUNTS = {"1.7": (58, 66, 59), "1.9": (59, 67, 60)}

HAS_CALLBACKS = importlib.util.find_spec("sklearn.callback") is not None


def counts():
    """The counts of this scikit-learn; a test that asks for them is skipped where nobody has counted."""
    version = ".".join(sklearn.__version__.split(".")[:2])
    if version not in COUNTS:
        pytest.skip(f"not counted for scikit-learn {version}")
    return COUNTS[version]


def parametrize_with_checks(estimators):
    """scikit-learn's own decorator, which before 1.8 hands pytest a generator, deprecated there."""
    mark = estimator_checks.parametrize_with_checks(estimators)
    names, cases = mark.args
    return pytest.mark.parametrize(names, list(cases), **mark.kwargs)
