"""Loops and elements of arrays become the IR that Python's meaning of them asks for."""

import itertools
import threading

import numba
import numpy as np
import pytest

from fastnn.kernels import inner, team
from fastnn.kernels import jit as jit_module
from fastnn.kernels.jit import Wanted, jit, jit_apart


@jit
def note(out, at, value):
    out[at] = value
    return at + 1


@jit_apart
def visit(out, values, start, stop, step):
    """Note what a range goes through by elements from the end, in each of the ways to write it."""
    at, last = 0, 0
    for i in range(stop):
        at = note(out, at, values[i - stop])
    for i in range(start, stop):
        at = note(out, at, i)
    for i in range(start, stop, 3):
        last = i
        at = note(out, at, last)
    for i in range(start, stop, step):
        at = note(out, at, i)
    out[-1] = at + last
    return out.size + out.shape[0]


called = numba.njit(lambda *arguments: visit(*arguments))


@jit_apart
def calculate(out, a, b):
    """Each operator that is one instruction, of two numbers of one type."""
    out[0], out[1], out[2] = a + b, a - b, a * b
    out[3], out[4], out[5], out[6], out[7] = a < b, a <= b, a > b, a >= b, a == b
    out[2] *= b
    out[2] -= a


calculated = numba.njit(lambda *arguments: calculate(*arguments))


@jit_apart
def order(out, a, b):
    """The smaller and the larger of two integers, and one value after another in one variable."""
    out[0], out[1], out[2], out[3] = min(a, b), max(a, b), min(3, a), max(a, 3)
    last = a
    if a < b:
        last = b
        b = a
    out[4], out[5] = last, b


ordered = numba.njit(lambda *arguments: order(*arguments))


@pytest.mark.parametrize("a, b", [(7, -2), (-3, -3), (2, 5)])
def test_extremes_and_variables_with_several_values(a, b):
    out = np.zeros(6, np.int64)
    ordered(out, a, b)
    assert out.tolist() == [min(a, b), max(a, b), min(3, a), max(a, 3), max(a, b), min(a, b)]


PAIRS = [(7, -2), (-3, -3), (2, 5)]
NOT_FINITE = [(0, np.nan), (np.inf, 1), (np.nan, np.nan)]


@pytest.mark.parametrize(
    "kind, a, b",
    [(kind, *pair) for kind in (np.int64, np.float32, np.float64) for pair in PAIRS]
    + [(kind, *pair) for kind in (np.float32, np.float64) for pair in NOT_FINITE],
)
def test_operators(kind, a, b):
    a, b, out = kind(a), kind(b), np.zeros(8, kind)
    calculated(out, a, b)
    with np.errstate(invalid="ignore"):
        expected = [a + b, a - b, a * b * b - a, a < b, a <= b, a > b, a >= b, a == b]
    np.testing.assert_array_equal(out, np.array(expected, kind))


@pytest.mark.parametrize("start, stop, step", [(0, 7, 2), (2, 6, 1), (5, 2, 4), (5, -2, -3), (3, 3, 1), (-4, 5, 5)])
def test_ranges_and_elements(start, stop, step):
    values = np.arange(10, 17)
    expected, found = np.zeros(60, np.int64), np.zeros(60, np.int64)
    assert called(found, values, start, stop, step) == 120
    numbers = [
        *[values[i - stop] for i in range(stop)],
        *range(start, stop), *range(start, stop, 3), *range(start, stop, step),
    ]  # fmt: skip
    expected[: len(numbers)] = numbers
    expected[-1] = len(numbers) + ([0, *range(start, stop, 3)][-1])
    np.testing.assert_array_equal(found, expected)


@jit_apart
def second(first, value):
    return value


def store(out):
    out[0] = second(out, out[1])


def test_no_other_machine_code_finds_an_entrys_own_functions(monkeypatch):
    """They lack the arguments that they do not use."""
    monkeypatch.setattr(jit_module, "cache_folder", lambda: None)
    out = np.array([1, 2])
    (code,) = jit_module.entry_points(Wanted(store, SIGNATURE, "store"))
    code(out)
    assert out.tolist() == [2, 2]
    assert numba.njit(lambda first, value: second(first, value))(out, 7) == 7


def fill(out):
    out[0] = 3


def fill_other(out):
    out[0] = 4


SIGNATURE = numba.types.void(numba.types.int64[::1])


def test_entry_points_are_compiled_at_once(monkeypatch):
    """LLVM begins with each before it ends with any."""
    monkeypatch.setattr(jit_module, "cache_folder", lambda: None)
    barrier, unlocked = threading.Barrier(2), inner._unlocked

    def meet(name):
        barrier.wait(60)
        return unlocked(name)

    monkeypatch.setattr(inner, "_unlocked", meet)
    entries = jit_module.entry_points(Wanted(fill, SIGNATURE, "fill"), Wanted(fill_other, SIGNATURE, "fill_other"))
    out = np.zeros(1, np.int64)
    for entry, expected in zip(entries, (3, 4), strict=True):
        entry(out)
        assert out[0] == expected


def test_entry_points_begin_in_turn(monkeypatch):
    """One does when the one before has come to LLVM."""
    moments, unlocked, make = [], inner._unlocked, jit_module._make

    def note(name):
        moments.append("llvm")
        return unlocked(name)

    def begin(wanted):
        moments.append(wanted.name)
        return make(wanted)

    monkeypatch.setattr(jit_module, "cache_folder", lambda: None)
    monkeypatch.setattr(inner, "_unlocked", note)
    monkeypatch.setattr(jit_module, "_make", begin)
    wanted = [Wanted(fill, SIGNATURE, name) for name in ("first", "second", "third")]
    jit_module.entry_points(*wanted)
    names = [moment for moment in moments if moment != "llvm"]
    assert names == ["first", "second", "third"]
    assert all("llvm" in moments[moments.index(a) : moments.index(b)] for a, b in itertools.pairwise(names))
    del moments[:]
    assert jit_module.entry_points(*wanted) == [one.made for one in wanted] and not moments


def test_who_waits_for_another_process_lets_the_next_begin(monkeypatch, tmp_path):
    """Else a process that hangs would be waited for once for each entry point that it compiles."""
    compiled, compile_or_load = [], jit_module._compile

    def note(dispatcher, signature, folder):
        compiled.append(folder.name)
        held.close()
        compile_or_load(dispatcher, signature, folder)

    monkeypatch.setattr(jit_module, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(jit_module, "cache_folders", lambda: [tmp_path])
    monkeypatch.setattr(jit_module, "PATIENCE", 30.0)
    monkeypatch.setattr(jit_module, "_compile", note)
    with open(tmp_path / "held.lock", "ab") as held:
        assert jit_module._lock(held)
        jit_module.entry_points(*(Wanted(fill, SIGNATURE, name) for name in ("held", "free")))
    assert compiled == ["free", "held"]


def test_the_user_is_told_of_what_is_long_together(monkeypatch):
    """Each entry point for itself may take less than a second; and nothing is said of what is on disk."""
    told = threading.Event()
    monkeypatch.setattr(jit_module, "NOTE_AFTER", 0.01)
    monkeypatch.setattr(jit_module, "_notes", threading.Semaphore())
    monkeypatch.setattr(jit_module, "_warn", lambda *_: told.set())
    monkeypatch.setattr(jit_module, "_make", lambda wanted: wanted.name == "last" and told.wait(10))
    monkeypatch.setattr(jit_module, "starts", [])
    wanted = [Wanted(fill, SIGNATURE, name) for name in ("quick", "last")]
    jit_module.entry_points(*wanted)
    assert told.is_set()
    monkeypatch.setattr(jit_module, "is_cached", lambda name: True)
    monkeypatch.setattr(threading, "Thread", None)  # a Timer, too, is one
    jit_module.entry_points(wanted[0])


def test_a_frame_of_other_types_is_refused():
    """The code that reads it would take its numbers for others."""
    frame = team.frame_of([numba.types.int64, numba.types.boolean])
    assert numba.njit(lambda n: frame((n, n > 0)))(1) != 0
    with pytest.raises(numba.TypingError, match=r"a frame must be of \[int64, bool\], got \[int64, int64\]"):
        numba.njit(lambda n: frame((n, 1)))(1)


@pytest.mark.parametrize("is_full", [False, True])
def test_the_first_error_is_raised_when_all_are_through(is_full, monkeypatch):
    """In threads, or one after the other where there can be no more."""

    def no_room():
        raise RuntimeError("can't start new thread")

    if is_full:
        monkeypatch.setattr(jit_module, "check_room_for_a_thread", no_room)
    ends = []

    def fail():
        raise SystemExit

    def end():
        ends.append(threading.current_thread() is threading.main_thread())

    assert jit_module._at_once([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(SystemExit):
        jit_module._at_once([fail, end])
    assert ends == [is_full]


def test_a_handler_of_warnings_may_compile(monkeypatch, caplog):
    """It is not called within a thread for which the one that compiles waits."""
    seen = []
    monkeypatch.setattr(caplog.handler, "emit", lambda record: seen.append(threading.current_thread()))
    assert jit_module._at_once([lambda: jit_module._warn("one"), lambda: jit_module._warn("two")]) == [None, None]
    assert seen == [threading.current_thread()] * 2
