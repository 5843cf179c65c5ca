"""The kernels by themselves: the micro-kernel, the three products around it, and the elementwise functions."""

import functools

import numpy as np

from bench import peak
from bench.suite import DTYPES, BestOf

ROWS = 96  # two panels of rows in float32
REPEATS = 100  # calls within one timing, each some microseconds


@functools.cache
def kernels():
    """Compile loops around single kernels; a function, so that this file is imported without Numba."""
    import numba

    from fastnn.kernels import activations, jit, optimizers, products

    @numba.njit(**jit.FLAGS)
    def forward(layer, scratch, params, ld, state):
        for _ in range(REPEATS):
            products.layer_forward(layer, scratch, params, ld, ld, state)

    @numba.njit(**jit.FLAGS)
    def backward(layer, scratch, da_at, dz_at, params, ld, state):
        for _ in range(REPEATS):
            products.layer_backward(layer, scratch, da_at, dz_at, params, ld, ld, state)

    @numba.njit(**jit.FLAGS)
    def gradient(tile, a, b, n, width, w, moments):
        for _ in range(REPEATS):
            products.weight_gradient(tile, 0, a, 0, n, b, 0, n, width, width, False, w, 0, moments, w.size)

    @numba.njit(**jit.FLAGS)
    def activation(code, z, start):
        for _ in range(REPEATS):
            for i in range(z.size):
                z[i] = start[i]
            activations.activation_forward(code, z)

    @numba.njit(**jit.FLAGS)
    def update(code, w, g, m, v, constants):
        for _ in range(REPEATS):
            optimizers.optimizer_update(code, w, g, m, v, constants)

    return forward, backward, gradient, activation, update


class BestOfSecond(BestOf):
    """What shares a core with a virtual machine slows it for a second at a time, by more than is to be seen here."""

    burst = 1.0


class MicroKernel(BestOfSecond):
    """The tallest block, on operands in the first-level cache: what `peak.py` takes for the machine's limit."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        run, operands = peak.kernel(), peak.operands(dtype)
        self.run = lambda: run(*operands, peak.DEPTH, REPEATS)
        self.run()

    def time_micro_kernel(self, dtype):
        self.best(self.run)


class Products(BestOfSecond):
    """Layer of 128 inputs and 144 outputs; the gradient, of one tile over 256 rows."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        from fastnn.kernels import plan, simd, team
        from fastnn.layout import empty, panels

        self.forward, self.backward, self.gradient, *_ = kernels()
        n_in, n_out, real = 128, 144, np.dtype(dtype)
        self.scratch = empty((2 * n_in + 2 + n_out) * ROWS, real)
        self.params = empty((n_in + 1) * n_out, real)
        self.layer = np.zeros(plan.N_LAYER_FIELDS, np.int64)
        self.layer[[plan.N_IN, plan.N_OUT]] = n_in, n_out
        self.output_at = self.layer[plan.OUTPUT_UNITS] = (n_in + 1) * ROWS
        self.delta_at = self.output_at + n_out * ROWS
        self.width = panels(1000, simd.lanes(real))[0][1]
        self.tile, self.w = (empty(self.width**2, real) for _ in range(2))
        self.a, self.b = (empty(256 * self.width, real) for _ in range(2))
        self.moments, self.state = empty(2 * self.w.size, real), empty(team.state_size(1), np.int64)
        for product in (self.time_forward, self.time_backward, self.time_gradient):
            product(dtype)

    def time_forward(self, dtype):
        self.best(lambda: self.forward(self.layer, self.scratch, self.params, ROWS, self.state))

    def time_backward(self, dtype):
        arguments = self.layer, self.scratch, self.delta_at, self.output_at, self.params, ROWS, self.state
        self.best(lambda: self.backward(*arguments))

    def time_gradient(self, dtype):
        arguments = self.tile, self.a, self.b, 256, self.width, self.w, self.moments
        self.best(lambda: self.gradient(*arguments))


class Prediction(BestOfSecond):
    """The kernel of prediction, of one row on one thread, by its compiled entry point alone."""

    params = (["64-64-10", "784-256-128-10"], DTYPES)
    param_names = ("net", "dtype")

    def setup(self, net, dtype):
        from bench.suite import network, rows
        from fastnn import workers

        model, (X, _) = network(net, dtype), rows(net, dtype, 1)
        out = model.forward(X)
        work = model._spare_forward[-1]
        self.run = lambda: model._code(workers.ALONE, (1, X, 0, out, work.address))

    def time_one_row(self, net, dtype):
        self.best(self.repeated)

    def repeated(self):
        for _ in range(REPEATS):
            self.run()


class Elementwise(BestOfSecond):
    """A thousand elements: four arrays of them stay in the first-level cache."""

    params = (["logistic", "tanh", "relu", "SGD", "Adam"], DTYPES)
    param_names = ("function", "dtype")

    def setup(self, function, dtype):
        import fastnn
        from fastnn.kernels.activations import ACTIVATIONS
        from fastnn.layout import empty

        *_, activation, update = kernels()
        # Far apart within their pages: near the same place in each, stores hold up loads, in some processes only.
        arrays = empty(4 * 1136, np.dtype(dtype)).reshape(4, 1136)[:, :1000]
        arrays[:] = np.random.default_rng(0).random(arrays.shape)
        if function in ACTIVATIONS:
            code = ACTIVATIONS.index(function)
            self.run = lambda: activation(code, *arrays[:2])
        else:
            optimizer = getattr(fastnn, function)()
            constants = np.full(6, 0.5, dtype)
            self.run = lambda: update(optimizer.code, *arrays, constants)
        self.run()

    def time_elements(self, function, dtype):
        self.best(self.run)
