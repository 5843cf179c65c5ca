"""What MLPClassifier and MLPRegressor share: the parameters, the way through `fit`, and the fitted network.

`_fit` is the table of contents: validate, encode, train, store.
"""

import abc
import contextlib
import dataclasses
import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import fastnn
from fastnn import lbfgs, plain
from fastnn.interop import SklearnExchange
from fastnn.kernels import epoch
from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.optimizers import SGD, Adam
from fastnn.model import MLP
from fastnn.splitting import validation_split
from fastnn.training import (
    AdaptiveRate,
    ConstantRate,
    InverseScalingRate,
    LossPlateau,
    Outcome,
    Plateau,
    ScorePlateau,
    Training,
    Watcher,
    sklearn_loss,
)

if importlib.util.find_spec("sklearn.callback"):  # since scikit-learn 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
else:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(method: Any) -> Any:
        return method


Array = npt.NDArray[Any]

AUTO_BATCH_SIZE = 200
DTYPES = (np.float64, np.float32)  # the first is what other dtypes become
STOCHASTIC_SOLVERS = ("sgd", "adam")


class FittedArrays:
    """`coefs_` or `intercepts_`: made from the network when somebody asks for them, and from then on the model's own.

    Predictions follow what is written to the arrays; as long as nobody has seen them there is nothing to follow.
    """

    def __init__(self, of_network: str) -> None:
        self.of_network = of_network

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.key = name, f"_{name}"

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        fitted = vars(model)
        if self.key not in fitted:
            if fitted.get("_net") is None:
                raise AttributeError(f"{type(model).__name__!r} object has no attribute {self.name!r}")
            fitted[self.key] = [np.array(array) for array in getattr(fitted["_net"], self.of_network)]
        return fitted[self.key]

    def __set__(self, model: Any, arrays: list[Array]) -> None:
        vars(model)[self.key] = arrays

    def __delete__(self, model: Any) -> None:
        vars(model).pop(self.key, None)


class BaseMLP(SklearnExchange, CallbackSupportMixin, BaseEstimator, abc.ABC):  # type: ignore[misc]
    """Parameters, training and outputs; what differs is how targets are encoded, scored and decoded."""

    coefs_ = FittedArrays("weights")
    intercepts_ = FittedArrays("biases")

    # The parameters and attributes are scikit-learn's, and so is their documentation, in the notebook's HTML view.
    _doc_link_module = "fastnn"
    _doc_link_template = (
        "https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.{estimator_name}.html"
    )

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

    # -- what differs between the estimators ----------------------------------------------------------------------

    out_activation_: str
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    best_loss_: float | None
    _optimizer: SGD | Adam
    _y_is_numeric: ClassVar[bool]

    @abc.abstractmethod
    def _encode(self, y: Any, is_new: bool, incremental: bool, dtype: npt.DTypeLike) -> tuple[Array, int]:
        """Return y as the network trains on it, and the number of outputs; set `out_activation_` of a new model."""

    @abc.abstractmethod
    def _score_outputs(self, targets: Array, outputs: Array, sample_weight: Array | None) -> float:
        """Return the score of outputs on encoded targets."""

    @abc.abstractmethod
    def _strata(self, targets: Array) -> Array | None:
        """Return what the validation rows are stratified by."""

    # -- fit --------------------------------------------------------------------------------------------------------

    @with_callbacks  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit the network to the rows of X: from new weights, or with `warm_start` from those it has.

        Parameters
        ----------
        X : array-like, frame, CSR or CSC matrix (n, n_features)
            float32 is trained in float32, everything else in float64.
        y : array-like (n,) or (n, n_outputs)
            Class labels or indicators of labels, also sparse ones, for the classifier, real numbers for the regressor.
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

        Warns
        -----
        ConvergenceWarning
            If the training ended before the loss, or with `early_stopping` the validation score, stopped improving.
        UserWarning
            If Ctrl-C ended the training, which leaves a usable model; or if `batch_size` is larger than n.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Self:
        hidden_sizes = _checked_hidden_sizes(self.hidden_layer_sizes)
        is_new = not (hasattr(self, "coefs_") and (self.warm_start or incremental))
        given_X, given_y = X, y
        X, y, sample_weight = self._validated(X, y, sample_weight, is_new)
        dtype = X.dtype if is_new else self._network().dtype
        targets, n_outputs = self._encode(y, is_new, incremental, np.float64 if self.solver == "lbfgs" else dtype)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        random_state = check_random_state(self.random_state)
        if is_new:
            self._begin(MLP((X.shape[1], *hidden_sizes, n_outputs), self.activation, self.out_activation_, dtype,
                            random_state))  # fmt: skip
        elif n_outputs != self._network().sizes[-1]:
            raise ValueError(f"y must have {self._network().sizes[-1]} outputs, as in the first fit, got {n_outputs}")
        with self._watched(given_X, given_y, sample_weight, None if incremental else self.max_iter) as watcher:
            if self.solver == "lbfgs":
                self._fit_lbfgs(X, targets, sample_weight, watcher)
            else:
                self._fit_stochastic(X, targets, sample_weight, random_state, incremental, watcher)
        if not self._net.is_finite():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be"
                " preprocessed."
            )
        return self

    def _validated(self, X: Any, y: Any, sample_weight: Any, is_new: bool) -> tuple[Any, Any, Array | None]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=self._y_is_numeric, dtype=DTYPES,
            order="C", reset=is_new,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return _by_rows(X), y, sample_weight

    def _begin(self, net: MLP) -> None:
        """Start anew with an untrained network."""
        self._set_network(net)
        self.n_layers_, self.n_outputs_, self.n_iter_, self.t_ = len(net.sizes), net.sizes[-1], 0, 0
        self.__dict__.pop("_optimizer", None)
        if self.solver in STOCHASTIC_SOLVERS:
            self.loss_curve_, self._no_improvement_count = [], 0
            self.best_loss_ = None if self.early_stopping else np.inf
            self.validation_scores_ = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None

    # -- stochastic solvers -----------------------------------------------------------------------------------------

    def _fit_stochastic(
        self, X: Any, targets: Array, sample_weight: Array | None, random_state: np.random.RandomState,
        incremental: bool, watcher: Watcher | None,
    ) -> None:  # fmt: skip
        net = self._network()
        X = X.astype(net.dtype, copy=False)
        rows, plateau = None, self._loss_plateau()
        if self.early_stopping:
            rows, held_out = validation_split(
                X.shape[0], self._strata(targets), self.validation_fraction, random_state
            )  # fmt: skip
            plateau = self._score_plateau(net, X[held_out], targets[held_out], _rows_of(sample_weight, held_out))
        training = Training(
            net=net,
            optimizer=self._optimizer_of(net, incremental),
            schedule=self._schedule(),
            plateau=plateau,
            batch_size=self._batch_size(X.shape[0] if rows is None else len(rows)),
            alpha=self.alpha,
            shuffle=self.shuffle,
            random_state=random_state,
            verbose=self.verbose,
            loss_curve=getattr(self, "loss_curve_", []),
            n_rows_seen=self.t_,
            store=functools.partial(self._store, net),
            watcher=watcher,
        )
        examples = net.examples(X, targets, sample_weight)
        outcome = training.run(examples, rows, 1 if incremental else self.max_iter)
        self._warn_of(outcome, training, incremental)

    def _loss_plateau(self) -> Plateau:
        best = getattr(self, "best_loss_", None)
        return LossPlateau(self.tol, self.n_iter_no_change, np.inf if best is None else best, self._plateau_count())

    def _score_plateau(self, net: MLP, X: Any, targets: Array, sample_weight: Array | None) -> Plateau:
        if X.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        best = getattr(self, "best_validation_score_", None)
        return ScorePlateau(
            self.tol, self.n_iter_no_change, -np.inf if best is None else best, self._plateau_count(), net,
            lambda: self._score_outputs(targets, net.forward(X), sample_weight),
            getattr(self, "validation_scores_", None) or [],
        )  # fmt: skip

    def _plateau_count(self) -> int:
        return int(getattr(self, "_no_improvement_count", 0))

    def _batch_size(self, n_rows: int) -> int:
        if isinstance(self.batch_size, str):
            return min(AUTO_BATCH_SIZE, n_rows)
        if self.batch_size > n_rows:
            _warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return min(int(self.batch_size), n_rows)

    def _optimizer_of(self, net: MLP, incremental: bool) -> SGD | Adam:
        """The optimizer that goes on where it is, or a new one; each `fit` takes a new one."""
        kept = self.__dict__.get("_optimizer") if incremental else None
        state = self.__dict__.pop("_optimizer_state", None)
        if kept is not None:
            self._optimizer = kept
        elif incremental and state is not None:
            self._optimizer = {"SGD": SGD, "Adam": Adam}[state["rule"]](**state["settings"])
            net.set_moments(self._optimizer, state["moments"])
            self._optimizer.steps = state["steps"]
        elif self.solver == "sgd":
            self._optimizer = SGD(self.learning_rate_init, self.momentum, self.nesterovs_momentum)
        else:
            self._optimizer = Adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
        return self._optimizer

    def _schedule(self) -> ConstantRate:
        # Adam adapts the steps itself; scikit-learn ignores the schedule there.
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            return InverseScalingRate(self.learning_rate_init, self.power_t)
        if self.solver == "sgd" and self.learning_rate == "adaptive":
            return AdaptiveRate()
        return ConstantRate()

    def _store(self, net: MLP, training: Training) -> None:
        """Take over what the epochs so far have led to."""
        self._set_network(net)
        self.n_iter_, self.t_, self.loss_curve_ = training.n_epochs, training.n_rows_seen, training.loss_curve
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        plateau, self._no_improvement_count = training.plateau, training.plateau.count
        if isinstance(plateau, ScorePlateau):
            self.best_loss_, self.best_validation_score_ = None, plateau.best
            self.validation_scores_ = plateau.scores
        else:
            self.best_loss_, self.best_validation_score_, self.validation_scores_ = plateau.best, None, None

    def _warn_of(self, outcome: Outcome, training: Training, incremental: bool) -> None:
        if outcome is Outcome.INTERRUPTED:
            _warn("Training interrupted by user.")
        elif outcome is Outcome.DIVERGED and training.net.is_finite():
            _warn(
                f"Training diverged in epoch {training.n_epochs}: the loss is {self.loss_}. The best weights before"
                " that were kept; a smaller learning_rate_init or scaled input may help.",
                ConvergenceWarning,
            )
        elif outcome is Outcome.EXHAUSTED and not incremental:
            _warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
            )

    # -- L-BFGS -----------------------------------------------------------------------------------------------------

    def _fit_lbfgs(self, X: Any, targets: Array, sample_weight: Array | None, watcher: Watcher | None) -> None:
        net = self._network()
        if net.dtype != np.float64:  # the minimiser computes in float64
            net = _with_parameters(net.sizes, self.activation, self.out_activation_, self.coefs_, self.intercepts_,
                                   np.float64)  # fmt: skip
            self._set_network(net)
        X = X.astype(net.dtype, copy=False)
        weight = None if sample_weight is None else sample_weight.astype(net.dtype, copy=False)
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}

        def on_iteration(losses: tuple[float, float]) -> bool:
            self._set_network(net)  # its parameters have changed
            self.n_iter_, self.loss_ = self.n_iter_ + 1, sklearn_loss(net, *losses)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
            if watcher is None:
                return False
            watcher.on_epoch_begin()
            return watcher.on_epoch_end()

        self.n_iter_, self.loss_ = 0, np.nan
        try:
            result = lbfgs.minimise(net, net.examples(X, targets, weight), self.alpha, options, on_iteration)
        except KeyboardInterrupt:
            _warn("Training interrupted by user.")
            return
        finally:
            self._set_network(net)
        if result is not None:
            self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
            self.loss_ = sklearn_loss(net, *result.losses)

    def _loss_grad_lbfgs(
        self, packed_coef_inter: Array, X: Any, y: Array, sample_weight: Array | None = None, *_buffers: Any
    ) -> tuple[float, Array]:
        """Loss and gradient at a vector of all coefs, then all intercepts: scikit-learn's tests call this method."""
        shapes = [np.shape(array) for array in (*self.coefs_, *self.intercepts_)]
        ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        arrays = [part.reshape(shape) for part, shape in zip(np.split(packed_coef_inter, ends), shapes, strict=True)]
        n = len(self.coefs_)
        net = _with_parameters(self._network().sizes, self.activation, self.out_activation_, arrays[:n], arrays[n:])
        loss, d_coefs, d_intercepts = net.loss_and_gradients(_by_rows(X), y, sample_weight, self.alpha)
        return loss, np.concatenate([array.ravel() for array in (*d_coefs, *d_intercepts)])

    # -- callbacks of scikit-learn 1.9 --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(
        self, X: Any, y: Any, sample_weight: Array | None, max_epochs: int | None
    ) -> Iterator[Watcher | None]:
        """Tell the model's callbacks of the whole fit, and give what tells them of each epoch, if it has any."""
        if max_epochs is None or not (hasattr(self, "_skl_callbacks") or hasattr(self, "_parent_callback_ctx")):
            yield None
            return
        context = self._init_callback_context(max_subtasks=max_epochs)
        told = {"estimator": self, "X": X, "y": y}
        if sample_weight is not None:
            told["metadata"] = {"sample_weight": sample_weight}
        context.call_on_fit_task_begin(**told)
        yield _Callbacks(context, told, self._reconstruction)
        context.call_on_fit_task_end(**told, reconstruction_attributes=self._reconstruction)

    def _reconstruction(self) -> dict[str, Any]:
        return {name: [array.copy() for array in getattr(self, name)] for name in ("coefs_", "intercepts_")}

    # -- the fitted network ---------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """Return the outputs (n, n_outputs) of the network, in its dtype."""
        if "_net" not in self.__dict__:
            check_is_fitted(self, "coefs_")
        net = self._network()
        X = self._validated_rows(X, net.dtype)
        if epoch.is_compiled(net.dtype):
            return net.forward(X)
        return plain.forward(X, net.weights, net.biases, net.activations, net.output)

    def _validated_rows(self, X: Any, dtype: np.dtype[Any]) -> Any:
        """Return X after all of scikit-learn's checks; those that a plain array of our dtype needs are quickly made."""
        if (
            type(X) is np.ndarray and X.dtype == dtype and X.ndim == 2 and X.shape[0] > 0
            and X.shape[1] == self.__dict__.get("n_features_in_") and "feature_names_in_" not in self.__dict__
            and X.flags.c_contiguous and X.flags.aligned and np.isfinite(X).all()
        ):  # fmt: skip
            return X
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=DTYPES, order="C", reset=False)
        return _by_rows(X).astype(dtype, copy=False)

    def _set_network(self, net: MLP) -> None:
        self._net = net
        for name in ("_coefs_", "_intercepts_", "_followed"):
            self.__dict__.pop(name, None)

    def _network(self) -> MLP:
        """Return the network of `coefs_` and `intercepts_`, brought up to date where they have been written to."""
        fitted = self.__dict__
        net: MLP | None = fitted.get("_net")
        if net is None or "_coefs_" in fitted or "_intercepts_" in fitted or not self._describes(net):
            net = self._follow_arrays(net)
        return net

    def _describes(self, net: MLP) -> bool:
        return net.output == self.out_activation_ and all(name == self.activation for name in net.activations)

    def _follow_arrays(self, net: MLP | None) -> MLP:
        arrays = [*self.coefs_, *self.intercepts_]
        followed = self.__dict__.get("_followed")
        if net is not None and followed is None:
            followed = [*net.weights, *net.biases]
        if net is not None and followed is not None and _same(followed, arrays) and self._describes(net):
            self._followed = followed
            return net
        sizes = (len(self.coefs_[0]), *(len(array) for array in self.intercepts_))
        if net is not None and net.sizes == sizes and self._describes(net):
            net.weights, net.biases = self.coefs_, self.intercepts_
        else:
            net = _with_parameters(sizes, self.activation, self.out_activation_, self.coefs_, self.intercepts_)
        self._net, self._followed = net, [np.array(array) for array in arrays]
        return net

    # -- pickles ----------------------------------------------------------------------------------------------------

    def discard_optimizer(self) -> Self:
        """Forget what only a further `partial_fit` needs, which makes a pickle a third as large after Adam.

        Returns
        -------
        self
        """
        for name in ("_optimizer", "_optimizer_state"):
            self.__dict__.pop(name, None)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return arrays and builtins alone; how the engine keeps them depends on the machine."""
        state = super().__getstate__().copy()
        names = ("_net", "_coefs_", "_intercepts_", "_followed", "_optimizer")
        private = {name: state.pop(name, None) for name in names}
        if hasattr(self, "coefs_"):
            state |= {name: [np.array(array) for array in getattr(self, name)] for name in ("coefs_", "intercepts_")}
        optimizer = private["_optimizer"]
        if optimizer is not None:
            state["_optimizer_state"] = {
                "rule": type(optimizer).__name__,
                "settings": dataclasses.asdict(optimizer),
                "steps": optimizer.steps,
                "moments": self._network().moments_by_layer(optimizer),
            }
        return {**state, "_fastnn_version": fastnn.__version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_fastnn_version", None)
        if version != fastnn.__version__ and "_sklearn_version" not in state:
            _warn(f"Loading a {type(self).__name__} that fastnn {version} saved into fastnn {fastnn.__version__}.")
        managed = {name: state.pop(name) for name in ("coefs_", "intercepts_", "_label_binarizer") if name in state}
        super().__setstate__(state)
        for name, value in managed.items():
            setattr(self, name, value)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class _Callbacks:
    """Tells scikit-learn's callbacks of each epoch."""

    def __init__(self, context: Any, told: dict[str, Any], reconstruction: Callable[[], dict[str, Any]]) -> None:
        self.context, self.told, self.reconstruction = context, told, reconstruction

    def on_epoch_begin(self) -> None:
        self.epoch = self.context.subcontext(task_name="epoch").call_on_fit_task_begin(**self.told)

    def on_epoch_end(self) -> bool:
        return bool(self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=self.reconstruction))


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the line that called fastnn, however many of our own functions and decorators are in between."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("fastnn", "sklearn", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _checked_hidden_sizes(sizes: Any) -> list[int]:
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def _by_rows(X: Any) -> Any:
    """Return a sparse matrix as CSR; never a dense copy of it."""
    return X.tocsr() if sparse.issparse(X) else X


def _rows_of(array: Array | None, rows: Array) -> Array | None:
    return None if array is None else array[rows]


def _with_parameters(
    sizes: Any, activation: str, output: str, coefs: Any, intercepts: Any, dtype: npt.DTypeLike | None = None
) -> MLP:
    """Return a new network of these parameters, float32 if they are."""
    if dtype is None:
        dtype = np.float32 if all(np.asarray(array).dtype == np.float32 for array in coefs) else np.float64
    net = MLP(sizes, activation, output, dtype, random_state=0)
    net.weights, net.biases = coefs, intercepts
    return net


def _same(arrays: list[Array], others: list[Array]) -> bool:
    return len(arrays) == len(others) and all(map(np.array_equal, arrays, others))
