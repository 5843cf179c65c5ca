"""Weights and biases: get, set, protect, copy, pickle."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from helpers import DTYPES, bits, problem

import fastnn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(3, 2), (1, 1, 1), (130, 65, 17, 8), (48, 49, 50)])
def test_set_and_get(sizes, dtype):
    net = fastnn.MLP(sizes, dtype=dtype)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=pair).astype(dtype) for pair in itertools.pairwise(sizes)]
    biases = [rng.normal(size=n).astype(dtype) for n in sizes[1:]]
    net.weights, net.biases = weights, biases
    for stored, given in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, given)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_set_an_item(layer):
    net, X, _ = problem((3, 4, 2), 5)
    others = [net.weights[i].copy() for i in range(2) if i != layer % 2]
    weights, biases = net.weights, net.biases
    weights[layer], biases[layer] = np.ones(net.weights[layer].shape), np.full(net.biases[layer].shape, 2)
    assert (net.weights[layer] == 1).all()
    assert (net.biases[layer] == 2).all()
    assert (weights[layer] == 1).all()
    np.testing.assert_array_equal([net.weights[i] for i in range(2) if i != layer % 2], others)
    twin = fastnn.MLP((3, 4, 2), "tanh", dtype="float64")
    twin.weights, twin.biases = net.weights, net.biases
    assert net.forward(X).tobytes() == twin.forward(X).tobytes()


def test_setting_reaches_the_backward_pass():
    net, X, T = problem((3, 40, 20, 2), 9)
    twin, *_ = problem((3, 40, 20, 2), 9, seed=1)
    twin.weights, twin.biases = net.weights, net.biases
    for a, b in zip(net.loss_and_gradients(X, T)[1], twin.loss_and_gradients(X, T)[1], strict=True):
        assert a.tobytes() == b.tobytes()


def test_lists_will_do():
    net = fastnn.MLP((2, 1), dtype="float64")
    net.weights = [[[1], [2]]]
    net.biases = [[3]]
    np.testing.assert_array_equal(net.forward(np.array([[1.0, 1.0]])), [[1.0]])  # softmax of one output


@pytest.mark.parametrize("name", ["weights", "biases"])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p: None, TypeError),
        (lambda p: p[:-1], ValueError),
        (lambda p: [*p, p[0]], ValueError),
        (lambda p: [p[0].T[:1], *p[1:]], ValueError),
        (lambda p: [p[0][None], *p[1:]], ValueError),
        (lambda p: [p[0].astype(str), *p[1:]], TypeError),
        (lambda p: [p[0].astype(complex), *p[1:]], TypeError),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(name, change, error):
    net, *_ = problem((3, 4, 2), 1)
    before = bits(net)
    with pytest.raises(error, match=name):
        setattr(net, name, change([np.array(p) for p in getattr(net, name)]))
    assert bits(net) == before


@pytest.mark.parametrize("name", ["weights", "biases"])
def test_item_of_a_wrong_shape_or_place(name):
    net, *_ = problem((3, 4, 2), 1)
    before = bits(net)
    with pytest.raises(ValueError, match=name):
        getattr(net, name)[0] = np.zeros((9, 9))
    for index, error in ((2, IndexError), (-3, IndexError), ("0", TypeError), (0.0, TypeError)):
        message = rf"{name} must be assigned to by an integer from 0 to 1, .*, got {name}\[{index!r}\]"
        with pytest.raises(error, match=message):
            getattr(net, name)[index] = np.zeros((9, 9))
    assert bits(net) == before


@pytest.mark.parametrize("name", ["weights", "biases"])
def test_arrays_are_read_only_copies(name):
    net, X, T = problem((3, 4, 2), 8)
    held = getattr(net, name)[0]
    with pytest.raises(ValueError, match="read-only"):
        held[...] = 0
    before = held.copy()
    net.train_epoch(X, T, fastnn.SGD(0.1))
    np.testing.assert_array_equal(held, before)
    assert (getattr(net, name)[0] != before).any()
    getattr(net, name)[0] = np.ones(held.shape)
    stored = getattr(net, name)
    with pytest.raises(ValueError, match="read-only"):
        stored[0][...] = 0


def test_item_set_is_a_copy_of_what_was_given():
    net, *_ = problem((3, 4, 2), 1)
    given = np.ones((3, 4))
    net.weights[0] = given
    given[:] = 7
    assert (net.weights[0] == 1).all()
    assert given.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal_and_apart(duplicate, dtype):
    net, X, T = problem((3, 40, 20, 2), 30, ["tanh", "relu"], "identity", dtype)
    net.train_epoch(X, T, fastnn.Adam())
    twin = duplicate(net)
    assert repr(twin) == repr(net)
    assert bits(twin) == bits(net)
    before = bits(net)
    twin.train_epoch(X, T, fastnn.Adam())
    assert bits(net) == before != bits(twin)
    net.train_epoch(X, T, fastnn.Adam())
    assert bits(net) == bits(twin)


def test_training_goes_on_from_a_pickle():
    net, X, T = problem((3, 4, 2), 30)
    optimizer = fastnn.Adam()
    net.train_epoch(X, T, optimizer)
    twin, twin_optimizer = pickle.loads(pickle.dumps((net, optimizer)))
    net.train_epoch(X, T, optimizer)
    twin.train_epoch(X, T, twin_optimizer)
    assert bits(net) == bits(twin)


def test_parameters_pickle_as_a_list():
    net, *_ = problem((3, 4, 2), 1)
    assert type(pickle.loads(pickle.dumps(net.weights))) is list


def test_repr_says_what_it_is():
    assert repr(fastnn.MLP((3, 4, 2))) == "MLP((3, 4, 2), activation=('relu',), output='softmax', dtype='float32')"


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.append(p[0]), lambda p: p.pop(), lambda p: p.clear(), lambda p: p.reverse(),
        lambda p: p.__setitem__(slice(1), [p[0]]), lambda p: p.__delitem__(0), lambda p: p.__iadd__([p[0]]),
    ],
)  # fmt: skip
def test_the_number_of_layers_is_fixed(change):
    net, *_ = problem((3, 4, 2), 1)
    for parameters in (net.weights, net.biases):
        with pytest.raises(TypeError, match="layers is fixed"):
            change(parameters)
        assert len(parameters) == 2
