"""The command line: `python -m fastnn` with `info`, `bench`, `run SCRIPT` or `warmup`."""

import argparse
import os
import runpy
import sys
import types
import zipfile

DTYPES = ["float32", "float64"]


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "run":
        if not os.path.isfile(options.script):
            parser.exit(2, f"{parser.prog} run: error: {options.script} is not a file; give the script to run\n")
        _run_patched(options.script, options.arguments)
        return 0

    if options.command == "warmup":
        from fastnn import warmup

        return warmup.run(options.dtype)

    from fastnn import info  # after parsing: --help need not wait for Numba

    if options.command == "bench":
        from fastnn import datasets, main_job

        try:
            job = main_job.digits_job(options.epochs) if options.data is None else \
                main_job.fashion_mnist_job(options.data, options.epochs)  # fmt: skip
        except datasets.DatasetError as error:
            parser.exit(2, f"{parser.prog} bench: error: {error}\n")
        try:
            print(main_job.run(job, options.repeats, options.share), end="\n\n")
        except KeyboardInterrupt:
            parser.exit(130, f"{parser.prog} bench: interrupted\n")
    share = options.command == "bench" and options.share
    try:
        report = info.report()
    except ValueError as error:  # of FASTNN_NUM_THREADS
        parser.exit(2, f"{parser.prog} {options.command}: error: {error}\n")
    try:
        print(f"```text\n{report}\n```" if share else report, flush=True)
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes once more as it ends
    return 0


def _run_patched(script: str, arguments: list[str]) -> None:
    """Run a script as `python SCRIPT ARGUMENTS` would, with fastnn's estimators in scikit-learn's place."""
    from fastnn import patch_sklearn

    patch_sklearn()
    sys.argv[:] = [script, *arguments]
    if not sys.flags.safe_path:  # else Python puts no folder there
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    if script.endswith(".pyc") or zipfile.is_zipfile(script):
        runpy.run_path(script, run_name="__main__")
    else:
        _run_source(script)


def _run_source(script: str) -> None:
    """Run a Python file as the module `__main__`, and leave it there for what runs after its last line."""
    module = types.ModuleType("__main__")
    module.__file__ = os.path.abspath(script)
    module.__annotations__ = {}
    with open(script, "rb") as file:
        code = compile(file.read(), module.__file__, "exec", dont_inherit=True)
    sys.modules["__main__"] = module
    exec(code, vars(module))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m fastnn", description="Multilayer perceptrons at the speed of the CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, CPU, threads and why that many, kernel cache")
    bench = commands.add_parser("bench", help="train with fastnn and with scikit-learn, and compare")
    bench.add_argument(
        "--data", type=_folder_of_data, metavar="fashion-mnist=FOLDER",
        help="train on the idx files in this folder rather than on scikit-learn's digits",
    )  # fmt: skip
    bench.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training rows")
    bench.add_argument("--repeats", type=_positive, metavar="N", default=3, help="fits to take the median of (3)")
    bench.add_argument("--share", action="store_true", help="print Markdown, to paste into a report")
    run = commands.add_parser("run", help="run a script with fastnn's estimators under scikit-learn's names")
    run.add_argument("script", metavar="SCRIPT", help="a Python file that imports from sklearn.neural_network")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    warmup = commands.add_parser("warmup", help="compile what is not yet on disk; for images and job prologues")
    warmup.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE",
        help="the dtypes to compile for (float32 float64)",
    )  # fmt: skip
    return parser


def _folder_of_data(text: str) -> str:
    name, _, folder = text.partition("=")
    if name != "fashion-mnist" or not folder:
        raise argparse.ArgumentTypeError(f"must be fashion-mnist=FOLDER, got {text!r}")
    return folder


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
