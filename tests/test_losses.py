"""Every activation and every output function with its loss, against the reference and at the extremes."""

import numba
import numpy as np
import pytest
import reference
from helpers import DTYPES, problem, targets_for

from fastnn.kernels import activations, losses
from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.losses import OUTPUTS

RTOL = {"float32": 5e-6, "float64": 1e-13}


@numba.njit(error_model="numpy")
def activation_forward(code, z):
    activations.activation_forward(code, z)


@numba.njit(error_model="numpy")
def activation_backward(code, dz, a):
    activations.activation_backward(code, dz, a)


@numba.njit(error_model="numpy")
def output_forward(code, z, n, work):
    losses.output_forward(code, z, n, work)


@numba.njit(error_model="numpy")
def loss_backward(code, dz, t, weight, loss, work, most):
    losses.loss_backward(code, dz, t, weight, loss, work, most)


def outputs_of(output, z):
    """The kernel's outputs for z (n, units)."""
    flat = z.T.flatten()
    output_forward(OUTPUTS.index(output), flat, len(z), np.empty(2 * len(z), z.dtype))
    return flat.reshape(z.T.shape).T


def losses_of(output, z, t, weight, most=np.inf):
    """The kernel's weighted loss of each row and its weighted gradient (n, units)."""
    dz, loss, work = z.T.flatten(), np.empty(len(z), z.dtype), np.empty(3 * len(z), z.dtype)
    loss_backward(OUTPUTS.index(output), dz, t.T.flatten(), weight, loss, work, z.dtype.type(most))
    return loss, dz.reshape(z.T.shape).T


def drawn(output, dtype, n=37, n_out=3, scale=3.0):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(n, n_out)) * scale).astype(dtype)
    weight = rng.integers(0, 3, n).astype(dtype)
    return z, targets_for(output, rng, n, n_out, dtype), weight


def test_the_reference_knows_every_entry():
    assert set(reference.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(reference.OUTPUTS) == set(OUTPUTS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, dtype):
    forward, derivative = reference.ACTIVATIONS[name]
    z = np.concatenate([np.linspace(-12, 12, 101), [-1e4, -0.0, 0.0, 1e4]]).astype(dtype)
    a, dz = z.copy(), np.linspace(1, 2, z.size).astype(dtype)
    before = dz.astype(np.float64)
    activation_forward(ACTIVATIONS.index(name), a)
    np.testing.assert_allclose(a, forward(z.astype(np.float64)), rtol=RTOL[dtype], atol=1e-37)
    activation_backward(ACTIVATIONS.index(name), dz, a)
    np.testing.assert_allclose(dz, before * derivative(a.astype(np.float64)), rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_keeps_nan(name, dtype):
    a, dz = np.array([np.nan, 1.0], dtype), np.array([1.0, np.nan], dtype)
    activation_forward(ACTIVATIONS.index(name), a)
    assert np.isnan(a).tolist() == [True, False]
    activation_backward(ACTIVATIONS.index(name), dz, a)
    assert np.isnan(dz[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_output(output, dtype):
    z, _, _ = drawn(output, dtype)
    expected = reference.OUTPUTS[output][0](z.astype(np.float64))
    np.testing.assert_allclose(outputs_of(output, z), expected, rtol=RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_loss_and_its_gradient(output, dtype):
    z, t, weight = drawn(output, dtype)
    _, loss_of, derivative = reference.OUTPUTS[output]
    wide, wide_t, wide_weight = z.astype(np.float64), t.astype(np.float64), weight.astype(np.float64)
    loss, dz = losses_of(output, z, t, weight)
    atol = 20 * RTOL[dtype]
    np.testing.assert_allclose(loss, wide_weight * loss_of(wide, wide_t).sum(axis=1), rtol=RTOL[dtype], atol=atol)
    np.testing.assert_allclose(dz, wide_weight[:, None] * derivative(wide, wide_t), rtol=RTOL[dtype], atol=atol)


@pytest.mark.parametrize("output", OUTPUTS)
def test_gradient_is_the_slope_of_the_loss(output):
    z, t, weight = drawn(output, "float64", scale=1.0)
    t, h = t * 0.8 + 0.1, 1e-5  # targets need not be 0 and 1, nor add up to 1
    _, dz = losses_of(output, z, t, weight)
    for unit in range(z.shape[1]):
        step = np.zeros_like(z)
        step[:, unit] = h
        slope = (losses_of(output, z + step, t, weight)[0] - losses_of(output, z - step, t, weight)[0]) / (2 * h)
        np.testing.assert_allclose(dz[:, unit], slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_extreme_preactivations_stay_finite(output, dtype):
    z = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [90.0, -120.0, 800.0]], dtype)
    t = reference.one_hot([0, 1, 2, 1], 3).astype(dtype)
    if output == "exp":  # which overflows
        z = np.minimum(z, 80)
    loss, dz = losses_of(output, z, t, np.ones(4, dtype))
    assert np.isfinite(loss).all()
    assert np.isfinite(dz).all()
    assert np.isfinite(outputs_of(output, z)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_overflows_in_its_row_where_it_has_a_weight(dtype):
    z = np.array([[1.0, 800.0], [1.0, 2.0], [800.0, 2.0]], dtype)
    loss, dz = losses_of("exp", z, np.ones_like(z), np.array([1, 1, 0], dtype))
    assert np.isposinf(loss).tolist() == [True, False, False] and loss[2] == 0
    assert np.isposinf(dz).tolist() == [[False, True], [False, False], [False, False]] and not dz[2].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_nan_stays_in_its_row(output, dtype):
    z, t, _ = drawn(output, dtype)
    z[5, 1] = np.nan
    loss, dz = losses_of(output, z, t, np.ones(len(z), dtype))
    assert np.flatnonzero(np.isnan(loss)).tolist() == [5]
    assert np.flatnonzero(np.isnan(dz).any(axis=1)).tolist() == [5]
    assert np.flatnonzero(np.isnan(outputs_of(output, z)).any(axis=1)).tolist() == [5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_whole_network_at_extremes(output, dtype, size):
    net, X, T = problem((3, 4, 2), 19, "identity", output, dtype)
    net.biases[1] = np.minimum([size, -size / 2], 80 if output == "exp" else np.inf)
    loss, dw, db = net.loss_and_gradients(X, T)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in [*dw, *db])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", ["logistic", "softmax"])
def test_bounded_losses_are_sklearns(output, dtype):
    """As of probabilities that are kept from 0 and 1 by the dtype's epsilon; the gradients are those of the loss."""
    from sklearn.neural_network._base import binary_log_loss, log_loss

    rng, ones, eps = np.random.default_rng(0), np.ones(40, dtype), np.finfo(dtype).eps
    z = (rng.standard_normal((40, 3)) * 100).astype(dtype)
    t = np.eye(3, dtype=dtype)[rng.integers(0, 3, 40)]
    found, gradient = losses_of(output, z, t, ones, -np.log(eps))
    wide = z.astype(np.float64)
    if output == "logistic":
        expected = np.clip(np.logaddexp(0, wide) - t * wide, eps, -np.log(eps)).sum(axis=1)
    else:
        expected = np.clip(np.logaddexp.reduce(wide, axis=1) - (t * wide).sum(axis=1), eps, -np.log(eps))
    np.testing.assert_allclose(found, expected, rtol=100 * eps, atol=100 * eps)
    probabilities, theirs = outputs_of(output, z), {"logistic": binary_log_loss, "softmax": log_loss}[output]
    sklearns = [theirs(t[i : i + 1], probabilities[i : i + 1]) for i in range(40)]
    # Of a label scikit-learn takes the logarithm of 1 - p, which has few digits where p is next to 1.
    np.testing.assert_allclose(found, sklearns, rtol=1e-2 if output == "logistic" else 100 * eps, atol=4 * eps)
    exact, same = losses_of(output, z, t, ones)
    assert (exact > 1.5 * found).any() and np.array_equal(gradient, same)
