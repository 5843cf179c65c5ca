"""How far the estimators are from scikit-learn's own, over the grid of tests/test_parity.py: `python bench/parity.py`.

It prints the table of docs/parity.md, which `python bench/report.py parity` writes there.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench import command_line

Case = tuple[str, str, str, str]


def rows() -> Iterator[tuple[str, list[Case]]]:
    """Yield the name of each row of the table, and the cells of the grid that it sums up."""
    from parity_grid import GRID, needs_mend

    def row_of(case: Case) -> tuple[bool, str, str]:
        problem, solver, _, variant = case
        return needs_mend(problem, solver), solver, variant

    for (is_apart, solver, variant), cases in itertools.groupby(sorted(GRID, key=row_of), key=row_of):
        yield f"{solver}, {variant}" + (", three squared errors, mended" if is_apart else ""), list(cases)


def table_row(name: str, cases: list[Case]) -> str:
    from parity_grid import deviation, losses_of, outputs_of, train_both

    losses, outputs, same_length = [], [], 0
    for case in cases:
        ours, theirs, X = train_both(*case)
        same_length += ours.n_iter_ == theirs.n_iter_
        losses.append(deviation(losses_of(ours)[:5], losses_of(theirs)[:5]))
        outputs.append(deviation(outputs_of(ours, X), outputs_of(theirs, X)))
    return f"| {name} | {len(cases)} | {max(losses):.0e} | {max(outputs):.0e} | {same_length} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the table of docs/parity.md: how far from scikit-learn.")
    parser.parse_args()
    print("| solver and kind of fit | pairs of fits | first five losses | outputs in the end | equal `n_iter_` |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, cases in rows():
        print(table_row(name, cases))


if __name__ == "__main__":
    command_line.run(main)
