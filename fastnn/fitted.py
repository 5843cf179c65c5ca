"""The fitted network of an estimator: its arrays as users see them, the optimizer it goes on with, and its pickles."""

import dataclasses
import functools
import itertools
import math
import os
import sys
import threading
import warnings
import zlib
from typing import Any, Self

import numpy as np
import numpy.typing as npt

import fastnn
from fastnn import training
from fastnn.interop import SklearnExchange
from fastnn.kernels import optimizers
from fastnn.kernels.optimizers import SGD, Adam
from fastnn.model import MLP
from fastnn.training import ConstantRate

Array = npt.NDArray[Any]

# Columns of `history_` that are lists of the model once more.
REPEATED = {"loss": "loss_curve_", "validation_score": "validation_scores_"}

_NOT_PICKLED = (
    "_net", "_saved", "_coefs_", "_intercepts_", "_followed", "_optimizer", "_schedule", "_random_state",
)  # fmt: skip

# Held while arrays are handed out, and while they are taken back.
_handing_out = threading.RLock()
if hasattr(os, "register_at_fork"):  # another Python thread may have it at that moment
    os.register_at_fork(after_in_child=_handing_out._at_fork_reinit)  # type: ignore[attr-defined]


class FittedArrays:
    """`coefs_` or `intercepts_`: made from the network when somebody asks for them, and then there as long as needed.

    Predictions follow what is written to the arrays, and so look at all of them. When nobody refers to them any more
    nothing can be written, and they are taken back; to make them anew is cheaper than to look at them every time.
    """

    def __init__(self, of_network: str) -> None:
        self.of_network = of_network

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.key = name, f"_{name}"

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        with _handing_out:
            fitted = vars(model)
            if self.key not in fitted:
                net = model._unseen_network()
                if net is None:
                    raise AttributeError(f"{type(model).__name__!r} object has no attribute {self.name!r}")
                arrays = list(getattr(net, self.of_network))
                fitted[self.key] = _copies(arrays)
                # Not those of the network: a fit in another thread may go on, which is nothing that was written here.
                fitted["_followed"] = {**fitted.get("_followed", {}), self.name: arrays}
            return fitted[self.key]

    def __set__(self, model: Any, arrays: list[Array]) -> None:
        with _handing_out:
            vars(model)[self.key] = arrays

    def __delete__(self, model: Any) -> None:
        with _handing_out:
            model.coefs_, model.intercepts_ = model.coefs_, model.intercepts_  # what is left is the arrays
            for key in ("_net", "_saved", "_followed", self.key):
                vars(model).pop(key, None)


class FittedNetwork(SklearnExchange):
    """Keeps the network of an estimator as `_net`, or as the arrays of `_saved` where it was loaded and not yet used.

    `_coefs_` and `_intercepts_` are there while somebody else has them or what is in them, and `_followed` has copies
    of them, by name, as they were handed out or the network was last brought up to date with them.
    """

    activation: str
    out_activation_: str
    _net: MLP
    _schedule: ConstantRate

    coefs_ = FittedArrays("weights")
    intercepts_ = FittedArrays("biases")

    def _has_network(self) -> bool:
        return not self.__dict__.keys().isdisjoint(("_net", "_saved", "_coefs_"))

    def _set_network(self, net: MLP) -> None:
        with _handing_out:  # another thread may be about to look at the arrays
            self._net = net
            for name in ("_saved", "_coefs_", "_intercepts_", "_followed"):
                self.__dict__.pop(name, None)

    def _network(self) -> MLP:
        """Return the network of `coefs_` and `intercepts_`, brought up to date with what has been written to them."""
        fitted = self.__dict__
        net: MLP | None = fitted.get("_net")
        if net is None or "_coefs_" in fitted or "_intercepts_" in fitted or not self._describes(net):
            with _handing_out:  # or another thread's network, made meanwhile, would be lost with what was written to it
                net = self._unseen_network()
                if net is None or "_coefs_" in fitted or "_intercepts_" in fitted:
                    return self._follow_arrays()
                if not self._describes(net):
                    self._net = net = net.with_functions(self.activation, self.out_activation_)
        return net

    def _unseen_network(self) -> MLP | None:
        """Return the network as it was trained or loaded, None where there is none."""
        saved = self.__dict__.get("_saved")
        net: MLP | None = self.__dict__.get("_net")
        if net is None and saved is not None:
            coefs, intercepts = saved
            self._net = net = with_parameters(coefs, intercepts, self.activation, self.out_activation_)
            self.__dict__.pop("_saved", None)
        return net

    def _describes(self, net: MLP) -> bool:
        return net.output == self.out_activation_ and {self.activation}.issuperset(net.activations)

    def _follow_arrays(self) -> MLP:
        net, shared = self._unseen_network(), self._are_shared()  # before they are looked at: others write meanwhile
        coefs = _checked_arrays("coefs_", self.coefs_, "(n_in, n_out)", 2)
        intercepts = _checked_arrays("intercepts_", self.intercepts_, "(n_out,)", 1)
        sizes = (len(coefs[0]), *map(len, intercepts))
        shapes, expected = [array.shape for array in coefs], list(itertools.pairwise(sizes))
        if shapes != expected:
            raise ValueError(
                f"coefs_ must have the shapes {expected}, as intercepts_ are of {list(sizes[1:])} units, got {shapes};"
                " assign both where sizes change"
            )
        arrays, followed = {"coefs_": coefs, "intercepts_": intercepts}, self.__dict__.get("_followed", {})
        if net is None or net.sizes != sizes:
            net, followed = with_parameters(coefs, intercepts, self.activation, self.out_activation_), {}
            self.discard_optimizer()
        elif not self._describes(net):
            net = net.with_functions(self.activation, self.out_activation_)
        if not all(_same(followed.get(name, []), arrays[name]) for name in arrays):
            net.weights, net.biases = coefs, intercepts
            followed = {name: _copies(arrays[name]) for name in arrays}
        self._net, self._followed = net, followed
        if not shared and all(_is_own(array, net.dtype) for array in (*self.coefs_, *self.intercepts_)):
            for name in ("_coefs_", "_intercepts_", "_followed"):
                self.__dict__.pop(name, None)
        return net

    def _are_shared(self) -> bool:
        """Whether anybody else refers to the lists of arrays, or to what is in them."""
        fitted = self.__dict__
        handed_out = [name for name in ("_coefs_", "_intercepts_") if name in fitted]
        counts = [count for name in handed_out for count in _counts_in(fitted[name])]
        lists = [_count_of(fitted, name) for name in handed_out]
        return any(n > _OWN_COUNT for n in lists) or any(n > _OWN_COUNT_IN_LIST for n in counts)

    # -- the optimizer ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _optimizer(self) -> SGD | Adam:
        """The optimizer of the last training, which a loaded model makes when somebody asks for it."""
        kept = self._kept_optimizer(self._network()) if "_optimizer_state" in self.__dict__ else None
        if kept is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute '_optimizer'")
        return kept[0]

    def _kept_optimizer(self, net: MLP) -> tuple[SGD | Adam, ConstantRate] | None:
        """Return the optimizer and the schedule that go on where they were, if they are this network's."""
        state = self.__dict__.pop("_optimizer_state", None)
        if state is not None:
            optimizer = getattr(optimizers, state["rule"])(**state["settings"])
            net.set_moments(optimizer, state["moments"])
            optimizer.steps = state["steps"]
            self._schedule = getattr(training, state["schedule"])(**state["schedule_settings"])
            self._optimizer = optimizer
        if "_optimizer" in self.__dict__ and net.owns(self._optimizer):
            return self._optimizer, self._schedule
        return None

    def discard_optimizer(self) -> Self:
        """Forget what only a further `partial_fit` needs, which makes a pickle a third as large after Adam.

        Returns
        -------
        self
        """
        for name in ("_optimizer", "_schedule", "_optimizer_state"):
            self.__dict__.pop(name, None)
        return self

    # -- pickles ------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return arrays and builtins alone; how the engine keeps them depends on the machine."""
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        for name in _NOT_PICKLED:
            state.pop(name, None)
        if self._has_network():
            net = self._network()
            state["coefs_"], state["intercepts_"] = map(_copies, (net.weights, net.biases))
            optimizer = self.__dict__.get("_optimizer")
            if optimizer is not None and optimizer.moments is not None and net.owns(optimizer):
                state["_optimizer_state"] = {
                    "rule": type(optimizer).__name__,
                    "settings": dataclasses.asdict(optimizer),
                    "steps": optimizer.steps,
                    "moments": net.moments_by_layer(optimizer),
                    "schedule": type(self._schedule).__name__,
                    "schedule_settings": dataclasses.asdict(self._schedule),
                }
        _pack_record(state)
        return {**state, "_fastnn_version": fastnn.__version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        _unpack_record(state)
        version = state.pop("_fastnn_version", None)
        if version != fastnn.__version__ and "_sklearn_version" not in state:
            warn(f"Loading a {type(self).__name__} that fastnn {version} saved into fastnn {fastnn.__version__}.")
        arrays = [state.pop(name, None) for name in ("coefs_", "intercepts_")]
        binarizer = state.pop("_label_binarizer", None)
        super().__setstate__(state)
        if arrays[0] is not None:
            self._saved = arrays
        if binarizer is not None:
            self._label_binarizer = binarizer


def with_parameters(
    coefs: Any, intercepts: Any, activation: str, output: str, dtype: npt.DTypeLike | None = None
) -> MLP:
    """Return a new network of these parameters, float32 if they are and no other dtype is asked for."""
    if dtype is None:
        dtype = np.float32 if all(np.asarray(array).dtype == np.float32 for array in coefs) else np.float64
    net = MLP((len(coefs[0]), *map(len, intercepts)), activation, output, dtype, random_state=0)
    net.weights, net.biases = coefs, intercepts
    return net


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the line that called fastnn, however many of our own functions and decorators are in between."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("fastnn", "sklearn", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _count_of(values: dict[str, Any], key: str) -> int:
    return sys.getrefcount(values[key])


def _counts_in(values: Any) -> list[int]:
    return [sys.getrefcount(value) for value in values] if hasattr(values, "__iter__") else []


# What is counted, by the same code, of what nobody else refers to.
_OWN_COUNT, _OWN_COUNT_IN_LIST = _count_of({"": []}, ""), _counts_in([object()])[0]


def _is_own(array: Any, dtype: np.dtype[Any]) -> bool:
    """Whether an array has its memory for itself, and is what would be made from the network."""
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.owndata and array.flags.carray


def _copies(arrays: list[Array]) -> list[Array]:
    return [np.array(array) for array in arrays]


def _checked_arrays(name: str, arrays: Any, shape: str, n_axes: int) -> list[Array]:
    """Return the arrays, sparse ones (of pruned networks) as dense ones."""
    dense = []
    if hasattr(arrays, "__iter__"):
        dense = [np.asarray(array.toarray() if hasattr(array, "toarray") else array) for array in arrays]
        if any(map(np.ma.isMaskedArray, arrays)):
            raise ValueError(f"{name} must be plain arrays, got a masked one, whose mask would be lost; use filled(0)")
    if not dense or any(array.ndim != n_axes or array.dtype.kind not in "biuf" or not array.size for array in dense):
        found = [(array.shape, array.dtype.name) for array in dense] or repr(arrays)
        raise ValueError(f"{name} must be a list of arrays {shape} of real numbers, one per layer, got {found}")
    return dense


def _pack_record(state: dict[str, Any]) -> None:
    """Have the record of the epochs take few bytes of a pickle, and no seconds, which differ between equal fits."""
    if "history_" in state:
        n = len(state["history_"].get("loss", ()))
        state["history_"] = {
            name: _packed_column(name, column, n, state) for name, column in state["history_"].items()
        }
    for name in REPEATED.values():
        if name in state:
            state[name] = _packed(state[name])


def _packed_column(name: str, column: Any, n_epochs: int, state: dict[str, Any]) -> Any:
    """Return a number if it is that of all epochs, None if another attribute has the column, else the column."""
    if not _are_floats(column):
        return column
    if name == "seconds":
        return math.nan
    if name != "loss" and len(column) == n_epochs > 0 and len(set(column)) == 1:
        return float(column[0])
    other: Any = state.get(REPEATED.get(name, ""))
    return None if _are_floats(other) and _same_bits(column, other) else _packed(column)


def _packed(column: Any) -> Any:
    """Return a list of floats as the shorter one of two kinds of compressed bytes, which the first one tells.

    Both are of the steps from bit pattern to bit pattern: as they are, good where few numbers come again and again; or
    the first bytes of all, then the second ones, and so on, good where the upper half of each is close to the last.
    """
    if not _are_floats(column):
        return column
    steps = np.diff(np.array(column).view(np.int64), prepend=0).view(np.uint8)
    return min((bytes([n]) + zlib.compress(steps.reshape(-1, n).T.tobytes(), 9) for n in (1, 8)), key=len)


def _unpack_record(state: dict[str, Any]) -> None:
    for name in REPEATED.values():
        if name in state:
            state[name] = _unpacked(state[name])
    if "history_" in state:
        columns = {
            name: state[REPEATED[name]] if column is None else _unpacked(column)
            for name, column in state["history_"].items()
        }
        n = len(columns.get("loss", ()))
        state["history_"] = {
            name: n * [column] if isinstance(column, float) else column for name, column in columns.items()
        }


def _unpacked(column: Any) -> Any:
    if not isinstance(column, bytes):
        return column
    steps = np.frombuffer(zlib.decompress(column[1:]), np.uint8).reshape(column[0], -1).T.ravel().view(np.int64)
    return steps.cumsum().view(np.float64).tolist()


def _same_bits(column: list[float], other: list[float]) -> bool:
    return column is other or np.array(column).tobytes() == np.array(other).tobytes()


def _are_floats(column: Any) -> bool:
    return isinstance(column, list) and len(column) > 0 and all(isinstance(value, float) for value in column)


def _same(arrays: list[Array], others: list[Array]) -> bool:
    return len(arrays) == len(others) and all(map(np.array_equal, arrays, others))
