"""What differs between the supported versions of scikit-learn, as far as tests depend on it."""

import importlib.util

import sklearn

VERSION = ".".join(sklearn.__version__.split(".")[:2])

# Tests in scikit-learn's neural_network/tests/test_mlp.py, and its checks of either kind of estimator, where counted.
N_OWN_TESTS = {"1.7": 58, "1.9": 59}.get(VERSION)
N_CHECKS = {
    "1.7": {"MLPClassifier": 66, "MLPRegressor": 59},
    "1.9": {"MLPClassifier": 67, "MLPRegressor": 60},
}.get(VERSION, {})

HAS_CALLBACKS = importlib.util.find_spec("sklearn.callback") is not None
