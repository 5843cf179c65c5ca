"""scikit-learn's checks of an estimator's conventions."""

import os
import re
import subprocess
import sys

import pytest
from helpers import shared_parameters
from sklearn import neural_network as sklearn_nn
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn_versions import counts, parametrize_with_checks

from fastnn import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

DEFAULTS = [MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)]
OTHERS = [
    MLPClassifier(solver="lbfgs", max_iter=50),
    MLPRegressor(solver="lbfgs", max_iter=50),
    MLPClassifier(solver="sgd", max_iter=50),
    MLPRegressor(solver="sgd", learning_rate_init=0.01, nesterovs_momentum=False, max_iter=50),
    MLPClassifier(activation="tanh", hidden_layer_sizes=(10, 5), max_iter=50),
    MLPRegressor(activation="tanh", hidden_layer_sizes=(10, 5), max_iter=50),
    MLPClassifier(early_stopping=True, max_iter=50),
    MLPRegressor(early_stopping=True, max_iter=50),
    MLPClassifier(activation="logistic", solver="sgd", learning_rate="adaptive", batch_size=10, max_iter=50),
    MLPClassifier(warm_start=True, hidden_layer_sizes=(), max_iter=50),
    MLPRegressor(warm_start=True, activation="identity", shuffle=False, max_iter=50),
    MLPRegressor(loss="poisson", max_iter=50),
]


def passes(check, estimator):
    try:
        check(estimator)
    except Exception:
        return False
    return True


def test_number_of_checks():
    assert tuple(len(list(estimator_checks_generator(estimator))) for estimator in DEFAULTS) == counts()[1:]


@parametrize_with_checks(DEFAULTS)
def test_every_check_passes(estimator, check):
    check(estimator)


def test_the_checks_of_array_api_pass():
    """They are skipped without a variable that has to be there before SciPy is imported."""
    if not any("array_api" in str(check) for _, check in estimator_checks_generator(DEFAULTS[0])):
        pytest.skip("this scikit-learn has no such checks")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", "every_check and array_api"]
    done = subprocess.run(command, env={**os.environ, "SCIPY_ARRAY_API": "1"}, capture_output=True, text=True)
    assert re.search(r"[12] passed", done.stdout) and "skipped" not in done.stdout, done.stdout


@parametrize_with_checks(OTHERS)
def test_passes_whatever_sklearns_class_passes(estimator, check):
    theirs = getattr(sklearn_nn, type(estimator).__name__)(**shared_parameters(estimator))
    try:
        check(estimator)
    except Exception as error:
        if passes(check, theirs):
            raise AssertionError("scikit-learn's own class passes") from error
        pytest.skip("scikit-learn's own class does not pass either")
