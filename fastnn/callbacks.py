"""Callbacks: what is told of the moments of a fit, and may end it.

`Callback` has the moments, `Fit` is what it sees, and the rest are callbacks for common needs; see also `checkpoint`.
"""

import contextlib
import copy
import csv
import io
import itertools
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fastnn import history
from fastnn.checks import (
    absolute,
    called,
    check_bool,
    check_count,
    check_function,
    check_number,
    check_places,
    seconds_of,
)
from fastnn.kernels.jit import say
from fastnn.log import logger
from fastnn.trees import check_counts, check_tree, damage_told

Array = npt.NDArray[Any]
Parameters = tuple[list[Array], list[Array]]

# -- what callbacks are, and what they see ----------------------------------------------------------------------------


class Callback:
    """Is told of the moments of a fit: override those you need.

    Returning True from `on_batch_end`, `on_chunk_end` or `on_epoch_end` ends the training, as does an error, which goes
    on to the caller; either way the model is usable. What a callback needs to go on after a `Checkpoint` it returns
    from `state_dict`, at any time after `on_fit_begin`, as a dict of numbers, strings, arrays and lists and dicts of
    them, and takes back by `load_state_dict`.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> class Losses(fastnn.Callback):
    ...     def on_epoch_end(self, fit):
    ...         print(f"{fit.epoch}: {fit.loss:.2f}")
    ...         return fit.epoch == 2
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[Losses()]).fit(X, np.abs(X).ravel())
    1: 0.12
    2: 0.11
    """

    # Within a moment those of a higher rank are told later: logs after scores, checkpoints after all.
    rank: ClassVar[int] = 0

    def on_fit_begin(self, fit: "Fit") -> None:
        """The training is about to begin: forget what was."""

    def on_epoch_begin(self, fit: "Fit") -> None:
        """An epoch is about to begin; one in whose middle a resumed fit goes on has begun before."""

    def on_batch_end(self, fit: "Fit") -> bool | None:
        """Say whether to end the training after a batch; overriding it makes each batch a compiled call of its own."""

    def on_chunk_end(self, fit: "Fit") -> bool | None:
        """Say whether to end the training in the middle of a long epoch; called about ten times a second."""

    def on_epoch_end(self, fit: "Fit") -> bool | None:
        """Say whether to end the training after an epoch; of L-BFGS, an iteration."""

    def on_fit_end(self, fit: "Fit") -> None:
        """The training is over, by whatever cause; the model has its final weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on from here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, after `on_fit_begin`."""

    @property
    def _written_files(self) -> tuple[Path, ...]:
        """The `path` that it writes to, and others that are named after it."""
        return ()

    @property
    def _has_best(self) -> bool:
        """Whether it gives the model the weights of its best epoch in the end."""
        return False


class Fit:
    """A fit as its callbacks see it.

    Attributes
    ----------
    model : estimator
        At the end of an epoch, batch or chunk it can predict.
    epoch, max_epochs : int
        Epochs gone through in this fit, and their limit.
    batch, n_batches : int
        Batches gone through in this epoch, and in all; 0 with L-BFGS.
    history : dict of lists
        What becomes `history_`.
    is_over : bool
        Whether a stopping rule or a callback has ended the training.
    is_paused : bool
        Whether the training was only broken off, so that a checkpoint is to go on from here.
    has_ended : bool
        Whether all callbacks have heard of the end, or something has kept them from it.
    """

    def __init__(self, model: Any, callbacks: Iterable[Callback], max_epochs: int) -> None:
        self.model, self.max_epochs = model, max_epochs
        self.epoch = self.batch = self.n_batches = 0
        self.is_over = self.is_paused = self.has_ended = False
        self._is_between_epochs = True
        self.history: dict[str, list[float]] = {}
        self.callbacks = sorted(callbacks, key=lambda callback: callback.rank)
        self.net: Any = None
        self.optimizer: Any = None
        self.state: Callable[[], dict[str, Any]] = dict
        self._told_of_batches = self._overriding("on_batch_end")
        self._told_of_chunks = self._overriding("on_chunk_end")
        self.stateful = self._overriding("state_dict", "load_state_dict")

    def _overriding(self, *moments: str) -> list[Callback]:
        return [callback for callback in self.callbacks if _overrides(callback, *moments)]

    @property
    def loss(self) -> float:
        """Loss of the last epoch, NaN before it."""
        return self.history["loss"][-1] if self.history.get("loss") else math.nan

    @property
    def learning_rate(self) -> float:
        """The learning rate, which a callback may set; NaN with L-BFGS."""
        return math.nan if self.optimizer is None else float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if self.optimizer is None:
            raise ValueError("the solver 'lbfgs' has no learning rate; use 'sgd' or 'adam'")
        self.optimizer.learning_rate = float(rate)

    @property
    def parameters(self) -> Parameters:
        """Copies of the weights and the biases; assign such a pair to set them."""
        return [np.array(array) for array in self.net.weights], [np.array(array) for array in self.net.biases]

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        self.net.weights, self.net.biases = parameters
        self.model._set_network(self.net)

    @property
    def row(self) -> dict[str, float]:
        """The last epoch as a row of a table: its number and what the history has of it."""
        n = len(self.history["loss"])
        last = {name: column[-1] for name, column in self.history.items() if len(column) == n}
        return {"epoch": self.epoch, **last}

    def log(self, name: str, value: float) -> None:
        """Write a value of this epoch to the history; of several by one name the last stays.

        Raises
        ------
        TypeError
            If the name is no string.
        ValueError
            If the training itself writes a column of that name, or has not begun.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if "loss" not in self.history:
            raise ValueError(f"{name!r} must be a value of an epoch; log it in on_epoch_begin or later")
        if name in history.OWN:
            raise ValueError(f"name must not be one of {', '.join(sorted(history.OWN))}, got {name!r}; use another")
        history.log(self.history, name, value, len(self.history["loss"]) + (not self._is_between_epochs))

    def pause(self) -> None:
        """Break the training off here; a checkpoint goes on from here."""
        self.is_paused = True

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def states(self) -> list[dict[str, Any]]:
        """Return the states of the callbacks that have one.

        Raises
        ------
        TypeError
            If one of them is no state that a file can have, or cannot be taken back.
        """
        return [_state_of(callback) for callback in self.stateful]

    def load_states(self, states: list[dict[str, Any]]) -> None:
        """Have the callbacks go on from their states.

        Raises
        ------
        DamagedError
            If a callback does not take its own.
        """
        for callback, state in zip(self.stateful, states, strict=True):
            with damage_told(f"the state of {type(callback).__name__} is not one that it takes"):
                callback.load_state_dict(state)

    # -- the moments ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Tell the callbacks of the beginning and of the end, which comes to each that has heard of the beginning.

        The one that hears of epochs last, a checkpoint, hears of the beginning first and of the end last.
        """
        try:
            with contextlib.ExitStack() as stack:
                for callback in reversed(self.callbacks):
                    callback.on_fit_begin(self)
                    stack.callback(callback.on_fit_end, self)
                yield
        finally:
            self.has_ended = True

    @property
    def is_told_of_batches(self) -> bool:
        return bool(self._told_of_batches)

    @property
    def has_best(self) -> bool:
        """Whether a callback gives the model the weights of its best epoch in the end."""
        return any(callback._has_best for callback in self.callbacks)

    def begin_epoch(self, goes_on: bool = False) -> None:
        """Tell of the beginning of an epoch, or be in one that goes on in the middle, as it was saved."""
        self._is_between_epochs = False
        for callback in () if goes_on else self.callbacks:
            callback.on_epoch_begin(self)
            self.model._network()  # which takes over what has been written to its coefs_

    def end_part(self, is_last: bool) -> bool:
        """Tell of a batch or chunk, the last one of an epoch or not; return whether to stop."""
        self._tell_end("on_batch_end", self._told_of_batches)
        self._tell_end("on_chunk_end", [] if is_last else self._told_of_chunks)
        return self.is_over or self.is_paused

    def end_epoch(self, is_over: bool) -> bool:
        """Tell of the end of an epoch that a rule has said to be the last, or not; return whether to stop."""
        self._is_between_epochs = True
        self.is_over |= is_over
        self._tell_end("on_epoch_end", self.callbacks)
        return self.is_over or self.is_paused

    def _tell_end(self, moment: str, callbacks: list[Callback]) -> None:
        for callback in callbacks:
            if getattr(callback, moment)(self):
                self.is_over = True
                logger.info("%s ended the training after %d epochs", type(callback).__name__, self.epoch)
            self.model._network()


# What callbacks in use have for themselves, by process: children that are forked have none of it.
_USED: dict[tuple[int, str], object] = {}


@contextlib.contextmanager
def used(callbacks: Any) -> Iterator[list[Callback]]:
    """Give the callbacks of an estimator, whose states and files belong to one fit for as long as it goes on.

    Raises
    ------
    TypeError
        If one of them is no callback.
    ValueError
        If a file cannot be where one of them writes it; if two would write to one, or one with a state is there twice,
        in this fit or in one that goes on in another thread.
    """
    told: list[Callback] = list(callbacks or ())
    for callback in told:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must be a list of fastnn.Callback objects, got {callback!r} in it")
        check_places(type(callback).__name__, callback._written_files)
    claims: list[tuple[tuple[int, str], object]] = []
    try:
        for callback in told:
            for own, wrong in _belongings(callback):
                claims.append(((os.getpid(), own), object()))
                if _USED.setdefault(*claims[-1]) is not claims[-1][1]:
                    raise ValueError(wrong)
        yield told
    finally:
        for key, claim in claims:
            if _USED.get(key) is claim:
                del _USED[key]


def _belongings(callback: Callback) -> Iterator[tuple[str, str]]:
    """Return what a callback must have for itself, and what to say where another has it."""
    name, files = type(callback).__name__, callback._written_files
    if files or _overrides(callback, "state_dict", "load_state_dict"):
        yield str(id(callback)), f"callbacks must be of one fit at a time, got {callback!r} twice; make two"
    for file in files:
        yield os.path.realpath(file), f"path of {name} must be one that nothing else writes to, got {file}; use another"


def _overrides(callback: Callback, *moments: str) -> bool:
    return any(getattr(type(callback), moment) is not getattr(Callback, moment) for moment in moments)


def _state_of(callback: Callback) -> dict[str, Any]:
    name = type(callback).__name__
    if not (_overrides(callback, "state_dict") and _overrides(callback, "load_state_dict")):
        raise TypeError(f"{name} must have both state_dict and load_state_dict of its own for a Checkpoint, or neither")
    state = callback.state_dict()
    if not isinstance(state, dict):
        raise TypeError(f"state_dict of {name} must return a dict, got {state!r} from it")
    try:
        check_tree(state)
    except (TypeError, RecursionError) as error:
        what = "a dict of numbers, strings, arrays, and lists and dicts of them"
        raise TypeError(f"state_dict of {name} must return {what}; {error}") from error
    return state


# -- ending the training ----------------------------------------------------------------------------------------------


class EarlyStopping(Callback):
    """Score the model after each epoch, and stop once the score no longer improves.

    Parameters
    ----------
    X_val, y_val : array-like
        Rows to score on, not among those of the fit. Copies of the model by scikit-learn's `clone` share them.
    scoring : str, callable or None, default None
        Name of a scikit-learn scorer such as "roc_auc", or a callable (model, X, y) -> score, higher being better; None
        for the model's own `score`.
    patience : int >= 1, default 10
        Stop after so many epochs in a row without an improvement.
    min_delta : float >= 0, default 0.0
        An improvement is more than that.
    restore_best : bool, default True
        Whether the model gets the weights of its best epoch in the end.

    Raises
    ------
    TypeError, ValueError
        If `scoring`, `patience`, `min_delta` or `restore_best` is none of the above. TypeError by `fit`, if what
        `scoring` returns is no number; ValueError before the training, if the model cannot predict `X_val`, or `y_val`
        has another length (not with a callable, which knows what they are).

    Attributes
    ----------
    best_score_, best_epoch_ : float, int
        Of the last fit; -inf and 0 where no epoch had a score.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> stop = fastnn.EarlyStopping(X[::5], y[::5], scoring="neg_mean_absolute_error", patience=2)
    >>> model = fastnn.MLPRegressor(max_iter=1000, random_state=0, callbacks=[stop]).fit(X, y)
    >>> stop.best_epoch_ <= model.n_iter_ < 1000
    True
    """

    def __init__(
        self,
        X_val: Any,
        y_val: Any,
        scoring: str | Callable[[Any, Any, Any], float] | None = None,
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        check_count("patience", patience)
        check_bool("restore_best", restore_best)
        if scoring is not None and not isinstance(scoring, str):
            check_function("scoring", scoring, "lambda model, X, y: model.score(X, y), a scorer's name or None")
        self.X_val, self.y_val, self.scoring = X_val, y_val, scoring
        self.patience, self.restore_best = patience, restore_best
        self.min_delta = check_number("min_delta", min_delta)

    def __sklearn_clone__(self) -> Self:
        return copy.copy(self)

    def on_fit_begin(self, fit: Fit) -> None:
        self.best_score_, self.best_epoch_, self._count = -math.inf, 0, 0
        self._best: Parameters | None = None
        net = fit.model._network()
        self._sizes, self._dtype = net.sizes, net.dtype
        self._scorer = self._found_scorer()
        self._check_rows(fit.model)

    def _check_rows(self, model: Any) -> None:
        """Refuse before the training what could not be scored after an epoch, but for what the scorer alone knows."""
        from sklearn.utils import check_consistent_length

        if self.scoring is None:
            _score(model, self.X_val, self.y_val)
        elif isinstance(self.scoring, str):
            check_consistent_length(self.X_val, self.y_val)
            model.predict(self.X_val)

    def _found_scorer(self) -> Callable[[Any, Any, Any], float]:
        if self.scoring is None:
            return _score
        if callable(self.scoring):
            return self.scoring
        from sklearn.metrics import get_scorer

        scorer: Callable[[Any, Any, Any], float] = get_scorer(self.scoring)
        return scorer

    def on_epoch_end(self, fit: Fit) -> bool:
        score = called("scoring", self._scorer, fit.model, self.X_val, self.y_val)
        fit.log("validation_score", score)
        if score > self.best_score_ + self.min_delta:
            self.best_score_, self.best_epoch_, self._count = score, fit.epoch, 0
            self._best = fit.parameters if self.restore_best else None
        else:
            self._count += 1
        return self._count >= self.patience

    @property
    def _has_best(self) -> bool:
        return self._best is not None

    def on_fit_end(self, fit: Fit) -> None:
        if self._best is not None:
            fit.parameters = self._best
        self._best = self._scorer = None  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        return {
            "score": self.best_score_, "epoch": self.best_epoch_, "count": self._count,
            "best": None if self._best is None else list(self._best),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_counts(state, "epoch", "count")
        if state["best"] is not None:
            self._check_best(state["best"])
        self.best_score_, self.best_epoch_, self._count = float(state["score"]), state["epoch"], state["count"]
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])

    def _check_best(self, best: list[list[Array]]) -> None:
        """Refuse at once what the model could not be given in the end."""
        kinds = [[(array.shape, array.dtype) for array in arrays] for arrays in best]
        shapes = list(itertools.pairwise(self._sizes)), [(n,) for n in self._sizes[1:]]
        if kinds != [[(shape, self._dtype) for shape in of_layers] for of_layers in shapes]:
            raise ValueError("its best weights are not of this network")
        if not all(np.isfinite(array).all() for arrays in best for array in arrays):
            raise ValueError("its best weights are not finite")


def _score(model: Any, X: Any, y: Any) -> float:
    return float(model.score(X, y))


class TimeBudget(Callback):
    """End the training while there is time left: in time for one more chunk or epoch like the longest so far.

    What other callbacks do counts too: scores of this epoch, and checkpoints as soon as one has been written.

    The model is usable, and a `Checkpoint` beside it saves where the training was, so that the next run goes on.

    Parameters
    ----------
    budget : str such as "3h55m", or float
        Time, or seconds, from the moment that this object is made.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.TimeBudget("3h55m")]).fit(X, y)
    """

    rank = 1  # looks at the clock after the scores

    def __init__(self, budget: str | float) -> None:
        self.budget = budget
        self._deadline = time.monotonic() + seconds_of("budget", budget)

    def on_fit_begin(self, fit: Fit) -> None:
        self._last, self._longest = math.inf, 0.0

    def on_epoch_begin(self, fit: Fit) -> None:
        self._last = min(self._last, time.monotonic())

    def on_chunk_end(self, fit: Fit) -> None:
        now = time.monotonic()  # of a resumed epoch nobody tells when it goes on, and whether it compiled before
        self._longest, self._last = max(self._longest, now - self._last), now
        if now + self._longest >= self._deadline:
            logger.info("the time budget of %s is used up after %d epochs", self.budget, fit.epoch)
            fit.pause()

    on_epoch_end = on_chunk_end

    def __getstate__(self) -> dict[str, Any]:
        """Tell the deadline by the time of day: the clock that nobody sets is of one machine, until it is restarted."""
        return {**vars(self), "_deadline": time.time() + self._deadline - time.monotonic()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _deadline=state["_deadline"] - time.time() + time.monotonic())


# -- the learning rate ------------------------------------------------------------------------------------------------


class LearningRateSchedule(Callback):
    """Set the learning rate of each epoch.

    Parameters
    ----------
    rate : callable (int) -> float
        The rate of an epoch, counted from 0.

    Raises
    ------
    TypeError
        If `rate` cannot be called. By `fit`, if it returns no number; ValueError, if that is not above 0 and finite.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> halved = fastnn.LearningRateSchedule(lambda epoch: 0.1 / 2**epoch)
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[halved]).fit(X, y)
    >>> model.history_["learning_rate"][:3]
    [0.1, 0.05, 0.025]
    """

    def __init__(self, rate: Callable[[int], float]) -> None:
        check_function("rate", rate, "lambda epoch: 0.1 / 2**epoch")
        self.rate = rate

    def on_epoch_begin(self, fit: Fit) -> None:
        fit.learning_rate = called("rate", self.rate, fit.epoch)


# -- logs -------------------------------------------------------------------------------------------------------------


class _Log(Callback):
    """A line of a file for each epoch; a fit begins a new file, a resumed one goes on where its checkpoint was."""

    rank = 1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute(path)

    @property
    def _written_files(self) -> tuple[Path, ...]:
        return (self.path,)

    def _line(self, row: dict[str, float]) -> str:
        raise NotImplementedError

    def on_fit_begin(self, fit: Fit) -> None:
        self._position = 0
        try:
            self._file: FileIO = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the fit goes on
        except OSError as error:
            name = f"path of {type(self).__name__}"
            raise ValueError(f"{name} must be a file that can be written to, got {self.path}: {error}") from error

    def on_epoch_end(self, fit: Fit) -> None:
        try:
            self._write(self._line(fit.row).encode())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._position)  # half a line: there may never be room for its end
            warnings.warn(f"{self.path} cannot be written: {error}; the training goes on", stacklevel=2)

    def _write(self, line: bytes) -> None:
        if self._file.tell() > self._position:  # an earlier fit, epochs that are gone through again, half a line
            self._file.truncate(self._position)
        while line:
            line = line[self._file.write(line) :]
        self._position = self._file.tell()

    def on_fit_end(self, fit: Fit) -> None:
        self._file.close()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_counts(state, "position")
        self._position = min(state["position"], self._file.tell())  # somebody may have removed the lines since

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}


class CSVLog(_Log):
    """Write epoch, loss, learning rate, seconds and scores to a table, a line as soon as its epoch is over.

    The columns are those of the first epoch. Of values that come later a warning tells; `JSONLinesLog` has them.

    Parameters
    ----------
    path : path-like
        A fit writes it anew, unless it is resumed from a `Checkpoint`. A relative one is in the folder that is the
        current one when this object is made.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "epochs.csv")
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.CSVLog(path)]).fit(X, y)
    >>> path.read_text().splitlines()[0]
    'epoch,learning_rate,seconds,loss'
    """

    def on_fit_begin(self, fit: Fit) -> None:
        super().on_fit_begin(fit)
        self._columns: list[str] = []
        self._told: set[str] = set()

    def _tell_missing(self, names: set[str]) -> None:
        if names:
            self._told |= names
            late = f"{', '.join(sorted(names))} came after the first epoch, whose columns are those of {self.path}"
            warnings.warn(f"{late}; use JSONLinesLog, or log it in the first epoch, too", stacklevel=2)

    def _line(self, row: dict[str, float]) -> str:
        line = io.StringIO()
        if not self._position:
            self._columns = list(row)
        self._tell_missing(row.keys() - self._columns - self._told)
        table = csv.DictWriter(line, self._columns, restval=math.nan, extrasaction="ignore", lineterminator="\n")
        if not self._position:
            table.writeheader()
        table.writerow(row)
        return line.getvalue()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "columns": self._columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if not all(isinstance(name, str) for name in state["columns"]):
            raise ValueError(f"its columns are {state['columns']!r}")
        self._columns = list(state["columns"])


class JSONLinesLog(_Log):
    """Write epoch, loss, learning rate, seconds and scores as a JSON object, a line as soon as its epoch is over.

    Parameters
    ----------
    path : path-like
        A fit writes it anew, unless it is resumed from a `Checkpoint`. A relative one is in the folder that is the
        current one when this object is made.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "epochs.jsonl")
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.JSONLinesLog(path)]).fit(X, y)
    >>> json.loads(path.read_text().splitlines()[0])["epoch"]
    1
    """

    def _line(self, row: dict[str, float]) -> str:
        return json.dumps({name: x if math.isfinite(x) else None for name, x in row.items()}) + "\n"


class ProgressBar(Callback):
    """Show epochs, batches of long ones, loss and time: a bar in terminals and notebooks, elsewhere lines on stderr.

    Parameters
    ----------
    every : str such as "30s", or float, default "10s"
        Least time between two lines, where it is lines.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.ProgressBar(every="1min")]).fit(X, y)
    """

    rank = 1

    def __init__(self, every: str | float = "10s") -> None:
        self.every = every
        self._seconds = seconds_of("every", every)
        self._bar: Any = None

    def on_fit_begin(self, fit: Fit) -> None:
        self._began = self._last = time.monotonic()
        self._told = 0  # epochs, when the last line was printed
        self._shown: dict[str, str] = {}  # beside the bar
        self._is_bar = _shows_bars()

    def on_chunk_end(self, fit: Fit) -> None:
        if self._is_bar:
            self._shown_bar(fit, fit.epoch).set_postfix({**self._shown, "batch": f"{fit.batch}/{fit.n_batches}"})
        elif self._is_time():
            self._print(fit, f"epoch {fit.epoch + 1}/{fit.max_epochs}: batch {fit.batch}/{fit.n_batches}")

    def on_epoch_end(self, fit: Fit) -> None:
        if self._is_bar:
            bar, row = self._shown_bar(fit, fit.epoch - 1), fit.row
            self._shown = {name: f"{row[name]:.4g}" for name in ("loss", "validation_score") if name in row}
            bar.set_postfix(self._shown, refresh=False)
            bar.update()
        elif self._is_time():
            self._print_epoch(fit)

    def _shown_bar(self, fit: Fit, epoch: int) -> Any:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=fit.max_epochs, initial=epoch, unit="epoch")
        return self._bar

    def _is_time(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def _print_epoch(self, fit: Fit) -> None:
        self._told = fit.epoch
        score = f", validation score {fit.row['validation_score']:.4g}" if "validation_score" in fit.row else ""
        self._print(fit, f"epoch {fit.epoch}/{fit.max_epochs}: loss {fit.loss:.4g}{score}")

    def _print(self, fit: Fit, what: str) -> None:
        self._last = time.monotonic()
        say(f"{what}, {self._last - self._began:.0f} s")

    def on_fit_end(self, fit: Fit) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif not self._is_bar and fit.epoch > self._told:
            self._print_epoch(fit)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bar": None}


def _shows_bars() -> bool:
    from tqdm.auto import tqdm

    if any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__):
        return True
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, it is something else, or closed
        return False
