"""The airspeed velocity suites' own arithmetic; `.ci/run` runs each of them once, but for those that compile anew."""

import json
import re

import pytest

from bench import noise
from bench.suite import BestOf


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


def test_spread_is_of_the_largest_over_the_smallest():
    assert noise.spreads([{"a": 1.0, "b": 2.0}, {"a": 1.2, "b": 2.0}, {"a": 1.1, "b": 2.0}]) == {"a": 0.2, "b": 0.0}


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


def block(config):
    return json.loads(re.search(r'"regressions_thresholds": (\{[^}]*\})', config).group(1))
