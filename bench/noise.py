"""How far the suites differ from themselves: `python bench/noise.py [--runs N] [--bench REGEX]`.

Runs the suites of one commit again and again, and writes how far each benchmark's results lay apart to
`noise.json`, and from that the thresholds of `asv publish` to `asv.conf.json`.
"""

import argparse
import itertools
import json
import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance

ROOT = Path(__file__).parents[1]
NOISE, CONFIG = ROOT / "bench" / "noise.json", ROOT / "asv.conf.json"
STEP = 0.05  # of thresholds, and asv's own threshold


def results_of_one_round(bench):
    """Run the suites of HEAD once, in one process each, and return the result of each case."""
    from asv.config import Config
    from asv.results import iter_results

    only = ["--bench", bench] if bench else []
    subprocess.run([sys.executable, "-m", "asv", "run", "HEAD^!", "-a", "rounds=1", *only], cwd=ROOT, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    (found,) = (r for r in iter_results(ROOT / Config.load(CONFIG).results_dir) if r.commit_hash == head)
    cases = {}
    for name in found.get_all_result_keys():
        params = found.get_result_params(name)
        for case, value in zip(itertools.product(*params), found.get_result_value(name, params), strict=True):
            if (not bench or re.search(bench, name)) and value is not None:
                cases[f"{name}({', '.join(case)})" if case else name] = value
    return cases


def spreads(rounds):
    """Return by how much the largest result of each case exceeds the smallest."""
    return {case: round(max(r[case] for r in rounds) / min(r[case] for r in rounds) - 1, 4) for case in rounds[0]}


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


def main():
    parser = argparse.ArgumentParser(description="Measure how far the suites differ from themselves.")
    parser.add_argument("--runs", type=command_line.at_least(3), default=5, metavar="N", help="rounds to compare (5)")
    only = "these benchmarks only; the others keep their floor"
    parser.add_argument("--bench", type=command_line.regex, metavar="REGEX", help=only)
    options = parser.parse_args()
    rounds = [results_of_one_round(options.bench) for _ in range(options.runs)]
    known = json.loads(NOISE.read_text("utf-8"))["spread"] if options.bench else {}
    noise = dict(sorted({**known, **spreads(rounds)}.items()))
    provenance.write(NOISE, {**provenance.here(), "rounds": options.runs, "spread": noise})
    CONFIG.write_text(with_thresholds(CONFIG.read_text(), thresholds(noise)))


if __name__ == "__main__":
    command_line.run(main)
