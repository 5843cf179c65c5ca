"""Output functions and their losses. To add one: its pair of functions, a line in each switch, its entry in the table.

Arrays are by unit: element (unit, row) of z or t at unit * n + row, for n rows in the block, of which padding rows
have weight 0. `*_output(z)` turns pre-activations into outputs in place. `*_loss(dz, t, weight, loss)` takes
pre-activations in `dz` and leaves weight * dE/dz there, and weight * E of each row in `loss`. Everything is computed
from pre-activations, so z of +-1e4 neither overflows, other than in exp, nor takes the logarithm of 0. The table has
the name of each output function and what it does in NumPy, of which arrays are by row.
"""

import numpy as np

from fastnn.kernels.elementary import exp, log, log1p, logistic
from fastnn.kernels.jit import jit, jit_apart
from fastnn.kernels.simd import view


def _softmax_in_numpy(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


IN_NUMPY = {
    "identity": lambda z: z,
    "logistic": lambda z: np.exp(-np.logaddexp(z.dtype.type(0), -z)),
    "softmax": _softmax_in_numpy,
    "exp": np.exp,
}
OUTPUTS = tuple(IN_NUMPY)
IDENTITY, LOGISTIC, SOFTMAX, EXP = range(len(OUTPUTS))


@jit
def identity_loss(dz, t, weight, loss):
    """E = 1/2 sum over outputs of (z - t)^2."""
    n, half = loss.size, dz.dtype.type(0.5)
    for u in range(dz.size // n):
        dz_u, t_u = view(dz, u * n, n), view(t, u * n, n)
        for i in range(n):
            error = dz_u[i] - t_u[i]
            loss[i] += weight[i] * (half * error * error)
            dz_u[i] = weight[i] * error


@jit
def logistic_output(z):
    for i in range(z.size):
        z[i] = logistic(z[i])


@jit
def bounded(loss, least, most):
    """Within [least, most]; NaN stays NaN."""
    loss = most if loss > most else loss
    return least if loss < least else loss


@jit
def logistic_loss(dz, t, weight, loss, least, most):
    """E = sum over outputs of log(1 + exp(z)) - t z, as max(z, 0) - t z + log(1 + exp(-|z|)), each `bounded`."""
    n, zero = loss.size, dz.dtype.type(0.0)
    for u in range(dz.size // n):
        dz_u, t_u = view(dz, u * n, n), view(t, u * n, n)
        for i in range(n):
            z = dz_u[i]
            positive = zero if z < zero else z
            negative = -z if z > zero else z
            loss[i] += weight[i] * bounded((positive - t_u[i] * z) + log1p(exp(negative)), least, most)
            dz_u[i] = weight[i] * (logistic(z) - t_u[i])


@jit
def row_maximum(z, largest):
    n = largest.size
    for i in range(n):
        largest[i] = z[i]
    for u in range(1, z.size // n):
        z_u = view(z, u * n, n)
        for i in range(n):
            largest[i] = z_u[i] if z_u[i] > largest[i] else largest[i]


@jit
def softmax_output(z, n, work):
    largest, total = view(work, 0, n), view(work, n, n)
    row_maximum(z, largest)
    for i in range(n):
        total[i] = z.dtype.type(0.0)
    for u in range(z.size // n):
        z_u = view(z, u * n, n)
        for i in range(n):
            z_u[i] = exp(z_u[i] - largest[i])
            total[i] += z_u[i]
    for u in range(z.size // n):
        z_u = view(z, u * n, n)
        for i in range(n):
            z_u[i] /= total[i]


@jit
def softmax_loss(dz, t, weight, loss, work, least, most):
    """E = sum over outputs of t (log(sum of exp(z)) - z), `bounded`; the gradient is p sum(t) - t, p = softmax(z)."""
    n, zero = loss.size, dz.dtype.type(0.0)
    largest, total, mass = view(work, 0, n), view(work, n, n), view(work, 2 * n, n)
    row_maximum(dz, largest)
    for i in range(n):
        total[i] = zero
        mass[i] = zero
    for u in range(dz.size // n):
        dz_u, t_u = view(dz, u * n, n), view(t, u * n, n)
        for i in range(n):
            shifted = dz_u[i] - largest[i]
            loss[i] -= t_u[i] * shifted
            mass[i] += t_u[i]
            e = exp(shifted)
            total[i] += e
            dz_u[i] = e
    for i in range(n):
        loss[i] = weight[i] * bounded(loss[i] + mass[i] * log(total[i]), least, most)
        total[i] = mass[i] / total[i]
    for u in range(dz.size // n):
        dz_u, t_u = view(dz, u * n, n), view(t, u * n, n)
        for i in range(n):
            dz_u[i] = weight[i] * (dz_u[i] * total[i] - t_u[i])


@jit
def exp_output(z):
    for i in range(z.size):
        z[i] = exp(z[i])


@jit
def exp_loss(dz, t, weight, loss):
    """E = sum over outputs of t log(t / p) - t + p for p = exp(z), half the Poisson deviance.

    It overflows with exp, by which a training that diverges is seen; but not in rows that do not count.
    """
    n, zero = loss.size, dz.dtype.type(0.0)
    for u in range(dz.size // n):
        dz_u, t_u = view(dz, u * n, n), view(t, u * n, n)
        for i in range(n):
            z = zero if weight[i] == zero else dz_u[i]
            p = exp(z)
            target = t_u[i]
            entropy = target * log(target)
            entropy = zero if target == zero else entropy
            loss[i] += weight[i] * ((entropy - target * z) - target + p)
            dz_u[i] = weight[i] * (p - target)


@jit
def output_forward(code, z, n, work):
    """Turn pre-activations into outputs in place; `work` has room for two rows."""
    if code == LOGISTIC:
        logistic_output(z)
    elif code == SOFTMAX:
        softmax_output(z, n, work)
    elif code == EXP:
        exp_output(z)


@jit_apart
def loss_backward(code, dz, t, weight, loss, work, most):
    """Leave weight * dE/dz in `dz` and weight * E of each row in `loss`; `work` has room for three rows.

    Log-losses are those of a probability that is kept from 0 and from 1, from exp(-most) to `most`; their gradients go
    on beyond it, as in scikit-learn.
    """
    least = exp(-most)
    for i in range(loss.size):
        loss[i] = loss.dtype.type(0.0)
    if code == SOFTMAX:
        softmax_loss(dz, t, weight, loss, work, least, most)
    elif code == LOGISTIC:
        logistic_loss(dz, t, weight, loss, least, most)
    elif code == IDENTITY:
        identity_loss(dz, t, weight, loss)
    elif code == EXP:
        exp_loss(dz, t, weight, loss)
