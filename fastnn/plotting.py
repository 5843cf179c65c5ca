"""Pictures of fitted models; matplotlib is imported when one is asked for."""

from typing import Any

from fastnn.history import filled


def plot_history(model: Any, ax: Any = None) -> Any:
    """Draw the loss of each epoch, and against an axis of its own the validation score where there is one.

    Parameters
    ----------
    model : fitted estimator
    ax : matplotlib Axes, default None
        Where to draw; a new figure if omitted.

    Returns
    -------
    matplotlib Axes
        The axes of the loss.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the model has no history.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> model = fastnn.MLPRegressor(random_state=0).fit(X, y)
    >>> axes = fastnn.plot_history(model)
    """
    history = getattr(model, "history_", None)
    if not history or not history["loss"]:
        raise ValueError(f"{type(model).__name__} has no history to plot; fit it first")
    history = filled(history)  # a callback plots it while it is being written
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("plot_history needs matplotlib: python -m pip install 'fastnn[plot]'") from error
        _, ax = pyplot.subplots()
    epochs = range(1, len(history["loss"]) + 1)
    ax.plot(epochs, history["loss"], color="tab:blue", label="loss")
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss", color="tab:blue")
    if "validation_score" in history:
        right = ax.twinx()
        right.plot(epochs, history["validation_score"], color="tab:orange", label="validation score")
        right.set_ylabel("validation score", color="tab:orange")
    return ax
