"""The command line: `python -m fastnn info` and `python -m fastnn bench`."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    from fastnn import info  # after parsing: --help need not wait for Numba

    if options.command == "bench":
        from fastnn import datasets, main_job

        try:
            job = main_job.digits_job(options.epochs) if options.data is None else \
                main_job.fashion_mnist_job(options.data, options.epochs)  # fmt: skip
        except datasets.DatasetError as error:
            parser.exit(2, f"{parser.prog} bench: error: {error}\n")
        try:
            print(main_job.run(job, options.repeats), end="\n\n")
        except KeyboardInterrupt:
            parser.exit(130, f"{parser.prog} bench: interrupted\n")
    print(info.report())
    return 0


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
