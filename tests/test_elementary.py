"""The elementary functions against a longer format, over the whole range."""

import re

import numba
import numpy as np
import pytest
import reference

from fastnn.kernels import elementary

# Units in the last place, as the docstring of elementary.py promises.
BOUNDS = {"exp": 2, "expm1": 2, "log": 2, "log1p": 2, "tanh": 4, "logistic": 4}
REFERENCES = {name: getattr(np, name, reference.logistic) for name in BOUNDS}
LONGER = {"float32": np.float64, "float64": np.longdouble}
EXPM1_RANGE = {"float32": 80.0, "float64": 700.0}
DTYPES = [
    "float32",
    pytest.param(
        "float64",
        marks=pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no format longer than float64"),
    ),
]


def loop_over(name):
    function = getattr(elementary, name)

    @numba.njit(error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


LOOPS = {name: loop_over(name) for name in BOUNDS}


def evaluate(name, x):
    y = np.empty_like(x)
    LOOPS[name](x, y)
    return y


def exact(name, x):
    with np.errstate(all="ignore"):
        return REFERENCES[name](x.astype(LONGER[x.dtype.name]))


def special(dtype):
    """Zeros, infinities, NaN, subnormals, and the neighbours of every threshold of exp."""
    info = np.finfo(dtype)
    longer = LONGER[np.dtype(dtype).name]
    thresholds = np.log(np.array([info.max, info.tiny, info.smallest_subnormal], longer)).astype(dtype)
    near = np.concatenate([thresholds + step * np.spacing(thresholds) for step in range(-3, 4)])
    values = [0.0, np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal, info.eps, 0.5, 1.0, 20.0, 89.0,
              103.0, 104.0, 105.0, 709.0, 710.0, 745.0, 746.0, 1e4]  # fmt: skip
    x = np.concatenate([near, np.array(values, dtype)]).astype(dtype)
    return np.concatenate([x, -x])


def sweep(dtype):
    """Bit patterns all over the format, subnormals and NaN included, and the values that networks meet."""
    rng = np.random.default_rng(0)
    if dtype == "float32":
        patterns = np.arange(0, 2**32, 1999, dtype=np.uint64).astype(np.uint32).view(np.float32)
    else:
        patterns = rng.integers(0, 2**64, 400_000, dtype=np.uint64).view(np.float64)
    usual = [(rng.normal(size=100_000) * scale).astype(dtype) for scale in (1e-3, 1, 10, 300)]
    return np.concatenate([patterns, special(dtype), *usual])


def domain(name, x):
    """Where a function is defined; NaN is not part of it where there are limits."""
    if name == "expm1":
        return x[np.abs(x) < EXPM1_RANGE[x.dtype.name]]
    return x[(x >= 0) & (x < np.inf)] if name == "log1p" else x


def test_bounds_are_the_docstrings():
    stated = re.findall(r"\b(exp|expm1|log|log1p|tanh|logistic) (\d+)", elementary.__doc__)
    assert {name: int(bound) for name, bound in stated} == BOUNDS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_within_the_bound_of_a_longer_format(name, dtype):
    x = domain(name, sweep(dtype))
    y, wanted = evaluate(name, x), exact(name, x)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(dtype)
        finite = np.isfinite(rounded)
        ulp = np.maximum(np.spacing(np.abs(rounded[finite])), np.finfo(dtype).smallest_subnormal)
    assert y.dtype == dtype
    error = np.abs(y[finite] - wanted[finite]) / ulp
    worst = np.argmax(error)
    assert np.isfinite(y[finite]).all()
    assert error[worst] <= BOUNDS[name], f"{name}({x[finite][worst]!r}) is {y[finite][worst]!r}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_not_finite_is_numpys(name, dtype):
    x = domain(name, sweep(dtype))
    y = evaluate(name, x)
    with np.errstate(all="ignore"):
        wanted = exact(name, x).astype(dtype)
    odd = ~np.isfinite(wanted)
    np.testing.assert_array_equal(y[odd], wanted[odd])
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(wanted))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BOUNDS)
def test_nan_gives_nan(name, dtype):
    assert np.isnan(evaluate(name, np.array([np.nan, -np.nan], dtype))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_values_are_exact(dtype):
    x = np.array([-np.inf, -1e4, -0.0, 0.0, 1e4, np.inf], dtype)
    np.testing.assert_array_equal(evaluate("tanh", x), [-1, -1, 0, 0, 1, 1])
    np.testing.assert_array_equal(evaluate("logistic", x), [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(evaluate("exp", x), [0, 0, 1, 1, np.inf, np.inf])
