"""Training: epochs in shuffled order, the learning rate they run at, and the rule that ends them.

The rules are scikit-learn's, down to the lines they print; nothing here needs scikit-learn.
"""

import dataclasses
import enum
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.kernels.optimizers import SGD, Adam
from fastnn.model import MLP

Array = npt.NDArray[Any]

# Learning rate at and below which the adaptive schedule gives up, and what it divides by until then.
SMALLEST_RATE, RATE_DIVISOR = 1e-6, 5.0


class Outcome(enum.Enum):
    """How a run of epochs ended."""

    CONVERGED = enum.auto()
    EXHAUSTED = enum.auto()
    INTERRUPTED = enum.auto()


# -- learning-rate schedules ------------------------------------------------------------------------------------------


class ConstantRate:
    """The learning rate stays; a plateau ends the training. The other schedules override what differs."""

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

    def on_epoch_end(self, optimizer: SGD | Adam, n_rows_seen: int) -> None:
        optimizer.learning_rate = self.initial / (n_rows_seen + 1) ** self.power


class AdaptiveRate(ConstantRate):
    """Each plateau divides the learning rate, until it is too small to be of use."""

    def on_plateau(self, optimizer: SGD | Adam) -> tuple[bool, str]:
        if optimizer.learning_rate <= SMALLEST_RATE:
            return True, "Learning rate too small. Stopping."
        optimizer.learning_rate /= RATE_DIVISOR
        return False, f"Setting learning rate to {optimizer.learning_rate:f}"


# -- stopping rule ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class LossPlateau:
    """More than `patience` epochs in a row whose training loss is not below the best by `tol`."""

    tol: float
    patience: float
    best: float = np.inf
    count: int = 0

    def update(self, loss: float) -> None:
        # Both comparisons are false for a NaN loss, which so neither counts nor becomes the best.
        self.count = self.count + 1 if loss > self.best - self.tol else 0
        self.best = loss if loss < self.best else self.best

    @property
    def is_reached(self) -> bool:
        return self.count > self.patience

    def __str__(self) -> str:
        return f"Training loss did not improve more than tol={self.tol:f} for {self.patience} consecutive epochs."


# -- epochs -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Training:
    """A network in training: the settings of its epochs and the record of those it has gone through."""

    net: MLP
    optimizer: SGD | Adam
    schedule: ConstantRate
    plateau: LossPlateau
    batch_size: int
    alpha: float
    shuffle: bool
    random_state: np.random.RandomState
    verbose: bool | int = False
    loss_curve: list[float] = dataclasses.field(default_factory=list)
    n_epochs: int = 0
    n_rows_seen: int = 0

    def run(self, X: Array, y: Array, sample_weight: Array | None, max_epochs: int) -> Outcome:
        """Train until the plateau, `max_epochs` or Ctrl-C; the network is usable after each of them."""
        try:
            for order in itertools.islice(self._orders(len(X)), max_epochs):
                self._epoch(X, y, sample_weight, order)
                if self._is_over():
                    return Outcome.CONVERGED
        except KeyboardInterrupt:
            return Outcome.INTERRUPTED
        return Outcome.EXHAUSTED

    def _orders(self, n_rows: int) -> Iterator[Array | None]:
        if not self.shuffle:
            yield from itertools.repeat(None)
        order = np.arange(n_rows)
        while True:
            # scikit-learn shuffles what the epoch before left, so the permutations compose.
            order = order[self.random_state.permutation(n_rows)]
            yield order

    def _epoch(self, X: Array, y: Array, sample_weight: Array | None, order: Array | None) -> None:
        data, penalty = self.net._train_epoch(X, y, self.optimizer, self.batch_size, order, self.alpha, sample_weight)
        # scikit-learn reports the squared error as a mean over the outputs, and descends the gradient of the sum.
        loss = data / (self.net.sizes[-1] if self.net.output == "identity" else 1) + penalty
        self.n_epochs += 1
        self.n_rows_seen += len(X)
        self.loss_curve.append(loss)
        self._print(f"Iteration {self.n_epochs}, loss = {loss:.8f}")

    def _is_over(self) -> bool:
        self.plateau.update(self.loss_curve[-1])
        self.schedule.on_epoch_end(self.optimizer, self.n_rows_seen)
        if not self.plateau.is_reached:
            return False
        is_over, action = self.schedule.on_plateau(self.optimizer)
        self._print(f"{self.plateau} {action}")
        if not is_over:
            self.plateau.count = 0
        return is_over

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line)
