"""Checkpoints: whatever ends a fit, the next run goes on to the same bits, or says why it cannot.

With FASTNN_FULL=1 in the environment 200 kills of each kind of fit, and 200 fits with Ctrl-C at random moments.
"""

import contextlib
import datetime
import io
import json
import logging
import math
import multiprocessing
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checkpoint_job import SETTINGS
from helpers import Pause, csr, interrupted_calls
from sklearn.base import clone
from subprocesses import finished, run_script, started

import fastnn
from fastnn import Callback, Checkpoint, MLPClassifier, MLPRegressor, atomic, callbacks, checkpoint, trees
from fastnn.atomic import atomic_write, leftovers
from fastnn.checks import seconds_of
from fastnn.kernels import room
from fastnn.model import MLP
from fastnn.pieces import ENTRIES_AT_ONCE
from fastnn.trees import DamagedError, read_tree, write_tree

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
FULL = os.environ.get("FASTNN_FULL") == "1"
N_KILLS = 200 if FULL else 6
JOB = Path(__file__).with_name("checkpoint_job.py")


class StopAfter(Callback):
    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_epoch_end(self, fit):
        if fit.epoch == self.epoch:
            self.act(fit)


def classifier(*callbacks, **params):
    return MLPClassifier(**{"random_state": 1, "max_iter": 8, "batch_size": 20, **params}, callbacks=list(callbacks))


def everything(model):
    """All that a fit leaves, but for the seconds it took."""
    names = ("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")
    history = {name: column for name, column in model.history_.items() if name != "seconds"}
    arrays = [array.tobytes() for array in [*model.coefs_, *model.intercepts_]]
    return [arrays, history, *(getattr(model, name) for name in names)]


def stopped_after(epoch, path, **params):
    model = classifier(StopAfter(epoch, lambda fit: fit.pause()), Checkpoint(path), **params).fit(X, Y)
    assert model.n_iter_ == epoch
    return model


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_at_random_moments_and_resumed(setting, tmp_path):
    command = [sys.executable, str(JOB), str(tmp_path), setting, str(N_KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0 and "all the same" in done.stdout, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("params", [
    {}, {"shuffle": False}, {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3},
    {"early_stopping": True, "n_iter_no_change": 3}, {"hidden_layer_sizes": (), "alpha": 0.1},
], ids=str)  # fmt: skip
def test_broken_off_in_the_middle_of_epochs(params, dtype, tmp_path):
    rows, whole = X.astype(dtype), classifier(**params).fit(X.astype(dtype), Y)
    for batches in [(3,), (6,), (7,), (20,), (39,), ()]:
        model = classifier(Pause(*batches), Checkpoint(tmp_path / "c"), **params).fit(rows, Y)
        assert model.predict(rows).shape == Y.shape
    assert everything(model) == everything(whole)


def test_sparse_rows_and_several_targets(tmp_path):
    rows, targets = csr(90, 30), np.random.default_rng(1).normal(size=(90, 2))
    settings = {"random_state": 0, "max_iter": 4, "batch_size": 16, "hidden_layer_sizes": (8,)}
    whole = MLPRegressor(**settings).fit(rows, targets)
    for batches in [(2,), (9,), ()]:
        model = MLPRegressor(**settings, callbacks=[Pause(*batches), Checkpoint(tmp_path / "c")]).fit(rows, targets)
    assert everything(model) == everything(whole)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_random_state_that_no_seed_tells(early_stopping, tmp_path):
    """The second run goes on with the draws of the first; one that begins with others is of another fit."""
    params = {"early_stopping": early_stopping, "max_iter": 6}
    whole = classifier(random_state=np.random.RandomState(7), **params).fit(X, Y)
    stopped_after(3, tmp_path / "c", random_state=np.random.RandomState(7), **params)
    with pytest.raises(ValueError, match="of another fit: its parameters random_state is 'RandomState of "):
        classifier(Checkpoint(tmp_path / "c"), random_state=np.random.RandomState(8), **params).fit(X, Y)
    model = classifier(Checkpoint(tmp_path / "c"), random_state=np.random.RandomState(7), **params).fit(X, Y)
    assert everything(model) == everything(whole)


def test_without_a_seed_the_draws_are_those_of_the_first_run(tmp_path):
    models = [classifier(Pause(20), Checkpoint(tmp_path / "c"), random_state=None).fit(X, Y) for _ in range(2)]
    first, whole = models
    assert 0 < first.n_iter_ < whole.n_iter_ == 8
    assert whole.loss_curve_[: first.n_iter_] == first.loss_curve_


class InTheMiddle(Callback):
    """Logs the batches of an epoch, and notes in which epochs it was told of the beginning."""

    def on_fit_begin(self, fit):
        self.begun = []

    def on_epoch_begin(self, fit):
        self.begun.append(fit.epoch)

    def on_batch_end(self, fit):
        fit.log("batches", 100 * fit.epoch + fit.batch)


def test_an_epoch_in_whose_middle_a_fit_goes_on_has_begun_before(tmp_path):
    whole = classifier(InTheMiddle()).fit(X, Y)
    told = InTheMiddle()
    for batches in [(15,), (16,), ()]:
        model = classifier(told, Pause(*batches), Checkpoint(tmp_path / "c")).fit(X, Y)
    assert everything(model) == everything(whole)
    assert told.begun == [3, 4, 5, 6, 7]  # and not 2


def test_classes_are_told_apart_however_numpy_prints(tmp_path):
    """It would leave out those in the middle; and after Ctrl-C within it, it may print three dots for an array."""
    labels = np.repeat(np.arange(40) * 2, 3)
    stopped = classifier(StopAfter(3, lambda fit: fit.pause()), Checkpoint(tmp_path / "c"))
    with np.printoptions(threshold=5):
        stopped.fit(X, labels)
        with pytest.raises(ValueError, match=r"of another fit: .*its classes is"):
            classifier(Checkpoint(tmp_path / "c")).fit(X, np.where(labels == 20, 21, labels))
    model = classifier(Checkpoint(tmp_path / "c")).fit(X, labels)
    assert everything(model) == everything(classifier().fit(X, labels))


def test_no_fewer_epochs_than_those_begun(tmp_path):
    """The weights would be those of some batches more than the epochs told."""
    classifier(Pause(15), Checkpoint(tmp_path / "c")).fit(X, Y)
    n = read_tree(tmp_path / "c", checkpoint.KIND)["state"]["n_epochs"]
    with pytest.raises(ValueError, match=f"^max_iter must be at least {n + 1}, the epochs of .*c, got {n}; or delete"):
        classifier(Checkpoint(tmp_path / "c"), max_iter=n).fit(X, Y)


def test_warm_start(tmp_path):
    first = classifier(max_iter=3, warm_start=True).fit(X, Y)
    copies = [pickle.loads(pickle.dumps(first)) for _ in range(3)]
    whole = copies[0].set_params(max_iter=8).fit(X, Y)
    pause = StopAfter(4, lambda fit: fit.pause())
    copies[1].set_params(max_iter=8, callbacks=[pause, Checkpoint(tmp_path / "c")]).fit(X, Y)
    model = copies[2].set_params(max_iter=8, callbacks=[Checkpoint(tmp_path / "c")]).fit(X, Y)
    assert everything(model) == everything(whole) and len(model.loss_curve_) == 11
    with pytest.raises(ValueError, match="initial weights"):
        classifier(Checkpoint(tmp_path / "c")).fit(X, Y)


# -- fits that are over -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"tol": 10.0, "n_iter_no_change": 2}, {"early_stopping": True}], ids=str)
def test_a_finished_fit_is_not_trained_on(params, tmp_path, monkeypatch):
    whole = classifier(Checkpoint(tmp_path / "c"), **params).fit(X, Y)
    monkeypatch.setattr(MLP, "train_part", None)
    assert everything(classifier(Checkpoint(tmp_path / "c"), **params).fit(X, Y)) == everything(whole)


def test_a_fit_ended_by_a_callback_is_over(tmp_path):
    callbacks = [fastnn.EarlyStopping(X, Y, lambda *_: 0.0, patience=2), Checkpoint(tmp_path / "c")]
    for _ in range(2):
        model = classifier(*callbacks).fit(X, Y)
        assert model.n_iter_ == 3 and callbacks[0].best_epoch_ == 1


def test_raised_max_iter_trains_on(tmp_path):
    classifier(Checkpoint(tmp_path / "c"), max_iter=5, early_stopping=True).fit(X, Y)
    model = classifier(Checkpoint(tmp_path / "c"), max_iter=9, early_stopping=True).fit(X, Y)
    assert everything(model) == everything(classifier(max_iter=9, early_stopping=True).fit(X, Y))
    with pytest.raises(ValueError, match=r"^max_iter must be at least 9, the epochs of .*c, got 4; or delete the file"):
        classifier(Checkpoint(tmp_path / "c"), max_iter=4, early_stopping=True).fit(X, Y)


# -- foreign and damaged files ----------------------------------------------------------------------------------------

MEND = "Delete the file to begin anew, or use another path$"


@pytest.mark.parametrize(("params", "data", "message"), [
    ({"alpha": 0.5}, {}, r"its parameters alpha is 0\.0001, here it is 0\.5"),
    ({"hidden_layer_sizes": (3,)}, {}, r"its parameters hidden_layer_sizes is \[100\], here it is \[3\]"),
    ({"random_state": 2}, {}, "its parameters random_state is 1, here it is 2"),
    ({}, {"X": X[:100], "y": Y[:100]}, r"its data X shape is \[120, 6\], here it is \[100, 6\]"),
    ({}, {"X": X.astype("float32")}, "its data X dtype is 'float64', here it is 'float32'"),
    ({}, {"X": X + 1e-9}, "the data X has other numbers"),
    ({}, {"y": 2 - Y}, "the data y has other numbers"),
    ({}, {"y": Y.astype(str)}, "its classes is"),
    ({}, {"sample_weight": np.ones(120)}, "its data sample_weight is None"),
], ids=str)  # fmt: skip
def test_another_fit_is_refused(params, data, message, tmp_path):
    stopped_after(2, tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match=f"{message}.*{MEND}"):
        classifier(Checkpoint(tmp_path / "c"), **params).fit(**{"X": X, "y": Y, **data})
    assert (tmp_path / "c").read_bytes() == before


def test_another_estimator_or_callback_is_refused(tmp_path):
    stopped_after(2, tmp_path / "c")
    with pytest.raises(ValueError, match=f"its estimator is 'MLPClassifier', here it is 'MLPRegressor'.*{MEND}"):
        MLPRegressor(callbacks=[Checkpoint(tmp_path / "c")]).fit(X, Y)
    with pytest.raises(ValueError, match=rf"its callbacks with a state is \[\], here it is \['CSVLog'\].*{MEND}"):
        classifier(fastnn.CSVLog(tmp_path / "log"), Checkpoint(tmp_path / "c")).fit(X, Y)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    stopped_after(2, tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of format 2, newer than 1; update fastnn, or delete the file"):
        classifier(Checkpoint(tmp_path / "c")).fit(X, Y)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "pickle"])
def test_a_damaged_file_gives_way_to_the_one_before(damage, tmp_path, caplog):
    path = tmp_path / "c"
    classifier(StopAfter(5, lambda fit: fit.pause()), Checkpoint(path, every=0)).fit(X, Y)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes({"truncated": content[:-9], "flipped": content, "empty": b"", "pickle": pickle.dumps(X)}[damage])
    with caplog.at_level(logging.INFO, "fastnn"):
        model = classifier(Checkpoint(path)).fit(X, Y)
    assert f"going on from {path}.previous" in caplog.text and "after 4 epochs" in caplog.text
    assert everything(model) == everything(classifier().fit(X, Y))
    # The damaged one was not kept.
    assert read_tree(Path(f"{path}.previous"), checkpoint.KIND)["state"]["n_epochs"] == 4


def test_nothing_left_but_damage_is_an_error(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match=r"c is damaged, or no fastnn checkpoint: .*There is no .*c\.previous; delete"):
        classifier(Checkpoint(path)).fit(X, Y)
    Path(f"{path}.previous").write_bytes(b"")
    with pytest.raises(ValueError, match=r"c is damaged.*c\.previous is damaged.*delete both to begin anew"):
        classifier(Checkpoint(path)).fit(X, Y)
    assert path.read_bytes() == b"x" * 99


def as_text(tree):
    return json.dumps(tree, default=np.ndarray.tolist)


def test_a_file_is_read_piece_by_piece_and_once(tmp_path, monkeypatch):
    """Ctrl-C need not wait for all of it, and who has room for a checkpoint has room to go on from it."""
    tree, sizes = {"a": np.arange(3_000_001), "b": np.ones(10)}, []

    class File(io.FileIO):
        def readinto(self, piece):
            sizes.append(len(piece))
            return super().readinto(piece)

    with open(tmp_path / "t", "wb") as file:
        write_tree(file, "kind", tree)
    monkeypatch.setattr(trees, "open", File, raising=False)
    tracemalloc.start()
    try:
        again = read_tree(tmp_path / "t", "kind")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_equal(again, tree)
    assert max(sizes) <= ENTRIES_AT_ONCE and sum(sizes) == 8 * 3_000_011
    assert most < 1.1 * 8 * 3_000_011


def test_no_damage_gets_through(tmp_path):
    tree = {"a": [np.arange(5), 1.5, None], "b": {"c": np.zeros((0, 2), "float32")}, "d": "text", "e": float("inf")}
    path = tmp_path / "t"
    with open(path, "wb") as file:
        write_tree(file, "kind", tree)
    again, content = read_tree(path, "kind"), path.read_bytes()
    assert again["a"][0].tolist() == [0, 1, 2, 3, 4] and again["a"][1:] == [1.5, None] and again["e"] == float("inf")
    assert again["b"]["c"].shape == (0, 2) and again["b"]["c"].dtype == "float32"
    rng = np.random.default_rng(0)
    for n in range(len(content)):
        path.write_bytes(content[:n])
        with pytest.raises(DamagedError):
            read_tree(path, "kind")
        flipped = bytearray(content)
        flipped[n] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        with contextlib.suppress(DamagedError):  # a space of the JSON may have become another
            assert as_text(read_tree(path, "kind")) == as_text(again)
    with pytest.raises(DamagedError, match="its kind is 'kind'"):
        path.write_bytes(content)
        read_tree(path, "another")


@pytest.mark.parametrize("wrong", [
    {"order": np.arange(1, 121)}, {"order": np.full(120, -1)}, {"order": np.arange(119)}, {"order": None},
    {"order": np.arange(120.0)}, {"rows_done": 120}, {"rows_done": -20}, {"rows_done": 7}, {"rows_done": 2.5},
    {"weights": [np.zeros((6, 3)), np.zeros((3, 3))]},
], ids=str)  # fmt: skip
def test_a_forged_file_is_refused(wrong, tmp_path):
    stopped_after(2, tmp_path / "c")
    saved = read_tree(tmp_path / "c", checkpoint.KIND)
    saved["state"].update(wrong)
    with open(tmp_path / "c", "wb") as file:
        write_tree(file, checkpoint.KIND, saved)
    with pytest.raises(ValueError, match=r"c is damaged: (its rows_done is|it has no state of such a training: )"):
        classifier(Checkpoint(tmp_path / "c")).fit(X, Y)


def no_moments(state):
    state["optimizer"]["moments"] = []


def broadcast_moments(state):
    state["optimizer"]["moments"][1][0] = np.ones((1, 1))


def short_moments(state):
    state["optimizer"]["moments"] = state["optimizer"]["moments"][:1]


def moments_of_bytes(state):
    state["optimizer"]["moments"][0] = "moments"


def complex_settings(state):
    state["optimizer"]["settings"]["beta_1"] = "0.9"


def settings_of_another(state):
    state["optimizer"]["settings"] = {"learning_rate": 0.1, "owner": None}


def negative_steps(state):
    state["optimizer"]["steps"] = -1


def numbers_beyond_their_end(state):
    state["random_state"]["state"]["pos"] = 100_000


def numbers_of_another_kind(state):
    state["random_state"]["bit_generator"] = "PCG64"


def no_history(state):
    state["history"] = {"loss": []}


def a_history_of_words(state):
    state["history"]["loss"][0] = "low"


def no_epochs(state):
    state["n_epochs"] = "two"


def no_sums(state):
    state["sums"] = None


def nothing(state):
    state.clear()


def a_callback_too_many(state):
    state["callbacks"].append({})


FORGERIES = [
    no_moments, broadcast_moments, short_moments, moments_of_bytes, complex_settings, settings_of_another,
    negative_steps, numbers_beyond_their_end, numbers_of_another_kind, no_history, a_history_of_words, no_epochs,
    no_sums, nothing, a_callback_too_many,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
def test_what_cannot_be_loaded_gives_way_to_the_one_before(forge, tmp_path, caplog):
    """The checksum is right; and where the one before is no better, or missing, an error says so."""
    path = tmp_path / "c"
    classifier(StopAfter(5, lambda fit: fit.pause()), Checkpoint(path, every=0)).fit(X, Y)
    saved = read_tree(path, checkpoint.KIND)
    forge(saved["state"])
    with open(path, "wb") as file:
        write_tree(file, checkpoint.KIND, saved)
    forged, previous = path.read_bytes(), Path(f"{path}.previous")
    with caplog.at_level(logging.WARNING, "fastnn"):
        assert everything(classifier(Checkpoint(path)).fit(X, Y)) == everything(classifier().fit(X, Y))
    assert f"{path} is damaged: " in caplog.text and f"going on from {previous}" in caplog.text
    path.write_bytes(forged)
    previous.write_bytes(forged)
    with pytest.raises(ValueError, match=r"c\.previous is damaged: .*; delete both to begin anew$"):
        classifier(Checkpoint(path)).fit(X, Y)
    previous.unlink()
    with pytest.raises(ValueError, match=r"c is damaged: .*There is no .*c\.previous; delete the file to begin anew$"):
        classifier(Checkpoint(path)).fit(X, Y)


@pytest.mark.parametrize("wrong", [
    {"best": [[np.zeros((6, 3))], [np.zeros(3)]]}, {"best": [[np.zeros((6, 100))]]}, {"best": ["weights", "biases"]},
    {"best": [[np.zeros((6, 100), "float32"), np.zeros((100, 3))], [np.zeros(100), np.zeros(3)]]},
    {"best": [[np.zeros((6, 100)), np.zeros((100, 3))], [np.zeros(100), np.full(3, np.nan)]]},
    {"score": "high"}, {"epoch": -1}, {"count": 1.5}, {"position": -1}, {"position": "0"}, {"columns": [1]},
    {"columns": None},
], ids=lambda wrong: next(iter(wrong)))  # fmt: skip
def test_a_forged_state_of_a_callback_is_refused(wrong, tmp_path):
    """Before the training, not when the best weights are given back after it."""
    epochs = []
    told = [fastnn.EarlyStopping(X, Y), fastnn.CSVLog(tmp_path / "log"), Checkpoint(tmp_path / "c")]
    classifier(StopAfter(2, lambda fit: fit.pause()), *told).fit(X, Y)
    saved = read_tree(tmp_path / "c", checkpoint.KIND)
    (state,) = (state for state in saved["state"]["callbacks"] if wrong.keys() <= state.keys())
    state.update(wrong)
    with open(tmp_path / "c", "wb") as file:
        write_tree(file, checkpoint.KIND, saved)
    (tmp_path / "c.previous").unlink(missing_ok=True)
    kind = "EarlyStopping" if "best" in state else "CSVLog"
    with pytest.raises(ValueError, match=f"/c is damaged: .*the state of {kind} is not one that it takes: "):
        classifier(StopAfter(3, epochs.append), *told).fit(X, Y)
    assert not epochs


def test_a_log_that_was_removed_between_two_runs_begins_anew(tmp_path):
    told = [fastnn.CSVLog(tmp_path / "log"), Checkpoint(tmp_path / "c")]
    classifier(StopAfter(5, lambda fit: fit.pause()), *told).fit(X, Y)
    (tmp_path / "log").unlink()
    classifier(*told).fit(X, Y)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch", "6", "7", "8"]


# -- states of callbacks ----------------------------------------------------------------------------------------------


class Stateful(Callback):
    def __init__(self, state):
        self.state, self.n_loaded = state, 0

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.n_loaded += 1
        self.state = state


class Forgetful(Callback):
    def state_dict(self):
        return {"a": 1}


class Mute(Callback):
    def load_state_dict(self, state):
        pass


KINDS = "must return a dict of numbers, strings, arrays, and lists and dicts of them; "


@pytest.mark.parametrize(("told", "message"), [
    (Stateful(None), r"^state_dict of Stateful must return a dict, got None from it$"),
    (Stateful([1]), r"^state_dict of Stateful must return a dict, got \[1\] from it$"),
    (Stateful({"a": {"b": {1, 2}}}), KINDS + r"a\.b is \{1, 2\}, which is none of them$"),
    (Stateful({"a": [0, 1j]}), KINDS + r"a\.1 is 1j, which is none of them$"),
    (Stateful({"a": np.array(["x"])}), KINDS + "a is an array of dtype <U1, which has no real numbers$"),
    (Stateful({"a": np.array([None])}), KINDS + "a is an array of dtype object, which has no real numbers$"),
    (Stateful({1: 2}), KINDS + "it has the key 1, which is none to use$"),
    (Stateful({"a": {"__array__": 2}}), KINDS + "a has the key '__array__', which is none to use$"),
    (Forgetful(), "^Forgetful must have both state_dict and load_state_dict of its own for a Checkpoint, or neither$"),
    (Mute(), "^Mute must have both state_dict and load_state_dict of its own for a Checkpoint, or neither$"),
])  # fmt: skip
def test_a_state_that_cannot_be_saved_is_noticed_before_the_training(told, message, tmp_path):
    epochs = []
    with pytest.raises(TypeError, match=message):
        classifier(StopAfter(1, epochs.append), told, Checkpoint(tmp_path / "c")).fit(X, Y)
    assert not epochs and not list(tmp_path.iterdir())
    assert classifier(told).fit(X, Y).n_iter_ == 8  # without a checkpoint nobody asks for it


def test_states_come_back_as_they_were(tmp_path):
    """Arrays of all real dtypes; and of two that could have one name each has its own."""
    kinds = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32"]
    state = {"all": [np.arange(3).astype(kind) for kind in kinds], "a.b": np.arange(2), "a": {"b": np.arange(5)}}
    classifier(StopAfter(3, lambda fit: fit.pause()), Stateful(state), Checkpoint(tmp_path / "c")).fit(X, Y)
    again = Stateful({})
    classifier(again, Checkpoint(tmp_path / "c")).fit(X, Y)
    assert again.n_loaded == 1 and as_text(again.state) == as_text(state)
    assert [array.dtype.name for array in again.state["all"]] == kinds


def test_a_callback_that_does_not_take_its_state(tmp_path):
    """Its class has changed since: the error names it."""
    classifier(StopAfter(3, lambda fit: fit.pause()), Stateful({"a": 1}), Checkpoint(tmp_path / "c")).fit(X, Y)
    changed = Stateful({})
    changed.n_loaded = None
    with pytest.raises(ValueError, match=r"the state of Stateful is not one that it takes: TypeError.*begin anew$"):
        classifier(changed, Checkpoint(tmp_path / "c")).fit(X, Y)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"one")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"two")
        raise RuntimeError
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_a_write_never_has_much_to_wait_for(tmp_path, monkeypatch):
    """Ctrl-C would wait with it: the disk gets a large file bit by bit."""
    synced = [0]
    fsync = os.fsync

    def noted(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(atomic, "BYTES_AT_ONCE", 3_000_000)
    tree = {str(n): np.full(400_001, n) for n in range(4)}
    with atomic_write(tmp_path / "file") as file:
        write_tree(file, "kind", tree)
    (*sizes, _folder) = synced
    assert len(sizes) > 4 and np.diff(sizes).max() < 3_000_000 + ENTRIES_AT_ONCE
    np.testing.assert_equal(read_tree(tmp_path / "file", "kind"), tree)


@pytest.mark.parametrize("wants", ["nothing", "threads", "memory"])
@pytest.mark.parametrize("is_cut_off", [True, False])
def test_the_storage_of_a_file_that_goes_is_freed_in_a_thread(is_cut_off, wants, tmp_path, monkeypatch):
    """It takes the system a second for a gigabyte, and Ctrl-C would wait for it: the name alone goes at once."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    freed = queue.Queue()

    class Noted(io.FileIO):
        def close(self):
            if not self.closed:
                freed.put((self.readall(), os.fstat(self.fileno()).st_nlink, threading.current_thread().name))
            super().close()

    def opened(path, mode, buffering=-1):
        return Noted(path) if mode == "rb" else open(path, mode, buffering)

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(atomic, "open", opened, raising=False)
    if wants == "threads":
        monkeypatch.setattr(threading.Thread, "start", no_thread)
    if wants == "memory":  # a thread that is started would not come, and be waited for
        monkeypatch.setattr(room, "FOR_A_THREAD", 1 << 62)
    monkeypatch.setattr(atomic, "BYTES_AT_ONCE", 3)
    with contextlib.suppress(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        if is_cut_off:
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == (b"old" if is_cut_off else b"new")
    gone = b"new" if is_cut_off else b"old"
    assert freed.get(timeout=60) == (gone, 0, "fastnn frees storage" if wants == "nothing" else "MainThread")
    assert freed.empty()


@pytest.mark.parametrize(("error", "message"), [
    (OSError(28, "No space left on device"), "No space left on device"),
    (MemoryError("Unable to allocate 1 GiB"), "Unable to allocate 1 GiB"),
    (MemoryError(), "there is no memory left for it"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["fastnn.checkpoint.write_tree", "fastnn.training.Training.state_dict"])
def test_a_full_disk_does_not_end_the_training(error, message, place, tmp_path, monkeypatch):
    """Nor does want of memory, for the copies or while they are written."""
    path = tmp_path / "c"
    stopped_after(2, path)
    before = path.read_bytes()

    def full(*args):
        raise error

    monkeypatch.setattr(place, full)
    with pytest.warns(UserWarning, match=f"{message}; the training goes on"):
        model = classifier(Checkpoint(path)).fit(X, Y)
    assert model.n_iter_ == 8 and path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    classifier(Checkpoint(tmp_path / "c", every=0)).fit(X, Y)
    epochs = [read_tree(tmp_path / name, checkpoint.KIND)["state"]["n_epochs"] for name in ("c", "c.previous")]
    assert epochs == [8, 7]


@pytest.mark.parametrize("kind", [Checkpoint, fastnn.CSVLog, fastnn.JSONLinesLog])
def test_a_relative_path_stays_where_the_callback_was_made(kind, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    told = kind("file")
    assert clone(classifier(told)).callbacks[0].path == told.path == tmp_path / "file"
    monkeypatch.chdir(elsewhere)
    classifier(StopAfter(2, lambda fit: os.chdir(tmp_path.parent)), told).fit(X, Y)
    assert (tmp_path / "file").is_file() and not list(elsewhere.iterdir())
    with pytest.raises(TypeError, match=r"^path must be a string or a path of strings, got 7$"):
        kind(7)


@pytest.mark.parametrize("name", ["c", "c[1]", "\u00e9" * 120])
def test_what_a_kill_leaves_is_found(name, tmp_path):
    """Where a write is broken off and nothing is cleaned up: the names that are written and those looked for agree."""
    path = tmp_path / name
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        (during,) = leftovers(path)
        assert during.name != path.name and os.path.samefile(during, file.name)
        raise RuntimeError
    assert not list(leftovers(path))


def test_leftovers_of_kills_are_removed(tmp_path):
    old, new, other = (tmp_path / f".{name}.{32 * digit}.tmp" for name, digit in ("c1", "c2", "d1"))
    theirs = tmp_path / ".c.mine.tmp"
    for path in (old, new, other, theirs):
        path.write_bytes(b"")
    for path in (old, other, theirs):
        os.utime(path, (0, 0))
    classifier(Checkpoint(tmp_path / "c")).fit(X, Y)
    assert not old.exists() and new.exists() and other.exists() and theirs.exists()


@pytest.mark.skipif(os.name != "posix", reason="rights and links of POSIX")
def test_a_file_is_as_private_as_the_one_before_from_its_first_byte(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"")
    path.chmod(0o600)
    with atomic_write(path) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="rights and links of POSIX")
def test_a_link_to_a_checkpoint_stays_one(tmp_path):
    """As from a home folder, where there is little room."""
    (tmp_path / "large").mkdir()
    link = tmp_path / "c"
    link.symlink_to("large/real")
    stopped_after(3, link)
    assert everything(classifier(Checkpoint(link)).fit(X, Y)) == everything(classifier().fit(X, Y))
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["c", "large"] and link.is_symlink()
    assert {each.name for each in (tmp_path / "large").iterdir()} == {"real", "real.previous"}


def test_leftovers_that_vanish_meanwhile(tmp_path, monkeypatch):
    """Those of another fit of an array, whose path has the same first letters, may be finished."""
    monkeypatch.setattr(checkpoint, "leftovers", lambda path: [path.with_name(".c.1.tmp")])
    assert classifier(Checkpoint(tmp_path / "c")).fit(X, Y).n_iter_ == 8


@pytest.mark.skipif(not hasattr(os, "link"), reason="no links on this system")
def test_a_write_that_was_cut_off_leaves_nothing_to_later_ones(tmp_path):
    """The last file and the one before may then be one with two names, where to replace it does nothing."""
    path = tmp_path / "c"
    stopped_after(2, path)
    os.link(path, f"{path}.previous")
    assert everything(classifier(Checkpoint(path)).fit(X, Y)) == everything(classifier().fit(X, Y))
    assert {each.name for each in tmp_path.iterdir()} == {"c", "c.previous"}


def test_time_between_checkpoints(tmp_path, monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_epoch_begin(self, fit):
            now[0] += 50

    def save(self, fit):
        saves.append(fit.epoch)
        write(self, fit)

    write = Checkpoint._save
    monkeypatch.setattr(Checkpoint, "_save", save)
    monkeypatch.setattr(Checkpoint, "on_chunk_end", Callback.on_chunk_end)
    classifier(Clock(), Checkpoint(tmp_path / "c", every="1min"), max_iter=7).fit(X, Y)
    assert saves == [2, 4, 6, 7]


@pytest.mark.parametrize(("text", "seconds"), [
    ("3h55m", 14100), ("10min", 600), ("90s", 90), ("1d 2h", 93600), ("1.5h", 5400), (7, 7), (0.5, 0.5),
    (10**400, math.inf),
])  # fmt: skip
def test_durations(text, seconds):
    assert seconds_of("every", text) == seconds


@pytest.mark.parametrize(("duration", "kind"), [
    *((text, ValueError) for text in ("", "3", "h", "3 parsecs", "-3h", "3h x", "\uff13h", -1, math.nan, -math.inf)),
    (-(10**400), ValueError),
    *((thing, TypeError) for thing in (
        None, True, b"3h", [3], 3j, datetime.timedelta(hours=3), np.timedelta64(3, "h"), np.ones(1)
    )),
], ids=repr)  # fmt: skip
def test_no_durations(duration, kind):
    message = "^{} must be seconds, at least 0, or a string such as .* got "
    with pytest.raises(kind, match=message.format("every") + re.escape(repr(duration))):
        Checkpoint("c", every=duration)
    with pytest.raises(kind, match=message.format("budget")):
        fastnn.TimeBudget(duration)


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="Checkpoint needs the solver 'adam' or 'sgd', got 'lbfgs'"):
        classifier(Checkpoint(tmp_path / "c"), solver="lbfgs").fit(X, Y)
    with pytest.raises(ValueError, match="callbacks must have at most one Checkpoint, got 2"):
        classifier(Checkpoint(tmp_path / "c"), Checkpoint(tmp_path / "d")).fit(X, Y)


def test_the_root_is_no_file():
    with pytest.raises(ValueError, match=r"^path of Checkpoint must be a file, got the folder /"):
        classifier(Checkpoint("/")).fit(X, Y)


def test_a_saved_model_is_no_checkpoint(tmp_path):
    fastnn.MLP((2, 2)).save(tmp_path / "c")
    with pytest.raises(ValueError, match=r"no fastnn checkpoint: .*if `fastnn.load` takes it, use another path"):
        classifier(Checkpoint(tmp_path / "c")).fit(X, Y)


NO_FOLDER = r"^path of {} must be in a folder that is there, got .*none/file; make the folder .*none$"
A_FOLDER = r"^path of {} must be a file, got the folder .*folder; add a file's name to it$"


@pytest.mark.parametrize("kind", [Checkpoint, fastnn.CSVLog, fastnn.JSONLinesLog])
@pytest.mark.parametrize(("path", "message"), [("none/file", NO_FOLDER), ("folder", A_FOLDER)])
def test_a_path_that_cannot_be_is_noticed_before_the_training(kind, path, message, tmp_path):
    (tmp_path / "folder").mkdir()
    epochs = []
    with pytest.raises(ValueError, match=message.format(kind.__name__)):
        classifier(StopAfter(1, epochs.append), kind(tmp_path / path)).fit(X, Y)
    assert not epochs and [each.name for each in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files on this system")
@pytest.mark.parametrize("kind", [Checkpoint, fastnn.CSVLog])
def test_what_is_no_regular_file_is_noticed_before_the_training(kind, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        message = f"^path of {kind.__name__} must be a regular file, got {path}, a device or a pipe; use another path$"
        with pytest.raises(ValueError, match=message):
            classifier(kind(path)).fit(X, Y)


PRINTED = """
    import sys
    import numpy as np, fastnn
    print("before", flush=True)
    for path in sys.argv[2:]:
        for kind in (fastnn.CSVLog, fastnn.JSONLinesLog, fastnn.Checkpoint):
            try:
                fastnn.MLPClassifier(max_iter=2, callbacks=[kind(path)]).fit(np.eye(4), [0, 1, 0, 1])
            except ValueError as error:
                print(error, file=sys.stderr)
        try:
            fastnn.MLP((2, 2)).save(path)
        except OSError as error:
            print(error, file=sys.stderr)
    print("after", flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no such names on this system")
def test_what_the_process_prints_is_not_cut(tmp_path):
    """Where stdout goes to a regular file, as in batch jobs: by that file's own name too."""
    out = tmp_path / "out"
    with open(out, "w") as file:
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PRINTED), "-", "/dev/stdout", out]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, timeout=300)
    assert out.read_text() == "before\nafter\n" and done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "must not be where stdout or stderr go" in line]
    assert len(told) == 8 and f"path of CSVLog must not be where stdout or stderr go, got {out}; use another" in told[4]


@pytest.mark.skipif(sys.platform != "linux", reason="names of 255 bytes")
def test_a_name_that_is_too_long_is_noticed_before_the_training(tmp_path):
    assert classifier(Checkpoint(tmp_path / ("\u00e9" * 123), every=0)).fit(X, Y).n_iter_ == 8
    for kind, length, longest in [(Checkpoint, 124, 257), (Checkpoint, 128, 256), (fastnn.CSVLog, 128, 256)]:
        message = f"^path of {kind.__name__} must be one that files can have, got .*: {longest} bytes are too many for"
        with pytest.raises(ValueError, match=message):
            classifier(kind(tmp_path / ("\u00e9" * length))).fit(X, Y)
    with pytest.raises(ValueError, match=r"must be one that files can have.*null byte; use another path"):
        classifier(Checkpoint(tmp_path / "\0")).fit(X, Y)


UNWRITABLE = """
    import os, sys, warnings
    import numpy as np, fastnn
    fastnn.MLPClassifier(max_iter=1).fit(np.eye(4), [0, 1, 0, 1])
    os.geteuid() or os.seteuid(65534)
    class Never(fastnn.Callback):
        def on_epoch_begin(self, fit):
            raise AssertionError
    try:
        told = [Never(), fastnn.Checkpoint(sys.argv[1])]
        fastnn.MLPClassifier(callbacks=told).fit(np.eye(4), [0, 1, 0, 1])
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights of POSIX")
def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_training(public_path):
    folder = public_path / "folder"
    folder.mkdir(0o555)
    out, _ = run_script(UNWRITABLE, folder / "c")
    assert out.startswith("path of Checkpoint must be in a folder that can be written to, got ")
    assert out.endswith("/folder/c: Permission denied; use another folder\n")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights of POSIX")
def test_the_folder_that_counts_is_that_of_the_file(public_path):
    """A link may lead elsewhere."""
    for name, rights in (("closed", 0o555), ("open", 0o777)):
        (public_path / name).mkdir()
        (public_path / name).chmod(rights)
    (public_path / "in").symlink_to("open/c")
    (public_path / "open" / "out").symlink_to("../closed/c")
    script = UNWRITABLE.replace("raise AssertionError", "raise ValueError('the training begins')")
    for path, word in (("in", "begins"), ("open/out", "Permission denied")):
        assert word in run_script(script, public_path / path)[0]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights of POSIX")
def test_a_finished_fit_in_a_folder_that_cannot_be_written_to_gives_its_model(public_path):
    """As of an archive."""
    script = """
        import os, sys
        import numpy as np, fastnn
        def fit(max_iter):
            told = [fastnn.Checkpoint(sys.argv[1])]
            return fastnn.MLPClassifier(max_iter=max_iter, callbacks=told, random_state=0).fit(np.eye(4), [0, 1, 0, 1])
        assert fit(3).n_iter_ == 3
        os.chmod(os.path.dirname(sys.argv[1]), 0o555)
        os.geteuid() or os.seteuid(65534)
        assert fit(3).n_iter_ == 3
        try:
            fit(4)
        except ValueError as error:
            print(error)
    """
    assert run_script(script, public_path / "c")[0].startswith("path of Checkpoint must be in a folder that can be")


@pytest.mark.skipif(sys.platform != "linux", reason="a file that root cannot write either")
@pytest.mark.parametrize("kind", [fastnn.CSVLog, fastnn.JSONLinesLog])
def test_a_log_that_cannot_be_written_is_noticed_before_the_training(kind):
    epochs = []
    path = Path("/proc/version")
    message = f"^path of {kind.__name__} must be a file that can be written to, got {path}: "
    with pytest.raises(ValueError, match=message):
        classifier(StopAfter(1, epochs.append), kind(path)).fit(X, Y)
    assert not epochs


@pytest.mark.parametrize(("signals", "kind", "message"), [
    (None, TypeError, r"a list of signals such as \(signal\.SIGTERM,\), got None"),
    (signal.SIGTERM, TypeError, "a list of signals such as"),
    ("SIGTERM", TypeError, "signals such as signal.SIGTERM, got 'S' in it"),
    ([999], ValueError, "signals that a process can hear of, got 999 in it"),
    ([signal.SIGTERM, signal.SIGKILL], ValueError, "signals that a process can hear of, got <Signals.SIGKILL: 9>"),
], ids=str)  # fmt: skip
def test_signals_that_cannot_be(signals, kind, message):
    with pytest.raises(kind, match=f"^on_signal must be {message}"):
        Checkpoint("c", on_signal=signals)


# -- signals ----------------------------------------------------------------------------------------------------------


def raising(number):
    return lambda fit: signal.raise_signal(number)


def test_sigusr1_saves_and_goes_on(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    epochs = []

    class Look(Callback):
        def on_epoch_begin(self, fit):
            if (tmp_path / "c").exists():
                epochs.append(read_tree(tmp_path / "c", checkpoint.KIND)["state"]["n_epochs"])

    model = classifier(Look(), StopAfter(3, raising(signal.SIGUSR1)), Checkpoint(tmp_path / "c")).fit(X, Y)
    assert epochs == 5 * [3] and model.n_iter_ == 8
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_that_was_ignored_saves_and_goes_on(tmp_path):
    """As under `trap '' TERM`: nobody would hear of a training that it ended."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        told = [StopAfter(3, raising(signal.SIGTERM)), StopAfter(8, raising(signal.SIGTERM))]
        assert classifier(*told, Checkpoint(tmp_path / "c")).fit(X, Y).n_iter_ == 8
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "c.previous").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of handlers that are not Python's")
def test_a_handler_in_c_stays(tmp_path, caplog):
    import faulthandler

    with open(tmp_path / "dump", "w+") as dump:
        faulthandler.register(signal.SIGUSR1, dump, all_threads=False)
        try:
            classifier(StopAfter(3, raising(signal.SIGUSR1)), Checkpoint(tmp_path / "c")).fit(X, Y)
            signal.raise_signal(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        assert (tmp_path / "dump").read_text().count("most recent call first") == 2
    assert f"signal {signal.SIGUSR1:d} is not heard" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of handlers in C")
def test_a_handler_in_c_that_keeps_sigterm_from_saving_is_told_of(tmp_path):
    """As libraries of MPI may have one."""
    script = """
        import ctypes, signal, sys, warnings
        import numpy as np, fastnn
        libc = ctypes.CDLL(None)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
        libc.signal(signal.SIGTERM, handler)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            fastnn.MLPClassifier(max_iter=2, callbacks=[fastnn.Checkpoint(sys.argv[1])]).fit(np.eye(4), [0, 1, 0, 1])
        print(*(one.message for one in warned), sep="\\n")
    """
    out, _ = run_script(script, tmp_path / "c")
    assert f"signal {signal.SIGTERM:d} is not heard: its handler is not Python's" in out


@pytest.mark.parametrize("status", [None, b"Name:\tpython\nThreads:\t1\n", b"Name:\t\xc3\nSigCgt:\t0000000000000000\n"])
def test_where_the_system_does_not_tell_of_handlers_in_c(status, tmp_path, monkeypatch):
    """As without /proc, or in sandboxes that leave it out; or a name of bytes that are cut."""

    def read(path):
        if status is None:
            raise FileNotFoundError(path)
        return status

    monkeypatch.setattr(Path, "read_bytes", read)
    assert not checkpoint._is_handled_in_c(signal.SIGTERM)


def test_sigterm_ends_the_training_and_is_passed_on(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("mine"))
    try:
        model = classifier(StopAfter(3, raising(signal.SIGTERM)), Checkpoint(tmp_path / "c")).fit(X, Y)
        assert model.n_iter_ == 3 and heard == ["mine"]
        assert everything(classifier(Checkpoint(tmp_path / "c")).fit(X, Y)) == everything(classifier().fit(X, Y))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_sigterm_ends_the_children_of_a_callback(tmp_path):
    """A pool could not be ended if they took it for a wish to save."""
    ends = []

    def start_and_end(fit):
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=wait, args=(theirs,))
        child.start()
        ours.recv()
        child.terminate()
        child.join(10)
        ends.append(child.exitcode)
        child.kill()

    def wait(pipe):
        pipe.send("here")
        time.sleep(60)

    model = classifier(StopAfter(2, start_and_end), Checkpoint(tmp_path / "c")).fit(X, Y)
    assert ends == [-signal.SIGTERM] and model.n_iter_ == 8


KILLED = """
import os, signal, sys
import numpy as np
import fastnn

class Kill(fastnn.Callback):
    def on_batch_end(self, fit):
        if fit.epoch == 2 and fit.batch == 3:
            os.kill(os.getpid(), signal.SIGTERM)

X = np.random.default_rng(0).normal(size=(50, 3))
killers = [Kill()] if sys.argv[2] == "kill" else []
callbacks = [*killers, fastnn.Checkpoint(sys.argv[1])]
model = fastnn.MLPClassifier(max_iter=5, batch_size=10, random_state=0, callbacks=callbacks)
print("goes on", model.fit(X, X[:, 0] > 0).n_iter_, model.loss_)
"""


def test_sigterm_ends_a_process_without_a_handler(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-W", "ignore", "-c", KILLED, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    killed = run(str(tmp_path / "c"), "kill")
    assert killed.returncode == -signal.SIGTERM and killed.stdout == "", killed.stderr
    saved = read_tree(tmp_path / "c", checkpoint.KIND)["state"]
    assert (saved["n_epochs"], saved["rows_done"]) == (2, 30)  # in the middle of an epoch
    assert run(str(tmp_path / "c"), "").stdout == run(str(tmp_path / "other"), "").stdout != ""


def test_ctrl_c_leaves_no_process_deaf(tmp_path):
    """At each moment at which the handlers are changed: signals reach those that were there before the fit."""
    heard, numbers = [], [signal.SIGTERM, signal.SIGUSR1]
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in numbers}
    kept, n_ends = Checkpoint(tmp_path / "c"), 0
    functions = kept.on_fit_begin, kept.on_fit_end, kept._restore_handlers, callbacks.Fit.entered.__wrapped__
    watched = [function.__code__ for function in (*functions, contextlib.ExitStack.callback)]

    def fit():  # with one that has been left so in turns, too
        classifier(kept if n_ends % 2 else Checkpoint(tmp_path / "c")).fit(X, Y)

    def check_that_they_are_heard():
        for number in numbers:
            signal.raise_signal(number)
        assert heard == numbers
        heard.clear()

    try:
        for _ in interrupted_calls(fit, lambda code: code in watched):
            n_ends += 1
            check_that_they_are_heard()
        check_that_they_are_heard()
        assert n_ends > 10
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_error_restores_the_handlers(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def fail(fit):
        raise RuntimeError("from a callback")

    with pytest.raises(RuntimeError):
        classifier(StopAfter(2, fail), Checkpoint(tmp_path / "c")).fit(X, Y)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(checkpoint, "_NEVER_HEARD", ())  # the system refuses
    with pytest.raises(OSError):
        classifier(Checkpoint(tmp_path / "c", on_signal=(signal.SIGTERM, signal.SIGKILL))).fit(X, Y)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_outside_the_main_thread_signals_are_not_heard(tmp_path, caplog):
    model = classifier(Checkpoint(tmp_path / "c"))
    with caplog.at_level(logging.WARNING, "fastnn"):
        thread = threading.Thread(target=model.fit, args=(X, Y))
        thread.start()
        thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'c'}: outside the main thread signals are not heard"
    ]
    assert model.n_iter_ == 8 and (tmp_path / "c").exists()


def test_a_checkpoint_can_be_pickled(tmp_path):
    model = pickle.loads(pickle.dumps(classifier(Checkpoint(tmp_path / "c")).fit(X, Y)))
    assert everything(model.fit(X, Y)) == everything(classifier().fit(X, Y))


# -- Ctrl-C at any moment ---------------------------------------------------------------------------------------------

INTERRUPTED = """
    import itertools, signal, sys, warnings
    import numpy as np
    import fastnn

    warnings.simplefilter("ignore")
    solver, folder, n_fits = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = np.random.default_rng(0)
    X, y = rng.random((300, 20)), np.arange(300) % 3
    came = []

    def come(*_):
        came.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, come)

    def model(**params):
        settings = {"max_iter": 60, "tol": 0, "n_iter_no_change": np.inf, "random_state": 0}
        return fastnn.MLPClassifier((60, 60), solver=solver, **settings, **params)

    def interrupted(model, longest=0.08):
        # Whether it came to the end before a moment, and to that of what the last epoch writes.
        came.clear()
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.002, longest))
                model.fit(X, y)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            return False  # before the training or after it
        assert np.isfinite(model.predict_proba(X)).all() and len(model.history_["loss"]) == model.n_iter_
        return model.n_iter_ == 60 and not came

    whole = model().fit(X, y)
    for n in range(n_fits):
        interrupted(model())
        if solver == "lbfgs":
            continue
        for n_runs in itertools.count(10):  # saved after each epoch, until one comes to the end, on slow machines too
            path = f"{folder}/{n}"
            resumed = model(callbacks=[fastnn.Checkpoint(path, every=0), fastnn.CSVLog(path + ".csv")])
            if interrupted(resumed, longest=0.005 * n_runs):
                break
        assert all(np.array_equal(a, b) for a, b in zip(resumed.coefs_, whole.coefs_, strict=True))
        assert resumed.loss_curve_ == whole.loss_curve_
        assert len(open(path + ".csv").readlines()) == 61
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_at_random_moments(solver, tmp_path):
    """While a checkpoint or a line of a log is written too."""
    finished(started(INTERRUPTED, solver, tmp_path, 200 if FULL else 3), timeout=3600)
