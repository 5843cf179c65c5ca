"""What worker processes and threads of test_threads.py do: train and predict in teams of two, and tell the bits.

And how many threads are in compiled calls meanwhile, whatever the budget of the package says of them.

With TEAMS_FOR_ALL in the environment, which processes inherit, no network is too small for a team.
"""

import functools
import hashlib
import os
import threading
import warnings

import numpy as np

import fastnn
from fastnn import model, parallel, workers
from fastnn.kernels import epoch, forward

if "TEAMS_FOR_ALL" in os.environ:
    model.FLOPS_PER_THREAD = 1e-9


class Running:
    """Counts the threads that are in compiled calls at once, at the begin of each.

    Predictions that do not wait for CPUs, and so go on in the calling thread alone, are counted apart.
    """

    def __init__(self):
        self._lock, self._of_thread = threading.Lock(), threading.local()
        self._threads = {"calls": 0, "workers": 0, "short calls": 0}
        self.seen = set()  # calls, their workers, short calls

    def watch(self, set_attribute=setattr):
        """Have all compiled calls counted; of networks that are made from now on."""
        set_attribute(workers, "call_team", functools.partial(self._call_team, workers.call_team))
        for engine in (epoch, forward):
            set_attribute(engine, "code", functools.partial(self._code, engine.code))

    def _call_team(self, call_team, wanted, code, arguments, state=None, waits=True):
        self._of_thread.waits = waits
        try:
            call_team(wanted, code, arguments, state, waits)
        finally:
            self._of_thread.waits = False

    def _code(self, code, *kind):
        return functools.partial(self._call, code(*kind))

    def _call(self, code, crew, arguments):
        is_short = not len(crew) and not getattr(self._of_thread, "waits", False)
        added = {"short calls": 1} if is_short else {"calls": 1, "workers": len(crew)}
        self._add(added, 1)
        try:
            code(crew, arguments)
        finally:
            self._add(added, -1)

    def _add(self, added, sign):
        with self._lock:
            for kind, n in added.items():
                self._threads[kind] += sign * n
            self.seen.add(tuple(self._threads.values()))

    def excess(self, allowed):
        """What has been seen that may not be: more threads than are allowed, some of them workers."""
        return {(calls, n, short) for calls, n, short in self.seen if n and calls + n > allowed}

    def most(self):
        """Return the most threads that were in compiled calls at once, but for short calls."""
        return max(calls + n for calls, n, _ in self.seen)


running = Running()
if "TEAMS_FOR_ALL" in os.environ:
    running.watch()

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(400, 20)), rng.integers(0, 5, 400)


def fit(rows, seed=0, n_jobs=2, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"hidden_layer_sizes": (30, 20), "max_iter": 8, **params}
        return fastnn.MLPClassifier(**settings, random_state=seed, n_jobs=n_jobs).fit(rows, Y)


def train(seed=0, n_jobs=2, dtype="float32"):
    """Fit, fit further and predict; return a hash of all results."""
    rows = X.astype(dtype)
    fitted = fit(rows, seed, n_jobs).partial_fit(rows, Y)
    results = [*fitted.coefs_, *fitted.intercepts_, fitted.predict_proba(rows), fitted.predict(rows)]
    results += [fitted.predict_proba(rows[i : i + 1]) for i in range(20)]
    return hashlib.sha256(b"".join(array.tobytes() for array in results)).hexdigest()


def train_and_count(seed=0, n_jobs=-1):
    """As `train`, with the most threads that ran at once in this process, and what of it was more than allowed."""
    return train(seed, n_jobs), running.most(), running.excess(parallel.allowed_threads())


def work():
    """Fit for some tenths of a second, nearly all of it in the engine, with all threads that are allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, classes = np.tile(X, (5, 3)).astype("float32"), np.tile(Y, 5)
        fastnn.MLPClassifier((300, 300), max_iter=8, batch_size=500, random_state=0, n_jobs=-1).fit(rows, classes)
