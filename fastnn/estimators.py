"""MLPClassifier and MLPRegressor: scikit-learn's contract over the compiled engine.

`fit` is the table of contents; what differs between the two estimators is how targets are encoded and decoded.
"""

import abc
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.optimizers import SGD, Adam
from fastnn.model import MLP
from fastnn.training import AdaptiveRate, ConstantRate, InverseScalingRate, LossPlateau, Outcome, Training

Array = npt.NDArray[Any]

AUTO_BATCH_SIZE = 200
DTYPES = (np.float64, np.float32)  # the first is what other dtypes become


class _BaseMLP(BaseEstimator, abc.ABC):  # type: ignore[misc]
    """What the two estimators share: the parameters, `fit`, and the outputs of the fitted network."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit the network to the rows of X, from new weights.

        Parameters
        ----------
        X : array-like (n, n_features)
            float32 is trained in float32, everything else in float64.
        y : array-like (n,) or (n, n_outputs)
            Class labels or indicators of labels for the classifier, real numbers for the regressor.
        sample_weight : array-like (n,), default None
            Weight of each row in the loss; 1 if omitted.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, if X, y or sample_weight hold NaN or infinity or do not fit together, or
            if the training diverged to weights that are not finite.
        NotImplementedError
            If `early_stopping`, `warm_start` or `solver="lbfgs"` is asked for.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` epochs went by before the loss stopped improving.
        UserWarning
            If Ctrl-C ended the training, which leaves a usable model; or if `batch_size` is larger than n.
        """
        self._refuse_unsupported()
        hidden_sizes = _checked_hidden_sizes(self.hidden_layer_sizes)
        X, y, sample_weight = self._validated(X, y, sample_weight)
        targets, n_outputs = self._encode(y, X.dtype)
        random_state = check_random_state(self.random_state)
        sizes = (X.shape[1], *hidden_sizes, n_outputs)
        net = MLP(sizes, self.activation, self.out_activation_, X.dtype, random_state)
        training = self._training(net, self._batch_size(len(X)), random_state)
        outcome = training.run(X, targets, sample_weight, self.max_iter)
        self._store(training)
        self._check_outcome(outcome)
        return self

    # -- what differs between the estimators ----------------------------------------------------------------------

    out_activation_: str
    _y_is_numeric: ClassVar[bool]

    @abc.abstractmethod
    def _encode(self, y: Array, dtype: npt.DTypeLike) -> tuple[Array, int]:
        """Return y as the network trains on it, and the number of outputs; set `out_activation_`."""

    # -- the steps of fit -----------------------------------------------------------------------------------------

    def _refuse_unsupported(self) -> None:
        if self.solver == "lbfgs":
            raise NotImplementedError("solver='lbfgs' is not supported yet; use solver='adam' or solver='sgd'")
        if self.early_stopping:
            raise NotImplementedError(
                "early_stopping=True is not supported yet; use early_stopping=False, which stops on the training loss"
            )
        if self.warm_start:
            raise NotImplementedError(
                "warm_start=True is not supported yet; use warm_start=False and a larger max_iter in a single fit"
            )

    def _validated(self, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array, Array | None]:
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=self._y_is_numeric, dtype=DTYPES, order="C")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return X, y, sample_weight

    def _batch_size(self, n_rows: int) -> int:
        if isinstance(self.batch_size, str):
            return min(AUTO_BATCH_SIZE, n_rows)
        if self.batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=4
            )
        return min(int(self.batch_size), n_rows)

    def _training(self, net: MLP, batch_size: int, random_state: np.random.RandomState) -> Training:
        return Training(
            net=net,
            optimizer=self._new_optimizer(),
            schedule=self._schedule(),
            plateau=LossPlateau(self.tol, self.n_iter_no_change),
            batch_size=batch_size,
            alpha=self.alpha,
            shuffle=self.shuffle,
            random_state=random_state,
            verbose=self.verbose,
        )

    def _new_optimizer(self) -> SGD | Adam:
        if self.solver == "sgd":
            return SGD(self.learning_rate_init, self.momentum, self.nesterovs_momentum)
        return Adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _schedule(self) -> ConstantRate:
        # Adam adapts the steps itself; scikit-learn ignores the schedule there.
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            return InverseScalingRate(self.learning_rate_init, self.power_t)
        if self.solver == "sgd" and self.learning_rate == "adaptive":
            return AdaptiveRate()
        return ConstantRate()

    def _store(self, training: Training) -> None:
        net = training.net
        self._fitted, self._optimizer = (net, [*net.weights, *net.biases]), training.optimizer
        self.coefs_, self.intercepts_ = [np.array(w) for w in net.weights], [np.array(b) for b in net.biases]
        self.n_layers_, self.n_outputs_ = len(net.sizes), net.sizes[-1]
        self.n_iter_, self.t_ = training.n_epochs, training.n_rows_seen
        self.loss_curve_, self.best_loss_ = training.loss_curve, training.plateau.best
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        self.validation_scores_ = self.best_validation_score_ = None
        self._no_improvement_count = training.plateau.count

    def _check_outcome(self, outcome: Outcome) -> None:
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be"
                " preprocessed."
            )
        if outcome is Outcome.INTERRUPTED:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        elif outcome is Outcome.EXHAUSTED:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )

    # -- the fitted network ---------------------------------------------------------------------------------------

    def _outputs(self, X: npt.ArrayLike) -> Array:
        """Return the outputs (n, n_outputs) of the network, in its dtype."""
        check_is_fitted(self, "coefs_")
        net = self._network()
        return net.forward(validate_data(self, X, dtype=net.dtype, order="C", reset=False))

    def _network(self) -> MLP:
        """Return the network of `coefs_` and `intercepts_`: the one at hand, or a new one where they have changed."""
        net: MLP | None
        net, held = self.__dict__.get("_fitted", (None, []))
        parameters = [*self.coefs_, *self.intercepts_]
        if net is None or not _same(held, parameters):
            sizes = [len(self.coefs_[0]), *map(len, self.intercepts_)]
            net = MLP(sizes, self.activation, self.out_activation_, self.coefs_[0].dtype, random_state=0)
            net.weights, net.biases = self.coefs_, self.intercepts_
            # One assignment, for other threads that predict at the same time.
            self._fitted = net, [np.array(array) for array in parameters]
        return net

    def __getstate__(self) -> dict[str, Any]:
        # The network is made again from coefs_ and intercepts_, so that a pickle holds the parameters once.
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_fitted", "_optimizer")}


class MLPClassifier(ClassifierMixin, _BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron classifier, with the parameters and results of scikit-learn's `MLPClassifier`.

    It minimises the log-loss and an L2 penalty by stochastic gradient descent over shuffled batches.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int >= 1, or int >= 1, default (100,)
        Units of each hidden layer; () makes a linear model.
    activation : {"identity", "logistic", "tanh", "relu"}, default "relu"
        Activation of the hidden layers.
    solver : {"adam", "sgd"}, default "adam"
        Rule of the updates; "lbfgs" is not supported yet.
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
        Not supported yet.
    momentum : float in [0, 1], default 0.9
        Share of the last step that "sgd" keeps.
    nesterovs_momentum : bool, default True
        Whether "sgd" steps from where the momentum leads.
    early_stopping : bool, default False
        Not supported yet.
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
    validation_scores_, best_validation_score_ : None

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

    def _encode(self, y: Array, dtype: npt.DTypeLike) -> tuple[Array, int]:
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_
        kind = self._label_binarizer.y_type_
        self.out_activation_ = "softmax" if kind == "multiclass" else "logistic"
        if kind == "multilabel-indicator":
            return self._label_binarizer.transform(y).astype(dtype), len(self.classes_)
        indices = np.searchsorted(self.classes_, y)
        return (indices, len(self.classes_)) if kind == "multiclass" else (indices.astype(dtype), 1)

    def predict(self, X: npt.ArrayLike) -> Array:
        """Return the most probable class of each row, or the indicators of the labels more likely than not.

        Parameters
        ----------
        X : array-like (n, n_features)

        Returns
        -------
        array (n,) of labels, or (n, n_labels) of 0 and 1

        Raises
        ------
        NotFittedError
            If called before `fit`.
        ValueError
            If X does not have the features of `fit`, or holds NaN or infinity.
        """
        outputs = self._outputs(X)
        labels: Array = self._label_binarizer.inverse_transform(outputs.ravel() if self.n_outputs_ == 1 else outputs)
        return labels

    def predict_proba(self, X: npt.ArrayLike) -> Array:
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
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: npt.ArrayLike) -> Array:
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron regressor, with the parameters and results of scikit-learn's `MLPRegressor`.

    It minimises half the squared error or half the Poisson deviance, and an L2 penalty, by stochastic gradient
    descent over shuffled batches.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default "squared_error"
        "poisson" predicts exp of the last layer and is for y >= 0.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As for `MLPClassifier`.

    Attributes
    ----------
    out_activation_ : {"identity", "exp"}
        "exp" for the Poisson loss.
    loss_, best_loss_, loss_curve_
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
        **_BaseMLP._parameter_constraints,
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
    ) -> None:
        super().__init__(
            hidden_layer_sizes, activation, solver=solver, alpha=alpha, batch_size=batch_size,
            learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t, max_iter=max_iter,
            shuffle=shuffle, random_state=random_state, tol=tol, verbose=verbose, warm_start=warm_start,
            momentum=momentum, nesterovs_momentum=nesterovs_momentum, early_stopping=early_stopping,
            validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon,
            n_iter_no_change=n_iter_no_change, max_fun=max_fun,
        )  # fmt: skip
        self.loss = loss

    def _encode(self, y: Array, dtype: npt.DTypeLike) -> tuple[Array, int]:
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return y.astype(dtype, casting="same_kind", copy=False), 1 if y.ndim == 1 else y.shape[1]

    def predict(self, X: npt.ArrayLike) -> Array:
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


def _checked_hidden_sizes(sizes: Any) -> list[int]:
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def _same(arrays: list[Array], others: list[Array]) -> bool:
    return len(arrays) == len(others) and all(map(np.array_equal, arrays, others))
