"""The job of `python -m fastnn bench`: the same training in fastnn and in scikit-learn, side by side."""

import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

from numba.core import event
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info
from tqdm import tqdm

import fastnn
from fastnn import datasets
from fastnn.datasets import Split

# Threads of one library spin for a while after its last call, and slow the other one.
PAUSE = 0.05

LIBRARIES = {"fastnn": fastnn.MLPClassifier, "scikit-learn": neural_network.MLPClassifier}


@dataclass
class Job:
    """What to train, on what, for how long."""

    title: str
    data: Split
    hidden: tuple[int, ...]
    batch_size: int
    epochs: int


@dataclass
class Result:
    """A fitted classifier and the seconds that each of its equal fits took."""

    model: Any
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def digits_job(epochs: int | None = None) -> Job:
    return Job("digits", datasets.digits(), (64,), 32, epochs or 100)


def fashion_mnist_job(folder: str, epochs: int | None = None) -> Job:
    return Job("Fashion-MNIST", datasets.fashion_mnist(folder), (128,), 128, epochs or 3)


def run(job: Job, repeats: int, share: bool = False) -> str:
    """Train with both libraries in turn, and return the comparison as text, or to `share` as Markdown."""
    with tqdm(total=(1 + repeats) * len(LIBRARIES), unit="fit", leave=False, disable=None) as bar:
        compile_time = _first_calls(job, bar)
        results = _timed_fits(job, repeats, bar)
    table = (_markdown if share else _aligned)(_cells(job, results, compile_time))
    return "\n".join([_headline(job, repeats), "", table, "", _verdict(results)])


def _first_calls(job: Job, bar: Any) -> str:
    """Use both libraries once, which compiles or loads all that the job needs; return fastnn's time for that."""
    bar.set_description("fastnn, compiling")
    start = time.perf_counter()
    with event.install_recorder("numba:compile") as compiled:
        _use(job, "fastnn")
    seconds = time.perf_counter() - start
    bar.update()
    bar.set_description("scikit-learn, first call")
    _use(job, "scikit-learn")
    bar.update()
    return f"{seconds:.2f} s" + ("" if compiled.buffer else ", loaded from cache")


def _use(job: Job, library: str) -> None:
    """Fit to one batch and predict for the test rows, for which fastnn may take another driver."""
    _fit(library, job, slice(job.batch_size), epochs=1).model.predict(job.data.X_test)


def _timed_fits(job: Job, repeats: int, bar: Any) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for _ in range(repeats):
        for library in LIBRARIES:
            bar.set_description(library)
            time.sleep(PAUSE)
            fit = _fit(library, job, slice(None), job.epochs)
            fit.seconds += results[library].seconds if library in results else []
            results[library] = fit
            bar.update()
    return results


def _fit(library: str, job: Job, rows: slice, epochs: int) -> Result:
    model = LIBRARIES[library](
        job.hidden, batch_size=job.batch_size, max_iter=epochs, n_iter_no_change=epochs + 1, random_state=0
    )
    X, y = job.data.X_train[rows], job.data.y_train[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after a number of epochs on purpose
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
    if model.n_iter_ < epochs:  # both libraries turn Ctrl-C into a warning
        raise KeyboardInterrupt
    return Result(model, [seconds])


def _headline(job: Job, repeats: int) -> str:
    n, n_in = job.data.X_train.shape
    sizes = "-".join(map(str, (n_in, *job.hidden, len(set(job.data.y_train.tolist())))))
    return (
        f"{job.title}: {n} rows to train on, {len(job.data.X_test)} to test on, network {sizes}, float32, Adam,\n"
        f"batches of {job.batch_size}, same seed; training time is the median of {repeats}, the libraries taking turns"
    )


def _cells(job: Job, results: dict[str, Result], compile_time: str) -> list[list[str]]:
    threads = {"fastnn": fastnn.get_num_threads(), "scikit-learn": _blas_threads()}
    rows = [["", "training", "ratio", "epochs", "final loss", "test accuracy", "threads", "first call, apart"]]
    for library, result in results.items():
        rows.append([
            library, f"{result.median:.3f} s", f"{result.median / results['fastnn'].median:.2f}",
            str(result.model.n_iter_), f"{result.model.loss_:.6f}",
            f"{result.model.score(job.data.X_test, job.data.y_test):.2%}", f"up to {threads[library]}",
            compile_time if library == "fastnn" else "-",
        ])  # fmt: skip
    return rows


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def _markdown(rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def _blas_threads() -> int:
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


def _verdict(results: dict[str, Result]) -> str:
    ratio = results["scikit-learn"].median / results["fastnn"].median
    return f"fastnn trains {ratio:.1f} times as fast as scikit-learn here."
