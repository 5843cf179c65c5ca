"""Models in safetensors files: weights by the names that PyTorch gives them, all else as JSON in the metadata.

Nothing in a file is trusted: it is compared with what a model can be before anything as large as it says is allocated.
"""

import collections
import itertools
import json
import math
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from fastnn.atomic import atomic_write, check_regular, write_pieces
from fastnn.history import filled
from fastnn.pieces import pieces_of

Array = npt.NDArray[Any]

FORMAT_VERSION = 1
METADATA = "fastnn"  # the one key of the file's metadata
MOST_TEXT = 2**24  # characters of the metadata: read as JSON they take up to fifty times the memory
MOST_HEADER = 4 * MOST_TEXT  # bytes of it, and of what the file says of its tensors
MOST_PER_LAYER = 1024  # characters of the latter, with any spaces that JSON may have
MOST_PARTS = 8  # of an object, lists and commas, for each tensor, the comma before it included
MOST_ITEM = 2**16  # bytes of an entry of an array, such as a label, 16 thousand characters
MOST_BYTES = 2**26  # of an array in the metadata: its dtype may say that few labels are very long

# How safetensors begins a header, and what follows the text there.
_BEGIN = re.compile(rf'\s*{{\s*"__metadata__"\s*:\s*{{\s*"{METADATA}"\s*:\s*(?=")')
_END = re.compile(r"\s*}\s*,")
_NOT_OURS = f"its header must begin with the metadata {METADATA!r} and no other; fastnn did not save it so"

OUTPUTS = {"MLP": None, "MLPClassifier": ("logistic", "softmax"), "MLPRegressor": ("identity", "exp")}
FIELDS: dict[str, type] = {
    "format_version": int, "fastnn_version": str, "model": str, "sizes": list, "activations": list, "output": str,
    "parameters": dict, "fitted": dict,
}  # fmt: skip


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float


def _is_curve(value: Any) -> bool:
    return type(value) is list and all(map(_is_number, value))


def _is_history(value: Any) -> bool:
    """Whether these are columns of one length, the losses among them."""
    if type(value) is not dict or "loss" not in value or not all(map(_is_curve, value.values())):
        return False
    return len({len(column) for column in value.values()}) == 1


# Fitted attributes in the file and what each may be. The others follow from the network.
FITTED: dict[str, Callable[[Any], bool]] = {
    "n_iter_": _is_count,
    "t_": _is_count,
    "loss_": _is_number,
    "loss_curve_": _is_curve,
    "history_": _is_history,
    "best_loss_": lambda value: value is None or _is_number(value),
    "validation_scores_": lambda value: value is None or _is_curve(value),
    "best_validation_score_": lambda value: value is None or _is_number(value),
    "_no_improvement_count": _is_count,
    "feature_names_in_": lambda value: isinstance(value, np.ndarray) and value.dtype == object,
}
FITTED_CLASSIFIER: dict[str, Callable[[Any], bool]] = {
    "classes_": lambda value: isinstance(value, np.ndarray) and value.size > 0,
    "_y_type": lambda value: isinstance(value, str) and value in ("binary", "multiclass", "multilabel-indicator"),
    "_labels_are_sparse": lambda value: type(value) is bool,
}


# -- save -------------------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], model: Any, net: Any) -> None:
    """Write a model, whose network is `net`, to a file; see `MLP.save` and `MLPClassifier.save`."""
    from_package = _safetensors()
    config = {
        "format_version": FORMAT_VERSION,
        "fastnn_version": fastnn.__version__,
        "model": _class_name(model),
        "sizes": list(net.sizes),
        "activations": list(net.activations),
        "output": net.output,
        "parameters": {},
        "fitted": {},
    }
    if model is not net:
        advice = "change it by set_params, or pickle the model"
        config["parameters"] = {
            name: _encoded(value, name, advice)
            for name, value in model.get_params(deep=False).items()
            if name != "callbacks"  # what watched the training is no part of the model
        }
        advice = "fit to labels that are strings, integers, floats or bools, or pickle the model"
        fitted = {name: value for name, value in vars(model).items() if name in _fitted_of(config)}
        if fitted.get("history_"):
            fitted["history_"] = filled(fitted["history_"])  # a callback saves the model while it is being written
        config["fitted"] = {name: _encoded(value, name, advice) for name, value in fitted.items()}
    tensors = {}
    for layer, (weights, biases) in enumerate(zip(net.weights, net.biases, strict=True)):
        tensors[f"{2 * layer}.weight"], tensors[f"{2 * layer}.bias"] = np.ascontiguousarray(weights.T), biases
    text = json.dumps(config)
    if len(text) > MOST_TEXT:
        raise ValueError(
            f"all but the weights must be at most {MOST_TEXT} characters, as of 200 thousand epochs, got {len(text)};"
            " pickle the model, or save it without its record after `del model.history_, model.loss_curve_`"
        )
    try:
        _model(_config(text), tensors)  # what cannot be loaded is not saved
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the model cannot be saved: {error}") from error
    data = from_package.numpy.save(tensors, {METADATA: text})
    with atomic_write(_decoded_path(path)) as file:
        write_pieces(file, pieces_of(memoryview(data)))


def _class_name(model: Any) -> str:
    cls = type(model)
    if cls.__name__ not in OUTPUTS or getattr(fastnn, cls.__name__) is not cls:
        raise TypeError(
            f"only {', '.join(OUTPUTS)} of fastnn can be saved, not classes made from them, got "
            f"{cls.__module__}.{cls.__qualname__}; pickle the model"
        )
    return str(cls.__name__)


def _encoded(value: Any, name: str, advice: str) -> Any:
    """Return a value as JSON has it; all that it does not have, and dictionaries, are marked by a dictionary."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_encoded(item, name, advice) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": {key: _encoded(item, name, advice) for key, item in value.items()}}
    is_known = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in _TYPES
    if is_known and (value.dtype != object or all(isinstance(item, str) for item in value)):
        return {"array": _encoded(value.tolist(), name, advice), "dtype": value.dtype.str}
    raise TypeError(f"{name} cannot be saved without pickle, got {_short(value)}; {advice}")


def _decoded_path(path: str | os.PathLike[str]) -> str:
    decoded = os.fsdecode(path)
    if "\0" in decoded:
        raise ValueError(f"path must be one that files can have, got {decoded!r}; use one without NUL")
    return decoded


# -- load -------------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Any:
    """Return the model that `save` wrote to a file: an `MLP`, `MLPClassifier` or `MLPRegressor`.

    Parameters
    ----------
    path : str or os.PathLike
        The file. It may come from anywhere: no code in it is run.

    Returns
    -------
    MLP, MLPClassifier or MLPRegressor
        It predicts the same bits as the one that was saved, and can go on training, with a new optimizer.

    Raises
    ------
    ValueError
        If the file is damaged, was not written by fastnn or by a newer version of it, describes no model that fastnn
        can have, or has weights that are not finite; or if no file can have such a path.
    OSError
        If it cannot be read, or is no regular file.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile, fastnn
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> fastnn.MLP((2, 4, 1), "tanh", "logistic", random_state=0).save(path)
    >>> fastnn.load(path)
    MLP((2, 4, 1), activation=('tanh',), output='logistic', dtype='float32')
    """
    from_package, path = _safetensors(), _decoded_path(path)
    check_regular(Path(path))
    try:
        config = _checked_header(path)
        with from_package.safe_open(path, framework="numpy") as file:
            names = file.keys()
            if len(names) != 2 * (len(config["sizes"]) - 1):
                raise ValueError(f"its {len(names)} tensors are not those of {len(config['sizes'])} sizes")
            slices = {name: file.get_slice(name) for name in names}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            _check_tensors(config["sizes"], shapes, {part.get_dtype() for part in slices.values()})
            tensors = {name: file.get_tensor(name) for name in shapes}
        return _model(config, tensors)
    except (from_package.SafetensorError, ValueError, TypeError, OverflowError, RecursionError) as error:
        fault = "its metadata is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not a model that can be loaded: {fault}") from error


def _checked_header(path: str) -> dict[str, Any]:
    """Return what the metadata of a file says, with which its header begins.

    Refuse all other metadata, and more about tensors than a network needs: to read it would take memory. Refuse names
    that come twice: safetensors takes the last of them, other programs may take the first.
    """
    with open(path, "rb") as file:
        n = int.from_bytes(file.read(8), "little")
        if n > MOST_HEADER:
            raise ValueError(f"its header must be at most {MOST_HEADER} bytes, got {n}")
        header = file.read(n).decode()
    begin = _BEGIN.match(header)
    if not begin:
        raise ValueError(_NOT_OURS)
    text, end = json.JSONDecoder().raw_decode(header, begin.end())
    following = _END.match(header, end)
    if not following:
        raise ValueError(_NOT_OURS)
    config = _config(text)
    tensors, n_sizes = header[following.end() :], len(config["sizes"])
    n_parts = sum(map(tensors.count, "{[,"))
    if len(tensors) > MOST_PER_LAYER * n_sizes or n_parts > MOST_PARTS * 2 * (n_sizes - 1):
        raise ValueError(f"its header has {len(tensors)} characters of tensors, more than those of a network take")
    json.loads(begin[0] + '""' + header[end:], object_pairs_hook=_each_once)
    return config


def _config(text: str) -> dict[str, Any]:
    """Return what the metadata says, each field of its type."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"its metadata must be at most {MOST_TEXT} characters, got {len(text)}")
    config = json.loads(text, object_pairs_hook=_each_once)
    if not isinstance(config, dict):
        raise ValueError(f"its metadata must be a JSON object, got {_short(config)}")
    version = config.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(
            f"its format version is {version}, fastnn {fastnn.__version__} knows those up to {FORMAT_VERSION}; "
            "upgrade fastnn"
        )
    for name, kind in FIELDS.items():
        if type(config.get(name)) is not kind:
            raise ValueError(f"{name} in its metadata must be of type {kind.__name__}, got {_short(config.get(name))}")
    _refuse_unknown("its metadata", config, FIELDS)
    if version != FORMAT_VERSION:
        raise ValueError(f"its format version must be {FORMAT_VERSION}, got {version}")
    if config["model"] not in OUTPUTS:
        raise ValueError(f"model must be one of {', '.join(OUTPUTS)}, got {_short(config['model'])}")
    if len(config["sizes"]) < 2 or not all(_is_count(size) and size > 0 for size in config["sizes"]):
        raise ValueError(f"sizes must be two positive integers or more, got {_short(config['sizes'])}")
    return config


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, times), *_ = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has {_short(name)} {times} times; each name must come once")
    return found


def _check_tensors(sizes: list[int], shapes: dict[str, tuple[int, ...]], dtypes: set[str]) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        expected[f"{2 * layer}.weight"], expected[f"{2 * layer}.bias"] = (n_out, n_in), (n_out,)
    if shapes != expected:
        raise ValueError(f"its tensors are not those of layers of {_short(sizes)} units, got {_short(shapes)}")
    if dtypes not in ({"F32"}, {"F64"}):
        raise ValueError(f"its tensors must be all float32 or all float64, got {_short(sorted(dtypes))}")


def _model(config: dict[str, Any], tensors: dict[str, Array]) -> Any:
    """Return the model of a configuration and tensors whose shapes fit to its sizes."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"tensor {name!r} must be finite, got NaN or infinity")
    n_layers = len(config["sizes"]) - 1
    weights = [tensors[f"{2 * layer}.weight"].T for layer in range(n_layers)]
    biases = [tensors[f"{2 * layer}.bias"] for layer in range(n_layers)]
    if config["model"] != "MLP":
        return _estimator(config, weights, biases)
    _refuse_unknown("MLP", config["parameters"] | config["fitted"], ())
    net = fastnn.MLP(config["sizes"], config["activations"], config["output"], weights[0].dtype, random_state=0)
    net.weights, net.biases = weights, biases
    return net


def _estimator(config: dict[str, Any], weights: list[Array], biases: list[Array]) -> Any:
    cls = getattr(fastnn, config["model"])
    parameters = {name: _decoded(value) for name, value in config["parameters"].items()}
    _refuse_unknown(cls.__name__, parameters, cls().get_params(deep=False).keys() - {"callbacks"})
    model = cls(**parameters)
    model._validate_params()
    sizes, activations, output = config["sizes"], config["activations"], config["output"]
    if activations != [model.activation] * (len(sizes) - 2):
        raise ValueError(
            f"activations must be {model.activation!r} for each of {len(sizes) - 2} hidden layers, got "
            f"{_short(activations)}"
        )
    if output not in (OUTPUTS[config["model"]] or ()):
        raise ValueError(f"output must be one of {OUTPUTS[config['model']]}, got {_short(output)}")
    model.__setstate__({
        **_checked_fitted(config),
        "n_features_in_": sizes[0], "n_outputs_": sizes[-1], "n_layers_": len(sizes), "out_activation_": output,
        "coefs_": weights, "intercepts_": biases, "_fastnn_version": fastnn.__version__,
    })  # fmt: skip
    return model


def _fitted_of(config: dict[str, Any]) -> dict[str, Callable[[Any], bool]]:
    return FITTED | FITTED_CLASSIFIER if config["model"] == "MLPClassifier" else FITTED


def _checked_fitted(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fitted attributes, each of its type and fit for the network."""
    known = _fitted_of(config)
    fitted = {name: _decoded(value) for name, value in config["fitted"].items()}
    _refuse_unknown(config["model"], fitted, known)
    for name, value in fitted.items():
        if not known[name](value):
            raise ValueError(f"{name} cannot be {_short(value)}")
    n_features, n_outputs = config["sizes"][0], config["sizes"][-1]
    if len(fitted.get("feature_names_in_", range(n_features))) != n_features:
        raise ValueError(f"feature_names_in_ must be {n_features} names, got {len(fitted['feature_names_in_'])}")
    if config["model"] == "MLPClassifier":
        if missing := sorted(FITTED_CLASSIFIER.keys() - fitted.keys()):
            raise ValueError(f"{missing[0]} is missing")
        kind, n_classes = fitted["_y_type"], len(fitted["classes_"])
        if (config["output"] == "softmax") != (kind == "multiclass"):
            raise ValueError(f"output cannot be {config['output']!r} for {kind} labels")
        # Of several labels for a row, `classes_` is what the user said of them and nothing depends on it.
        if {"binary": n_classes > 2 or n_outputs != 1, "multiclass": n_classes != n_outputs}.get(kind, False):
            raise ValueError(f"classes_ cannot be {n_classes} for {n_outputs} outputs of {kind} labels")
        classes = fitted["classes_"].tolist()
        if kind != "multilabel-indicator" and not all(one < other for one, other in itertools.pairwise(classes)):
            raise ValueError(f"classes_ must be in order and each once, got {_short(classes)}")
    return fitted


_TYPES = {"b": bool, "i": int, "u": int, "f": float, "U": str, "O": str}


def _decoded(value: Any) -> Any:
    """Return the value that `_encoded` made JSON of."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    match value:
        case {"float": "nan" | "inf" | "-inf" as text}:
            return float(text)
        case {"tuple": list() as items}:
            return tuple(_decoded(items))
        case {"dict": dict() as items}:
            return {key: _decoded(item) for key, item in items.items()}
        case {"array": list() as items, "dtype": str() as dtype}:
            return _array(_decoded(items), dtype)
        case dict():
            raise ValueError(f"{_short(value)} stands for no value")
    return value


def _array(values: list[Any], name: str) -> Array:
    if not re.fullmatch(r"[<>|](b1|[iu][1248]|f[248]|U[1-9]\d{0,7}|O)", name):
        raise ValueError(f"the dtype of an array cannot be {_short(name)}")
    dtype = np.dtype(name)
    if dtype.itemsize > MOST_ITEM:  # predictions have as much for each row
        raise ValueError(f"the entries of an array of dtype {name} are more than {MOST_ITEM} bytes each")
    if len(values) * dtype.itemsize > MOST_BYTES:
        raise ValueError(f"an array of {len(values)} entries of dtype {name} is more than {MOST_BYTES} bytes")
    if not all(type(value) is _TYPES[dtype.kind] for value in values):
        raise ValueError(f"an array of dtype {name} cannot be of {_short(values)}")
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    if array.tolist() != values:
        raise ValueError(f"an array of dtype {name} cannot hold {_short(values)}")
    return array


def _refuse_unknown(what: str, found: Any, known: Any) -> None:
    for name in found:
        if name not in known:
            raise ValueError(f"{what} has no {_short(name)}; upgrade fastnn if a newer one saved it")


_short = reprlib.repr  # a message is not as long as what is wrong


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError("to save or load a model needs safetensors: python -m pip install 'fastnn[save]'") from error
    return safetensors
