"""The README and the docs: every Python block runs, every link leads somewhere, every figure is a stored one."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import softmax
from sklearn.datasets import load_digits

import fastnn

ROOT = Path(fastnn.__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import chart, inference, provenance, report

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name):
    return (ROOT / name).read_text("utf-8")


# -- examples ----------------------------------------------------------------------------------------------------------


def script_of(page):
    """The Python blocks of a page, each line where the page has it, so that tracebacks name the page's lines.

    A block after `<!-- needs NAME -->` is left out where that library, which our own tests do without, is missing.
    """
    lines, end = [], 0
    for block in BLOCK.finditer(page):
        before = page[end : block.start()]
        needed = re.search(r"<!-- needs (\w+) -->\n$", before)
        runs = block[1] == "python" and not (needed and importlib.util.find_spec(needed[1]) is None)
        lines += ["\n" * before.count("\n"), "\n" + block[2] if runs else "\n" * block[0].count("\n")]
        end = block.end()
    return "".join(lines)


def apply(diff, root):
    """Make the changes that a page shows; the lines of each hunk must be in the file, in one place."""
    head, *hunks = re.split(r"^@@$\n", diff, flags=re.MULTILINE)
    path = root / head.removeprefix("--- ").strip()
    source = path.read_text("utf-8")
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] or "\n" for line in lines if line[0] in kept) for kept in (" -\n", " +\n"))
        assert source.count(old) == 1, f"{path.name} has {source.count(old)} places like\n{old}"
        source = source.replace(old, new)
    path.write_text(source, "utf-8")


@pytest.fixture(scope="module")
def run_examples(tmp_path_factory):
    """Run the blocks of a page, and return the folder that they ran in: in one process for each page, and but once."""

    @functools.cache
    def run(name):
        page, folder, environment = text_of(name), tmp_path_factory.mktemp("page"), {**os.environ}
        diffs = [text for kind, text in BLOCK.findall(page) if kind == "diff" and text.startswith("--- fastnn/")]
        if diffs:
            package = shutil.copytree(ROOT / "fastnn", folder / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
            for diff in diffs:
                apply(diff, folder)
            environment |= {"NUMBA_CACHE_DIR": str(package), "FASTNN_NUM_THREADS": "1"}
        script = folder / f"{Path(name).stem}.py"
        script.write_text(script_of(page), "utf-8")
        run_script(script, environment={**environment, "PYTHONPATH": str(folder if diffs else ROOT)})
        return folder

    return run


@pytest.mark.parametrize("name", [name for name in NAMES if "```python" in text_of(name)])
def test_examples_run(name, run_examples):
    """In the page's order, and with the changes to the package that the page shows."""
    run_examples(name)


def run_script(script, *arguments, environment):
    """Run a script in its own folder, with warnings as errors, and return what it printed and logged."""
    command = [sys.executable, "-W", "error", script, *arguments]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_script_of_the_batch_job_runs_and_when_it_is_over_trains_no_more(tmp_path):
    (code,) = (code for _, code in BLOCK.findall(text_of("docs/batch-jobs.md")) if code.startswith("# train.py"))
    script, log = tmp_path / "train.py", tmp_path / "runs" / "0.jsonl"
    script.write_text(code, "utf-8")
    log.parent.mkdir()

    def job():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return run_script(script, "runs/0.checkpoint", "runs/0.jsonl", environment=environment)

    printed, _ = job()
    epochs = [json.loads(line)["epoch"] for line in log.read_text("utf-8").splitlines()]
    assert printed.startswith(f"{len(epochs)} epochs, loss 0.")
    assert epochs == list(range(1, len(epochs) + 1))
    again, logged = job()
    assert again == printed
    assert "runs/0.checkpoint" in logged
    assert len(log.read_text("utf-8").splitlines()) == len(epochs)


# What PyTorch's Sequential takes for these layers: tensors by the layer's place, a Linear's weight as (n_out, n_in).
SEQUENTIAL = re.compile(r"Sequential\((.*)\)\.double\(\)")
LAYER = re.compile(r"torch\.nn\.(\w+)\(([\d, ]*)\)")


def state_dict_of(page):
    """Return the shapes that the Sequential of a page takes, by name."""
    shapes = {}
    for place, (kind, sizes) in enumerate(LAYER.findall(SEQUENTIAL.search(page)[1])):
        if kind == "Linear":
            n_in, n_out = map(int, sizes.split(","))
            shapes |= {f"{place}.weight": (n_out, n_in), f"{place}.bias": (n_out,)}
    return shapes


def test_the_saved_model_fits_the_torch_network_of_the_page(run_examples):
    """Without PyTorch: the names and shapes are those of its state dict, and its arithmetic predicts the same."""
    page, folder = text_of("docs/saving.md"), run_examples("docs/saving.md")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == state_dict_of(page)
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float64"}  # .double()
    X, _ = load_digits(return_X_y=True)
    hidden = np.maximum(X @ tensors["0.weight"].T + tensors["0.bias"], 0)  # as torch.nn.Linear and ReLU do
    logits = hidden @ tensors["2.weight"].T + tensors["2.bias"]
    np.testing.assert_allclose(softmax(logits, 1), fastnn.load(folder / "model.safetensors").predict_proba(X), 1e-9)


def test_what_torch_takes_is_what_the_page_shows():
    torch = pytest.importorskip("torch")
    page = text_of("docs/saving.md")
    net = eval(SEQUENTIAL.search(page)[0], {"Sequential": torch.nn.Sequential, "torch": torch})
    assert {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == state_dict_of(page)


def test_every_public_name_has_an_example_and_a_place_in_the_docs():
    api = text_of("docs/api.md")
    for name in fastnn.__all__:
        assert ">>>" in getattr(fastnn, name).__doc__, name
        assert re.search(rf":: fastnn\.{name}$", api, re.MULTILINE), name


# -- links -------------------------------------------------------------------------------------------------------------


def anchors_of(page):
    """GitHub's and Sphinx's names of the headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*NAMES, "bench/README.md"])
def test_links_within_the_repository_resolve(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(name))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.is_file(), f"{name}: {target}"
        assert not anchor or anchor in anchors_of(file.read_text("utf-8")), f"{name}: {target}"


FAULTS = re.compile(r"^\| fault \|[^|]*\| tests? in `tests/(\w+\.py)` \|\n\|[- |]*\n((?:\|.*\n)+)", re.MULTILINE)


@pytest.mark.parametrize(("name", "n_tables"), [("docs/batch-jobs.md", 3), ("docs/saving.md", 1)])
def test_the_tables_of_faults_name_tests_that_are_there(name, n_tables):
    """A test of another file than the table's comes with the file."""
    tables = FAULTS.findall(text_of(name))
    assert len(tables) == n_tables == text_of(name).count("| fault |")
    for home, rows in tables:
        for row in rows.splitlines():
            named = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", row.rsplit("|", 2)[1])
            assert named, row
            for file, test in named:
                assert f"def {test}(" in text_of(f"tests/{file or home}"), f"{test} is not in {file or home}"


# -- figures -----------------------------------------------------------------------------------------------------------


def test_every_figure_is_a_stored_one():
    """Writing the pages from the stored results again changes nothing, and there are results for every block."""
    results = report.stored_results()
    assert set(results) == set(report.commands())
    for page in report.PAGES:
        assert report.written(page.read_text("utf-8"), results) == page.read_text("utf-8"), page.name
    assert report.CHART.read_text("utf-8") == chart.svg(results["equal_loss"])


MACHINE = {
    "fastnn": "1", "python": "3", "numpy": "2", "numba": "0", "scikit-learn": "1", "CPU": "an abacus",
    "SIMD": "64 bits; the CPU has none",
}  # fmt: skip
HERE = {
    "date": "2020-02-20", "machine": MACHINE, "peers": {"JAX": "0.1"}, "threads": 2, "repeats": 3, "notes": ["A note."],
}  # fmt: skip
RESULTS = {
    "peers": [
        {
            "net": "tiny", "title": "2-4-1, batch 9", "dtype": "float32", "flops": 4_000,
            "microseconds": {"fastnn": [3.0, 2.0, 1.0], "JAX": [5.0, 5.0, 9.0]}, "peak": {"1": 10.0, "2": 20.0},
        },
    ],
    "dropin": {
        "digits": {"times": {"fastnn": [1.0, 2.0, 3.0], "scikit-learn": [12.0, 12.0, 12.0]}},
        "grid": {"error": "OSError: no room"},
    },
    "equal_loss": [
        {
            "title": "a < b", "losses": {"fastnn": 0.5, "JAX": 0.51},
            "seconds": {"fastnn": [1.0, 2.0, 9.0], "JAX": [5.0, 5.0, 5.0]},
        },
    ],
    "inference": [
        {
            "net": "64-64-10", "flops_of_row": 8_000, "bytes": 16_000, "read": 1e-6,
            "peaks": {"1000": [10.0, 20.0, 20.0]},
            "microseconds": {
                "1": {"fastnn": [3.0, 2.0, 1.0], "JAX": [5.0, 5.0, 9.0]},
                "1 again": {"fastnn": [1.0, 1.0, 1.0], "JAX": [5.0, 5.0, 9.0]},
                "1000": {"fastnn": [500.0, 500.0, 500.0], "JAX": [450.0, 450.0, 450.0]},
            },
            "estimator": {"forward": [2.0], "predict_proba": [30.0], "predict_proba, without validation": [3.0]},
            "latency": {"fastnn": {"p50": 2.0, "p99": 3.0}, "JAX": {"p50": 5.0, "p99": 70.0}},
            "threads": {
                "1 on one CPU": {"per_second": 250_000.0, "p50": 4.0, "p99": 6.0},
                "1": {"per_second": 400_000.0, "p50": 2.0, "p99": 3.0},
                "4": {"per_second": 300_000.0, "p50": 2.5, "p99": 9.0},
            },
        },
    ],
}  # fmt: skip
SHOWN = {
    "peers": "| tiny: 2-4-1, batch 9 | 2.0 (2.0) | 5.0 (0.8) | 2.50 | 10% |",
    "dropin": "| digits 64-100-10, defaults, float64 | 2 s | 12 s | 6.0 | ratio ≥ 5 | yes |",
    "equal_loss": "| a < b | 2 s (1.0 x) | 5 s (2.5 x) | 0.5000 to 0.5100 |",
    "inference": "| 64-64-10 | 1 again | 1.0 | 5.0 | 5.00 |  |  |  |",
}


@pytest.mark.parametrize("name", RESULTS)
def test_tables_are_written_from_results(name):
    stored = {name: json.loads(json.dumps({**HERE, "results": RESULTS[name]}))}
    page = f"Before.\n<!-- begin {name}: python x.py -->\nold 17\n<!-- end {name} -->\nAfter.\n"
    new = report.written(page, stored)
    assert SHOWN[name] in new.splitlines()
    assert "old" not in new and new.startswith("Before.\n<!-- begin") and new.endswith("-->\nAfter.\n")
    assert "A note." in new and "2 threads each" in new
    assert "2020-02-20, an abacus, vectors of 64 bits, Python 3; fastnn 1, numpy 2, numba 0," in new
    assert "JAX 0.1." in new
    assert report.written(new, stored) == new
    assert report.written(page, {}) == page


def test_prediction_is_held_to_its_goals_and_shows_percentiles():
    lines = inference.render({**HERE, "results": RESULTS["inference"]}).splitlines()
    for line in (
        "| 64-64-10 | 1 | 2.0 | 5.0 | 2.50 | ≥ 3, NO |  |  |",
        "| 64-64-10 | 1,000 | 500 | 450 | 0.90 | ≥ 1.05, NO | 80% | ≥ 90%, NO |",
        "| a call for one row: p50 / p99, µs | fastnn | JAX |",
        "| 64-64-10 | 2.0 / 3.0 | 5.0 / 70.0 |",
        "| 64-64-10 | 2.0 | 30.0 | 3.0 | 28.0 | ≤ 20, NO |",
        "| 64-64-10 | 1 | 400,000 | 1.00 x | 1.60 x | 2.0 | 3.0 |",
        "| 64-64-10 | 4 | 300,000 | 0.75 x | 1.20 x | 2.5 | 9.0 |",
    ):
        assert line in lines
    alone = [{**RESULTS["inference"][0], "microseconds": {"1": {"fastnn": [2.0]}}}]
    assert "| 64-64-10 | 1 | 2.0 | - |  |  |  |" in inference.render({**HERE, "results": alone}).splitlines()


COMMIT = {"hash": "0123456789abcdef", "changed": False}


@pytest.mark.parametrize(
    ("commit", "fastnn_version"),
    [
        (COMMIT, "1 (0123456789)"),
        (COMMIT | {"changed": True}, "1 (0123456789, with changes)"),
        (None, "1"),  # not measured in a clone
    ],
)
def test_results_name_the_commit_measured(commit, fastnn_version):
    stored = {**HERE, "commit": commit, "results": RESULTS["equal_loss"]}
    assert f"; fastnn {fastnn_version}, numpy 2," in provenance.line(stored)
    assert f">fastnn {fastnn_version}, scikit-learn 1," in chart.svg(stored)


def test_the_commit_measured_is_that_of_the_clone(tmp_path):
    def git(*arguments):
        author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        return subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert provenance.commit(tmp_path) is None
    git("init")
    assert provenance.commit(tmp_path) is None  # nothing has been committed
    (tmp_path / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "one")
    committed = {"hash": git("rev-parse", "HEAD").stdout.strip(), "changed": False}
    (tmp_path / "results.json").write_text("2\n")  # no code
    assert provenance.commit(tmp_path) == committed
    (tmp_path / "a.py").write_text("2\n")
    assert provenance.commit(tmp_path) == committed | {"changed": True}


def test_what_is_printed_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.measure("bench", "echo 3 of 4; echo 5 of 6")
    stored = report.stored_results(tmp_path)
    assert stored["bench"]["machine"]["fastnn"] == fastnn.__version__
    page = "<!-- begin bench: echo -->\n<!-- end bench -->"
    new = report.written(page, stored)
    where = provenance.line(stored["bench"])
    assert new == f"<!-- begin bench: echo -->\n```text\n3 of 4\n5 of 6\n```\n\n{where}\n<!-- end bench -->"


def test_the_chart_has_a_bar_for_each_time():
    picture = chart.svg({**HERE, "results": RESULTS["equal_loss"]})
    assert picture.count("<rect") == 2
    assert "a &lt; b" in picture and "2 s, loss 0.5000" in picture and "5 s, loss 0.5100" in picture
    assert f'width="{chart.LENGTH * 2 / 5:.1f}"' in picture
    assert "2020-02-20, an abacus" in picture
