"""Measure what the README and the docs show, keep it, and write it there: `python bench/report.py [NAME ...]`.

A block between `<!-- begin NAME: COMMAND -->` and `<!-- end NAME -->` shows the results of COMMAND, which are kept in
`bench/results/NAME.json` with date, commit, machine and versions. The pages and the chart are written from those files
alone: `--stored` does that and runs nothing, so that every number can be traced.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import chart, command_line, dropin, equal_loss, inference, interrupt, peers, provenance

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = ROOT / "bench" / "results"
CHART = ROOT / "docs" / "img" / "training-time.svg"
BLOCK = re.compile(r"(<!-- begin (\w+): (.*?) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)

# These keep their timings by --json; what other commands print is kept as it is.
RENDERERS = {"peers": peers.render, "dropin": dropin.render, "equal_loss": equal_loss.render,
             "inference": inference.render, "interrupt": interrupt.render}


def commands():
    """Return the command of each block."""
    return {name: command for page in PAGES for _, name, command, _, _ in BLOCK.findall(page.read_text("utf-8"))}


def measure(name, command):
    """Run the command of a block and keep what it finds."""
    path = RESULTS / f"{name}.json"
    if name in RENDERERS:
        output_of(f"{command} --json {path}")
    else:
        provenance.write(path, {**provenance.here(), "text": output_of(command)})


def output_of(command):
    """Return what a shell command prints, with the interpreter that runs this script first on its path."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env={"PATH": path, "HOME": str(Path.home())}, text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def stored_results(folder=RESULTS):
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def written(page, results):
    """Return a page's text with its blocks as the results have them; a block without results stays."""

    def block(match):
        begin, name, _, old, end = match.groups()
        return begin + (shown(name, results[name]) + "\n" if name in results else old) + end

    return BLOCK.sub(block, page)


def shown(name, stored):
    if "text" not in stored:
        return RENDERERS[name](stored)
    text = stored["text"] if stored["text"].startswith("|") else f"```text\n{stored['text']}\n```"
    return f"{text}\n\n{provenance.line(stored)}"


def write_pages():
    results = stored_results()
    for page in PAGES:
        page.write_text(written(page.read_text("utf-8"), results), "utf-8")
    CHART.write_text(chart.svg(results["equal_loss"]), "utf-8")


def main():
    blocks = commands()
    parser = argparse.ArgumentParser(description="Measure what the README and the docs show, and write it there.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"blocks to measure anew (all): {', '.join(blocks)}")
    parser.add_argument("--stored", action="store_true", help="measure nothing, write what is stored")
    options = parser.parse_args()
    unknown = set(options.names) - set(blocks)
    if unknown:
        parser.error(f"no block is named {', '.join(sorted(unknown))}; there are {', '.join(blocks)}")
    for name in [] if options.stored else options.names or blocks:
        print(f"{name}: {blocks[name]}", file=sys.stderr)
        measure(name, blocks[name])
        write_pages()  # at once: the tests, which are such a command, look at what is stored and at the pages
    write_pages()


if __name__ == "__main__":
    command_line.run(main)
