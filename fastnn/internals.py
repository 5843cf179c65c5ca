"""scikit-learn's private names, for what is written against its classes.

The methods are scikit-learn's own, at work on `coefs_` and `intercepts_`. Training and prediction do not call them, so
that a class of a user's which overrides one is refused.
"""

import functools
import itertools
from typing import Any

import numpy as np
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

from fastnn.interop import ORIGINALS

_ALSO_OURS = {"_fit"}  # called by `fit` and `partial_fit` with the same arguments
_METHODS = {
    name
    for cls in (BaseMultilayerPerceptron, *ORIGINALS.values())
    for name, value in vars(cls).items()
    if name.startswith("_") and not name.startswith("__") and callable(value)
} - _ALSO_OURS


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

    @property
    def _coef_indptr(self) -> list[tuple[int, int, tuple[int, int]]]:
        """Where the packed parameters have each layer's `coefs_`, and the shapes of these."""
        ends = np.cumsum([0, *map(np.size, self.coefs_)]).tolist()
        shapes = [np.shape(array) for array in self.coefs_]
        return [(*ends, shape) for ends, shape in zip(itertools.pairwise(ends), shapes, strict=True)]

    @property
    def _intercept_indptr(self) -> list[tuple[int, int]]:
        """Where the packed parameters have each layer's `intercepts_`: after all `coefs_`."""
        return list(
            itertools.pairwise(np.cumsum([sum(map(np.size, self.coefs_)), *map(len, self.intercepts_)]).tolist())
        )

    @property
    def _best_coefs(self) -> Any:
        return self._best(self.coefs_)

    @property
    def _best_intercepts(self) -> Any:
        return self._best(self.intercepts_)

    def _best(self, arrays: Any) -> Any:
        """Return the arrays of the best epoch, which are those of the model once early stopping has ended a fit."""
        if getattr(self, "validation_scores_", None) is None:
            raise AttributeError("only fits with early_stopping=True know of best weights")
        return arrays


BaseMultilayerPerceptron.register(SklearnInternals)  # for those who ask `isinstance`


@functools.cache
def refuse_overridden(cls: type) -> None:
    """Raise TypeError if a class of a user's overrides what scikit-learn's training calls and ours does not."""
    for base in cls.__mro__:
        overridden = sorted(_METHODS.intersection(vars(base)))
        if overridden and base.__module__.partition(".")[0] not in ("fastnn", "sklearn"):
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(overridden)}, which fastnn's compiled training and predictions do"
                " not call; derive it from scikit-learn's own class, as it is without patch_sklearn"
            )
