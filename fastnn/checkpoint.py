"""Checkpoints: a fit that was killed goes on where it was, to the same bits."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.atomic import atomic_write, leftovers, remove, replace, temporary_beside
from fastnn.callbacks import Callback, Fit
from fastnn.checks import absolute, check_writable, seconds_of
from fastnn.log import logger
from fastnn.trees import DamagedError, check_counts, damage_told, read_tree, write_tree

Array = npt.NDArray[Any]
State = dict[str, Any]

KIND = "fastnn checkpoint"
FORMAT = 1

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
# Ask for a checkpoint and nothing else; all other signals end the training too.
_SAVE_ONLY = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
_NEVER_HEARD = tuple(getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name))

# What may differ between the run that saved and the one that goes on.
FREE_PARAMETERS = ("max_iter", "verbose", "n_jobs", "callbacks")
# Bytes of an array whose content is hashed in full; of longer ones as many, in pieces from all over.
_HASHED_BYTES, _PIECES = 1 << 26, 64
_STALE_SECONDS = 3600


class Checkpoint(Callback):
    """Save the training now and then; the same script, run again, goes on from there to the same bits.

    The file has everything that the rest of the training depends on: parameters, moments and steps of the optimizer,
    the random state and the order of the rows, learning rate, stopping rules, history, and the states of the other
    callbacks. It is replaced at once or not at all, and the one before is kept as `PATH.previous`, which is used, with
    a line in the log, where the newer one is damaged.

    After the last epoch the file stays. The same fit, run again, returns its model without any training, or trains on
    if `max_iter` has been raised or a `TimeBudget` or a signal had broken it off. Delete the file to begin anew.

    Parameters
    ----------
    path : path-like
        The file, of this one fit. A relative one is in the folder that is the current one when this object is made.
    every : str such as "10min", or float, default "10min"
        Time, or seconds, between two checkpoints; 0 for one after each epoch and chunk.
    on_signal : iterable of signals, default (SIGTERM, SIGUSR1)
        Save as soon as one of them comes, in the middle of a long epoch too. After SIGUSR1 and SIGUSR2 the training
        goes on, as after those that were ignored before. Others end it: the model is usable, the handlers from before
        are back, and the signal is passed on to them, which ends the process where there was none. Signals are heard in
        the main thread alone, and not in the place of a handler in C, such as faulthandler's.

    Raises
    ------
    ValueError
        If `every` or `on_signal` is none of the above. By `fit`, if the file is of another estimator, other parameters,
        data or initial weights, or of a newer format; if it and the one before are damaged; if no file can be written
        there, or another callback writes to it; or with the solver "lbfgs".
    TypeError
        By `fit`, if the state of another callback cannot be written to a file.

    Warns
    -----
    UserWarning
        By `fit`, where a checkpoint cannot be written. The training goes on, and so does the checkpoint before.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.abs(X).ravel()
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "job.checkpoint")
    >>> model = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.Checkpoint(path)]).fit(X, y)
    >>> again = fastnn.MLPRegressor(random_state=0, callbacks=[fastnn.Checkpoint(path)]).fit(X, y)  # from the file
    >>> again.loss_curve_ == model.loss_curve_
    True
    """

    rank = 2

    def __init__(
        self, path: str | os.PathLike[str], every: str | float = "10min", on_signal: Iterable[int] = SIGNALS
    ) -> None:
        self.path = absolute(path)
        self.every = every
        self._seconds = seconds_of("every", every)
        self.on_signal = _checked_signals(on_signal)
        self._identity: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._keeps_previous = True
        self._source = self.path
        self._handlers: dict[int, Any] = {}  # from before, as long as those of this object are in their places

    # -- going on -------------------------------------------------------------------------------------------------

    def resume(self, fingerprint: State, start: State) -> tuple[State, State | None]:
        """Return what the fit started from and what to go on from, None for its beginning.

        `fingerprint` tells this fit from others, and `start` is the random state that it would start from.
        """
        self._identity, self._start, self._keeps_previous = fingerprint, start, True
        self._remove_leftovers()
        if not self.path.exists():
            return start, None
        saved = self._read()
        self._start = saved["start"]
        logger.info("going on from %s, after %d epochs", self._source, saved["state"]["n_epochs"])
        return self._start, saved["state"]

    def check_writable(self) -> None:
        """Check that there can be further checkpoints.

        Raises
        ------
        ValueError
            If the user may not write there, or nobody.
        """
        check_writable(type(self).__name__, self._file)

    def load(self, state: State, load: Callable[[State], None]) -> None:
        """Have a training load the state that `resume` found; where it cannot be one of it, that of the file before.

        Raises
        ------
        ValueError
            If neither can be loaded.
        """
        try:
            load(state)
        except DamagedError as error:
            older = self._older(DamagedError(f"{self._source} is damaged: {error}"))
            self.load(older["state"], load)

    @property
    def _file(self) -> Path:
        """What is written, and has the other files beside it: where a link leads to."""
        return Path(os.path.realpath(self.path)) if os.path.islink(self.path) else self.path

    @property
    def previous(self) -> Path:
        """Where the checkpoint before is kept."""
        return Path(f"{self._file}.previous")  # of a path without a name, "/", too, which is refused later

    @property
    def _written_files(self) -> tuple[Path, ...]:
        return self.path, self.previous

    def _read(self) -> dict[str, Any]:
        self._source = self.path
        try:
            return self._whole()
        except DamagedError as error:
            return self._older(error)

    def _older(self, error: DamagedError) -> dict[str, Any]:
        """Return what the file before has, as the last one that was read is damaged."""
        if self._source == self.previous:
            raise ValueError(f"{error}, and so is {self.path}; delete both to begin anew") from error
        if not self.previous.exists():
            raise ValueError(f"{error}. There is no {self.previous}; delete the file to begin anew") from error
        logger.warning("%s; going on from %s", error, self.previous)
        self._keeps_previous, self._source = False, self.previous  # the good one
        try:
            return self._whole()
        except DamagedError as second:
            raise ValueError(f"{error}, and {second}; delete both to begin anew") from second

    def _whole(self) -> dict[str, Any]:
        """Return what a file has: the parts that decide whether to go on from it."""
        saved: dict[str, Any] = read_tree(self._source, KIND)
        with damage_told(f"{self._source} is damaged"):
            if saved["format"] <= FORMAT:  # what newer ones have is not known
                check_draws(saved["start"], self._start)
                check_counts(saved["state"], "n_epochs", "rows_done")
                saved["fingerprint"].keys()
        self._check(saved)
        return saved

    def _check(self, saved: dict[str, Any]) -> None:
        mend = "delete the file to begin anew, or use another path"
        if saved["format"] > FORMAT:
            newer = f"{self._source} is of format {saved['format']}, newer than {FORMAT}"
            raise ValueError(f"{newer}; update fastnn, or {mend}")
        different = list(_differences("", saved["fingerprint"], self._identity))
        if different:
            raise ValueError(f"{self._source} is of another fit: {'; '.join(different)}. {mend.capitalize()}")

    def _remove_leftovers(self) -> None:
        """Remove what kills in the middle of a write have left."""
        for path in leftovers(self._file):
            with contextlib.suppress(OSError):  # those of a path that begins alike come and go
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    remove(path)

    # -- saving ---------------------------------------------------------------------------------------------------

    def on_fit_begin(self, fit: Fit) -> None:
        self._next, self._heard = time.monotonic() + self._seconds, set[int]()
        self._process, self._fit = os.getpid(), weakref.ref(fit)
        if not self.on_signal:
            return
        if threading.current_thread() is not threading.main_thread():
            logger.warning("%s: outside the main thread signals are not heard", self.path)
            return
        self._restore_handlers()  # where Ctrl-C has ended the end of the fit before
        try:
            for number in self.on_signal:
                if _is_handled_in_c(number):
                    self._tell_unheard(number)
                    continue
                self._handlers[number] = signal.getsignal(number)  # first, so that Ctrl-C cannot come between
                signal.signal(number, self._hear)
        except BaseException:
            self._restore_handlers()
            raise

    def _tell_unheard(self, number: int) -> None:
        text = f"{self.path}: signal {number} is not heard: its handler is not Python's"
        if self._only_saves(number):  # such as faulthandler's, which somebody has asked for
            logger.warning(text)
        else:  # the end of the process, without a checkpoint
            warnings.warn(text, stacklevel=2)

    def on_epoch_begin(self, fit: Fit) -> None:
        if not fit.epoch:
            fit.states()  # tells of those that cannot be saved before the training, not after it

    def on_chunk_end(self, fit: Fit) -> None:
        self._save_if(fit, fit.is_over)

    def on_epoch_end(self, fit: Fit) -> None:
        self._save_if(fit, fit.is_over or fit.epoch >= fit.max_epochs)

    def _save_if(self, fit: Fit, is_last: bool) -> None:
        heard = set(self._heard)
        self._heard -= {number for number in heard if self._only_saves(number)}  # the others are passed on in the end
        if self._heard:
            fit.pause()
        if heard or is_last or fit.is_paused or time.monotonic() >= self._next:
            self._save(fit)

    def _only_saves(self, number: int) -> bool:
        return number in _SAVE_ONLY or self._handlers.get(number) == signal.SIG_IGN

    def on_fit_end(self, fit: Fit) -> None:
        ending = [number for number in sorted(self._heard) if not self._only_saves(number)]
        self._restore_handlers()
        for number in ending:
            logger.info("signal %d ended the training; the next run goes on from %s", number, self.path)
            signal.raise_signal(number)

    def _hear(self, number: int, frame: Any) -> None:
        fit = self._fit()
        if fit is not None and not fit.has_ended and os.getpid() == self._process:
            self._heard.add(number)
        else:  # Ctrl-C came before the handlers were back; or this is a child, such as a pool's, that does not train
            self._restore_handlers()
            signal.raise_signal(number)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            with contextlib.suppress(OSError):  # the system has not let it be heard either
                signal.signal(number, handler)
        self._handlers = {}

    def _save(self, fit: Fit) -> None:
        if not fit.net.is_finite():
            return
        try:
            saved = {"format": FORMAT, "fingerprint": self._identity, "start": self._start, "state": fit.state()}
            with atomic_write(self.path) as file:
                write_tree(file, KIND, saved)
                file.flush()
                self._keep_previous()
        except (OSError, MemoryError) as error:  # weights and moments are copied
            reason = f"{error}" or "there is no memory left for it"
            logger.warning("%s cannot be written: %s", self.path, reason)
            warnings.warn(f"the checkpoint {self.path} cannot be written: {reason}; the training goes on", stacklevel=2)
        self._next = time.monotonic() + self._seconds

    def _keep_previous(self) -> None:
        """Give the file that is about to be replaced a second name, so that at any time one of the two is whole."""
        if self._keeps_previous and self.path.exists():
            second = temporary_beside(self._file)
            try:
                try:
                    os.link(self._file, second)
                except OSError:  # a file system without links
                    shutil.copyfile(self._file, second)
                replace(second, self.previous)
            finally:  # Ctrl-C came before; or the two were one file, and replacing did nothing
                second.unlink(missing_ok=True)
        self._keeps_previous = True

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in ("_heard", "_fit")}
        return {**state, "_handlers": {}}


def _checked_signals(numbers: Any) -> tuple[int, ...]:
    try:
        signals = tuple(numbers)
    except TypeError as error:
        raise TypeError(f"on_signal must be a list of signals such as (signal.SIGTERM,), got {numbers!r}") from error
    for number in signals:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"on_signal must be signals such as signal.SIGTERM, got {number!r} in it")
        if number not in signal.valid_signals() or number in _NEVER_HEARD:
            raise ValueError(f"on_signal must be signals that a process can hear of, got {number!r} in it")
    return signals


def _is_handled_in_c(number: int) -> bool:
    """Whether a signal has a handler of which Python does not know, as faulthandler sets them; Linux tells."""
    handler = signal.getsignal(number)
    if handler != signal.SIG_DFL:
        return handler is None
    try:
        status = Path("/proc/thread-self/status").read_bytes()
    except OSError:
        return False
    caught = re.search(rb"\nSigCgt:\s*([0-9a-f]+)", status)  # some sandboxes do not tell
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


# -- what a file may say ----------------------------------------------------------------------------------------------


def check_draws(state: State, known: State) -> None:
    """Check that a random state is one of the kind of a known one: NumPy would read beyond its numbers.

    Raises
    ------
    ValueError, TypeError, LookupError
        If it is none.
    """
    kind = known["bit_generator"]
    if state["bit_generator"] != kind:
        raise ValueError(f"its random state is of {state['bit_generator']!r}, not {kind!r}")
    np.random.RandomState(getattr(np.random, kind)(0)).set_state(state)
    if kind == "MT19937" and state["state"]["pos"] not in range(625):
        raise ValueError(f"its random state is at {state['state']['pos']!r}")


# -- what tells fits from each other ----------------------------------------------------------------------------------


def fingerprint(
    model: Any, stateful: list[str], arrays: dict[str, Any], classes: Any, parameters: Iterable[Array]
) -> dict[str, Any]:
    """Return what two fits must have in common for one to go on from the other's checkpoint.

    `stateful` are the classes of the callbacks with a state, `arrays` X, y and the weights of the rows, `parameters`
    what a warm start begins with.
    """
    return {
        "estimator": type(model).__name__,
        "parameters": {
            name: _plain(value)
            for name, value in model.get_params(deep=False).items()
            if name not in FREE_PARAMETERS
        },
        "data": {name: _described(array) for name, array in arrays.items()},
        "classes": _digest([repr(_plain(classes)).encode()]),
        "initial weights": [_described(array) for array in parameters],
        "callbacks with a state": stateful,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a parameter as JSON would give it back; of a random state a digest, of another object its class."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    if isinstance(value, np.random.RandomState):
        return f"RandomState of {_digest(_bytes_of(value.get_state(legacy=False)))}"
    return type(value).__name__


def _bytes_of(tree: Any) -> Iterator[bytes]:
    if isinstance(tree, dict):
        for name in sorted(tree):
            yield name.encode()
            yield from _bytes_of(tree[name])
    else:
        yield tree.tobytes() if isinstance(tree, np.ndarray) else repr(tree).encode()


def _described(array: Any) -> Any:
    if array is None:
        return None
    parts = [array] if isinstance(array, np.ndarray) else [array.data, array.indices, array.indptr]
    digest = _digest(piece for part in parts for piece in _pieces(part))
    return {"shape": list(array.shape), "dtype": str(array.dtype), "content": digest}


def _pieces(array: Array) -> Iterable[memoryview]:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if content.size <= _HASHED_BYTES:
        return [content.data]
    size = _HASHED_BYTES // _PIECES
    starts = np.linspace(0, content.size - size, _PIECES).astype(int)
    return [content[start : start + size].data for start in starts]


def _digest(pieces: Iterable[Any]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def _differences(name: str, theirs: Any, ours: Any) -> Iterable[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            yield from _differences(f"{name} {key}".lstrip(), theirs.get(key), ours.get(key))
    elif theirs != ours and name.endswith(" content"):
        yield f"the {name.removesuffix(' content')} has other numbers"
    elif theirs != ours:
        yield f"its {name} is {theirs!r}, here it is {ours!r}"
