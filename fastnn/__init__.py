"""fastnn: multilayer perceptrons at the speed of the CPU, with scikit-learn's estimators on top.

Public names are imported on first use: `import fastnn` loads neither scikit-learn nor the kernels.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnn.callbacks import (
        Callback,
        CSVLog,
        EarlyStopping,
        JSONLinesLog,
        LearningRateSchedule,
        ProgressBar,
        TimeBudget,
    )
    from fastnn.checkpoint import Checkpoint
    from fastnn.estimators import MLPClassifier, MLPRegressor
    from fastnn.kernels.optimizers import SGD, Adam
    from fastnn.model import MLP
    from fastnn.parallel import get_num_threads, set_num_threads, threads
    from fastnn.patching import patch_sklearn, unpatch_sklearn
    from fastnn.plotting import plot_history
    from fastnn.saving import load

__version__ = "0.1.0"

_HOMES = {
    "CSVLog": "fastnn.callbacks",
    "Callback": "fastnn.callbacks",
    "Checkpoint": "fastnn.checkpoint",
    "EarlyStopping": "fastnn.callbacks",
    "JSONLinesLog": "fastnn.callbacks",
    "LearningRateSchedule": "fastnn.callbacks",
    "MLP": "fastnn.model",
    "MLPClassifier": "fastnn.estimators",
    "MLPRegressor": "fastnn.estimators",
    "ProgressBar": "fastnn.callbacks",
    "SGD": "fastnn.kernels.optimizers",
    "TimeBudget": "fastnn.callbacks",
    "Adam": "fastnn.kernels.optimizers",
    "get_num_threads": "fastnn.parallel",
    "load": "fastnn.saving",
    "patch_sklearn": "fastnn.patching",
    "plot_history": "fastnn.plotting",
    "set_num_threads": "fastnn.parallel",
    "threads": "fastnn.parallel",
    "unpatch_sklearn": "fastnn.patching",
}

__all__ = [
    "MLP", "SGD", "Adam", "MLPClassifier", "MLPRegressor", "load", "get_num_threads", "set_num_threads", "threads",
    "patch_sklearn", "unpatch_sklearn", "Callback", "Checkpoint", "EarlyStopping", "TimeBudget", "LearningRateSchedule",
    "CSVLog", "JSONLinesLog", "ProgressBar", "plot_history",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
    from fastnn.kernels.collector import without_collections

    with without_collections():  # where scikit-learn is loaded, a collection takes a third of the import of Numba
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
