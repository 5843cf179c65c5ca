"""What MLPClassifier and MLPRegressor share: the parameters, the way through `fit`, and the fitted network.

`_fit` is the table of contents: validate, encode, train, store.
"""

import abc
import contextlib
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnn import callbacks, checkpoint, lbfgs, parallel, pieces, plain, saving
from fastnn.callbacks import Callback, Fit
from fastnn.checkpoint import Checkpoint
from fastnn.divergence import likely_causes
from fastnn.fitted import FittedNetwork, warn, with_parameters
from fastnn.history import fill
from fastnn.internals import SklearnInternals
from fastnn.kernels import epoch
from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.listening import call_apart
from fastnn.kernels.optimizers import SGD, Adam
from fastnn.kernels.shuffle import ROWS_AT_ONCE
from fastnn.model import MLP, Losses
from fastnn.orders import Orders
from fastnn.rows import csr_of, entries_of, in_dtype, rows_of
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
Resumed = Callable[[Callable[[dict[str, Any]], None]], None]

AUTO_BATCH_SIZE = 200
DTYPES = (np.float64, np.float32)  # the first is what other dtypes become
STOCHASTIC_SOLVERS = ("sgd", "adam")
_AS_ELSEWHERE: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
ALL_WEIGHTS_ZERO = "Sample weights must contain at least one non-zero number."  # as scikit-learn says it
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


class BaseMLP(FittedNetwork, SklearnInternals, CallbackSupportMixin, BaseEstimator, abc.ABC):  # type: ignore[misc]
    """Parameters, training and outputs; what differs is how targets are encoded, scored and decoded."""

    # The parameters and attributes are scikit-learn's, and so is their documentation, in the notebook's HTML view.
    _doc_link_module = "fastnn"
    _doc_link_template = (
        "https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.{estimator_name}.html"
    )

    # Of models from scikit-learn's pickles, and of subclasses that set its parameters, and no others.
    n_jobs: int | None = None
    callbacks: list[Callback] | tuple[Callback, ...] | None = None

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
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "callbacks": [list, tuple, None],
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
        n_jobs: int | None = None,
        callbacks: list[Callback] | tuple[Callback, ...] | None = None,
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
        self.n_jobs = n_jobs
        self.callbacks = callbacks

    # -- what differs between the estimators ----------------------------------------------------------------------

    out_activation_: str
    loss_curve_: list[float]
    history_: dict[str, list[float]]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    best_loss_: float | None
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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
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
            if the training diverged to weights that are not finite; the model then has the last finite ones.

        Warns
        -----
        ConvergenceWarning
            If the training ended before the loss, or with `early_stopping` the validation score, stopped improving, for
            example by a `TimeBudget`; or because the loss, but no weight, was not finite.
        UserWarning
            If Ctrl-C ended the training, which leaves a usable model; if `batch_size` is larger than n; or if
            `hidden_layer_sizes` are not those of the model that `warm_start` goes on with.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Self:
        self._begin_with_internals()
        hidden_sizes = _checked_hidden_sizes(self.hidden_layer_sizes)
        is_new = not ((self.warm_start or incremental) and self._has_network())
        given_X, given_y = X, y
        X, y, sample_weight = self._validated(X, y, sample_weight, is_new)
        dtype = X.dtype if is_new else self._network().dtype
        targets, n_outputs = self._encode(y, is_new, incremental, np.float64 if self.solver == "lbfgs" else dtype)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._random_state = random_state = check_random_state(self.random_state)
        with callbacks.used(None if incremental else self.callbacks) as told:
            resumed = self._resumed(told, {"X": X, "y": targets, "sample_weight": sample_weight}, is_new, random_state)
            if is_new:
                sizes = (X.shape[1], *hidden_sizes, n_outputs)
                self._begin(MLP(sizes, self.activation, self.out_activation_, dtype, random_state))
            else:
                self._check_sizes(hidden_sizes, n_outputs)
            with self._threads(), self._told(told, given_X, given_y, sample_weight, incremental) as fit:
                try:
                    if self.solver == "lbfgs":
                        self._train_lbfgs(X, targets, sample_weight, fit)
                    else:
                        self._train_stochastic(X, targets, sample_weight, random_state, incremental, fit, resumed)
                except KeyboardInterrupt:  # before the first step too: there is a network
                    self._warn_of(Outcome.INTERRUPTED, incremental)
        return self

    def _check_sizes(self, hidden_sizes: list[int], n_outputs: int) -> None:
        """Tell of sizes that are not those of the network that a training goes on with."""
        net = self._network()
        self._check_inputs(net)
        _, *known_sizes, known_outputs = net.sizes
        if n_outputs != known_outputs:
            raise ValueError(f"y must have {known_outputs} outputs, as in the first fit, got {n_outputs}")
        if hidden_sizes != known_sizes:
            self._tell_unused("hidden_layer_sizes", f"the layers that the model has, of {known_sizes} units")

    def _tell_unused(self, name: str, used: str) -> None:
        """Warn of a parameter that has been changed since the training that this one goes on from."""
        warn(
            f"{name}={getattr(self, name)!r} is not used: the training goes on with {used}; to begin anew, call fit"
            " with warm_start=False"
        )

    def _resumed(
        self, told: list[Callback], data: dict[str, Any], is_new: bool, random_state: np.random.RandomState
    ) -> Resumed | None:
        """Return what has a training load the state of a checkpoint, if there is one; draw what that fit has drawn."""
        checkpoints = [callback for callback in told if isinstance(callback, Checkpoint)]
        if not checkpoints:
            return None
        if len(checkpoints) > 1:
            raise ValueError(f"callbacks must have at most one Checkpoint, got {len(checkpoints)}")
        if self.solver not in STOCHASTIC_SOLVERS:
            raise ValueError(f"Checkpoint needs the solver 'adam' or 'sgd', got {self.solver!r}")
        stateful = [type(callback).__name__ for callback in Fit(self, told, self.max_iter).stateful]
        start, state = checkpoints[0].resume(
            checkpoint.fingerprint(
                self, stateful, data, getattr(self, "classes_", None),
                [] if is_new else [*self._network().weights, *self._network().biases],
            ),
            random_state.get_state(legacy=False),
        )  # fmt: skip
        random_state.set_state(start)
        n_begun = 0 if state is None else state["n_epochs"] + (state["rows_done"] > 0)
        if n_begun > self.max_iter:
            raise ValueError(
                f"max_iter must be at least {n_begun}, the epochs of {checkpoints[0].path}, got"
                f" {self.max_iter}; or delete the file to begin anew"
            )
        if state is None or (state["n_epochs"] < self.max_iter and state.get("is_over") is not True):
            checkpoints[0].check_writable()
        return None if state is None else functools.partial(checkpoints[0].load, state)

    def _validated(self, X: Any, y: Any, sample_weight: Any, is_new: bool) -> tuple[Any, Any, Array | None]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=self._y_is_numeric, dtype=DTYPES,
            order="C", reset=is_new,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight, least = _check_sample_weight(sample_weight, X, dtype=X.dtype), np.finfo(X.dtype).tiny
            sample_weight = pieces.mapped(  # as in the kernels
                lambda weights: np.where(np.abs(weights) < least, 0, weights), sample_weight, X.dtype
            )
            if not sample_weight.any():
                raise ValueError(ALL_WEIGHTS_ZERO)
            if sample_weight.sum() == 0:  # the loss is a mean over them
                raise ValueError("sample_weight must not add up to 0, got weights that cancel each other out")
        return _by_rows(X), y, sample_weight

    def _begin(self, net: MLP) -> None:
        """Start anew with an untrained network."""
        self._set_network(net)
        self.n_layers_, self.n_outputs_, self.n_iter_, self.t_ = len(net.sizes), net.sizes[-1], 0, 0
        self.loss_ = np.nan
        self.discard_optimizer()
        if self.solver in STOCHASTIC_SOLVERS:
            self.loss_curve_, self._no_improvement_count, self.history_ = [], 0, {}
            self.history_ = self._history()
            self.best_loss_ = None if self.early_stopping else np.inf
            self.validation_scores_ = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None

    # -- stochastic solvers -----------------------------------------------------------------------------------------

    def _train_stochastic(
        self, X: Any, targets: Array, sample_weight: Array | None, random_state: np.random.RandomState,
        incremental: bool, fit: Fit | None, resumed: Resumed | None,
    ) -> None:  # fmt: skip
        net = _bounded(self._network())
        X = in_dtype(X, net.dtype)
        rows, plateau = None, self._loss_plateau()
        if self.early_stopping:
            rows, held_out = self._split(X.shape[0], self._strata(targets), random_state)
            plateau = self._score_plateau(net, *(rows_of(each, held_out) for each in (X, targets, sample_weight)))
        # Each fit begins with a new optimizer; partial_fit goes on with the one there is, whatever the parameters say.
        kept = self._kept_optimizer(net) if incremental else None
        self.discard_optimizer()
        optimizer, schedule = kept or (self._new_optimizer(), self._new_schedule())
        self._schedule, self._optimizer = schedule, optimizer  # where this is, both are
        training = Training(
            net=net,
            optimizer=optimizer,
            schedule=schedule,
            plateau=plateau,
            batch_size=self._batch_size(X.shape[0] if rows is None else len(rows)),
            alpha=self.alpha,
            orders=Orders(random_state, self.shuffle),
            verbose=self.verbose,
            history=self._history(),
            n_rows_seen=self.t_,
            store=functools.partial(self._store, net),
            fit=fit,
        )
        if resumed is not None:
            n_in_epoch = X.shape[0] if rows is None else len(rows)
            resumed(lambda state: training.load_state_dict(state, X.shape[0], n_in_epoch))
        examples = net.examples(X, targets, sample_weight)
        outcome = training.run(examples, rows, 1 if incremental else int(self.max_iter))
        if outcome is Outcome.DIVERGED:
            causes = likely_causes(X, targets if net.output in ("identity", "exp") else None, sample_weight,
                                   training.optimizer.learning_rate)  # fmt: skip
            self._refuse_diverged(training, causes)
        self._warn_of(outcome, incremental)

    def _split(self, n_rows: int, strata: Array | None, random_state: np.random.RandomState) -> tuple[Array, Array]:
        """Return the rows to train on and to validate on; of many, Ctrl-C need not wait until they are drawn."""
        if n_rows <= ROWS_AT_ONCE:
            return validation_split(n_rows, strata, self.validation_fraction, random_state)
        settings, draws = get_config(), np.random.RandomState()  # what is cut off draws on, but not from the caller's
        draws.set_state(random_state.get_state(legacy=False))

        def split() -> tuple[Array, Array]:
            with config_context(**settings):  # which each thread has for itself
                return validation_split(n_rows, strata, self.validation_fraction, draws)

        parts: tuple[Array, Array] = call_apart(split)
        random_state.set_state(draws.get_state(legacy=False))
        return parts

    def _history(self) -> dict[str, list[float]]:
        """Return the history of the fits before that this one goes on with; its losses are `loss_curve_` itself."""
        losses = getattr(self, "loss_curve_", [])
        history = getattr(self, "history_", {})
        if len(history.get("loss", [])) != len(losses):
            history = {}
        history = {"learning_rate": [], "seconds": [], **history, "loss": losses}
        fill(history)
        return history

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
        if not 1 <= self.batch_size <= n_rows:  # less than 1 only where parameters are not validated
            warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return max(1, min(int(self.batch_size), n_rows))

    def _new_optimizer(self) -> SGD | Adam:
        if self.solver == "sgd":
            return SGD(self.learning_rate_init, self.momentum, self.nesterovs_momentum)
        return Adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _new_schedule(self) -> ConstantRate:
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
        self.history_ = training.history
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        plateau, self._no_improvement_count = training.plateau, training.plateau.count
        if isinstance(plateau, ScorePlateau):
            self.best_loss_, self.best_validation_score_ = None, plateau.best
            self.validation_scores_ = plateau.scores
        else:
            self.best_loss_, self.best_validation_score_, self.validation_scores_ = plateau.best, None, None

    def _refuse_diverged(self, training: Training, causes: str) -> None:
        """Tell of a loss or of weights that were not finite, by an error where the weights would be left so."""
        where = ""
        if training.failure is not None:
            where = " in epoch {}, step {}".format(*training.failure)
        elif training.fit is not None:  # gone through once more, without the callbacks, the steps were finite
            where = f" in epoch {training.n_epochs + (training.rows_done > 0)}"
            causes += " Or a callback has set weights that lead there."
        has_best = isinstance(training.plateau, ScorePlateau) or (training.fit is not None and training.fit.has_best)
        if training.has_finite_end or has_best:
            kept = "best weights before that" if has_best else "last finite weights"
            warn(f"Training diverged{where}: the loss is {self.loss_}. The {kept} were kept. {causes}",
                 ConvergenceWarning)  # fmt: skip
        else:
            raise ValueError(f"{NOT_FINITE} Training diverged{where}; the last finite weights were kept. {causes}")

    def _warn_of(self, outcome: Outcome, incremental: bool) -> None:
        if outcome is Outcome.INTERRUPTED:
            warn("Training interrupted by user.")
        elif outcome is Outcome.EXHAUSTED and not incremental:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter:d}) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
            )
        elif outcome is Outcome.PAUSED:
            warn(
                f"The training was broken off after {self.n_iter_} of at most {self.max_iter} epochs, by a TimeBudget"
                " or another callback, and the model is not finished"
                + ("." if self.solver == "lbfgs" else "; with a Checkpoint the next run goes on."),
                ConvergenceWarning,
            )

    # -- L-BFGS -----------------------------------------------------------------------------------------------------

    def _train_lbfgs(self, X: Any, targets: Array, sample_weight: Array | None, fit: Fit | None) -> None:
        net = _bounded(self._network())
        if net.dtype != np.float64:  # the minimiser computes in float64; scikit-learn's probabilities stay in float32
            most_loss = net.most_loss
            net = with_parameters(net.weights, net.biases, self.activation, self.out_activation_, np.float64)
            net.most_loss = most_loss
            self._set_network(net)
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        history: dict[str, list[float]] = {"loss": [], "seconds": []}
        self.history_ = history
        began = time.perf_counter()
        if fit is not None:
            fit.net, fit.history = net, history

        def on_iteration(losses: Losses) -> bool:
            nonlocal began
            self._set_network(net)  # its parameters have changed
            self.n_iter_, self.loss_ = self.n_iter_ + 1, sklearn_loss(net, *losses)
            history["loss"].append(self.loss_)
            history["seconds"].append((now := time.perf_counter()) - began)
            began = now
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
            if fit is None:
                return False
            fit.epoch = self.n_iter_
            fit.begin_epoch()
            return fit.end_epoch(is_over=False)

        self.n_iter_, self.loss_ = 0, np.nan
        try:
            X = in_dtype(X, net.dtype)
            weight = None if sample_weight is None else pieces.converted(sample_weight, net.dtype)
            result = lbfgs.minimise(net, net.examples(X, targets, weight), self.alpha, options, on_iteration)
        finally:
            fill(history)
            self._set_network(net)
        if result is not None:
            if not np.isfinite(result.x).all():
                causes = likely_causes(X, targets if net.output in ("identity", "exp") else None, weight, np.nan)
                raise ValueError(f"{NOT_FINITE} The last finite weights were kept. {causes}")
            self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
            self.loss_ = sklearn_loss(net, *result.losses)
        elif fit is not None and fit.is_paused and not fit.is_over:
            self._warn_of(Outcome.PAUSED, incremental=False)

    def _loss_grad_lbfgs(
        self, packed_coef_inter: Array, X: Any, y: Array, sample_weight: Array | None = None, *_buffers: Any
    ) -> tuple[float, Array]:
        """Loss and gradient at a vector of all coefs, then all intercepts: scikit-learn's tests call this method."""
        self._unpack(packed_coef_inter)
        net = _bounded(with_parameters(self.coefs_, self.intercepts_, self.activation, self.out_activation_))
        loss, d_coefs, d_intercepts = net.loss_and_gradients(_by_rows(X), y, sample_weight, self.alpha)
        return loss, np.concatenate([array.ravel() for array in (*d_coefs, *d_intercepts)])

    # -- callbacks, of scikit-learn 1.9 too ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _told(
        self, told: list[Callback], X: Any, y: Any, sample_weight: Array | None, incremental: bool
    ) -> Iterator[Fit | None]:
        """Tell the callbacks of the whole fit, and give what tells them of the rest, if there are any."""
        with contextlib.ExitStack() as stack:
            # A search hands on its context without callbacks too: nobody would hear of the epochs.
            if not incremental and getattr(self, "_skl_callbacks", None):
                told = [*told, stack.enter_context(self._of_sklearn(X, y, sample_weight))]
            fit = Fit(self, told, self.max_iter) if told else None
            if fit is not None:
                stack.enter_context(fit.entered())
            yield fit

    @contextlib.contextmanager
    def _of_sklearn(self, X: Any, y: Any, sample_weight: Array | None) -> Iterator[Callback]:
        context = self._init_callback_context(max_subtasks=self.max_iter)
        told = {"estimator": self, "X": X, "y": y}
        if sample_weight is not None:
            told["metadata"] = {"sample_weight": sample_weight}
        context.call_on_fit_task_begin(**told)
        yield _SklearnCallbacks(context, told, self._reconstruction)
        context.call_on_fit_task_end(**told, reconstruction_attributes=self._reconstruction)

    def _reconstruction(self) -> dict[str, Any]:
        return {name: [array.copy() for array in getattr(self, name)] for name in ("coefs_", "intercepts_")}

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a safetensors file, which `fastnn.load` reads.

        The file has the weights, the parameters and the fitted attributes, no code and no pickle. It does not have the
        state of the optimizer, which only a further `partial_fit` goes on from, nor callbacks and metadata requests; a
        pickle has them. `torch.nn.Sequential(Linear, activation, Linear, ...)` takes the weights by
        `load_state_dict(safetensors.torch.load_file(path))`.

        Parameters
        ----------
        path : str or os.PathLike
            The file appears, or takes the place of another, when all of it is on disk.

        Raises
        ------
        NotFittedError
            If called before `fit`.
        TypeError
            If a parameter, as a RandomState, or the classes can be kept by pickle alone, or of a subclass.
        ValueError
            If a weight is not finite, or a parameter is out of range.
        OSError
            If the file cannot be written; what was there before stays.
        ImportError
            If safetensors is not installed.
        """
        check_is_fitted(self, "coefs_")
        saving.save(path, self, self._network())

    # -- the fitted network ---------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """Return the outputs (n, n_outputs) of the network, in its dtype."""
        if "_net" not in self.__dict__ and not self._has_network():
            check_is_fitted(self, "coefs_")
        net = self._network()
        # Where training has compiled its kernels, to compile those of prediction takes a second or two, once.
        if not (net.is_ready or epoch.is_compiled(net.dtype)):
            return plain.forward(self._validated_rows(X, net), net.weights, net.biases, net.activations, net.output)
        with self._threads():
            return self._forward(net, X)

    def _forward(self, net: MLP, X: Any) -> Array:
        fitted = self.__dict__
        # All of scikit-learn's checks, quickly made, of a plain array of the network's dtype.
        if fitted.get("n_features_in_") == net.sizes[0] and "feature_names_in_" not in fitted:
            outputs = net.forward_if_finite(X)
            if outputs is not None:
                return outputs
        return net.forward(self._validated_rows(X, net))

    def _check_inputs(self, net: MLP) -> None:
        """Refuse weights of other inputs than X has, which somebody else has put there."""
        n_features = self.__dict__.get("n_features_in_", net.sizes[0])
        if net.sizes[0] != n_features:
            n_units = net.sizes[1]
            raise ValueError(
                f"coefs_[0] must have a row for each feature of X, the shape {(n_features, n_units)}, got"
                f" {(net.sizes[0], n_units)}"
            )

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        """Use as many threads as `n_jobs` says within a `with` block."""
        return _AS_ELSEWHERE if self.n_jobs is None else parallel.threads(parallel.count_of_jobs(self.n_jobs))

    def _validated_rows(self, X: Any, net: MLP) -> Any:
        rows = _by_rows(validate_data(self, X, accept_sparse=["csr", "csc"], reset=False))
        self._check_inputs(net)
        X = in_dtype(rows, net.dtype)
        is_narrowed = rows.dtype.kind == "f" and rows.dtype.itemsize > net.dtype.itemsize
        if is_narrowed and not get_config()["assume_finite"] and not pieces.is_finite(entries_of(X)):
            largest = np.abs(entries_of(rows)).max()
            raise ValueError(f"X must be within the range of {net.dtype}, which the model was fitted in, got {largest}")
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class _SklearnCallbacks(Callback):
    """Tells scikit-learn's callbacks of each epoch."""

    def __init__(self, context: Any, told: dict[str, Any], reconstruction: Callable[[], dict[str, Any]]) -> None:
        self.context, self.told, self.reconstruction = context, told, reconstruction
        self.epoch: Any = None

    def on_epoch_begin(self, fit: Fit) -> None:
        self.epoch = self.context.subcontext(task_name="epoch").call_on_fit_task_begin(**self.told)

    def on_epoch_end(self, fit: Fit) -> bool:
        if self.epoch is None:  # it began before a checkpoint, from which this fit goes on
            self.on_epoch_begin(fit)
        return bool(self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=self.reconstruction))


def _bounded(net: MLP) -> MLP:
    """Have a network tell log-losses up to that of the least probability that scikit-learn takes."""
    net.most_loss = -float(np.log(np.finfo(net.dtype).eps))
    return net


def _checked_hidden_sizes(sizes: Any) -> list[int]:
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def _by_rows(X: Any) -> Any:
    """Return a sparse matrix as CSR; never a dense copy of it."""
    return call_apart(csr_of, X) if sparse.issparse(X) and X.format != "csr" else X
