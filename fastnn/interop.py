"""Fitted models to scikit-learn and back: the parameters that both know, copies of what was learnt."""

import copy
import inspect
from typing import Any, Self, TypeVar

from sklearn.base import ClassifierMixin
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted

Estimator = TypeVar("Estimator")

# The classes of scikit-learn, whatever stands in their place later; see `patching`.
ORIGINALS: dict[str, type] = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}

# What both libraries know of a fitted model; L-BFGS leaves no curve, no scores and no count.
FITTED = (
    "classes_", "coefs_", "intercepts_", "n_layers_", "n_outputs_", "n_iter_", "t_", "out_activation_", "loss_",
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "n_features_in_", "feature_names_in_",
    "_label_binarizer", "_no_improvement_count",
)  # fmt: skip
_TAKEN = (*FITTED, "_metadata_request")  # what goes from one library to the other beside the parameters

# Parameters that scikit-learn does not have; all default to None.
OWN_PARAMETERS = ("n_jobs", "callbacks")


class SklearnExchange:
    """The methods of an estimator that is made from scikit-learn's, and that makes one of scikit-learn's."""

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a fitted estimator that predicts what a fitted one of scikit-learn predicts.

        It can go on training from there; the moments of the optimizer are not carried over and start at zero.

        Parameters
        ----------
        model : sklearn.neural_network.MLPClassifier or MLPRegressor
            The fitted counterpart of this class; nothing is shared with it afterwards. What a subclass of it has
            beside, such as other methods, is not taken over.

        Returns
        -------
        estimator of this class
            With the parameters of `model`, and copies of its weights and other fitted attributes, dtypes included.

        Raises
        ------
        TypeError
            If `model` is not scikit-learn's counterpart of this class.
        sklearn.exceptions.NotFittedError
            If it is not fitted.

        Examples
        --------
        >>> from sklearn import neural_network
        >>> import fastnn
        >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0]
        >>> theirs = neural_network.MLPRegressor(random_state=0, solver="lbfgs").fit(X, y)
        >>> ours = fastnn.MLPRegressor.from_sklearn(theirs)
        >>> bool(abs(ours.predict(X) - theirs.predict(X)).max() < 1e-9)
        True
        """
        return from_sklearn(model, cls)

    def to_sklearn(self) -> Any:
        """Return scikit-learn's own estimator in the fitted state of this one.

        It predicts, can be pickled for a place without fastnn, and can go on training by `partial_fit`, or by `fit`
        with `warm_start=True`; the moments of the optimizer are not carried over and start at zero. After early
        stopping scikit-learn goes on with `early_stopping` alone, hence not by `partial_fit`.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor
            With the parameters of this estimator, and copies of its weights and other fitted attributes. While
            `patch_sklearn` is in force it cannot be pickled, as its name leads to fastnn's class.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If this estimator is not fitted.

        Examples
        --------
        >>> import fastnn
        >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0]
        >>> theirs = fastnn.MLPRegressor(random_state=0, solver="lbfgs").fit(X, y).to_sklearn()
        >>> type(theirs).__module__.partition(".")[0]
        'sklearn'
        """
        return to_sklearn(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {**dict.fromkeys(OWN_PARAMETERS), **state}  # pickles from before them, or of scikit-learn, lack them
        # While scikit-learn is patched, its pickles come here; what it keeps for itself means nothing to fastnn.
        if "_sklearn_version" in state:
            state = {name: value for name, value in state.items() if name in _TAKEN or not name.startswith("_")}
        super().__setstate__(state)  # type: ignore[misc]


def from_sklearn(model: Any, cls: type[Estimator]) -> Estimator:
    """Return an estimator of fastnn's `cls` from scikit-learn's; see `SklearnExchange.from_sklearn`."""
    if not isinstance(model, _counterpart(cls)):
        raise TypeError(f"model must be a fitted {_name(_counterpart(cls))}, got {_name(type(model))}")
    return _transcribed(model, cls)


def to_sklearn(model: Any) -> Any:
    """Return scikit-learn's estimator from one of fastnn's; see `SklearnExchange.to_sklearn`."""
    if not isinstance(model, SklearnExchange):
        raise TypeError(f"model must be a fitted estimator of fastnn, got {_name(type(model))}")
    theirs: Any = _transcribed(model, _counterpart(type(model)))
    # A warm start with early stopping goes back to these where no epoch does better.
    theirs._best_coefs, theirs._best_intercepts = copy.deepcopy((theirs.coefs_, theirs.intercepts_))
    return theirs


def _counterpart(cls: type) -> type:
    return ORIGINALS["MLPClassifier" if issubclass(cls, ClassifierMixin) else "MLPRegressor"]


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _transcribed(model: Any, cls: type[Estimator]) -> Estimator:
    check_is_fitted(model, "coefs_")
    known = inspect.signature(cls).parameters
    parameters = {name: value for name, value in model.get_params(deep=False).items() if name in known}
    twin = cls(**copy.deepcopy(parameters))
    for name in _TAKEN:
        if hasattr(model, name):
            setattr(twin, name, copy.deepcopy(getattr(model, name)))
    return twin
