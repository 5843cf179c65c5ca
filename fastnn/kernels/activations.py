"""Activations of the hidden layers. To add one: its pair of functions, a line in each switch, its entry in the table.

`*_forward(z)` turns pre-activations into activations in place; `*_backward(dz, a)` turns dE/da into dE/dz in place,
from the activations. All arrays are flat and of one dtype. The table has each one's name and what it does in NumPy.
"""

import numpy as np

from fastnn.kernels.elementary import logistic, tanh
from fastnn.kernels.jit import jit

IN_NUMPY = {
    "identity": lambda z: z,
    "logistic": lambda z: np.exp(-np.logaddexp(z.dtype.type(0), -z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}
ACTIVATIONS = tuple(IN_NUMPY)
IDENTITY, LOGISTIC, TANH, RELU = range(len(ACTIVATIONS))


@jit
def logistic_forward(z):
    for i in range(z.size):
        z[i] = logistic(z[i])


@jit
def logistic_backward(dz, a):
    one = a.dtype.type(1.0)
    for i in range(dz.size):
        dz[i] *= a[i] * (one - a[i])


@jit
def tanh_forward(z):
    for i in range(z.size):
        z[i] = tanh(z[i])


@jit
def tanh_backward(dz, a):
    one = a.dtype.type(1.0)
    for i in range(dz.size):
        dz[i] *= one - a[i] * a[i]


@jit
def relu_forward(z):
    zero = z.dtype.type(0.0)
    for i in range(z.size):
        z[i] = zero if z[i] < zero else z[i]  # NaN stays NaN


@jit
def relu_backward(dz, a):
    zero = a.dtype.type(0.0)
    for i in range(dz.size):
        kept = dz[i]  # loaded whatever `a` is: a load under a condition would not vectorise
        dz[i] = zero if a[i] == zero else kept


@jit
def activation_forward(code, z):
    if code == RELU:
        relu_forward(z)
    elif code == TANH:
        tanh_forward(z)
    elif code == LOGISTIC:
        logistic_forward(z)


@jit
def activation_backward(code, dz, a):
    if code == RELU:
        relu_backward(dz, a)
    elif code == TANH:
        tanh_backward(dz, a)
    elif code == LOGISTIC:
        logistic_backward(dz, a)
