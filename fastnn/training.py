"""Training: epochs in shuffled order, the learning rate they run at, and the rule that ends them.

The rules are scikit-learn's, down to the lines they print; nothing here needs scikit-learn.
"""

import dataclasses
import enum
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import history, pieces
from fastnn.callbacks import Fit
from fastnn.checkpoint import check_draws
from fastnn.divergence import Rewind
from fastnn.kernels import epoch
from fastnn.kernels.optimizers import SGD, Adam, finite_number
from fastnn.log import logger
from fastnn.model import MLP, Epochs, rows_of_next_call
from fastnn.orders import Orders, Place
from fastnn.rows import Examples, check_range
from fastnn.trees import check_counts, damage_told

Array = npt.NDArray[Any]
Say = Callable[[str], None]

# Learning rate at and below which the adaptive schedule gives up, and what it divides by until then.
SMALLEST_RATE, RATE_DIVISOR = 1e-6, 5.0


class Outcome(enum.Enum):
    """How a run of epochs ended."""

    CONVERGED = enum.auto()
    EXHAUSTED = enum.auto()
    PAUSED = enum.auto()
    INTERRUPTED = enum.auto()
    DIVERGED = enum.auto()


# -- learning-rate schedules ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ConstantRate:
    """The learning rate stays; a plateau ends the training. The other schedules override what differs."""

    @property
    def changes_each_epoch(self) -> bool:
        """Whether `on_epoch_end` does anything."""
        return False

    def on_epoch_end(self, optimizer: SGD | Adam, n_rows_seen: int) -> None:
        """Set the learning rate of the next epoch."""

    def on_plateau(self, optimizer: SGD | Adam) -> tuple[bool, str]:
        """Return whether to stop, and what to tell the user."""
        return True, "Stopping."


@dataclasses.dataclass
class InverseScalingRate(ConstantRate):
    """initial / (n_rows_seen + 1) ** power."""

    initial: float
    power: float

    @property
    def changes_each_epoch(self) -> bool:
        return True

    def on_epoch_end(self, optimizer: SGD | Adam, n_rows_seen: int) -> None:
        optimizer.learning_rate = self.initial / (n_rows_seen + 1) ** self.power


@dataclasses.dataclass
class AdaptiveRate(ConstantRate):
    """Each plateau divides the learning rate, until it is too small to be of use."""

    def on_plateau(self, optimizer: SGD | Adam) -> tuple[bool, str]:
        if optimizer.learning_rate <= SMALLEST_RATE:
            return True, "Learning rate too small. Stopping."
        optimizer.learning_rate /= RATE_DIVISOR
        return False, f"Setting learning rate to {optimizer.learning_rate:f}"


# -- stopping rules ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Plateau:
    """More than `patience` epochs in a row that were not better than the best by `tol`."""

    tol: float
    patience: float
    best: float
    count: int

    @property
    def is_reached(self) -> bool:
        return self.count > self.patience

    @property
    def n_before_reached(self) -> int:
        """Epochs that can be judged together, since only the last of them can be the one that makes it a plateau."""
        return 1

    def update(self, loss: float, say: Say) -> None:
        """Take note of an epoch."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the training."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_counts(state, "count")
        self.best, self.count = float(state["best"]), state["count"]


@dataclasses.dataclass
class LossPlateau(Plateau):
    """Judge epochs by their training loss."""

    best: float = np.inf
    count: int = 0

    @property
    def n_before_reached(self) -> int:
        return max(1, int(min(self.patience, sys.maxsize)) + 1 - self.count)

    def update(self, loss: float, say: Say) -> None:
        # Both comparisons are false for a NaN loss, which so neither counts nor becomes the best.
        self.count = self.count + 1 if loss > self.best - self.tol else 0
        self.best = loss if loss < self.best else self.best

    def __str__(self) -> str:
        return f"Training loss did not improve more than tol={self.tol:f} for {self.patience} consecutive epochs."


@dataclasses.dataclass
class ScorePlateau(Plateau):
    """Judge epochs by a score, which may be NaN, and give the network the weights of the best one in the end."""

    net: MLP
    score: Callable[[], float]
    scores: list[float]

    def __post_init__(self) -> None:
        self._best_parameters = self.net.snapshot()

    def update(self, loss: float, say: Say) -> None:
        score = self.score()
        self.scores.append(score)
        say(f"Validation score: {score:f}")
        self.count = self.count + 1 if score < self.best + self.tol else 0
        if score > self.best:
            self.best, self._best_parameters = score, self.net.snapshot()

    def finish(self) -> None:
        self.net.restore(self._best_parameters)

    def state_dict(self) -> dict[str, Any]:
        layers = self.net.by_layer(self._best_parameters)
        best = {"weights": [layer[:-1] for layer in layers], "biases": [layer[-1] for layer in layers]}
        return {**super().state_dict(), "scores": self.scores, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.scores[:] = map(float, state["scores"])
        current = self.net.snapshot()
        self.net.weights, self.net.biases = state["weights"], state["biases"]
        self._best_parameters = self.net.snapshot()
        self.net.restore(current)

    def __str__(self) -> str:
        return f"Validation score did not improve more than tol={self.tol:f} for {self.patience} consecutive epochs."


# -- epochs -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Training:
    """A network in training: the settings of its epochs and the record of those it has gone through.

    `history` has the losses of `loss_curve`, rates and times of each epoch, those of earlier fits too; `rows_done` and
    `sums` are the rows gone through in an epoch that is not over, and their losses.
    """

    net: MLP
    optimizer: SGD | Adam
    schedule: ConstantRate
    plateau: Plateau
    batch_size: int
    alpha: float
    orders: Orders
    verbose: bool | int
    history: dict[str, list[float]]
    n_rows_seen: int
    store: Callable[["Training"], None]
    fit: Fit | None = None
    n_epochs: int = 0
    rows_done: int = 0
    sums: tuple[float, float] = (0.0, 0.0)
    is_over: bool = False
    failure: tuple[int, int] | None = None
    has_finite_end: bool = True

    def __post_init__(self) -> None:
        self.loss_curve = self.history["loss"]
        self._rows_of_call = self.batch_size
        if self.fit is not None:
            self.fit.net, self.fit.optimizer, self.fit.history = self.net, self.optimizer, self.history
            self.fit.state = self.state_dict

    def run(self, examples: Examples, rows: Array | None, max_epochs: int) -> Outcome:
        """Train on `rows` of the examples, or all of them: to the plateau, `max_epochs`, Ctrl-C or a callback's word.

        Whatever ends it, an error of a callback too, the network is usable, and the record goes to `store`.
        """
        n_rows = examples.rows.n if rows is None else len(rows)
        if self.orders.current is None:
            self.orders.current = pieces.indices(n_rows) if rows is None and self.orders.is_shuffled else rows
        most, rewind = self.net.epochs_per_call(examples, n_rows, self.batch_size), Rewind(self, n_rows, max_epochs)
        try:
            epoch.code(self.net.dtype, examples.rows.sparse)  # and at the same time what shuffles rows
            while self.n_epochs < max_epochs and not self.is_over:
                rewind.note()
                if self.fit is None:
                    self._epochs(examples, n_rows, min(most, max_epochs - self.n_epochs, self._undisturbed_epochs()))
                elif not self._epoch_in_parts(self.fit, examples, n_rows):
                    break
                if not rewind.is_finite():
                    return self._diverged(rewind, examples)
                if self.fit is not None and self._is_ended_by(self.fit):
                    break
            if not self.net.is_finite():
                return self._diverged(rewind, examples)
        except KeyboardInterrupt:
            if isinstance(self.plateau, ScorePlateau) or self.net.is_finite():  # who has the best weights needs no look
                return Outcome.INTERRUPTED
            return self._diverged(rewind, examples)
        finally:
            self.plateau.finish()
            history.fill(self.history)
            self.store(self)
        if self.is_over:
            return Outcome.CONVERGED
        return Outcome.PAUSED if self.n_epochs < max_epochs else Outcome.EXHAUSTED

    def _diverged(self, rewind: Rewind, examples: Examples) -> Outcome:
        self.has_finite_end = self.net.is_finite()
        self.failure = rewind.find(examples)
        return Outcome.DIVERGED

    def _is_ended_by(self, fit: Fit) -> bool:
        self.store(self)  # what callbacks look at
        fit.epoch = self.n_epochs
        ended = fit.end_epoch(self.is_over)
        self.is_over = fit.is_over
        return ended

    # -- epochs in one call -----------------------------------------------------------------------------------------

    def _undisturbed_epochs(self) -> int:
        """Return how many epochs can be gone through before there is anything to do between two of them."""
        return 1 if self.verbose or self.schedule.changes_each_epoch else self.plateau.n_before_reached

    def _epochs(self, examples: Examples, n_rows: int, n: int) -> None:
        """Go through up to `n` epochs."""
        began, epochs = time.perf_counter(), Epochs(n)
        place = self.orders.place() if n > 1 else None
        try:
            orders = self.orders.draw(n)
            self.net.train(examples, n_rows, self.optimizer, self.batch_size, orders, self.alpha, epochs)
        finally:
            done = epochs.n_done
            for data, penalty in epochs.means(n_rows):
                self._after_epoch(data, penalty, n_rows, (time.perf_counter() - began) / done)
            if done < n and place is not None:  # as if the orders of the others had never been drawn
                self.orders.go_to(place)
                self.orders.draw(done)

    def _after_epoch(self, data: float, penalty: float, n_rows: int, seconds: float) -> None:
        """Take note of an epoch and its mean losses, and of whether it is the last."""
        loss = sklearn_loss(self.net, data, penalty)
        self.n_epochs += 1
        self.n_rows_seen += n_rows
        self.loss_curve.append(loss)
        self.history["learning_rate"].append(float(self.optimizer.learning_rate))
        self.history["seconds"].append(seconds)
        self._say(f"Iteration {self.n_epochs}, loss = {loss:.8f}")
        self.plateau.update(loss, self._say)
        if isinstance(self.plateau, ScorePlateau):
            history.log(self.history, "validation_score", self.plateau.scores[-1])
        self.schedule.on_epoch_end(self.optimizer, self.n_rows_seen)
        if not self.plateau.is_reached:
            return
        self.is_over, action = self.schedule.on_plateau(self.optimizer)
        self._say(f"{self.plateau} {action}")
        logger.info("%s %s", self.plateau, action)
        if not self.is_over:
            self.plateau.count = 0

    # -- an epoch in parts ------------------------------------------------------------------------------------------

    def _epoch_in_parts(self, fit: Fit, examples: Examples, n_rows: int) -> bool:
        """Go through an epoch, and return whether it came to its end: a callback can break it off."""
        began = time.perf_counter()
        fit.epoch, fit.n_batches = self.n_epochs, -(-n_rows // self.batch_size)
        if not self.rows_done:
            self.orders.draw()
        fit.begin_epoch(goes_on=self.rows_done > 0)
        while self.rows_done < n_rows:
            self._part(fit, examples, n_rows)
            is_last = self.rows_done == n_rows
            if fit.is_told_of_batches or not is_last:
                self.store(self)
            if fit.end_part(is_last) and not is_last:
                self.is_over = fit.is_over
                return False
        (data, penalty), self.rows_done, self.sums = self.sums, 0, (0.0, 0.0)
        self._after_epoch(data / n_rows, penalty / n_rows, n_rows, time.perf_counter() - began)
        return True

    def _part(self, fit: Fit, examples: Examples, n_rows: int) -> None:
        """Train on a batch if callbacks are told of each, else for as long as Ctrl-C may wait."""
        began, first = time.perf_counter(), self.rows_done
        stop = min(n_rows, first + (self.batch_size if fit.is_told_of_batches else self._rows_of_call))
        self.sums = self.net.train_part(
            examples, self.optimizer, self.batch_size, self.orders.current, self.alpha, first, stop, self.sums
        )
        self.rows_done, fit.batch = stop, -(-stop // self.batch_size)
        self._rows_of_call = rows_of_next_call(stop - first, self.batch_size, time.perf_counter() - began)

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on, as numbers, arrays, and lists and dicts of them."""
        assert self.fit is not None
        return {
            "weights": list(self.net.weights),
            "biases": list(self.net.biases),
            "optimizer": {
                "settings": dataclasses.asdict(self.optimizer),
                "steps": self.optimizer.steps,
                "moments": self.net.moments_by_layer(self.optimizer),
            },
            "schedule": dataclasses.asdict(self.schedule),
            "plateau": self.plateau.state_dict(),
            "random_state": self.orders.random_state.get_state(legacy=False),
            "order": self.orders.current if self.orders.is_shuffled else None,
            "n_epochs": self.n_epochs,
            "n_rows_seen": self.n_rows_seen,
            "rows_done": self.rows_done,
            "sums": self.sums,
            "history": self.history,
            "is_over": self.fit.is_over,
            "callbacks": self.fit.states(),
        }

    def load_state_dict(self, state: dict[str, Any], n_rows: int, n_in_epoch: int) -> None:
        """Go on from a state; an epoch goes through `n_in_epoch` of `n_rows` rows.

        Raises
        ------
        DamagedError
            If the state is not one of such a training: the kernels would read beyond the rows.
        """
        assert self.fit is not None
        with damage_told("it has no state of such a training"):
            self._load_way(state, n_rows, n_in_epoch)
            self._load_optimizer(state["optimizer"])
            self.net.weights, self.net.biases = state["weights"], state["biases"]
            vars(self.schedule).update(_settings(self.schedule, state["schedule"]))
            self.plateau.load_state_dict(state["plateau"])
            self._load_record(state)
            self.fit.load_states(state["callbacks"])

    def _load_way(self, state: dict[str, Any], n_rows: int, n_in_epoch: int) -> None:
        order, rows_done = state["order"], state["rows_done"]
        if (order is not None) != self.orders.is_shuffled or rows_done not in range(0, n_in_epoch, self.batch_size):
            raise ValueError("it has another way through the rows")
        if order is not None:
            if order.shape != (n_in_epoch,) or order.dtype != np.int64:
                raise ValueError(f"its order must be {n_in_epoch} integers")
            check_range("its order", order, n_rows)
        data, penalty = state["sums"]
        check_draws(state["random_state"], self.orders.random_state.get_state(legacy=False))
        self.orders.go_to(Place(state["random_state"], order))
        self.rows_done, self.sums = rows_done, (float(data), float(penalty))

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        check_counts(state, "steps")
        vars(self.optimizer).update(_settings(self.optimizer, state["settings"]), steps=state["steps"])
        self.optimizer.hyper(self.net.dtype)
        self.net.set_moments(self.optimizer, state["moments"])

    def _load_record(self, state: dict[str, Any]) -> None:
        assert self.fit is not None
        check_counts(state, "n_epochs", "n_rows_seen")
        columns = {name: [float(value) for value in column] for name, column in state["history"].items()}
        if min(len(columns[name]) for name in ("loss", "learning_rate", "seconds")) < state["n_epochs"]:
            raise ValueError("its history is too short")
        self.n_epochs, self.n_rows_seen, self.is_over = state["n_epochs"], state["n_rows_seen"], bool(state["is_over"])
        self.history.clear()
        self.history.update(columns)
        self.loss_curve = self.history["loss"]
        self.fit.epoch, self.fit.is_over = self.n_epochs, self.is_over


def _settings(known: Any, saved: dict[str, Any]) -> dict[str, float]:
    """Return the settings that a file has of an optimizer or a schedule: numbers by the names that it knows."""
    if saved.keys() != dataclasses.asdict(known).keys():
        raise ValueError(f"its settings of {type(known).__name__} are {list(saved)}")
    return {name: finite_number(name, value) if not isinstance(value, bool) else value for name, value in saved.items()}


def sklearn_loss(net: MLP, data: float, penalty: float) -> float:
    """Return the loss that scikit-learn reports: of the squared error the mean over the outputs, not the sum."""
    return data / (net.sizes[-1] if net.output == "identity" else 1) + penalty
