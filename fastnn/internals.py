"""scikit-learn's private names, for what is written against its classes.

The methods are scikit-learn's own, at work on `coefs_` and `intercepts_`. Training and prediction do not call them, so
that `fit` refuses a class of a user's which overrides one.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

from fastnn.interop import ORIGINALS

# What scikit-learn's own training and predictions call, but for `_fit`, which ours call too.
_METHODS = {
    name
    for cls in (BaseMultilayerPerceptron, *ORIGINALS.values())
    for name, value in vars(cls).items()
    if name.startswith("_") and not name.startswith("__") and callable(value)
} - {"_fit"}


class _Computed:
    """A property that may be assigned to, as where somebody builds a model by hand."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        return self if model is None else self.function(model)


class SklearnInternals:
    """Private methods and attributes of a fitted model, as scikit-learn's has them."""

    coefs_: Any
    intercepts_: Any
    validation_scores_: list[float] | None

    _unpack = BaseMultilayerPerceptron._unpack
    _forward_pass = BaseMultilayerPerceptron._forward_pass
    _forward_pass_fast = BaseMultilayerPerceptron._forward_pass_fast
    _compute_loss_grad = BaseMultilayerPerceptron._compute_loss_grad
    _backprop = BaseMultilayerPerceptron._backprop
    _score_with_function = BaseMultilayerPerceptron._score_with_function

    @_Computed
    def _coef_indptr(self) -> list[tuple[int, int, tuple[int, int]]]:
        """Where the packed parameters have each layer's `coefs_`, and the shapes of these."""
        ends = np.cumsum([0, *map(np.size, self.coefs_)]).tolist()
        return [(*ends, array.shape) for ends, array in zip(itertools.pairwise(ends), self.coefs_, strict=True)]

    @_Computed
    def _intercept_indptr(self) -> list[tuple[int, int]]:
        """Where the packed parameters have each layer's `intercepts_`: after all `coefs_`."""
        sizes = [sum(map(np.size, self.coefs_)), *map(np.size, self.intercepts_)]
        return list(itertools.pairwise(np.cumsum(sizes).tolist()))

    @_Computed
    def _best_coefs(self) -> Any:
        return self._best(self.coefs_)

    @_Computed
    def _best_intercepts(self) -> Any:
        return self._best(self.intercepts_)

    def _best(self, arrays: Any) -> Any:
        """Return the arrays of the best epoch, which are those of the model once early stopping has ended a fit."""
        if getattr(self, "validation_scores_", None) is None:
            raise AttributeError("only fits with early_stopping=True know of best weights")
        return arrays

    def _begin_with_internals(self) -> None:
        """Forget what was assigned, and refuse what was overridden, in the class, an instance or our own classes.

        Raises
        ------
        TypeError
            If the training would not call a method that somebody expects it to call.
        """
        for name, value in vars(SklearnInternals).items():
            if isinstance(value, _Computed):
                vars(self).pop(name, None)
        overridden = sorted(name for name in _METHODS if not _is_original(getattr(self, name, None)))
        if overridden:
            raise TypeError(
                f"{type(self).__name__} overrides {', '.join(overridden)}, which fastnn's compiled training and"
                " predictions do not call; derive it from scikit-learn's own class, as it is without patch_sklearn"
            )


def _is_original(method: Any) -> bool:
    return method is None or getattr(method, "__module__", "").partition(".")[0] in ("fastnn", "sklearn")


BaseMultilayerPerceptron.register(SklearnInternals)  # for those who ask `isinstance`
