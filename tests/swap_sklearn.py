"""A pytest plugin that puts our classes where scikit-learn's own tests look for theirs, before they are collected.

Used by test_sklearn_suite.py; conftest files come too late, as scikit-learn's test modules bind the classes at import.
"""

from sklearn.neural_network import _multilayer_perceptron

import fastnn

NAMES = ("MLPClassifier", "MLPRegressor")


def pytest_configure(config):
    """As a plugin alone: who imports this file for its doctests keeps scikit-learn as it is."""
    fastnn.patch_sklearn()
    # A test that finds its way round the swap must not pass.
    _multilayer_perceptron.BaseMultilayerPerceptron._fit = refuse


def refuse(*args, **kwargs):
    raise AssertionError("a test reached scikit-learn's own class")


def pytest_collection_finish(session):
    """Stop where a collected module has bound scikit-learn's classes, for then it tests those."""
    for module in {item.module for item in session.items}:
        for name in NAMES:
            assert getattr(module, name) is getattr(fastnn, name), f"{module.__name__}.{name} is not ours"
