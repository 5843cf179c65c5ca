"""Where and when results were measured: what the files of `bench/results` hold beside them."""

import datetime
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("*.py", "pyproject.toml")  # what decides the results; reports write pages and results, and go on measuring
PACKAGES = {"JAX": "jax", "PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def here(n_threads=None, libraries=()):
    """Return the date, this machine, the versions, and the threads that each library was given, if they were."""
    from fastnn import info

    machine = dict(info.machine())
    machine.pop("kernel cache")  # a folder of no interest elsewhere
    peers = {library: version(PACKAGES[library]) for library in libraries if library in PACKAGES}
    return {
        "date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine, "peers": peers,
        "threads": n_threads,
    }  # fmt: skip


def commit(root=ROOT):
    """Return the commit of a clone, and whether its code differs from it; None where there is no clone."""

    def git(*arguments):
        return subprocess.check_output(["git", *arguments], cwd=root, text=True, stderr=subprocess.DEVNULL).strip()

    try:
        return {"hash": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", *CODE))}
    except (OSError, subprocess.CalledProcessError):
        return None


def line(stored):
    """Return one line of text that says where results are from."""
    machine = stored["machine"]
    vectors = machine["SIMD"].partition(";")[0]
    return (
        f"{stored['date']}, {machine['CPU']}, vectors of {vectors}, Python {machine['python']}; "
        f"{versions(stored, 'fastnn', 'numpy', 'numba', 'scikit-learn')}."
    )


def versions(stored, *packages):
    """Return the versions of some packages and of all peers, and with fastnn's the commit, if it is known."""
    numbers = {name: stored["machine"][name] for name in packages} | stored["peers"]
    if measured := stored.get("commit"):
        numbers["fastnn"] += f" ({measured['hash'][:10]}{', with changes' if measured['changed'] else ''})"
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def write(path, stored):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def publish(stored, text, options):
    """Keep what a comparison has found, where that is asked for, and print it."""
    if options.json:
        write(options.json, stored)
    print(text)
