"""exp, expm1, log, log1p, tanh and the logistic function of one element, branch-free so that loops vectorise.

Argument reduction is Cody and Waite's; the polynomials interpolate at Chebyshev nodes on the reduced interval,
one set of coefficients per dtype. Error bounds, in units in the last place against a longer format, are asserted
over the whole range by `tests/test_elementary.py` (float32 and float64 alike):

    exp 2    expm1 2    log 2    log1p 2    tanh 4    logistic 4

NaN gives NaN; infinities, overflow, gradual underflow and subnormals behave as in NumPy. Comparisons are written
`hi if x > hi else x`, which keeps NaN and compiles to one minimum.
"""

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from fastnn.kernels.jit import INTERNAL, jit
from fastnn.kernels.simd import fma, same_bits


def _per_dtype(function32: Any, function64: Any) -> Any:
    """Return a stub that kernels call and Numba replaces by the version of its argument's dtype."""

    def stub(x: Any) -> Any:
        raise NotImplementedError("only within kernels")

    @overload(stub, jit_options=INTERNAL, strict=False)
    def choose(x: Any) -> Any:
        return {types.float32: function32, types.float64: function64}[x]

    return stub


def _exp_tail32(r: Any) -> Any:
    """(exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2."""
    q = fma(r, np.float32(0.0013926926614), np.float32(0.00836377387441))
    q = fma(q, r, np.float32(0.0416665501103))
    q = fma(q, r, np.float32(0.166665733819))
    return fma(q, r, np.float32(0.5))


def _exp_tail64(r: Any) -> Any:
    """(exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2."""
    q = fma(r, 2.0915442297780115216e-9, 2.5106274733573294687e-8)
    q = fma(q, r, 2.7557271810219799569e-7)
    q = fma(q, r, 2.7557252833516909748e-6)
    q = fma(q, r, 0.000024801587327007186731)
    q = fma(q, r, 0.00019841269876864354929)
    q = fma(q, r, 0.0013888888888883326674)
    q = fma(q, r, 0.0083333333333255446996)
    q = fma(q, r, 0.041666666666666670074)
    q = fma(q, r, 0.16666666666666671438)
    return fma(q, r, 0.5)


def _reduce32(x: Any) -> Any:
    """Split x = n ln(2) + r with |r| <= ln(2) / 2; adding 1.5 * 2^23 rounds, and leaves n in the low bits."""
    shift = np.float32(12582912.0)
    shifted = fma(x, np.float32(1.44269504088896340736), shift)
    n = shifted - shift
    r = fma(n, np.float32(-1.42860682031e-6), fma(n, np.float32(-0.693145751953125), x))
    return r, np.int32(same_bits(shifted, np.int32) - np.int32(0x4B400000))


def _reduce64(x: Any) -> Any:
    """Split x = n ln(2) + r with |r| <= ln(2) / 2; adding 1.5 * 2^52 rounds, and leaves n in the low bits."""
    shift = 6755399441055744.0
    shifted = fma(x, 1.44269504088896340736, shift)
    n = shifted - shift
    r = fma(n, -2.8235290563031577123e-13, fma(n, -0.693147180559663, x))
    return r, same_bits(shifted, np.int64) - np.int64(0x4338000000000000)


def _power_of_two32(n: Any) -> Any:
    return same_bits(np.int32((n + np.int32(127)) << np.int32(23)), np.float32)


def _power_of_two64(n: Any) -> Any:
    return same_bits((n + np.int64(1023)) << np.int64(52), np.float64)


def _exp_range32(x: Any) -> Any:
    """Clamp to where exp is neither 0 nor infinite, one step beyond."""
    x = np.float32(89.0) if x > np.float32(89.0) else x
    return np.float32(-104.0) if x < np.float32(-104.0) else x


def _exp_range64(x: Any) -> Any:
    """Clamp to where exp is neither 0 nor infinite, one step beyond."""
    x = 710.0 if x > 710.0 else x
    return -746.0 if x < -746.0 else x


def _log_parts32(x: Any) -> Any:
    """Return n and f with x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); subnormals are scaled up first."""
    small = x < np.float32(1.17549435e-38)
    scaled = x * np.float32(33554432.0) if small else x
    bits = same_bits(scaled, np.int32)
    n = np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23)
    f = same_bits(np.int32(bits - (n << np.int32(23))), np.float32) - np.float32(1.0)
    return np.float32(n) - (np.float32(25.0) if small else np.float32(0.0)), f


def _log_parts64(x: Any) -> Any:
    """Return n and f with x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); subnormals are scaled up first."""
    small = x < 2.2250738585072014e-308
    scaled = x * 18014398509481984.0 if small else x
    bits = same_bits(scaled, np.int64)
    n = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    f = same_bits(bits - (n << np.int64(52)), np.float64) - 1.0
    return np.float64(n) - (54.0 if small else 0.0), f


def _log_tail32(z: Any) -> Any:
    """(2 atanh(s) / s - 2) for z = s^2, s = f / (2 + f)."""
    q = fma(z, np.float32(0.233534276037), np.float32(0.285499685913))
    q = fma(q, z, np.float32(0.40000129427))
    return fma(q, z, np.float32(0.666666665451)) * z


def _log_tail64(z: Any) -> Any:
    """(2 atanh(s) / s - 2) for z = s^2, s = f / (2 + f)."""
    q = fma(z, 0.13114834869597498495, 0.13266048812203002227)
    q = fma(q, z, 0.1538634244964514425)
    q = fma(q, z, 0.1818179373211175407)
    q = fma(q, z, 0.22222222409750114086)
    q = fma(q, z, 0.28571428570723249274)
    q = fma(q, z, 0.40000000000001009569)
    return fma(q, z, 0.6666666666666666643) * z


_exp_tail = _per_dtype(_exp_tail32, _exp_tail64)
_reduce = _per_dtype(_reduce32, _reduce64)
_exp_range = _per_dtype(_exp_range32, _exp_range64)
_log_parts = _per_dtype(_log_parts32, _log_parts64)
_log_tail = _per_dtype(_log_tail32, _log_tail64)
_ln2_high = _per_dtype(lambda x: np.float32(0.693145751953125), lambda x: 0.693147180559663)
_ln2_low = _per_dtype(lambda x: np.float32(1.42860682031e-6), lambda x: 2.8235290563031577123e-13)


def _power_of_two(n: Any) -> Any:
    raise NotImplementedError("only within kernels")


@overload(_power_of_two, jit_options=INTERNAL)
def _choose_power(n: Any) -> Any:
    return {types.int32: _power_of_two32, types.int64: _power_of_two64}[n]


@jit
def exp(x):
    r, n = _reduce(_exp_range(x))
    p = fma(r * r, _exp_tail(r), r) + type(x)(1.0)
    integer = type(n)  # Numba widens the results of integer arithmetic
    half = integer(n >> integer(1))
    # In two factors, so that the largest and the subnormal results are reached.
    return p * _power_of_two(half) * _power_of_two(integer(n - half))


@jit
def expm1(x):
    """exp(x) - 1, whose relative error stays small where x is; for |x| below 80 (float32) or 700 (float64)."""
    r, n = _reduce(x)
    scale = _power_of_two(n)
    return fma(scale, fma(r * r, _exp_tail(r), r), scale - type(x)(1.0))


@jit
def tanh(x):
    """Tanh x = e / (e + 2) with e = expm1(2 x); from |x| = 20 on it is 1 in either dtype."""
    T = type(x)
    x = T(20.0) if x > T(20.0) else x
    x = T(-20.0) if x < T(-20.0) else x
    e = expm1(x + x)
    return e / (e + T(2.0))


@jit
def logistic(x):
    """1 / (1 + exp(-x)), with exp only of negative numbers: no overflow, and the small tail keeps its digits."""
    T = type(x)
    e = exp(-x if x > T(0.0) else x)
    reciprocal = T(1.0) / (T(1.0) + e)
    return reciprocal if x > T(0.0) else e * reciprocal


@jit
def log(x):
    T = type(x)
    n, f = _log_parts(x)
    half = T(0.5) * f * f
    s = f / (f + T(2.0))
    low = fma(s, half + _log_tail(s * s), n * _ln2_low(x))
    result = fma(n, _ln2_high(x), -((half - low) - f))
    result = x if x == T(np.inf) else result
    result = -T(np.inf) if x == T(0.0) else result
    return result if x >= T(0.0) else T(np.nan)


@jit
def log1p(x):
    """log(1 + x) for x in [0, inf): the logarithm of the rounded sum, corrected by what rounding lost."""
    T = type(x)
    u = T(1.0) + x
    lost = T(0.0) if u == T(np.inf) else (x - (u - T(1.0))) / u
    return log(u) + lost
