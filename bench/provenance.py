"""Where and when results were measured: what the files of `bench/results` hold beside them."""

import datetime
import json
from importlib.metadata import version
from pathlib import Path

PACKAGES = {"JAX": "jax", "PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def here(n_threads=None, libraries=()):
    """Return the date, this machine, the versions, and the threads that each library was given, if they were."""
    from fastnn import info

    machine = dict(info.machine())
    machine.pop("kernel cache")  # a folder of no interest elsewhere
    peers = {library: version(PACKAGES[library]) for library in libraries if library in PACKAGES}
    return {"date": datetime.date.today().isoformat(), "machine": machine, "peers": peers, "threads": n_threads}


def line(stored):
    """Return one line of text that says where results are from."""
    machine = stored["machine"]
    packages = {name: machine[name] for name in ("fastnn", "numpy", "numba", "scikit-learn")} | stored["peers"]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    vectors = machine["SIMD"].partition(";")[0]
    return f"{stored['date']}, {machine['CPU']}, vectors of {vectors}, Python {machine['python']}; {versions}."


def write(path, stored):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def parsed(parser, repeats, samples, quick):
    """Return a comparison's options: its own, and those that all of them have."""
    many = f"{samples} to take the median of ({repeats})"
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=many)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every timing, with machine and versions")
    return parser.parse_args()


def publish(stored, text, options):
    """Print what a comparison has found, and keep it where that is asked for."""
    print(text)
    if options.json:
        write(options.json, stored)
