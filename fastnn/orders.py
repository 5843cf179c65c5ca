"""The orders in which epochs go through the rows: each a shuffle of the one before, as scikit-learn draws them."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import pieces
from fastnn.kernels.shuffle import shuffle

Array = npt.NDArray[Any]

# So many are drawn anew, in some milliseconds, rather than that a generator's state is asked for, some 0.05 ms.
MOST_ROWS_AGAIN = 300_000


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a training is in its orders: so many of them after one that comes with its state of the generator.

    Where nothing is shuffled the state may be None: nothing is drawn.
    """

    state: Any
    order: Array | None
    n_orders: int = 0


@dataclasses.dataclass
class Orders:
    """The order of the epoch at hand, None for the rows as they lie, and those to come.

    Whoever else draws from `random_state` meanwhile has to `forget` first.
    """

    random_state: np.random.RandomState
    is_shuffled: bool
    current: Array | None = None
    _place: Place | None = None

    def draw(self, n: int = 1) -> Array | None:
        """Return the orders of the next `n` epochs, one after the other; the last is the current one then."""
        if self.current is None or not self.is_shuffled:
            return self.current
        place, self._place = self._place, None  # what Ctrl-C cuts off has no place
        orders = np.empty((n, len(self.current)), np.int64)
        for order in orders:
            for part in pieces.parts(len(order)):
                order[part] = self.current[part]  # scikit-learn shuffles what the epoch before left
            shuffle(order, self.random_state)
            self.current = order
        if place is not None:
            self._place = dataclasses.replace(place, n_orders=place.n_orders + n)
        return orders.reshape(-1)

    def place(self) -> Place:
        """Return where this is, for `go_to`."""
        again = 0 if self._place is None or self.current is None else self._place.n_orders * len(self.current)
        if self._place is None or again > MOST_ROWS_AGAIN:
            state = self.random_state.get_state(legacy=False) if self.is_shuffled else None
            self._place = Place(state, self.current)
        return self._place

    def go_to(self, place: Place) -> None:
        """Be at a place once more, and the generator too."""
        self.current = place.order
        if place.state is not None:
            self.random_state.set_state(place.state)
        self._place = dataclasses.replace(place, n_orders=0)
        self.draw(place.n_orders)

    def forget(self) -> None:
        """Have the next place ask the generator for its state."""
        self._place = None
