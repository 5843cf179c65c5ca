"""Training: epochs in shuffled order, the learning rate they run at, and the rule that ends them.

The rules are scikit-learn's, down to the lines they print; nothing here needs scikit-learn.
"""

import dataclasses
import enum
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastnn.kernels.optimizers import SGD, Adam
from fastnn.model import MLP, Epochs
from fastnn.rows import Examples

Array = npt.NDArray[Any]
Say = Callable[[str], None]

# Learning rate at and below which the adaptive schedule gives up, and what it divides by until then.
SMALLEST_RATE, RATE_DIVISOR = 1e-6, 5.0


class Outcome(enum.Enum):
    """How a run of epochs ended."""

    CONVERGED = enum.auto()
    EXHAUSTED = enum.auto()
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

    def __str__(self) -> str:
        return f"Validation score did not improve more than tol={self.tol:f} for {self.patience} consecutive epochs."


# -- epochs -----------------------------------------------------------------------------------------------------------


class Watcher(Protocol):
    """Is told of each epoch."""

    def on_epoch_begin(self) -> None: ...

    def on_epoch_end(self) -> bool:
        """Return whether to end the training."""


@dataclasses.dataclass
class Training:
    """A network in training: the settings of its epochs and the record of those it has gone through."""

    net: MLP
    optimizer: SGD | Adam
    schedule: ConstantRate
    plateau: Plateau
    batch_size: int
    alpha: float
    shuffle: bool
    random_state: np.random.RandomState
    verbose: bool | int
    loss_curve: list[float]
    n_rows_seen: int
    store: Callable[["Training"], None]
    watcher: "Watcher | None" = None
    n_epochs: int = 0

    def run(self, examples: Examples, rows: Array | None, max_epochs: int) -> Outcome:
        """Train on `rows` of the examples, or all of them: to the plateau, `max_epochs`, Ctrl-C or the watcher's word.

        Whatever ends it, an error of the watcher too, the network is usable, and the record goes to `store`.
        """
        n_rows = examples.rows.n if rows is None else len(rows)
        order = np.arange(n_rows) if rows is None and self.shuffle else rows
        most = self.net.epochs_per_call(examples, n_rows)
        try:
            while self.n_epochs < max_epochs:
                if self.watcher:
                    self.watcher.on_epoch_begin()
                n = min(most, max_epochs - self.n_epochs, self._undisturbed_epochs())
                order, is_over = self._epochs(examples, n_rows, order, n)
                if self._is_stopped_by_watcher() or is_over:
                    return Outcome.CONVERGED
                if not np.isfinite(self.loss_curve[-1]) and not self.net.is_finite():
                    return Outcome.DIVERGED
        except KeyboardInterrupt:
            return Outcome.INTERRUPTED
        finally:
            self.plateau.finish()
            self.store(self)
        return Outcome.EXHAUSTED

    def _undisturbed_epochs(self) -> int:
        """Return how many epochs can be gone through before there is anything to do between two of them."""
        if self.watcher or self.verbose or self.schedule.changes_each_epoch:
            return 1
        return self.plateau.n_before_reached

    def _is_stopped_by_watcher(self) -> bool:
        if self.watcher is None:
            return False
        self.store(self)  # what the watcher looks at
        return self.watcher.on_epoch_end()

    def _epochs(self, examples: Examples, n_rows: int, order: Array | None, n: int) -> tuple[Array | None, bool]:
        """Go through up to `n` epochs after that of `order`; return the order of the last one, and whether to stop."""
        epochs, state = Epochs(n), self.random_state.get_state() if n > 1 else None
        orders = self._shuffled(order, n)
        is_over = False
        try:
            self.net.train(examples, n_rows, self.optimizer, self.batch_size, orders, self.alpha, epochs)
        finally:
            for data, penalty in epochs.means(n_rows):
                is_over = self._after_epoch(sklearn_loss(self.net, data, penalty), n_rows)
            done = epochs.n_done
            if done < n and state is not None:  # as if the orders of the others had never been drawn
                self.random_state.set_state(state)
                self._shuffled(order, done)
        last = order if orders is None or not self.shuffle else orders[(done - 1) * n_rows : done * n_rows]
        return last, is_over

    def _shuffled(self, order: Array | None, n: int) -> Array | None:
        """Return the orders of `n` epochs, one after the other."""
        if order is None or not self.shuffle:
            return order
        orders = np.empty((n, len(order)), np.int64)
        for i in range(n):
            # scikit-learn shuffles what the epoch before left, so the permutations compose.
            orders[i] = order = order[self.random_state.permutation(len(order))]
        return orders.reshape(-1)

    def _after_epoch(self, loss: float, n_rows: int) -> bool:
        """Take note of an epoch; return whether it is the last."""
        self.n_epochs += 1
        self.n_rows_seen += n_rows
        self.loss_curve.append(loss)
        self._say(f"Iteration {self.n_epochs}, loss = {loss:.8f}")
        self.plateau.update(loss, self._say)
        self.schedule.on_epoch_end(self.optimizer, self.n_rows_seen)
        if not self.plateau.is_reached:
            return False
        is_over, action = self.schedule.on_plateau(self.optimizer)
        self._say(f"{self.plateau} {action}")
        if not is_over:
            self.plateau.count = 0
        return is_over

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)


def sklearn_loss(net: MLP, data: float, penalty: float) -> float:
    """Return the loss that scikit-learn reports: of the squared error the mean over the outputs, not the sum."""
    return data / (net.sizes[-1] if net.output == "identity" else 1) + penalty
