"""Every optimizer against the reference, over several steps from the same gradients, and its settings."""

import copy
import dataclasses
import pickle

import numba
import numpy as np
import pytest
import reference
from helpers import DTYPES

import fastnn
from fastnn.kernels import optimizers
from fastnn.kernels.optimizers import Optimizer

CLASSES = Optimizer.__subclasses__()
SETTINGS = {
    "SGD": [
        {},
        {"momentum": 0.0},
        {"nesterov": False},
        {"learning_rate": 0.3, "momentum": 1.0, "nesterov": False},
    ],
    "Adam": [{}, {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.5, "epsilon": 0.1}],
}
CASES = [(cls, settings) for cls in CLASSES for settings in SETTINGS[cls.__name__]]


@numba.njit(error_model="numpy")
def step(code, hyper, number, w, g, m, v, constants):
    optimizers.optimizer_constants(code, hyper, number, constants)
    optimizers.optimizer_update(code, w, g, m, v, constants)


powered = numba.njit(lambda base, n: optimizers.power(base, n))


@pytest.mark.parametrize("base", [0.0, 0.5, 0.9, 0.999, 1.0 - 2.0**-20])
def test_powers(base):
    for n in (0, 1, 2, 3, 7, 64, 1000, 65537, 10**7):
        np.testing.assert_allclose(powered(base, n), base**n, rtol=3 * n * np.finfo(float).eps + 1e-15)


def test_the_reference_knows_every_optimizer():
    assert {cls.__name__ for cls in CLASSES} == set(reference.STEPS) == set(SETTINGS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cls", "settings"), CASES)
def test_ten_steps(cls, settings, dtype):
    rng = np.random.default_rng(0)
    optimizer = cls(**settings)
    w = rng.normal(size=67).astype(dtype)
    m, v, constants = np.zeros_like(w), np.zeros_like(w), np.zeros(optimizers.N_CONSTANTS, dtype)
    wide = w.astype(np.float64), np.zeros(67), np.zeros(67)
    for number in range(1, 11):
        g = rng.normal(size=67).astype(dtype)
        step(optimizer.code, optimizer.hyper(), number, w, g, m, v, constants)
        wide = reference.STEPS[cls.__name__](wide[0], g.astype(np.float64), *wide[1:], number, **settings)
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(w, wide[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", CLASSES)
def test_nan_stays_where_it_is_and_zero_moves_nothing(cls, dtype):
    w, g = np.ones(5, dtype), np.array([0.0, np.nan, 1.0, 0.0, -1.0], dtype)
    optimizer, m, v = cls(), np.zeros_like(w), np.zeros_like(w)
    step(optimizer.code, optimizer.hyper(), 1, w, g, m, v, np.zeros(optimizers.N_CONSTANTS, dtype))
    assert np.isnan(w).tolist() == [False, True, False, False, False]
    assert w[0] == w[3] == 1
    assert w[2] < 1 < w[4]


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (fastnn.SGD, "learning_rate", 0),
        (fastnn.SGD, "learning_rate", float("nan")),
        (fastnn.SGD, "learning_rate", "fast"),
        (fastnn.SGD, "momentum", 1.1),
        (fastnn.SGD, "momentum", -0.1),
        (fastnn.Adam, "learning_rate", -1.0),
        (fastnn.Adam, "learning_rate", [0.1]),
        (fastnn.Adam, "learning_rate", None),
        (fastnn.Adam, "learning_rate", 1j),
        (fastnn.Adam, "learning_rate", 10**400),
        (fastnn.Adam, "beta_1", 1.0),
        (fastnn.Adam, "beta_2", -0.5),
        (fastnn.Adam, "epsilon", 0.0),
        (fastnn.Adam, "epsilon", float("inf")),
    ],
)
def test_wrong_settings_are_named(cls, name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        cls(**{name: value})


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_survive_pickle_and_print(cls):
    optimizer = cls(learning_rate=0.25)
    restored = pickle.loads(pickle.dumps(optimizer))
    assert dataclasses.astuple(restored) == dataclasses.astuple(optimizer)
    assert "learning_rate=0.25" in repr(restored)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_has_moments_of_its_own(duplicate):
    net = fastnn.MLP((2, 3, 1), "tanh", "identity", "float64", 0)
    X, y = np.ones((4, 2)), np.zeros((4, 1))
    adam = fastnn.Adam()
    net.train_epoch(X, y, adam)
    twin, before = duplicate(adam), adam.moments.copy()
    net.train_epoch(X, y, twin)
    assert (adam.steps, twin.steps) == (1, 2)
    np.testing.assert_array_equal(adam.moments, before)
    assert (twin.moments != before).any()


def test_an_epsilon_that_vanishes_in_float32_is_refused():
    net, adam = fastnn.MLP((2, 1), output="identity"), fastnn.Adam(epsilon=1e-50)
    with pytest.raises(ValueError, match="epsilon must not vanish in float32"):
        net.train_epoch(np.ones((1, 2), "float32"), np.ones(1, "float32"), adam)
    assert adam.owner is None
