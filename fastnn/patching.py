"""fastnn's estimators under scikit-learn's names, for code that is to stay as it is."""

from sklearn import neural_network
from sklearn.neural_network import _multilayer_perceptron

from fastnn.estimators import MLPClassifier, MLPRegressor
from fastnn.interop import ORIGINALS


def patch_sklearn() -> None:
    """Let `sklearn.neural_network` hold fastnn's `MLPClassifier` and `MLPRegressor`; again, for a second time.

    Call it before the imports that it is to affect: a module that has run `from sklearn.neural_network import
    MLPClassifier` keeps the class it got. Other processes are not changed. Objects that scikit-learn's own classes
    made before keep working, but cannot be pickled until `unpatch_sklearn`; pickles of them are loaded as fastnn's.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.patch_sklearn()
    >>> from sklearn.neural_network import MLPClassifier
    >>> MLPClassifier is fastnn.MLPClassifier
    True
    >>> fastnn.unpatch_sklearn()
    """
    _install({"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor})


def unpatch_sklearn() -> None:
    """Give `sklearn.neural_network` its own classes back, the very same objects; nothing where it has them.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.patch_sklearn()
    >>> fastnn.unpatch_sklearn()
    >>> from sklearn.neural_network import MLPClassifier
    >>> MLPClassifier is fastnn.MLPClassifier
    False
    """
    _install(ORIGINALS)


def _install(classes: dict[str, type]) -> None:
    for module in (neural_network, _multilayer_perceptron):
        for name, cls in classes.items():
            setattr(module, name, cls)
