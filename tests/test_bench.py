"""The airspeed velocity suites' own arithmetic; `.ci/run` runs each of them once, but for those that compile anew."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from bench import dropin, interrupt, noise, provenance, startup
from bench.suite import BestOf
from fastnn.kernels import epoch, forward


def test_a_sample_is_the_best_call_of_its_burst(monkeypatch):
    now, durations = 0.0, iter([0.07, 0.01, 0.09])

    def call():
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    timed = BestOf()
    timed.best(call)
    assert timed.timer() == pytest.approx(0.01)
    assert next(durations, None) is None  # the burst went on until its 0.15 s were over


def test_the_suites_leave_it_to_the_environment_which_fastnn_is_measured(tmp_path):
    """asv imports all of `bench` from a clone, and measures commits that it has installed elsewhere."""
    script = """
        import sys
        from asv_runner.discovery import disc_benchmarks
        root = sys.argv[1]
        sys.path[:] = [path for path in sys.path if path != root]
        sys.path.append(root)  # last, for bench itself
        assert [*disc_benchmarks(f"{root}/bench")]
        print(sys.path.index(root) == len(sys.path) - 1)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(noise.ROOT)]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "True\n"


def test_no_peak_of_memory_is_the_compilers():
    """What a case needs, a process of its own has looked for before, and compiled where it was not kept."""
    script = """
        import subprocess
        from bench import memory
        from fastnn.kernels import jit
        warm_up = subprocess.run
        def told(command, stdout, check):
            return warm_up(command, check=check)
        memory.subprocess.run = told
        cases, case = memory.Memory(), ("64-64-10", "float32")
        cases.setup(*case)
        assert not jit.starts
        print("--", flush=True)
        cases.peakmem_classifier_fit(*case)
        cases.peakmem_network_forward(*case)
        print(*(start.name for start in jit.starts))
    """
    environment = {**os.environ, "PYTHONPATH": str(noise.ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    warmed, used = subprocess.check_output(command, cwd=noise.ROOT, env=environment, text=True).split("--")
    assert used.split()
    assert {*used.split()} <= {line.split()[0] for line in warmed.splitlines()}


def test_no_start_compiles_the_sources(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    startup.seconds("import sys; assert not sys.dont_write_bytecode")


def test_spread_is_of_the_largest_over_the_smallest_but_for_one_disturbed_round():
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 9.0, "b": 2.0}, {"a": 1.1, "b": 2.0}, {"a": 1.2, "b": 2.0}]
    assert noise.spreads(rounds) == {"a": 0.2, "b": 0.0}


def test_a_round_has_the_result_of_each_case():
    work = noise.tasks(r"^startup\.Import\.timeraw_package|Latency\.time_forward\('64-64-10', 'float32'|import_network")
    results = noise.one_round(work)
    assert results.keys() == {
        "startup.Import.timeraw_package", "memory.peakmem_import_network",
        "predict.Latency.time_forward('64-64-10', 'float32', 1)",
        "predict.Latency.time_forward('64-64-10', 'float32', 2)",
    }  # fmt: skip
    assert all(result > 0 for result in results.values())
    assert noise.tasks("no such case") == []


@pytest.mark.parametrize("bench", [[], ["--bench", "a|b"]])
def test_a_floor_too_wide_to_see_anything_is_not_kept(bench, tmp_path, monkeypatch, capsys):
    for name in ("NOISE", "CONFIG"):
        copy = tmp_path / getattr(noise, name).name
        copy.write_text(getattr(noise, name).read_text())
        monkeypatch.setattr(noise, name, copy)
    known = {"machine": provenance.here()["machine"], "spread": {"b.B('x', 2)": 0.04, "c.C": 0.2}}
    noise.NOISE.write_text(json.dumps(known))
    rounds = iter([{"a.A": 1.0, "b.B('x', 2)": 1.0}] + 3 * [{"a.A": 1.1, "b.B('x', 2)": 2.0}])
    monkeypatch.setattr(noise, "one_round", lambda work: next(rounds))
    monkeypatch.setattr("sys.argv", ["noise.py", *bench])
    with pytest.raises(SystemExit) as ended:
        noise.main()
    assert ended.value.code == 1
    kept = {"a.A": 0.1} | ({"b.B('x', 2)": 0.04, "c.C": 0.2} if bench else {})
    assert json.loads(noise.NOISE.read_text())["spread"] == kept
    assert block(noise.CONFIG.read_text()) == noise.thresholds(kept)
    message = capsys.readouterr().err
    assert "measured on a busy machine" in message and "b.B('x', 2): 100%" in message and "a.A" not in message
    assert message.endswith(r"python bench/noise.py --bench '^(b\.B)'" + "\n")


@pytest.mark.parametrize("differs", ["CPU", "SIMD"])
def test_floors_of_two_machines_are_not_mixed(differs, tmp_path, monkeypatch, capsys):
    machine = {**provenance.here()["machine"], differs: "an abacus"}  # hosts give CPUs of several kinds one name
    monkeypatch.setattr(noise, "NOISE", tmp_path / "noise.json")
    noise.NOISE.write_text(json.dumps({"machine": machine, "spread": {}}))
    monkeypatch.setattr("sys.argv", ["noise.py", "--bench", "Elementwise"])
    monkeypatch.setattr(noise, "one_round", lambda work: pytest.fail("it measures"))
    with pytest.raises(SystemExit):
        noise.main()
    told = capsys.readouterr().err
    assert "the other floors are of" in told and "an abacus" in told


def test_the_thresholds_are_those_of_the_stored_floors_and_none_lets_everything_pass():
    floors = json.loads(noise.NOISE.read_text())["spread"]
    assert block(noise.CONFIG.read_text()) == noise.thresholds(floors)
    assert max(floors.values()) <= noise.WIDEST


def test_threshold_is_twice_the_noisiest_case_of_as_many_threads_where_that_is_more_than_asvs_own():
    spread = {"fit.Fit.time_fit('a', 1)": 0.01, "fit.Fit.time_fit('a', 2)": 0.07, "fit.Fit.time_fit('b', 2)": 0.11}
    (pattern, threshold), (bare, of_bare) = noise.thresholds({**spread, "startup.first": 0.03}).items()
    assert [case for case in spread if re.match(pattern, case)] == list(spread)[1:]
    assert threshold == 0.25
    assert re.match(bare, "startup.first@main")
    assert of_bare == 0.1


def test_thresholds_replace_those_of_the_configuration():
    text = noise.with_thresholds(noise.CONFIG.read_text(), {r"^kernels\.A": 0.05, r"^kernels\.B": 0.1})
    assert block(text) == {r"^kernels\.A": 0.05, r"^kernels\.B": 0.1}
    assert block(noise.with_thresholds(text, {r"^fit\.A": 0.15})) == {r"^fit\.A": 0.15}


def test_the_slow_down_that_the_suites_must_find_can_be_planted(tmp_path):
    for folder in ("fastnn", "bench"):
        shutil.copytree(noise.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", noise.ROOT / "bench" / "slow_down.patch"], cwd=tmp_path, check=True)
    assert "udiv" in (tmp_path / "fastnn" / "kernels" / "simd.py").read_text(encoding="utf-8")
    script = "from bench import peak; peak.kernel()(*peak.operands('float32'), 10, 1)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def block(config):
    return json.loads(re.search(r'"regressions_thresholds": (\{[^}]*\})', config).group(1))


def test_libraries_that_do_not_do_the_same_are_told_and_end_in_an_error(monkeypatch, capsys):
    def work(loss):
        return dropin.Work(lambda: time.sleep(0.001), lambda done: {"loss": loss})

    jobs = {
        "alike": lambda options: {"fastnn": work(1.0), "scikit-learn": work(1.0)},
        "apart": lambda options: {"fastnn": work(1.0), "scikit-learn": work(2.0)},
    }
    monkeypatch.setattr(dropin, "JOBS", {name: dropin.Job(name, prepare) for name, prepare in jobs.items()})
    monkeypatch.setattr(dropin, "limit_threads", lambda: None)
    monkeypatch.setattr(dropin, "wait_for_quiet", lambda: None)
    monkeypatch.setattr("sys.argv", ["dropin.py", "--quick", "--jobs", *jobs])
    with pytest.raises(SystemExit) as ended:
        dropin.main()
    assert ended.value.code == 1
    table = capsys.readouterr().out
    assert "| apart | not run: DifferentError: the libraries did not do the same: loss" in table
    assert re.search(r"\| alike \| \d", table)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("solver", "dtype"), [("adam", "float32"), ("lbfgs", "float64")])
def test_ctrl_c_is_measured_with_the_kernels_of_the_fit_and_of_the_prediction_after_it(solver, dtype, monkeypatch):
    used = set()
    for engine in (epoch, forward):
        monkeypatch.setattr(engine, "code", noted(engine, used))
    interrupt.load(np.eye(4, dtype="float32"), np.arange(4) % 2, solver)
    assert used == {(epoch, dtype), (forward, dtype)}


def noted(engine, used):
    code = engine.code

    def called(dtype, *arguments):
        used.add((engine, np.dtype(dtype).name))
        return code(dtype, *arguments)

    return called
