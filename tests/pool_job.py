"""What worker processes and threads of test_threads.py do: train and predict in teams of two, and tell the bits.

With TEAMS_FOR_ALL in the environment, which processes inherit, no network is too small for a team.
"""

import hashlib
import os
import warnings

import numpy as np

import fastnn
from fastnn import model, parallel

if "TEAMS_FOR_ALL" in os.environ:
    model.FLOPS_PER_THREAD = 1e-9

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(400, 20)), rng.integers(0, 5, 400)


def train(seed=0, n_jobs=2, dtype="float32"):
    """Fit, fit further and predict; return a hash of all results."""
    rows = X.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = fastnn.MLPClassifier((30, 20), max_iter=8, random_state=seed, n_jobs=n_jobs).fit(rows, Y)
    fitted.partial_fit(rows, Y)
    results = [*fitted.coefs_, *fitted.intercepts_, fitted.predict_proba(rows), fitted.predict(rows)]
    return hashlib.sha256(b"".join(array.tobytes() for array in results)).hexdigest()


def train_and_count(seed=0, n_jobs=-1):
    """As `train`, with the most threads that ran at once in this process, and as many as are allowed."""
    return train(seed, n_jobs), parallel.budget.most, parallel.allowed_threads()


def work():
    """Fit for some tenths of a second, nearly all of it in the engine, with all threads that are allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, classes = np.tile(X, (5, 3)).astype("float32"), np.tile(Y, 5)
        fastnn.MLPClassifier((300, 300), max_iter=8, batch_size=500, random_state=0, n_jobs=-1).fit(rows, classes)
