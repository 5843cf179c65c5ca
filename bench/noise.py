"""How far the suites differ from themselves: `python bench/noise.py [--runs N] [--bench REGEX]`.

Goes through the suites again and again, here and now, and writes how far each benchmark's results lay apart to
`noise.json`, and from that the thresholds of `asv publish` to `asv.conf.json`. What lies so far apart that its
threshold would let everything pass was measured on a busy machine: it gets no floor, and the script says so.
"""

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance

ROOT = Path(__file__).parents[1]
NOISE, CONFIG = ROOT / "bench" / "noise.json", ROOT / "asv.conf.json"
STEP = 0.05  # of thresholds, and asv's own threshold
WIDEST = 0.25  # a floor; its threshold is twice that


# -- one round ---------------------------------------------------------------------------------------------------------


def cases_of(benchmark):
    """Return the names of a benchmark's cases, as asv has them in its results."""
    cases = itertools.product(*benchmark.params)
    return [f"{benchmark.name}({', '.join(case)})" if case else benchmark.name for case in cases]


def tasks(bench):
    """Return what each process of a round measures: a benchmark's name, and its cases by their place.

    asv takes a process for each case, most of which goes by in imports; only a peak of memory needs that.
    """
    from asv_runner.discovery import disc_benchmarks

    found = []
    for benchmark in disc_benchmarks(str(ROOT / "bench")):
        cases = {place: case for place, case in enumerate(cases_of(benchmark)) if re.search(bench, case)}
        alone = benchmark.type == "peakmemory"
        for part in [{place: case} for place, case in cases.items()] if alone else [cases] if cases else []:
            found.append((benchmark.name, part))
    return found


def measure(name, places):
    """Print the results of a benchmark's cases; in a process of their own."""
    from asv_runner.discovery import get_benchmark_from_name

    benchmark, results = get_benchmark_from_name(str(ROOT / "bench"), name), []
    for place in places:
        if benchmark.params:
            benchmark.set_param_idx(place)
        benchmark.do_setup()
        found = benchmark.do_run()
        benchmark.do_teardown()
        results.append(statistics.median(found["samples"]) if isinstance(found, dict) else found)
    print(json.dumps(results))


def one_round(work):
    """Return the result of each case."""
    results = {}
    for name, cases in work:
        code = f"from bench import noise; noise.measure({name!r}, {list(cases)})"
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as in asv.conf.json
        printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True)
        results |= zip(cases.values(), json.loads(printed.splitlines()[-1]), strict=True)
    return results


# -- floors and thresholds ---------------------------------------------------------------------------------------------


def spreads(rounds):
    """Return by how much the largest result of each case exceeds the smallest, the very largest apart.

    What `asv run` keeps is the median of five rounds, which a single one that was disturbed does not move.
    """
    kept = {case: sorted(results[case] for results in rounds)[:-1] for case in rounds[0]}
    return {case: round(sizes[-1] / sizes[0] - 1, 4) for case, sizes in kept.items()}


def thresholds(noise):
    """Return thresholds for what needs more than asv's: twice the noisiest of the cases that end in the same parameter.

    That is the number of threads where there is one: what else a machine does disturbs several threads most.
    """
    found = {}
    for case, spread in sorted(noise.items()):
        name, opened, parameters = case.partition("(")
        last = re.escape(parameters.rpartition(", ")[2])
        pattern = f"^{re.escape(name)}" + (rf"\(.*{last}" if opened else "")
        found[pattern] = max(found.get(pattern, 0), round(STEP * math.ceil(2 * spread / STEP), 2))
    return {pattern: threshold for pattern, threshold in found.items() if threshold > STEP}


def with_thresholds(config, found):
    """Return the text of `asv.conf.json` with these thresholds in place of its own."""
    block = textwrap.indent(f'"regressions_thresholds": {json.dumps(found, indent=4)}', "    ").strip()
    return re.sub(r'"regressions_thresholds": \{[^}]*\}', lambda _: block, config)


def cpu_of(stored):
    """What tells the CPU of a run from others: hosts may give several of them one name."""
    return f"{stored['machine']['CPU']}, {stored['machine']['SIMD']}"


def main():
    parser = argparse.ArgumentParser(description="Measure how far the suites differ from themselves.")
    parser.add_argument("--runs", type=command_line.at_least(3), default=4, metavar="N", help="rounds to compare (4)")
    only = "these cases only; the others keep their floor"
    parser.add_argument("--bench", type=command_line.regex, metavar="REGEX", help=only)
    options = parser.parse_args()
    work = tasks(options.bench or "")
    if not work:
        parser.error(f"argument --bench: no case is called like {options.bench!r}")
    known = json.loads(NOISE.read_text("utf-8")) if options.bench else {"spread": {}}
    here = provenance.here()
    if options.bench and (cpu := cpu_of(here)) != (before := cpu_of(known)):
        parser.error(f"argument --bench: the other floors are of {before}, this is {cpu}; measure all, without --bench")
    rounds = []
    for n in range(options.runs):
        print(f"round {n + 1} of {options.runs}", file=sys.stderr)
        rounds.append(one_round(work))
    found = spreads(rounds)
    floors = {case: spread for case, spread in found.items() if spread <= WIDEST}
    noise = dict(sorted({**known["spread"], **floors}.items()))
    provenance.write(NOISE, {**here, "rounds": options.runs, "spread": noise})
    CONFIG.write_text(with_thresholds(CONFIG.read_text(), thresholds(noise)))
    tell_of_wide(found.keys() - floors.keys(), found)


def tell_of_wide(wide, found):
    """End with the cases that got no floor, if there are any."""
    if wide:
        list_of = "".join(f"\n  {case}: {found[case]:.0%}" for case in sorted(wide))
        names = sorted({re.escape(case.partition("(")[0]) for case in wide})
        command_line.fail(
            f"measured on a busy machine: results lay more than {WIDEST:.0%} apart, and got no floor, in{list_of}\n"
            f"where nothing else runs, measure them again: python bench/noise.py --bench '^({'|'.join(names)})'", 1
        )  # fmt: skip


if __name__ == "__main__":
    command_line.run(main)
