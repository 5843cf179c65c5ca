"""What happened when a loss is not finite: in which step, with which last finite weights, and why perhaps."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import pieces
from fastnn.model import Epochs
from fastnn.orders import Place
from fastnn.rows import Examples

Array = npt.NDArray[Any]

# Steps between two copies of the parameters and moments, each of which costs about as much as a step's update.
STEPS_PER_COPY = 200
# Inputs, targets and learning rates beyond these are likely to have led to what is not finite.
LARGE, LARGE_RATE = 100.0, 0.1


@dataclasses.dataclass
class _Copy:
    """The training at the beginning of an epoch, or in the middle of one; without a place the parameters alone."""

    place: Place | None
    n_epochs: int
    first_row: int
    steps: int
    parameters: Array
    moments: Array | None


class Rewind:
    """Keeps a copy of the training from not long ago, and goes through the steps since then once more, one by one.

    That is possible because training is the same to the bit.
    """

    def __init__(self, training: Any, n_rows: int, max_epochs: int) -> None:
        self._training = training
        # A few steps alone, of `partial_fit`, are not worth copies of all that they depend on.
        self._is_long = max_epochs > 1 or n_rows > STEPS_PER_COPY * training.batch_size
        self._copy: _Copy | None = None

    @property
    def _is_due(self) -> bool:
        return self._copy is None or self._training.optimizer.steps - self._copy.steps >= STEPS_PER_COPY

    def is_finite(self) -> bool:
        """Whether the training is, as far as it costs next to nothing to tell."""
        t = self._training
        return math.isfinite(t.loss_curve[-1]) and (not self._is_due or t.net.is_finite())

    def note(self) -> None:
        """Take a copy, if enough has happened since the last one."""
        if self._is_due:
            t = self._training
            moments = t.optimizer.moments
            if t.fit is not None:
                t.orders.forget()  # a callback may have drawn from the same generator
            self._copy = _Copy(
                t.orders.place() if self._is_long else None, t.n_epochs, t.rows_done, t.optimizer.steps,
                t.net.snapshot(), pieces.copied(moments) if self._is_long and moments is not None else None,
            )  # fmt: skip

    def find(self, examples: Examples) -> tuple[int, int] | None:
        """Leave the network before the first step that was not finite, and return its epoch and number, from 1 on.

        None, and the network as it was at the time of the copy, if that cannot be told.
        """
        t, copy = self._training, self._copy
        if copy is None:
            return None
        t.net.restore(copy.parameters)
        if copy.place is None:
            return None
        t.orders.forget()
        end, rate = t.orders.place(), t.optimizer.learning_rate
        t.optimizer.steps = copy.steps
        if t.optimizer.moments is not None:
            t.optimizer.moments[:] = 0 if copy.moments is None else copy.moments
        try:
            t.orders.go_to(copy.place)
            return self._first_bad_step(examples, copy)
        finally:
            t.orders.go_to(end)
            t.optimizer.learning_rate = rate

    def _first_bad_step(self, examples: Examples, copy: _Copy) -> tuple[int, int] | None:
        t, first_row = self._training, copy.first_row
        rates = t.history["learning_rate"][len(t.loss_curve) - t.n_epochs + copy.n_epochs :]
        if t.rows_done:  # an epoch that a callback has broken off
            rates.append(t.optimizer.learning_rate)
        for n, rate_of_epoch in enumerate(rates):
            t.optimizer.learning_rate = rate_of_epoch
            if n or not first_row:
                t.orders.draw()
                first_row = 0
            rows = np.arange(examples.rows.n) if t.orders.current is None else t.orders.current
            for first in range(first_row, len(rows), t.batch_size):
                before = t.net.snapshot()
                batch = rows[first : first + t.batch_size]
                epochs = Epochs(1)
                t.net.train(examples, len(batch), t.optimizer, len(batch), batch, t.alpha, epochs)
                if not np.isfinite(epochs.means(len(batch))).all() or not t.net.is_finite():
                    t.net.restore(before)
                    return copy.n_epochs + n + 1, first // t.batch_size + 1
        t.net.restore(copy.parameters)
        return None


def likely_causes(X: Any, targets: Array | None, sample_weight: Array | None, learning_rate: float) -> str:
    """Return what is out of the ordinary about a training that diverged, and what to do about it.

    `targets` are those that are not bounded, `learning_rate` is NaN where there is none.
    """
    causes = []
    values = X if isinstance(X, np.ndarray) else X.data
    for name, noun, array, mend in [
        ("X", "value in X", values, "scale the features, by StandardScaler for example"),
        ("y", "value in y", targets, "scale the targets"),
        ("sample_weight", "sample_weight", sample_weight, "divide the weights by their mean"),
    ]:
        if array is None or not array.size:
            continue
        least, most = float(array.min()), float(array.max())  # not of `abs(array)`: X may be larger than the memory
        if not (math.isfinite(least) and math.isfinite(most)):  # nobody has looked, where `assume_finite` is set
            return f"Likely cause: {name} holds NaN or infinity (fill them in, or leave out their rows)."
        if max(most, -least) > LARGE:
            causes.append(f"the largest {noun} is {max(most, -least):.3g} ({mend})")
    if not math.isnan(learning_rate) and (not causes or learning_rate > LARGE_RATE):
        causes.append(f"the learning rate is {learning_rate:.3g} (try a tenth of it)")
    return "Likely causes: " + "; ".join(causes) + "." if causes else "A larger alpha may help."
