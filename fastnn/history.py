"""The history of a training: a column of numbers for each name, with a value for each epoch."""

import math

History = dict[str, list[float]]

OWN = frozenset({"epoch", "loss", "learning_rate", "seconds"})  # columns that the training writes


def log(history: History, name: str, value: float, epoch: int | None = None) -> None:
    """Write a value of an epoch, by default the last, over one that it has; epochs that had none get NaN."""
    column, n_before = history.setdefault(name, []), (len(history["loss"]) if epoch is None else epoch) - 1
    del column[n_before:]
    column.extend([math.nan] * (n_before - len(column)))
    column.append(float(value))


def fill(history: History) -> None:
    """Make all columns as long as the losses."""
    for column in history.values():
        del column[len(history["loss"]) :]
        column.extend([math.nan] * (len(history["loss"]) - len(column)))


def filled(history: History) -> History:
    """Return a copy whose columns are as long as the losses."""
    columns = {name: list(column) for name, column in history.items()}
    fill(columns)
    return columns
