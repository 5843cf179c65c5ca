"""Training by L-BFGS: SciPy's minimiser over the engine's loss and gradients of all rows at once."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.kernels.listening import call_apart
from fastnn.layout import empty
from fastnn.model import MLP, Losses
from fastnn.rows import Examples

Array = npt.NDArray[Any]


@functools.cache
def _blas() -> Any:
    """Return what sets the number of threads of the BLAS libraries in this process; to find them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    # The system tells of the libraries by a callback, in which what Ctrl-C raises would be lost.
    return call_apart(ThreadpoolController).select(user_api="blas")


class _StoppedError(Exception):
    """Ends the minimiser; SciPy's own way of doing that differs between its versions."""


def minimise(
    net: MLP,
    examples: Examples,
    alpha: float,
    options: dict[str, Any],
    on_iteration: Callable[[Losses], bool],
) -> Any:
    """Minimise the loss of a float64 network, leave it at the best parameters, and return SciPy's result.

    The result also has `losses`, the loss and the penalty there. `on_iteration` is called with the same two after each
    iteration; True ends the training, and there is no result.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, with the network at the last iteration's parameters.
    """
    from scipy import optimize

    parameters, used = net.flat_parameters, net.used_parameters
    gradient = empty(parameters.size, parameters.dtype)
    losses = (np.nan, np.nan)
    iterate = parameters[used]
    point = np.zeros(0)

    def loss(theta: Array) -> float:
        nonlocal losses, point
        parameters[used] = point = theta
        losses = evaluate()
        return sum(losses)

    def gradient_at(theta: Array) -> Array:
        if not np.array_equal(theta, point):
            loss(theta)
        return gradient[used]

    def after_iteration(theta: Array) -> None:
        iterate[:] = theta
        if on_iteration(losses):
            raise _StoppedError

    try:
        # The minimiser's BLAS gains nothing from threads on vectors of this size; where they had to wait for a core,
        # 50 iterations for 1300 parameters took 0.38 s with two of them and 0.02 s with one.
        with _blas().limit(limits=1), net.evaluation(examples, alpha, gradient) as evaluate:
            # A loss and a gradient apart cost SciPy less than both from one function, which it has to remember.
            result = optimize.minimize(
                loss, iterate.copy(), method="L-BFGS-B", jac=gradient_at, options=options, callback=after_iteration
            )
            if not np.array_equal(parameters[used], result.x):
                loss(result.x)
    except (KeyboardInterrupt, _StoppedError) as end:
        parameters[used] = iterate
        if isinstance(end, KeyboardInterrupt):
            raise
        return None
    result.losses = losses
    return result
