"""A pytest plugin that puts our classes where scikit-learn's own tests look for theirs, before they are collected.

Used by test_sklearn_suite.py; conftest files come too late, as scikit-learn's test modules bind the classes at import.
"""

import sklearn.neural_network
from sklearn.neural_network import _multilayer_perceptron

import fastnn

for module in (sklearn.neural_network, _multilayer_perceptron):
    module.MLPClassifier, module.MLPRegressor = fastnn.MLPClassifier, fastnn.MLPRegressor
