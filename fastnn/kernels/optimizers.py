"""Optimizers. To add one: its class, its pair of functions, a line in each switch.

`*_constants(hyper, step, constants)` works out the scalars of one step, in float64; `step` counts from 1.
`*_update(w, g, m, v, constants)` updates parameters and moments in place from the gradient; these are flat and of one
dtype. The rules are scikit-learn's: Adam's epsilon stands outside the bias correction, Nesterov's step looks ahead.
"""

import copy
import dataclasses
import functools
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fastnn.kernels.jit import jit
from fastnn.kernels.simd import fma

NONE, SGD_RULE, ADAM_RULE = range(3)
N_CONSTANTS = 6


def finite_number(name: str, value: Any) -> float:
    """Return a setting as a float.

    Raises
    ------
    ValueError
        If `value` is not a real, finite number.
    """
    try:
        number = float(value) if np.isscalar(value) and not isinstance(value, (str, bytes)) else np.nan  # type: ignore[arg-type]
    except (TypeError, OverflowError):  # a complex number, an integer beyond floats
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


class Optimizer:
    """Base of the update rules: settings, and after the first step the moments of the network it updates.

    An optimizer belongs to the first network that trains with it; another network refuses it. A copy of a network
    counts as the same one, so that a network and its optimizer can be copied or pickled together.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    code: ClassVar[int]
    n_moments: ClassVar[int]
    steps: int
    moments: npt.NDArray[Any] | None
    owner: str | None

    def __post_init__(self) -> None:
        self.steps, self.moments, self.owner = 0, None, None
        self.hyper()

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # two optimizers that shared moments would both be wrong

    def hyper(self, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[np.float64]:
        """Return the settings in the order of the fields, as the kernels take them, after a check of each.

        Raises
        ------
        ValueError
            If a setting is out of its range, or epsilon so small that it is zero in `dtype`.
        """
        settings = tuple([(name, getattr(self, name)) for name in self.__dataclass_fields__])
        try:
            return _checked(settings, np.dtype(dtype))
        except TypeError:  # not hashable, so no number
            return _checked.__wrapped__(settings, np.dtype(dtype))


@functools.lru_cache  # asked for at each epoch
def _checked(settings: tuple[tuple[str, Any], ...], dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    numbers = []
    for name, value in settings:
        number = finite_number(name, value)
        if name in ("learning_rate", "epsilon") and number <= 0:
            raise ValueError(f"{name} must be greater than 0, got {value!r}")
        if name in ("momentum", "beta_1", "beta_2") and not 0 <= number <= 1 - (name != "momentum") * 1e-16:
            raise ValueError(f"{name} must lie in [0, 1{']' if name == 'momentum' else ')'}, got {value!r}")
        if name == "epsilon" and number < np.finfo(dtype).tiny:
            raise ValueError(f"epsilon must not vanish in {dtype}, got {value!r}")
        numbers.append(number)
    return np.array(numbers)


@dataclasses.dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    learning_rate : float > 0, default 0.001
    momentum : float in [0, 1], default 0.9
    nesterov : bool, default True
        Step from where the momentum leads (Sutskever et al., ICML 2013).

    Examples
    --------
    >>> import fastnn
    >>> fastnn.SGD(0.1)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """

    learning_rate: float = 0.001
    momentum: float = 0.9
    nesterov: bool = True

    code = SGD_RULE
    n_moments = 1


@dataclasses.dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015).

    Parameters
    ----------
    learning_rate : float > 0, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
        Decay rates of the first and the second moment of the gradient.
    epsilon : float > 0, default 1e-8

    Examples
    --------
    >>> import numpy as np, fastnn
    >>> net, adam = fastnn.MLP((1, 1), output="identity", dtype="float64", random_state=0), fastnn.Adam(0.05)
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> losses = [net.train_epoch(X, 3 * X, adam, batch_size=10) for epoch in range(50)]
    >>> losses[-1] < 1e-3 < losses[0]
    True
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    code = ADAM_RULE
    n_moments = 2


@jit
def sgd_constants(hyper, step, constants):
    for i in range(3):
        constants[i] = hyper[i]


@jit
def sgd_update(w, g, m, constants):
    """M = momentum m - lr g;  w += m, or with Nesterov w += momentum m - lr g."""
    lr, momentum = constants[0], constants[1]
    if constants[2] != 0:
        for i in range(w.size):
            step = lr * g[i]
            m[i] = fma(momentum, m[i], -step)
            w[i] += fma(momentum, m[i], -step)
    else:
        for i in range(w.size):
            m[i] = fma(momentum, m[i], -lr * g[i])
            w[i] += m[i]


@jit
def power(base, n):
    """base**n for n >= 0, by squaring: the same bits on every system."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


@jit
def adam_constants(hyper, step, constants):
    lr, beta_1, beta_2 = hyper[0], hyper[1], hyper[2]
    constants[0] = beta_1
    constants[1] = 1.0 - beta_1
    constants[2] = beta_2
    constants[3] = 1.0 - beta_2
    constants[4] = lr * np.sqrt(1.0 - power(beta_2, step)) / (1.0 - power(beta_1, step))
    constants[5] = hyper[3]


@jit
def adam_update(w, g, m, v, constants):
    """M = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= lr_t m / (sqrt(v) + epsilon)."""
    beta_1, rest_1, beta_2, rest_2 = constants[0], constants[1], constants[2], constants[3]
    lr, epsilon = constants[4], constants[5]
    for i in range(w.size):
        m[i] = fma(beta_1, m[i], rest_1 * g[i])
        v[i] = fma(beta_2, v[i], rest_2 * (g[i] * g[i]))
        w[i] -= lr * m[i] / (np.sqrt(v[i]) + epsilon)


@jit
def optimizer_constants(code, hyper, step, constants):
    if code == ADAM_RULE:
        adam_constants(hyper, step, constants)
    elif code == SGD_RULE:
        sgd_constants(hyper, step, constants)


@jit
def optimizer_update(code, w, g, m, v, constants):
    if code == ADAM_RULE:
        adam_update(w, g, m, v, constants)
    elif code == SGD_RULE:
        sgd_update(w, g, m, constants)
