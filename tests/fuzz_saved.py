"""Load damaged files of models: `python fuzz_saved.py FOLDER N SEED` for N files made from the sound ones of a folder.

Each is refused by ValueError, or gives a model that predicts; all of them under a limit of memory. Prints how many
there were of each.
"""

import copy
import json
import random
import resource
import struct
import sys
import warnings
from pathlib import Path

import numpy as np

import fastnn

HEADROOM = 2**28  # bytes of address space that all the loading may need beside what the process has by then
ODD_VALUES = [
    None, True, False, 0, -1, 1, 2, 3, 10, 2**31, 2**53, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "relu", "softmax", "exp", "MLP", "MLPClassifier", "MLPRegressor", "binary", "multiclass", "<U99999999", "|O",
    "<f4", "nan", [], {}, [[]], [0] * 1000, ["a", 1], {"float": "inf"}, {"tuple": [5]}, {"tuple": 5},
    {"array": [1, 2, 3], "dtype": "<i8"}, {"array": ["a"], "dtype": "<U99999999"}, {"array": [], "dtype": "<f8"},
    {"array": [1e300], "dtype": "<f4"}, {"array": ["a", "b", "c"], "dtype": "|O"}, {"a": {"b": "c"}},
]  # fmt: skip


def split(data):
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def joined(header, tensors):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + tensors


def flip_bits(rng, data, others):
    data = bytearray(data)
    end = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(rng.choice([8, end, len(data)]))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncate(rng, data, others):
    return data[: rng.randrange(rng.choice([9, 100, len(data)]))]


def splice(rng, data, others):
    other = rng.choice(others)
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    return data[:at] + other[start : start + rng.choice([1, 8, 100, len(other)])] + data[at + rng.choice([0, 8, 100]) :]


def change_length(rng, data, others):
    return struct.pack("<Q", rng.choice([0, 1, 7, 8, len(data), len(data) - 8, 2**31, 2**63, 2**64 - 1])) + data[8:]


def places(value):
    """All containers within a JSON value with each of their keys."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def edit(rng, value, strangers):
    """Change some places of a JSON value: another value, one from elsewhere, none, one more."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        found = list(places(value))
        if not found:
            return
        container, key = rng.choice(found)
        change = rng.randrange(5)
        if change == 0:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif change == 1:
            other, at = rng.choice(list(places(rng.choice(strangers))))
            container[key] = copy.deepcopy(other[at])
        elif change == 2:
            del container[key]
        elif change == 3 and isinstance(container, dict):
            container[rng.choice([f"{key}_", "0.weight", "callbacks", "classes_", ""])] = container.pop(key)
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(rng.choice(container)))


def edit_metadata(rng, data, others):
    header, tensors = split(data)
    config = json.loads(header["__metadata__"]["fastnn"])
    edit(rng, config, [config] + [json.loads(split(other)[0]["__metadata__"]["fastnn"]) for other in others])
    header["__metadata__"]["fastnn"] = json.dumps(config)
    return joined(header, tensors)


def edit_header(rng, data, others):
    header, tensors = split(data)
    edit(rng, header, [header] + [split(other)[0] for other in others])
    return joined(header, tensors)


def swap_tensors(rng, data, others):
    return joined(split(data)[0], split(rng.choice(others))[1])


def nest(rng, data, others):
    header, tensors = split(data)
    depth = rng.choice([50, 150, 900, 3000, 100_000])
    nested = rng.choice([("[", "]"), ('{"a":', "}"), ('{"tuple":[', "]}")])
    deep = nested[0] * depth + rng.choice(["", "1", nested[1] * depth])
    if rng.random() < 0.3:
        return joined(deep.encode(), tensors)
    config = json.loads(header["__metadata__"]["fastnn"])
    config[rng.choice(list(config))] = "deep"
    header["__metadata__"]["fastnn"] = json.dumps(config).replace('"deep"', deep)
    return joined(header, tensors)


MUTATIONS = [
    flip_bits, truncate, splice, change_length, edit_metadata, edit_metadata, edit_metadata, edit_header, swap_tensors,
    nest,
]  # fmt: skip


def use(model):
    """Predict for three rows, and look at the shapes."""
    if isinstance(model, fastnn.MLP):
        assert model.forward(np.ones((3, model.sizes[0]), model.dtype)).shape == (3, model.sizes[-1])
        return
    X = np.ones((3, model.n_features_in_))
    predicted = model.predict(X)
    assert predicted.shape[0] == 3
    if hasattr(model, "predict_proba"):
        assert model.predict_proba(X).shape[0] == 3
    model.get_params()


def limit_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM,) * 2)


def main(folder, n, seed):
    sound = [file.read_bytes() for file in sorted(Path(folder).glob("*.safetensors"))]
    damaged = Path(folder) / "damaged"
    for file in Path(folder).glob("*.safetensors"):  # compiles, and has everything imported
        use(fastnn.load(file))
    limit_memory()
    counts = {"refused": 0, "loaded": 0}
    for number in range(seed, seed + n):
        rng = random.Random(number)
        mutation = rng.choice(MUTATIONS)
        damaged.write_bytes(mutation(rng, rng.choice(sound), sound))
        try:
            model = fastnn.load(damaged)
        except ValueError as error:
            assert str(damaged) in str(error)
            counts["refused"] += 1
            continue
        except BaseException:
            print(f"number {number}, {mutation.__name__}", file=sys.stderr)
            raise
        try:
            use(model)
        except BaseException:
            print(f"number {number}, {mutation.__name__}, {model}", file=sys.stderr)
            raise
        counts["loaded"] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    warnings.filterwarnings("ignore", "Loading a")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
