"""Whole trainings that end at the same loss, in four libraries: `python bench/equal_loss.py [--fashion-mnist FOLDER]`.

The estimators of fastnn and scikit-learn get the same parameters and seed; JAX and PyTorch start from the weights and
go through the rows in the orders that those draw from it. So all do the same work, which their losses of the last epoch
must show. Each training starts anew; what JAX compiles is compiled before the clock runs, and so are fastnn's kernels.
"""

import argparse
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance
from bench.dropin import line
from bench.peers import LR, MODULES, N_THREADS, Net, Problem, jax_runner, limit_threads, torch_runner, wait_for_quiet

# A second thread can cost PyTorch more than it saves; the other libraries see to that themselves.
PEERS = {"JAX": jax_runner, "PyTorch": torch_runner, "PyTorch, 1 thread": partial(torch_runner, n_threads=1)}

# Sums are taken in other orders, and float32 keeps 7 digits: over hundreds of steps that grows.
RTOL = 0.02


@dataclass
class Job:
    """What to train, on rows in whole batches, for how many epochs."""

    title: str
    net: Net
    X: object
    y: object
    epochs: int


def digits(options):
    from fastnn import datasets

    return job("digits", datasets.digits(), (64,), 32, 2 if options.quick else 100)


def fashion_mnist(options):
    from fastnn import datasets

    try:
        data = datasets.fashion_mnist(options.fashion_mnist)
    except datasets.DatasetError as error:
        command_line.fail(error)
    return job("Fashion-MNIST", data, (256, 128), 128, 1 if options.quick else 3)


def job(title, data, hidden, batch, epochs):
    n_rows = len(data.X_train) // batch * batch  # JAX compiles one shape of batch
    net = Net(title, (data.X_train.shape[1], *hidden, 10), batch, rows=n_rows)
    X, y = data.X_train[:n_rows].copy(), data.y_train[:n_rows].copy()  # writable, which PyTorch wants
    return Job(f"{title}, {net.title()}, {epochs} epochs", net, X, y, epochs)


# -- a training in each library: from a job, `train()`, which returns the mean loss of the last epoch ------------------


def trainer(library, job):
    return peer_trainer(library, job) if library in PEERS else estimator_trainer(library, job)


def estimator_trainer(library, job):
    from sklearn import neural_network

    import fastnn

    home = fastnn if library == "fastnn" else neural_network
    model = home.MLPClassifier(
        job.net.sizes[1:-1], alpha=0.0, batch_size=job.net.batch, learning_rate_init=LR, max_iter=job.epochs,
        n_iter_no_change=job.epochs, tol=0.0, random_state=0,
    )  # fmt: skip
    return lambda: model.fit(job.X, job.y).loss_


def peer_trainer(library, job):
    weights, biases, orders = start_and_orders(job)
    prepare = PEERS[library](Problem(job.net, job.X, job.y, weights, biases))
    steps = len(orders) // job.epochs
    parts = [prepare(part) for part in (orders[:-steps], orders[-steps:]) if len(part)]
    return lambda: [part() for part in parts][-1]


def start_and_orders(job):
    """Return the weights and the rows of each step, (steps, batch), that the estimators draw from seed 0."""
    import numpy as np

    import fastnn

    rng = np.random.RandomState(0)
    start = fastnn.MLP(job.net.sizes, random_state=rng)
    order, orders = np.arange(job.net.rows), []
    for _ in range(job.epochs):
        drawn = np.arange(job.net.rows)
        rng.shuffle(drawn)
        order = order[drawn]
        orders.append(order.reshape(-1, job.net.batch))
    return list(start.weights), list(start.biases), np.concatenate(orders)


# -- timing ------------------------------------------------------------------------------------------------------------


def compare(job, libraries, repeats):
    """Return the loss of each library, and the seconds of each of its trainings, taken in turns."""
    losses = {library: float(trainer(library, job)()) for library in libraries}  # and compiles, and warms up
    check_losses(job, losses)
    seconds = {library: [] for library in libraries}
    for _ in range(repeats):
        for library, found in seconds.items():
            train = trainer(library, job)
            wait_for_quiet()
            start = time.perf_counter()
            train()
            found.append(time.perf_counter() - start)
    return {"title": job.title, "losses": losses, "seconds": seconds}


def check_losses(job, losses):
    for library, loss in losses.items():
        if abs(loss - losses["fastnn"]) > RTOL * losses["fastnn"]:
            raise SystemExit(f"{job.title}: {library} is not doing the same, its last losses differ: {losses}")


def measure(options):
    there, notes = command_line.installed(MODULES)
    libraries = [name for name in ("fastnn", *PEERS, "scikit-learn") if name.partition(",")[0] in there]
    jobs = [digits]
    if options.fashion_mnist:
        jobs.append(fashion_mnist)
    else:
        notes.append("Fashion-MNIST was skipped: give its folder by --fashion-mnist.")
    if options.quick:
        notes.append("--quick: a part of each job, so that the figures mean nothing.")
    repeats, results = 1 if options.quick else options.repeats, []
    for job in [prepare(options) for prepare in jobs]:  # all at once: what is wrong with the data shows at the start
        print(job.title, file=sys.stderr)
        results.append(compare(job, libraries, repeats))
    return {**provenance.here(N_THREADS, libraries), "repeats": repeats, "notes": notes, "results": results}


# -- the table ---------------------------------------------------------------------------------------------------------


def render(stored):
    """Markdown: a row for each job, and where the figures are from."""
    libraries = list(stored["results"][0]["seconds"])
    lines = [line(["training", *libraries, "loss at the end"]), line(["---", *["---:"] * len(libraries), "---:"])]
    for result in stored["results"]:
        medians = {library: statistics.median(samples) for library, samples in result["seconds"].items()}
        cells = [f"{seconds:.3g} s ({seconds / medians['fastnn']:.1f} x)" for seconds in medians.values()]
        lines.append(line([result["title"], *cells, losses_of(result)]))
    threads, repeats = stored["threads"], stored["repeats"]
    lines.append(f"\nfloat32, Adam, {threads} threads each unless it says 1, median of {repeats} trainings in turns.")
    return "\n".join([*lines, *stored["notes"], "", provenance.line(stored)])


def losses_of(result):
    """Return the loss at the end, or the range of it."""
    low, high = (f"{loss:.4f}" for loss in (min(result["losses"].values()), max(result["losses"].values())))
    return low if low == high else f"{low} to {high}"


def main():
    parser = argparse.ArgumentParser(description="Train to the same loss with fastnn and its peers.")
    command_line.add_fashion_mnist(parser)
    options = command_line.comparison(parser, 5, "trainings", "one short training each, to see that it runs")
    limit_threads()
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)  # training stops after a number of epochs on purpose
    stored = measure(options)
    provenance.publish(stored, render(stored), options)


if __name__ == "__main__":
    command_line.run(main)
