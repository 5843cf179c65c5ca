"""MLPClassifier and MLPRegressor: scikit-learn's contract over the compiled engine.

What the two share is in `base`; here is how each encodes, scores and decodes its targets.
"""

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from fastnn import pieces
from fastnn.base import ALL_WEIGHTS_ZERO, STOCHASTIC_SOLVERS, BaseMLP
from fastnn.callbacks import Callback
from fastnn.interop import ORIGINALS

Array = npt.NDArray[Any]


def _can_fit_in_part(model: BaseMLP) -> bool:
    if model.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {model.solver} is not stochastic."
        )
    return True


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron classifier, with the parameters and results of scikit-learn's `MLPClassifier`.

    It minimises the log-loss and an L2 penalty, over shuffled batches or by L-BFGS.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int >= 1, or int >= 1, default (100,)
        Units of each hidden layer; () makes a linear model.
    activation : {"identity", "logistic", "tanh", "relu"}, default "relu"
        Activation of the hidden layers.
    solver : {"lbfgs", "sgd", "adam"}, default "adam"
        Rule of the updates; "lbfgs" takes all rows at once, and suits small data.
    alpha : float >= 0, default 0.0001
        Strength of the L2 penalty, alpha / 2 * sum of squared weights / sum of sample weights of the batch.
    batch_size : int >= 1 or "auto", default "auto"
        Rows per update; "auto" is min(200, n).
    learning_rate : {"constant", "invscaling", "adaptive"}, default "constant"
        With "sgd": stay at `learning_rate_init`; or after each epoch learning_rate_init / (rows seen + 1)^power_t;
        or a fifth of what it was whenever the loss has stopped improving, down to 1e-6.
    learning_rate_init : float > 0, default 0.001
        Learning rate of the first epoch.
    power_t : float >= 0, default 0.5
        Exponent of "invscaling".
    max_iter : int >= 1, default 200
        Most epochs to train.
    shuffle : bool, default True
        Whether to draw a new order of the rows for each epoch.
    random_state : int, numpy.random.RandomState or None, default None
        Source of the initial weights and the orders; an int gives those that scikit-learn draws from it.
    tol : float >= 0, default 1e-4
        Least improvement of the loss that counts as one.
    verbose : bool or int, default False
        Whether to print the loss of each epoch.
    warm_start : bool, default False
        Whether `fit` goes on from the weights that the model has.
    momentum : float in [0, 1], default 0.9
        Share of the last step that "sgd" keeps.
    nesterovs_momentum : bool, default True
        Whether "sgd" steps from where the momentum leads.
    early_stopping : bool, default False
        Whether to hold rows out, stop once their score no longer improves, and keep the weights of the best epoch.
    validation_fraction : float in [0, 1), default 0.1
        Of use with early stopping alone.
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
        Decay rates of the moments of "adam".
    epsilon : float > 0, default 1e-8
        What "adam" adds to the square root of the second moment.
    n_iter_no_change : int >= 1 or inf, default 10
        Training stops after more than so many epochs in a row without an improvement by `tol`.
    max_fun : int >= 1, default 15000
        Of use with "lbfgs" alone.
    n_jobs : int or None, default None
        Threads of `fit`, `partial_fit` and predictions: None for the number in force, see `get_num_threads`; -1 for all
        that are allowed, -2 for all but one, and so on. Results do not depend on it.
    callbacks : list of fastnn.Callback or None, default None
        Objects that `fit` tells of its epochs: checkpoints, early stopping, logs, progress bars.

    Attributes
    ----------
    classes_ : array (n_classes,)
        The labels, sorted.
    coefs_, intercepts_ : list of array
        Weights (n_in, n_out) and biases (n_out,) of each layer; predictions follow what is written to them.
    n_layers_, n_outputs_, n_features_in_ : int
        Layers, inputs and outputs included; units of the last and of the first of them.
    feature_names_in_ : array of str
        Names of the columns of X, where all of them are strings.
    out_activation_ : {"logistic", "softmax"}
        "softmax" for three classes or more, each row of one of them.
    n_iter_, t_ : int
        Epochs gone through, and rows seen in them.
    loss_, best_loss_ : float
        Loss of the last epoch, and the lowest of all.
    loss_curve_ : list of float
        Loss of each epoch, a mean over the batches before their updates.
    history_ : dict of lists
        "loss", "learning_rate" and "seconds" of each epoch, "validation_score" where there is one; of L-BFGS "loss" and
        "seconds" of each iteration. Pickles leave the seconds out, which are NaN in what is loaded.
    validation_scores_, best_validation_score_ : list of float, float
        Score of each epoch on the rows held out, and the best; None without early stopping, where `best_loss_` is None.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import MLPClassifier
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), ["low", "low", "high", "high"]
    >>> MLPClassifier(random_state=0, learning_rate_init=0.01).fit(X, y).predict([[0.5], [2.5]]).tolist()
    ['low', 'high']
    """

    loss = "log_loss"
    _y_is_numeric = False

    _y_type: str
    _labels_are_sparse: bool

    @property
    def _label_binarizer(self) -> LabelBinarizer:
        """What scikit-learn's exporters look for; the model itself needs its `y_type_` alone."""
        binarizer = LabelBinarizer()
        is_multilabel = self._y_type == "multilabel-indicator"
        binarizer.classes_ = np.arange(self.n_outputs_) if is_multilabel else self.classes_
        binarizer.y_type_, binarizer.sparse_input_ = self._y_type, self._labels_are_sparse
        return binarizer

    @_label_binarizer.setter
    def _label_binarizer(self, binarizer: LabelBinarizer) -> None:
        self._y_type, self._labels_are_sparse = binarizer.y_type_, binarizer.sparse_input_

    @available_if(_can_fit_in_part)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Go once through the rows of X, from where the model is.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`; y need not have all classes.
        classes : array-like (n_classes,), default None
            All labels that will ever come; needed in the first call.

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            If the solver is "lbfgs", which needs all rows at once.
        ValueError
            If the first call has no `classes`, a later one other labels, or with `early_stopping`; else as `fit`.
        """
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer().fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def _encode(self, y: Any, is_new: bool, incremental: bool, dtype: npt.DTypeLike) -> tuple[Array, int]:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._find_classes(y)
        else:
            self._check_classes(unique_labels(y))
            self._check_kind(type_of_target(y))
        if is_new:
            self.out_activation_ = "softmax" if self._y_type == "multiclass" else "logistic"
        if self._y_type == "multilabel-indicator":
            indicators = y.toarray() if sparse.issparse(y) else np.asarray(y)
            return pieces.mapped(lambda part: part != 0, indicators, dtype), indicators.shape[1]
        is_multiclass = self._y_type == "multiclass"
        indices = pieces.mapped(
            lambda part: np.searchsorted(self.classes_, part), y, np.intp if is_multiclass else dtype
        )
        return indices, len(self.classes_) if is_multiclass else 1

    def _find_classes(self, y: Any) -> None:
        classes = np.unique(y) if y.ndim == 1 and y.dtype.kind in "iu" and y.dtype.isnative else None
        if classes is None or 2 * len(classes) > len(y):  # so many that scikit-learn may have something to say
            self._label_binarizer = binarizer = LabelBinarizer().fit(y)
            self.classes_ = binarizer.classes_
        else:  # the same without its three looks at y, a tenth of a fit to a few rows
            self.classes_, self._labels_are_sparse = classes, False
            self._y_type = "binary" if len(classes) <= 2 else "multiclass"

    def _check_kind(self, kind: str) -> None:
        is_multilabel, was_multilabel = kind.startswith("multilabel"), self._y_type.startswith("multilabel")
        if is_multilabel and not was_multilabel:
            raise ValueError("The object was not fitted with multilabel input.")
        if was_multilabel and not is_multilabel:
            raise ValueError(f"The object was fitted with multilabel input; y must be indicators, got {kind} labels.")

    def _check_classes(self, classes: Array) -> None:
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                    f" Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _strata(self, targets: Array) -> Array | None:
        # scikit-learn draws other splits in proportion to the classes only where there are two of them.
        return targets if self.out_activation_ == "logistic" and targets.ndim == 1 else None

    def _score_outputs(self, targets: Array, outputs: Array, sample_weight: Array | None) -> float:
        """Accuracy; of indicators, the share of rows with all of them right."""
        if not np.isfinite(outputs).all():
            return np.nan
        if targets.ndim == 2:
            right = ((outputs > 0.5) == targets).all(axis=1)
        else:
            right = self._decided(outputs) == targets
        if sample_weight is not None and not sample_weight.any():
            raise ValueError(ALL_WEIGHTS_ZERO)
        return float(np.average(right, weights=sample_weight))

    def _decided(self, outputs: Array) -> Array:
        """Index of each row's class."""
        if len(self.classes_) == 1:
            return np.zeros(len(outputs), np.intp)
        decided: Array = (outputs[:, 0] > 0.5).astype(np.intp) if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        return decided

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row, or the indicators of the labels more likely than not.

        Parameters
        ----------
        X : array-like, frame, CSR or CSC matrix (n, n_features)

        Returns
        -------
        array (n,) of labels, or (n, n_labels) of 0 and 1, sparse (CSR) if y was

        Raises
        ------
        NotFittedError
            If called before `fit`.
        ValueError
            If X does not have the features of `fit`, or holds NaN or infinity.
        """
        outputs = self._outputs(X)
        if self._y_type == "multilabel-indicator":
            indicators = (outputs > 0.5).astype(int)
            return sparse.csr_matrix(indicators) if self._labels_are_sparse else indicators
        return self.classes_.take(self._decided(outputs))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, or of each label, in the order of `classes_`.

        Parameters
        ----------
        X : array-like (n, n_features)

        Returns
        -------
        array (n, n_classes) in the dtype of the weights
            Two columns for two classes; for indicators each column stands by itself.

        Raises
        ------
        NotFittedError, ValueError
            As `predict`.
        """
        outputs = self._outputs(X)
        return np.concatenate([1 - outputs, outputs], axis=1) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like (n, n_features)

        Returns
        -------
        array (n, n_classes) in the dtype of the weights

        Raises
        ------
        NotFittedError, ValueError
            As `predict`.
        """
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    # As scikit-learn has them; see `internals`.
    _predict = ORIGINALS["MLPClassifier"]._predict  # type: ignore[attr-defined]

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return self._score_with_function(X, y, sample_weight, accuracy_score)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


# What Python says of wrong arguments names the class that has the parameters' documentation.
BaseMLP.__init__.__qualname__ = "MLPClassifier.__init__"


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron regressor, with the parameters and results of scikit-learn's `MLPRegressor`.

    It minimises half the squared error or half the Poisson deviance, and an L2 penalty, over shuffled batches or by
    L-BFGS.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default "squared_error"
        "poisson" predicts exp of the last layer and is for y >= 0.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, max_fun, n_jobs, callbacks
        As for `MLPClassifier`.

    Attributes
    ----------
    out_activation_ : {"identity", "exp"}
        "exp" for the Poisson loss.
    loss_, best_loss_, loss_curve_, history_
        As for `MLPClassifier`; the squared error is a mean over the outputs, the Poisson deviance a sum.
    coefs_, intercepts_, n_layers_, n_outputs_, n_features_in_, feature_names_in_, n_iter_, t_, validation_scores_, \
best_validation_score_
        As for `MLPClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import MLPRegressor
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(random_state=0, learning_rate_init=0.01).fit(X, np.abs(X).ravel())
    >>> bool(model.score(X, np.abs(X).ravel()) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }
    _y_is_numeric = True

    # scikit-learn reads the parameters off the signature, so that it has to be written out again.
    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        callbacks: list[Callback] | tuple[Callback, ...] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes, activation, solver=solver, alpha=alpha, batch_size=batch_size,
            learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t, max_iter=max_iter,
            shuffle=shuffle, random_state=random_state, tol=tol, verbose=verbose, warm_start=warm_start,
            momentum=momentum, nesterovs_momentum=nesterovs_momentum, early_stopping=early_stopping,
            validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon,
            n_iter_no_change=n_iter_no_change, max_fun=max_fun, n_jobs=n_jobs, callbacks=callbacks,
        )  # fmt: skip
        self.loss = loss

    @available_if(_can_fit_in_part)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go once through the rows of X, from where the model is.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            If the solver is "lbfgs", which needs all rows at once.
        ValueError
            With `early_stopping`; else as `fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _encode(self, y: Any, is_new: bool, incremental: bool, dtype: npt.DTypeLike) -> tuple[Array, int]:
        if sparse.issparse(y):
            raise TypeError("Sparse y was passed, but dense targets are required; use y.toarray()")
        output = "exp" if self.loss == "poisson" else "identity"
        if is_new:
            self.out_activation_ = output
        elif output != self.out_activation_:
            self._tell_unused("loss", "that of the first fit")
        if self.out_activation_ == "exp" and y.size and y.min() < 0:  # before a model that is there is begun anew
            raise ValueError(f"y must be at least 0 for loss 'poisson', got {y.min()}")
        return pieces.converted(y, dtype), 1 if y.ndim == 1 else y.shape[1]

    def _strata(self, targets: Array) -> Array | None:
        return None

    def _score_outputs(self, targets: Array, outputs: Array, sample_weight: Array | None) -> float:
        """Coefficient of determination."""
        if not np.isfinite(outputs).all():
            return np.nan
        return float(r2_score(targets, outputs, sample_weight=sample_weight))

    def predict(self, X: Any) -> Array:
        """Return the predicted targets.

        Parameters
        ----------
        X : array-like (n, n_features)

        Returns
        -------
        array (n,), or (n, n_outputs) for several outputs, in the dtype of the weights

        Raises
        ------
        NotFittedError
            If called before `fit`.
        ValueError
            If X does not have the features of `fit`, or holds NaN or infinity.
        """
        outputs = self._outputs(X)
        return outputs.ravel() if self.n_outputs_ == 1 else outputs

    # As scikit-learn has them; see `internals`.
    _predict = ORIGINALS["MLPRegressor"]._predict  # type: ignore[attr-defined]

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return self._score_with_function(X, y, sample_weight, r2_score)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"  # other targets are refused
        return tags
