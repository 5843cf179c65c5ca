"""fastnn: multilayer perceptrons at the speed of the CPU, with scikit-learn's estimators on top.

Public names are imported on first use: `import fastnn` loads neither scikit-learn nor the kernels.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnn.estimators import MLPClassifier, MLPRegressor
    from fastnn.kernels.optimizers import SGD, Adam
    from fastnn.model import MLP
    from fastnn.parallel import get_num_threads, set_num_threads, threads
    from fastnn.patching import patch_sklearn, unpatch_sklearn
    from fastnn.saving import load

__version__ = "0.1.0"

_HOMES = {
    "MLP": "fastnn.model",
    "MLPClassifier": "fastnn.estimators",
    "MLPRegressor": "fastnn.estimators",
    "SGD": "fastnn.kernels.optimizers",
    "Adam": "fastnn.kernels.optimizers",
    "get_num_threads": "fastnn.parallel",
    "load": "fastnn.saving",
    "patch_sklearn": "fastnn.patching",
    "set_num_threads": "fastnn.parallel",
    "threads": "fastnn.parallel",
    "unpatch_sklearn": "fastnn.patching",
}

__all__ = [
    "MLP", "SGD", "Adam", "MLPClassifier", "MLPRegressor", "load", "get_num_threads", "set_num_threads", "threads",
    "patch_sklearn", "unpatch_sklearn",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
