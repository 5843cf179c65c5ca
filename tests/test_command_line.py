"""The benches' command lines: what goes wrong is told in a line, with exit code 2, and before anything is measured."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import command_line

SCRIPTS = ["dropin", "equal_loss", "inference", "interrupt", "noise", "parity", "peers", "report", "startup"]


def bench(name, *arguments, missing=()):
    """Run a bench in a process in which some modules are not installed."""
    script = f"import sys, runpy; sys.modules |= dict.fromkeys({list(missing)}); sys.argv = sys.argv[1:];" \
             "runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip
    command = [sys.executable, "-c", script, str(ROOT / "bench" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_what_it_does(name):
    done = bench(name, "--help", missing=["asv", "asv_runner", "jax", "torch", "onnxruntime", "onnx", "openvino"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, ["--repeats", "0"], "must be an integer of at least 1, got '0'")
          for name in ("dropin", "equal_loss", "inference", "peers", "startup")),
        ("peers", ["--repeats", "-3"], "must be an integer of at least 1, got '-3'"),
        ("inference", ["--libraries"], "--libraries: expected at least one argument"),
        ("inference", ["--libraries", ""], "--libraries: invalid choice: ''"),
        ("inference", ["--libraries", "fastnn", "Theano"], "--libraries: invalid choice: 'Theano'"),
        ("inference", ["--libraries", "scikit-learn"], "--libraries: fastnn must be among them"),
        ("inference", ["--libraries", "fastnn", "PyTorch"], "--libraries: PyTorch is left out: torch not installed."),
        ("inference", ["--libraries", "fastnn", "OpenVINO"], "OpenVINO is left out: openvino and onnx not installed."),
        ("inference", ["--nets", "9-9"], "--nets: invalid choice: '9-9'"),
        ("peers", ["--json", "/dev/null/results.json"], "/dev/null/results.json is not a file that can be written"),
        ("equal_loss", ["--fashion-mnist", "/no/such"], "/no/such is not a folder"),
        ("dropin", ["--fashion-mnist", "/no/such"], "/no/such is not a folder"),
        ("dropin", ["--jobs", "none"], "--jobs: invalid choice: 'none'"),
        ("parity", ["digits"], "unrecognized arguments: digits"),
        ("report", ["nothing"], "no block is named nothing"),
        ("noise", ["--runs", "2"], "must be an integer of at least 3, got '2'"),
        ("noise", ["--bench", "Fit("], "must be a regular expression, got 'Fit('"),
        ("noise", [], "asv_runner is not installed; python -m pip install '.[bench]'"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_in_a_line(name, arguments, message):
    done = bench(name, *arguments, missing=["asv_runner", "torch", "onnx", "openvino"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{name}.py: error: ")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not done.stdout


def test_a_damaged_data_set_is_named(tmp_path):
    done = bench("equal_loss", "--quick", "--fashion-mnist", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"equal_loss.py: error: {tmp_path}")


@pytest.mark.parametrize("n_lines", [1, 100_000])  # what is written at the end, and what is written on the way
def test_a_reader_that_has_gone(n_lines):
    """As in `python bench/peers.py | head`; stdout is a pipe that nobody reads from any more."""
    reader, writer = os.pipe()
    os.close(reader)
    script = "from bench import command_line; command_line.run(lambda: print({!r} * {}))".format("line\n", n_lines)
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "-c: error: nobody reads the output any more\n")


def test_a_library_without_a_module_that_it_needs_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    modules = {"fastnn": ["fastnn"], "OpenVINO": ["fastnn", "onnx"]}
    assert command_line.installed(modules) == (["fastnn"], ["OpenVINO is left out: onnx not installed."])
    assert command_line.chosen(argparse.ArgumentParser(), None, modules) == command_line.installed(modules)
    assert command_line.chosen(argparse.ArgumentParser(), ["fastnn"], modules) == (["fastnn"], [])


def test_results_are_kept_in_a_file_that_can_be_written(tmp_path):
    for there in (tmp_path / "results.json", tmp_path / "new" / "folder" / "results.json"):
        assert command_line.writable(str(there)) == there
    with pytest.raises(argparse.ArgumentTypeError, match="is not a file that can be written"):
        command_line.writable(str(tmp_path))
