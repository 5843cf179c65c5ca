"""fastnn in scikit-learn's place, both in one run: `python bench/dropin.py [--jobs NAME ...] [--fashion-mnist FOLDER]`.

Both libraries get the same data, parameters and seed, and the same cores, and take turns. A job is refused where they
did not do the same: the epochs and the loss of each, the rows that were split off, or the prediction must agree.
"""

import argparse
import statistics
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance
from bench.peers import N_THREADS, elapsed, limit_threads, wait_for_quiet

UNITS = {"s": 1, "ms": 1e3, "µs": 1e6, "MB": 1e-6}


@dataclass
class Work:
    """One library's part in a job."""

    run: Callable  # what is timed
    found: Callable  # from the result of `run`, what the libraries must agree on, by name
    count: int = 1  # rows or calls in a run: the time is that of one
    aside: Callable = lambda: None  # what is taken off the time of a run

    def measure(self):
        """Seconds of one."""
        return (elapsed(self.run) - elapsed(self.aside)) / self.count


class Memory(Work):
    """A part of which the bytes are of interest that it takes at most, beyond those that `aside` takes."""

    def measure(self):
        return traced_peak(self.run) - traced_peak(self.aside)


def traced_peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass
class Job:
    """What to do with both libraries, and how fast fastnn must be at it."""

    title: str
    prepare: Callable  # from the command line's options, the Work of each library
    unit: str = "s"
    least_ratio: float = 0  # scikit-learn's time over fastnn's
    most: float = inf  # fastnn's time in `unit`
    rtol: float = 1e-6

    def goal(self):
        if self.least_ratio:
            return f"ratio ≥ {self.least_ratio:g}"
        return f"fastnn ≤ {self.most:g} {self.unit}" if self.most < inf else ""


# -- the jobs; imports wait until the threads are limited --------------------------------------------------------------


def digits(options):
    return fits("MLPClassifier", *digits_rows(), max_iter=20 if options.quick else 200)


def fashion_mnist(options):
    from fastnn import datasets

    n_rows, epochs = (2_000, 1) if options.quick else (60_000, 5)
    data = datasets.fashion_mnist(options.fashion_mnist)
    return fits("MLPClassifier", data.X_train[:n_rows], data.y_train[:n_rows], max_iter=epochs)


def breast_cancer(options):
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return fits("MLPClassifier", standardised(X), y, max_iter=20 if options.quick else 200)


def sparse_text(options):
    """Rows of about 100 words, few of them common and most of them rare, as in text."""
    import numpy as np
    from scipy import sparse

    n_rows, epochs = (500, 1) if options.quick else (10_000, 3)
    n_words, vocabulary = 100, 20_000
    rng = np.random.default_rng(0)
    words = (vocabulary * rng.random(n_rows * n_words) ** 2).astype(np.int32)
    X = sparse.csr_matrix((rng.random(n_rows * n_words), words, np.arange(n_rows + 1) * n_words), (n_rows, vocabulary))
    X.sum_duplicates()
    return fits("MLPClassifier", X, X @ rng.standard_normal(vocabulary) > 0, hidden_layer_sizes=64, max_iter=epochs)


def sparse_memory(options):
    """The same fit, and one to half the rows: what is there for the network alone is there in both."""
    works = sparse_text(options)
    for library, work in works.items():
        X, y = work.run.args
        half = partial(work.run.func, X[: X.shape[0] // 2], y[: X.shape[0] // 2])
        works[library] = Memory(work.run, work.found, aside=half)
    return works


def lbfgs_diabetes(options):
    from sklearn.datasets import load_diabetes

    X, y = map(standardised, load_diabetes(return_X_y=True))
    # 50 iterations agree to 1e-12 or so; by 200, a difference in the last bit of X alone has grown to a percent.
    return fits("MLPRegressor", X, y, solver="lbfgs", max_iter=10 if options.quick else 50)


def early_stopping_split(options):
    import numpy as np
    from sklearn.model_selection import train_test_split

    from fastnn.splitting import validation_split

    n_rows, fraction = 20_000 if options.quick else 200_000, 0.1
    y = np.random.default_rng(0).random((n_rows, 1)) < 0.3

    def ours():
        return validation_split(n_rows, y, fraction, np.random.RandomState(0))

    def theirs():
        return train_test_split(
            np.arange(n_rows), test_size=fraction, random_state=np.random.RandomState(0), stratify=y
        )  # fmt: skip

    return {
        library: Work(split, lambda parts: dict(zip(("training rows", "validation rows"), parts, strict=True)), n_rows)
        for library, split in {"fastnn": ours, "scikit-learn": theirs}.items()
    }


def grid_search(nets, options):
    X, y = digits_rows()
    folds, epochs = (2, 5) if options.quick else (4, 50)
    grid = {"hidden_layer_sizes": nets[: 2 if options.quick else 4], "alpha": [1e-5, 1e-4, 1e-3, 1e-2]}
    return {
        library: Work(partial(search, model, grid, folds, X, y), search_found)
        for library, model in models("MLPClassifier", max_iter=epochs).items()
    }


SMALL_NETS = [(8,), (16, 8), (16,), (32,)]
LARGER_NETS = [(32,), (50, 25), (64,), (100,)]


def search(model, grid, folds, X, y):
    """Search a grid in as many processes as the libraries have threads otherwise, of one thread each."""
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    with parallel_config("loky", inner_max_num_threads=1):
        return GridSearchCV(model, grid, scoring=training_record, cv=folds, n_jobs=N_THREADS, refit=False).fit(X, y)


def training_record(model, X, y):
    return {"accuracy": model.score(X, y), "epochs": model.n_iter_, "loss": model.loss_}


def search_found(done):
    return {name: values for name, values in done.cv_results_.items() if name.startswith("split")}


def one_row(options):
    X, y = digits_rows()
    calls = 100 if options.quick else 1_000
    return {
        library: Work(partial(repeat, partial(model.fit(X, y).predict, X[:1]), calls), prediction_found, calls)
        for library, model in models("MLPClassifier", max_iter=5).items()
    }


def prediction_found(labels):
    return {"prediction": labels}


def tiny_fit(options):
    import numpy as np
    from sklearn.utils.validation import validate_data

    rng, calls = np.random.default_rng(0), 10 if options.quick else 100
    X, y = rng.standard_normal((20, 5)), np.arange(20) % 2
    both = models("MLPClassifier", max_iter=1)
    theirs = both["scikit-learn"]

    def validate():
        """All that scikit-learn's fit does with its input before it looks at the labels."""
        theirs._validate_params()
        validate_data(theirs, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32))

    return {
        library: Work(
            partial(repeat, partial(model.fit, X, y), calls), fit_found, calls, partial(repeat, validate, calls)
        )
        for library, model in both.items()
    }  # fmt: skip


JOBS = {
    "digits": Job("digits 64-100-10, defaults, float64", digits, least_ratio=5),
    # 1500 steps in float32: an X one unit in the last place off moves scikit-learn's own losses by 2e-3, and float64 by
    # 3e-3 (2026-11, seeds 0 to 2).
    "fashion-mnist": Job("Fashion-MNIST 784-100-10, float32, 5 epochs", fashion_mnist, least_ratio=3, rtol=5e-3),
    "breast-cancer": Job("breast cancer 30-100-1, defaults, float64", breast_cancer, least_ratio=6),
    "sparse": Job("sparse text 20000-64-1, 10 000 rows of 0.5 %, 3 epochs", sparse_text, least_ratio=3),
    # Half the rows are 6 MB in CSR, and 800 MB as a dense matrix.
    "sparse-memory": Job("the same: memory that 5 000 of the rows take", sparse_memory, "MB", most=6),
    "lbfgs": Job("L-BFGS regression, diabetes 10-100-1, 50 iterations", lbfgs_diabetes, least_ratio=3),
    "split": Job("split for early stopping, two classes, 200 000 rows: a row", early_stopping_split, "µs", most=1.5),
    "grid": Job(
        "GridSearchCV, 64 fits to digits of 50 epochs, 8 to 32 hidden units, 2 processes",
        partial(grid_search, SMALL_NETS), least_ratio=8,
    ),
    # Here the products alone, at the peak of both cores, would leave a ratio of 6.
    "larger-grid": Job("the same with 32 to 100 hidden units", partial(grid_search, LARGER_NETS)),
    "one-row": Job("predict one row, digits 64-100-10, float64", one_row, "µs", most=20),
    "tiny-fit": Job("fit 20 rows x 5, one epoch, beyond the validation of input", tiny_fit, "ms", most=2),
}


def digits_rows():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X / 16, y


def standardised(array):
    return (array - array.mean(axis=0)) / array.std(axis=0)


def models(estimator, **settings):
    """An estimator of each library, with the same parameters and seed."""
    from sklearn import neural_network

    import fastnn

    homes = {"fastnn": fastnn, "scikit-learn": neural_network}
    return {library: getattr(home, estimator)(random_state=0, **settings) for library, home in homes.items()}


def fits(estimator, X, y, **settings):
    return {
        library: Work(partial(model.fit, X, y), fit_found) for library, model in models(estimator, **settings).items()
    }  # fmt: skip


def fit_found(model):
    """The course of a training; L-BFGS leaves the end of it alone."""
    return {"epochs": model.n_iter_, "losses": getattr(model, "loss_curve_", model.loss_)}


def repeat(call, times):
    for _ in range(times):
        result = call()
    return result


# -- timing -----------------------------------------------------------------------------------------------------------


class DifferentError(Exception):
    """The libraries did not do the same: no gain is to come from doing less."""


def compare(job, options):
    """Return the times of each library, in the job's unit."""
    works = job.prepare(options)
    check_same(job, {library: work.found(work.run()) for library, work in works.items()})
    times = {library: [] for library in works}
    for _ in range(options.repeats):
        for library, work in works.items():
            wait_for_quiet()
            times[library].append(UNITS[job.unit] * work.measure())
    return times


def check_same(job, found):
    """Refuse a comparison of libraries that do not do the same.

    Raises
    ------
    DifferentError
        With what differs.
    """
    from numpy.testing import assert_allclose

    for what, theirs in found["scikit-learn"].items():
        try:
            assert_allclose(found["fastnn"][what], theirs, rtol=job.rtol, err_msg=what)
        except AssertionError as error:
            raise DifferentError(f"the libraries did not do the same: {what}\n{error}") from None


# -- the table --------------------------------------------------------------------------------------------------------


def result(job, options):
    """What is kept of a job; one that fails must not take the others' results away."""
    try:
        return {"times": compare(job, options)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def row(job, found):
    if "error" in found:
        return [job.title, f"not run: {found['error']}", "", "", job.goal(), ""]
    ours, theirs = medians(found)
    return [
        job.title, *(f"{value:.3g} {job.unit}" for value in (ours, theirs)), f"{theirs / ours:.1f}", job.goal(),
        ("yes" if is_reached(job, found) else "NO") if job.goal() else "",
    ]  # fmt: skip


def is_reached(job, found):
    """Whether a job was run and reached its goal, if it has one."""
    if "error" in found:
        return False
    ours, theirs = medians(found)
    return theirs / ours >= job.least_ratio and ours <= job.most


def medians(found):
    """Times of fastnn and of scikit-learn."""
    return (statistics.median(found["times"][library]) for library in ("fastnn", "scikit-learn"))


def render(stored):
    """Markdown: a row for each job, and where the figures are from."""
    lines = [line(["job", "fastnn", "scikit-learn", "scikit-learn / fastnn", "to reach", "reached"])]
    lines.append(line(["---", "---:", "---:", "---:", "---", "---"]))
    lines += [line(row(JOBS[name], found)) for name, found in stored["results"].items()]
    lines += ["", f"{stored['threads']} threads each, median of {stored['repeats']} timings in turns."]
    return "\n".join([*lines, *stored["notes"], "", provenance.line(stored)])


def line(cells):
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description="Compare fastnn's estimators with scikit-learn's.")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="NAME", help=", ".join(JOBS))
    command_line.add_fashion_mnist(parser)
    options = command_line.comparison(parser, 5, "timings", "one timing of a part of each job, to see that it runs")
    if options.quick:
        options.repeats = 1
    limit_threads()
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)  # training stops after a number of epochs on purpose
    stored = measure(options)
    provenance.publish(stored, render(stored), options)
    for name, found in stored["results"].items():
        if "error" in found or not (options.quick or is_reached(JOBS[name], found)):
            raise SystemExit(1)


def measure(options):
    notes = ["--quick: a part of each job, so that the figures mean nothing."] if options.quick else []
    if "fashion-mnist" in options.jobs and options.fashion_mnist is None:
        options.jobs.remove("fashion-mnist")
        notes.append("Fashion-MNIST was skipped: give its folder by --fashion-mnist.")
    results = {}
    for name in options.jobs:
        print(name, file=sys.stderr)
        results[name] = result(JOBS[name], options)
    return {**provenance.here(N_THREADS), "repeats": options.repeats, "notes": notes, "results": results}


if __name__ == "__main__":
    command_line.run(main)
