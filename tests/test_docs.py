"""The README and the docs: every Python block runs, every link leads somewhere, every figure is a stored one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn

ROOT = Path(fastnn.__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import chart, report

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name):
    return (ROOT / name).read_text("utf-8")


# -- examples ----------------------------------------------------------------------------------------------------------


def script_of(page):
    """The Python blocks of a page, each line where the page has it, so that tracebacks name the page's lines."""

    def code(block):
        return "\n" + block[2] if block[1] == "python" else "\n" * block[0].count("\n")

    lines, end = [], 0
    for block in BLOCK.finditer(page):
        lines.append("\n" * page.count("\n", end, block.start()))
        lines.append(code(block))
        end = block.end()
    return "".join(lines)


def apply(diff, root):
    """Make the changes that a page shows; the lines of each hunk must be in the file, in one place."""
    head, *hunks = re.split(r"^@@$\n", diff, flags=re.MULTILINE)
    path = root / head.removeprefix("--- ").strip()
    source = path.read_text("utf-8")
    for hunk in hunks:
        old, new = (
            "".join(line[1:] or "\n" for line in hunk.splitlines(keepends=True) if line[0] in kept) for kept in (" -\n", " +\n")
        )
        assert source.count(old) == 1, f"{path.name} has {source.count(old)} places like\n{old}"
        source = source.replace(old, new)
    path.write_text(source, "utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if "```python" in text_of(name)])
def test_examples_run(name, tmp_path):
    """In one process for each page, in the page's order, and with the changes to the package that the page shows."""
    page, environment = text_of(name), {**os.environ, "PYTHONPATH": str(ROOT)}
    diffs = [diff for language, diff in BLOCK.findall(page) if language == "diff" and diff.startswith("--- fastnn/")]
    if diffs:
        package = shutil.copytree(ROOT / "fastnn", tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
        for diff in diffs:
            apply(diff, tmp_path)
        environment |= {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(package), "FASTNN_NUM_THREADS": "1"}
    script = tmp_path / f"{Path(name).stem}.py"
    script.write_text(script_of(page), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
