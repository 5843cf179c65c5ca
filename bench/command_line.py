"""What the command lines of the benches share: options, which libraries are there, and one line for what goes wrong."""

import argparse
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

USAGE = 2  # argparse's exit code


def run(main):
    """Run the main function of a script and end with its code; what goes wrong outside of it ends in one line."""
    try:
        code = main()
        sys.stdout.flush()
        if code:
            sys.exit(code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own flush at the end fails too
        fail("nobody reads the output any more")
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        if package in ("bench", "fastnn"):
            raise
        fail(f"{package} is not installed; python -m pip install '.[bench]' installs what the benchmarks need")
    except subprocess.CalledProcessError as error:
        command = error.cmd if isinstance(error.cmd, str) else " ".join(error.cmd)
        fail(f"this ended with exit code {error.returncode}: {command}")
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message, code=USAGE):
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(code)


# -- options -----------------------------------------------------------------------------------------------------------


def comparison(parser, repeats, samples, quick):
    """Return a comparison's options: its own, and those that all of them have."""
    many = f"{samples} to take the median of ({repeats})"
    parser.add_argument("--repeats", type=at_least(1), default=repeats, metavar="N", help=many)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=writable, metavar="FILE", help="keep every timing, with machine and versions")
    return parser.parse_args()


def add_fashion_mnist(parser):
    where = "where the idx files of Fashion-MNIST lie"
    parser.add_argument("--fashion-mnist", type=folder, metavar="FOLDER", help=where)


def at_least(least):
    """Return the type of an option that is a whole number, and not too small."""

    def number(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
        return int(text)

    return number


def regex(text):
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression, got {text!r}") from error
    return text


def folder(text):
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return text


def writable(text):
    """Find out before the measurement, not after it, whether its results can be kept."""
    path = Path(text)
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if path.is_dir() or not (there.is_dir() or there == path) or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} is not a file that can be written")
    return path


# -- libraries ---------------------------------------------------------------------------------------------------------


def installed(modules):
    """Of libraries and the modules that each needs: those that can be used, and a line for each that cannot."""
    missing = {name: [module for module in needed if not find_spec(module)] for name, needed in modules.items()}
    notes = [f"{name} is left out: {' and '.join(lacks)} not installed." for name, lacks in missing.items() if lacks]
    return [name for name, lacks in missing.items() if not lacks], notes


def chosen(parser, names, modules):
    """Return what `installed` does; of libraries that were asked for by name none may be missing."""
    if names is None:
        return installed(modules)
    there, notes = installed({name: needed for name, needed in modules.items() if name in names})
    if notes:
        parser.error(f"argument --libraries: {' '.join(notes)}")
    if "fastnn" not in there:
        parser.error("argument --libraries: fastnn must be among them, the others are compared with it")
    return there, []
