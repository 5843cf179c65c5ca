"""Shuffling in pieces: NumPy's order, NumPy's state of the generator, and Ctrl-C between two pieces."""

import concurrent.futures
import os
import threading

import numpy as np
import pytest
from subprocesses import run_script

import fastnn
from fastnn.kernels import shuffle
from fastnn.orders import MOST_ROWS_AGAIN, Orders

PIECE = 100


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(shuffle, "ROWS_AT_ONCE", PIECE)


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize("n", [*range(10), *(k * PIECE + i for k in (1, 2) for i in range(3)), 12_345])
def test_as_numpy_shuffles(n, bits, in_pieces):
    for seed in range(20):
        ours, theirs = np.random.RandomState(bits(seed)), np.random.RandomState(bits(seed))
        order, expected = np.arange(n), np.arange(n)
        for _ in range(2):
            shuffle.shuffle(order, ours)
            theirs.shuffle(expected)
            np.testing.assert_array_equal(order, expected)
        assert ours.bytes(100) == theirs.bytes(100)


def test_as_numpy_shuffles_more_rows_than_16_bits_count():
    ours, theirs = np.random.RandomState(0), np.random.RandomState(0)
    order, expected = np.arange(shuffle.ROWS_AT_ONCE + 70_000), np.arange(shuffle.ROWS_AT_ONCE + 70_000)
    shuffle.shuffle(order, ours)
    theirs.shuffle(expected)
    assert np.array_equal(order, expected) and ours.bytes(100) == theirs.bytes(100)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_does_not_depend_on_the_pieces(early_stopping, monkeypatch):
    X, y = np.random.default_rng(0).random((250, 3)), np.arange(250) % 3

    def fitted():
        model = fastnn.MLPClassifier((4,), max_iter=3, random_state=0, early_stopping=early_stopping)
        return model.fit(X, y).loss_curve_

    expected = fitted()
    monkeypatch.setattr(shuffle, "ROWS_AT_ONCE", PIECE)
    assert fitted() == expected


def test_ctrl_c_between_two_pieces_of_an_order(monkeypatch, in_pieces):
    """It ends a fit with a usable model before the order is drawn to its end."""
    call_with, pieces = shuffle.call_with, []

    def interrupted(*arguments):
        call_with(*arguments)
        pieces.append(arguments)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(shuffle, "call_with", interrupted)
    X, y = np.random.default_rng(0).random((1000, 3)), np.arange(1000) % 3
    random_state = np.random.RandomState(0)
    model = fastnn.MLPClassifier((4,), random_state=random_state)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)
    assert len(pieces) == 2
    assert model.n_iter_ == 0 and np.isfinite(model.predict_proba(X)).all()
    random_state.random_sample()  # nobody has kept its lock
    lock = random_state._bit_generator.lock
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        assert other.submit(lock.acquire, timeout=1).result()


def backwards(order):
    order[:] = order[::-1].copy()


class Backwards(np.random.RandomState):
    def shuffle(self, order):
        backwards(order)


class Open(np.random.RandomState):
    """Has attributes of its own."""


@pytest.mark.parametrize("of_instance", [False, True])
def test_a_generator_with_a_shuffle_of_its_own(of_instance):
    random_state = Open(0) if of_instance else Backwards(0)
    if of_instance:
        random_state.shuffle = backwards
    order = np.arange(5)
    shuffle.shuffle(order, random_state)
    assert order.tolist() == [4, 3, 2, 1, 0]


def test_a_bit_generator_that_is_not_numpys():
    """NumPy takes what has a capsule and a lock."""

    class Wrapped:
        def __init__(self):
            self.bits = np.random.PCG64(0)
            self.capsule, self.lock = self.bits.capsule, self.bits.lock

    order, expected = np.arange(99), np.arange(99)
    shuffle.shuffle(order, np.random.RandomState(Wrapped()))
    np.random.RandomState(np.random.PCG64(0)).shuffle(expected)
    np.testing.assert_array_equal(order, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_forked_children_draw_from_a_generator_that_another_thread_shuffles_by():
    script = """
        import os, threading, time
        import numpy as np
        from fastnn.kernels.shuffle import shuffle

        random_state, is_over = np.random.RandomState(0), False

        def work():
            order = np.arange(300_000)
            while not is_over:
                shuffle(order, random_state)

        thread = threading.Thread(target=work)
        thread.start()
        codes = []
        for _ in range(20):
            time.sleep(0.003)
            child = os.fork()
            if not child:
                os._exit(0 if random_state._bit_generator.lock.acquire(timeout=1) else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        is_over = True
        thread.join()
        print(*codes)
    """
    assert run_script(script)[0].split() == ["0"] * 20


@pytest.mark.parametrize("n_done", [0, 1, 2])
def test_ctrl_c_while_several_orders_are_drawn(n_done, monkeypatch):
    """The user's generator is where the epochs that have been gone through have left it."""
    n_drawn, call_with, calls = 7 * n_done + 3, shuffle.call_with, []

    def interrupted(*arguments):
        call_with(*arguments)
        calls.append(arguments)
        if len(calls) == n_drawn:
            raise KeyboardInterrupt

    X, y = np.random.default_rng(0).random((50, 3)), np.arange(50) % 3
    expected, random_state = np.random.RandomState(0), np.random.RandomState(0)
    fastnn.MLP((3, 4, 3), random_state=expected)
    for _ in range(7 * n_done):
        expected.shuffle(np.arange(50))
    monkeypatch.setattr(shuffle, "call_with", interrupted)
    model = fastnn.MLPClassifier((4,), solver="sgd", random_state=random_state, tol=0, n_iter_no_change=6)
    # The loss falls from epoch to epoch, so that each call is of 7, after which it could be a plateau.
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)
    assert model.n_iter_ == 7 * n_done
    assert random_state.bytes(100) == expected.bytes(100)


def test_threads_that_draw_from_one_generator():
    """No number is drawn twice: all of them together leave the generator where NumPy would."""
    random_state, expected = np.random.RandomState(0), np.random.RandomState(0)

    def work():
        for _ in range(500):
            shuffle.shuffle(np.arange(2), random_state)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2000):
        expected.shuffle(np.arange(2))
    assert random_state.bytes(16) == expected.bytes(16)


@pytest.mark.parametrize("n_rows", [7, MOST_ROWS_AGAIN // 2, MOST_ROWS_AGAIN + 1])
def test_the_way_back_to_an_earlier_order(n_rows):
    """The same orders come after it, whether others had been drawn since the generator was asked for its state."""
    orders = Orders(np.random.RandomState(0), True, np.arange(n_rows))
    for drawn in (0, 1, 3):
        orders.draw(drawn)
        place, at, state = orders.place(), orders.current.copy(), orders.random_state.get_state(legacy=False)
        following = orders.draw(2)
        orders.place()
        orders.draw()
        orders.go_to(place)
        np.testing.assert_equal(orders.random_state.get_state(legacy=False), state)
        np.testing.assert_array_equal(orders.current, at)
        np.testing.assert_array_equal(orders.draw(2), following)


def test_the_way_back_after_others_have_drawn():
    orders = Orders(np.random.RandomState(0), True, np.arange(9))
    orders.place()
    orders.draw()
    orders.random_state.random_sample()
    orders.forget()
    place = orders.place()
    following = orders.draw()
    orders.go_to(place)
    np.testing.assert_array_equal(orders.draw(), following)


def test_rows_that_are_not_shuffled():
    orders = Orders(np.random.RandomState(0), False, np.arange(3))
    place = orders.place()
    assert orders.draw(2).tolist() == [0, 1, 2]
    orders.go_to(place)
    assert orders.current.tolist() == [0, 1, 2]


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_search_for_the_step_that_diverged(is_interrupted, monkeypatch):
    """Ctrl-C on the way back or not, the user's generator is where the training has left it."""
    go_to, places = Orders.go_to, []

    def interrupted(orders, place):
        go_to(orders, place)
        places.append(place)
        if is_interrupted and len(places) == 2:  # the first way back is that of the epochs after the one that diverged
            raise KeyboardInterrupt

    X = np.random.default_rng(0).standard_normal((300, 3))
    expected, random_state = np.random.RandomState(0), np.random.RandomState(0)
    fastnn.MLP((3, 4, 1), random_state=expected)
    for _ in range(3):
        expected.shuffle(np.arange(300))
    monkeypatch.setattr(Orders, "go_to", interrupted)
    model = fastnn.MLPRegressor(
        hidden_layer_sizes=(4,), solver="sgd", learning_rate_init=1e4, random_state=random_state
    )
    told = pytest.warns(match="interrupted") if is_interrupted else pytest.raises(ValueError, match="epoch 3, step 1;")
    with told:
        model.fit(X, X @ [1.0, 2.0, 3.0])
    assert len(places) == 3
    assert random_state.bytes(100) == expected.bytes(100)
