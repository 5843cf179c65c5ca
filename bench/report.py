"""Run the commands that the README and docs show and write their output there: `python bench/report.py [NAME ...]`.

A block between `<!-- begin NAME: COMMAND -->` and `<!-- end NAME -->` holds what COMMAND printed, or the
last lines of it where the command line says `| tail -n N`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- begin (\w+): (.*?) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)


def output_of(command: str) -> str:
    """Return what a shell command prints, with the interpreter that runs this script first on its path."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env={"PATH": path, "HOME": str(Path.home())}, text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def written(block: re.Match[str], names: list[str]) -> str:
    begin, name, command, _, end = block.groups()
    if names and name not in names:
        return block.group(0)
    print(f"{name}: {command}", file=sys.stderr)
    text = output_of(command)
    fenced = text if text.startswith("|") else f"```text\n{text}\n```"
    return f"{begin}{fenced}\n{end}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(BLOCK.sub(lambda block: written(block, sys.argv[1:]), page.read_text()))
