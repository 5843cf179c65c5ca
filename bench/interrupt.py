"""How long Ctrl-C takes to leave a usable model: `python bench/interrupt.py`.

SIGINT comes at random moments of a fit; the time is that from it until `fit` is back. The model then predicts a row.
What comes before the training, as while scikit-learn checks the rows, raises KeyboardInterrupt: counted apart.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance

WITHIN = 0.2  # seconds


@dataclass
class Job:
    """A fit without an end, in whose first seconds the signals come."""

    title: str
    n_rows: int
    sizes: tuple[int, ...]
    batch_size: int
    seconds: float
    is_cold: bool = False  # each time in a process of its own, with no kernels on disk
    density: float = 1.0  # of rows that are a sparse matrix where it is less
    is_kept: bool = False  # in a checkpoint, again and again
    is_resumed: bool = False  # each begins with a checkpoint
    settings: dict[str, Any] = field(default_factory=dict)


LARGE = 2_000, (1000, 8400, 8400, 10), 200  # rows, sizes and rows of a batch of 80 million weights
JOBS = {
    "tiny": Job("20 rows, 2-4-2", 20, (2, 4, 2), 20, 0.5),
    "digits": Job("1437 rows, 64-64-10", 1437, (64, 64, 10), 128, 1.0),
    "mnist": Job("60 000 rows, 784-256-128-10", 60_000, (784, 256, 128, 10), 128, 3.0),
    "full": Job("60 000 rows in one batch, 784-1024-1024-10", 60_000, (784, 1024, 1024, 10), 60_000, 6.0),
    "weights": Job("80 million weights, 1000-8400-8400-10", *LARGE, 8.0),
    "validated": Job("80 million weights, early stopping", *LARGE, 8.0, settings={"early_stopping": True}),
    "kept": Job("9 million weights, checkpoints all the time", 2_000, (1000, 3000, 2000, 10), 200, 8.0, is_kept=True),
    "large": Job("80 million weights, checkpoints all the time", *LARGE, 8.0, is_kept=True),
    "resumed": Job(
        "80 million weights, going on from a checkpoint", *LARGE, 5.0, is_kept=True, is_resumed=True
    ),
    "row": Job("9 million weights, one row a batch", 2_000, (1000, 3000, 2000, 10), 1, 3.0),
    "wide": Job("200 000 inputs, 200 000-96-10", 1_000, (200_000, 96, 10), 200, 6.0),
    "sparse": Job("20 000 entries a row, 40 000-64-10", 2_000, (40_000, 64, 10), 2_000, 6.0, density=0.5),
    "rows": Job("ten million rows, 4-8-3", 10_000_000, (4, 8, 3), 1000, 6.0),
    "lbfgs": Job("five million rows, 8-4-3, L-BFGS", 5_000_000, (8, 4, 3), 200, 3.0, settings={"solver": "lbfgs"}),
    "cold": Job("20 rows, kernels to be compiled first", 20, (2, 4, 2), 20, 4.0, is_cold=True),
}


def interrupt(job, n_moments, seed):
    """Interrupt fits of a job; return whether the training had begun, and how long Ctrl-C took, of each."""
    from fastnn import Checkpoint, MLPClassifier

    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    X, y = examples(job)
    folder = tempfile.TemporaryDirectory()
    model = MLPClassifier(
        job.sizes[1:-1], batch_size=job.batch_size, max_iter=10**9, n_iter_no_change=10**9, random_state=0, tol=0,
        max_fun=10**9, callbacks=[Checkpoint(Path(folder.name, "kept"), 0.1)] if job.is_kept else None, **job.settings,
    )  # fmt: skip
    if not job.is_cold:
        load(X[:100], y[:100], job.settings.get("solver", "adam"))
    if job.is_resumed:
        model.set_params(max_iter=1).fit(X, y).set_params(max_iter=10**9)
    begun = []
    for name in ("_train_stochastic", "_train_lbfgs"):  # from where on there is a network
        setattr(MLPClassifier, name, noted(getattr(MLPClassifier, name), begun))
    moments, results = random.Random(seed), []
    for _ in range(n_moments):
        begun.clear()
        sent = send_after(moments.uniform(0, job.seconds))
        with contextlib.suppress(KeyboardInterrupt):
            try:
                model.fit(X, y)
            finally:
                taken = time.perf_counter() - sent[0]
            model.predict(X[:1])  # which it is fit for; a first prediction compiles, whatever was before
        results.append((bool(begun) and begun[0] < sent[0], taken))
    return results


def examples(job):
    """Rows, an array or a sparse matrix, and their labels."""
    import numpy as np
    from scipy import sparse

    rng, shape = np.random.default_rng(0), (job.n_rows, job.sizes[0])
    X = rng.random(shape, "float32")
    if job.density < 1:
        X = sparse.csr_matrix(np.where(rng.random(shape, "float32") < job.density, X, np.float32(0)))
    return X, np.arange(job.n_rows) % job.sizes[-1]


def noted(function, moments):
    """Return a function that also keeps the moments of its calls."""

    def called(*arguments):
        moments.append(time.perf_counter())
        return function(*arguments)

    return called


def load(X, y, solver):
    """Have all kernels ready; those of L-BFGS, and of predictions after it, are in float64."""
    from fastnn import MLPClassifier

    MLPClassifier((2,), solver=solver, max_iter=1).fit(X, y).predict(X)


def send_after(seconds):
    """Send SIGINT to this process after a while; the list that is returned has the moment then."""
    sent = []

    def send():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(seconds, send).start()
    return sent


def measure(name, n_moments):
    """Return the times of a job, those in training and those before."""
    print(JOBS[name].title, file=sys.stderr)
    rounds = [(seed, 1) for seed in range(n_moments)] if JOBS[name].is_cold else [(0, n_moments)]
    results = [result for seed, n in rounds for result in in_a_process(name, n, seed)]
    return {
        "title": JOBS[name].title,
        "training": [seconds for is_in_training, seconds in results if is_in_training],
        "before": [seconds for is_in_training, seconds in results if not is_in_training],
    }


def in_a_process(name, n_moments, seed):
    with tempfile.TemporaryDirectory() as folder:
        cache = {"NUMBA_CACHE_DIR": folder} if JOBS[name].is_cold else {}
        done = subprocess.run(
            [sys.executable, __file__, "--process", name, str(n_moments), str(seed)], env={**os.environ, **cache},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout)


def render(stored):
    """Return the table of stored results."""
    lines = [
        "| Ctrl-C in a fit of | signals | median, s | worst, s | within 0.2 s | before the training | worst, s |",
        "| --- |" + " ---: |" * 6,
    ]
    for result in stored["results"]:
        training, before = result["training"], result["before"]
        cells = [result["title"], *summary(training), str(len(before)), f"{max(before):.3f}" if before else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", provenance.line(stored)])


def summary(seconds):
    """Return how many signals there were, the median and the worst time, and the share that is as quick as promised."""
    if not seconds:
        return ["0", "", "", ""]
    share = sum(each <= WITHIN for each in seconds) / len(seconds)
    return [str(len(seconds)), f"{statistics.median(seconds):.3f}", f"{max(seconds):.3f}", f"{share:.0%}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="some of the fits")
    parser.add_argument("--process", nargs=3, help=argparse.SUPPRESS)
    options = command_line.comparison(parser, 10, "signals", "three signals each, to see that it runs")
    if options.process:
        name, n_moments, seed = options.process
        print(json.dumps(interrupt(JOBS[name], int(n_moments), int(seed))))
        return
    results = [measure(name, 3 if options.quick else options.repeats) for name in options.jobs]
    stored = {**provenance.here(), "results": results}
    provenance.publish(stored, render(stored), options)


if __name__ == "__main__":
    command_line.run(main)
