"""Threads: how many, and that none of them crashes, hangs or changes a result, whoever calls and whatever forks."""

import _thread
import copy
import ctypes
import importlib
import os
import pickle
import re
import signal
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from helpers import interrupted_calls
from numba import types
from pool_job import Running, X, Y, fit, train
from scipy import sparse
from sklearn.base import clone
from subprocesses import path_to, run_script, started

import fastnn
from fastnn import model, parallel, workers
from fastnn.kernels import jit, system, team
from fastnn.kernels.listening import LOOKS_APART
from fastnn.kernels.system import WORDS_OF_CPUS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

VARIABLES = (
    "FASTNN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "LOKY_MAX_CPU_COUNT",
)  # fmt: skip
HERE = os.path.dirname(__file__)
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


# -- the default number ------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 CPUs on 8 cores, without quota and variables; `parallel.default_threads` anew each time."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(parallel, "_affinity", lambda: 16)
    monkeypatch.setattr(parallel, "_physical_cores", lambda: 8)
    monkeypatch.setattr(parallel, "_cgroup_quota", lambda: None)
    for name in ("default_threads", "allowed_threads"):
        monkeypatch.setattr(parallel, name, getattr(parallel, name).__wrapped__)
    return monkeypatch


def test_cores_decide_where_nothing_else_does(machine):
    assert parallel.default_threads() == (8, "cores of this machine")
    machine.setattr(parallel, "_physical_cores", lambda: None)
    assert parallel.default_threads() == (16, "cores of this machine")


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_decides(machine, name):
    machine.setenv(name, "3")
    assert parallel.default_threads() == (3, name)


def test_the_smallest_decides(machine):
    for value, name in zip((7, 5, 6), VARIABLES[1:], strict=False):
        machine.setenv(name, str(value))
    assert parallel.default_threads() == (5, "OMP_NUM_THREADS")
    machine.setattr(parallel, "_affinity", lambda: 4)
    assert parallel.default_threads() == (4, "CPUs this process may use")
    machine.setattr(parallel, "_cgroup_quota", lambda: 2)
    assert parallel.default_threads() == (2, "the container's CPU quota")
    machine.setenv("SLURM_CPUS_PER_TASK", "1")
    assert parallel.default_threads() == (1, "SLURM_CPUS_PER_TASK")


def test_the_own_variable_decides_alone(machine):
    machine.setenv("OMP_NUM_THREADS", "1")
    machine.setenv("FASTNN_NUM_THREADS", "12")
    assert parallel.default_threads() == (12, "FASTNN_NUM_THREADS")


def test_cpus_count_rather_than_cores_where_the_process_may_not_use_all(machine):
    """As by joblib: who gives a process 10 of 16 CPUs means 10."""
    machine.setattr(parallel, "_affinity", lambda: 10)
    assert parallel.default_threads() == (10, "CPUs this process may use")


@pytest.mark.parametrize(("value", "n"), [("4,2", 4), (" 4 ", 4), ("", 8), ("0", 8), ("-1", 8), ("many", 8)])
def test_values_of_openmp(machine, value, n):
    machine.setenv("OMP_NUM_THREADS", value)
    assert parallel.default_threads()[0] == n


@pytest.mark.parametrize(("n_jobs", "n"), [(1, 1), (5, 5), (99, 99), (-1, 16), (-2, 15), (-16, 1), (-99, 1)])
def test_the_convention_of_n_jobs(machine, n_jobs, n):
    assert parallel.count_of_jobs(n_jobs) == n


def test_all_jobs_are_all_that_are_allowed(machine):
    machine.setenv("OMP_NUM_THREADS", "3")
    assert parallel.count_of_jobs(-1) == 3
    machine.setenv("FASTNN_NUM_THREADS", "5")
    assert parallel.count_of_jobs(-1) == 5


# name: (files of a file system, CPUs of the quota)
QUOTAS = {
    "no control groups": ({}, None),
    "version 2": ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
    "version 2, no limit": ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "version 2, a part of a CPU": ({"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "version 2, nested": (
        {
            "proc/self/cgroup": "0::/system.slice/job.scope\n",
            "sys/fs/cgroup/cpu.max": "800000 100000",
            "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
            "sys/fs/cgroup/system.slice/job.scope/cpu.max": "200000 100000",
        },
        2,
    ),
    "version 2, the parent is tighter": (
        {
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/cpu.max": "100000 100000",
            "sys/fs/cgroup/slice/job/cpu.max": "400000 100000",
        },
        1,
    ),
    "version 2, the group of another": (
        {"proc/self/cgroup": "0::/mine\n", "sys/fs/cgroup/other/cpu.max": "100000 100000"},
        None,
    ),
    "version 2, the host's path in a container": (
        {"proc/self/cgroup": "0::/docker/1234\n", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/1234\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1, nested": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/slurm/job_7\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000",
        },
        4,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "nonsense": ({"proc/self/cgroup": "?\n\n0:\n", "sys/fs/cgroup/cpu.max": "x"}, None),
    "a period of 0": ({"sys/fs/cgroup/cpu.max": "100 0"}, None),
}


def made(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize("name", QUOTAS)
def test_quota_of_a_container(name, tmp_path):
    files, quota = QUOTAS[name]
    assert parallel._cgroup_quota(made(tmp_path, files)) == quota


@pytest.mark.skipif(not os.path.isdir("/sys/devices/system/cpu"), reason="elsewhere joblib is asked")
def test_physical_cores(tmp_path):
    siblings = ["0,4", "1,5", "0,4", "1,5"]
    files = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": text for i, text in enumerate(siblings)}
    assert parallel._physical_cores(made(tmp_path, files)) == 2
    assert parallel._physical_cores(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", VARIABLES)
def test_info_says_which_rule_decided(name):
    out, _ = run_script("from fastnn import info; print(info.report())", **{**dict.fromkeys(VARIABLES), name: "1"})
    assert re.search(rf"^threads +1 \({name}\)$", out, re.MULTILINE) or os.cpu_count() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_decides():
    script = """
        import os
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
        from fastnn import parallel
        assert parallel.default_threads()[0] == 1, parallel.default_threads()
    """
    run_script(script, **dict.fromkeys(VARIABLES))


# -- n_jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def teams(monkeypatch):
    """Numbers of threads in force in each call of the engine, which takes teams for all of them."""
    seen = []

    def watch(name):
        method = getattr(model.MLP, name)

        def watched(*arguments, **others):
            seen.append(fastnn.get_num_threads())
            return method(*arguments, **others)

        monkeypatch.setattr(model.MLP, name, watched)

    monkeypatch.setattr(model, "FLOPS_PER_THREAD", 1e-9)
    watch("_engine")
    watch("_forward")
    return seen


@pytest.mark.parametrize("estimator", [fastnn.MLPClassifier, fastnn.MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_n_jobs_is_in_force_in_fit_and_in_predictions(estimator, solver, teams):
    fitted = estimator(hidden_layer_sizes=(5,), max_iter=2, solver=solver, n_jobs=3).fit(X, Y)
    assert set(teams) == {3}
    fitted.predict(X)
    if solver == "adam":
        fitted.set_params(n_jobs=2).partial_fit(X, Y)
        assert teams[-1] == 2
    if estimator is fastnn.MLPClassifier:
        fitted.set_params(n_jobs=5)
        teams.clear()
        fitted.predict_proba(X), fitted.predict_log_proba(X), fitted.score(X, Y)
        assert teams == [5, 5, 5]
    teams.clear()
    with fastnn.threads(7):
        fitted.set_params(n_jobs=None).predict(X)
    assert teams == [7]


def test_results_do_not_depend_on_n_jobs(teams):
    assert len({train(n_jobs=n_jobs) for n_jobs in (None, 1, 2, 3, -1, -2)}) == 1


@pytest.mark.parametrize("n_jobs", [0, 1.5, "2", [1]])
def test_what_is_no_number_of_jobs_is_refused(n_jobs):
    with pytest.raises(ValueError, match="The 'n_jobs' parameter"):
        fastnn.MLPClassifier(n_jobs=n_jobs).fit(X, Y)


def test_n_jobs_goes_along():
    fitted = fastnn.MLPClassifier((3,), max_iter=2, n_jobs=2).fit(X, Y)
    for twin in (clone(fitted), pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert twin.n_jobs == 2
    theirs = fitted.to_sklearn()
    assert "n_jobs" not in theirs.get_params()
    assert fastnn.MLPClassifier.from_sklearn(theirs).n_jobs is None


def test_models_of_scikit_learns_pickles_predict():
    theirs = fastnn.MLPClassifier((3,), max_iter=2).fit(X, Y).to_sklearn()
    ours = fastnn.MLPClassifier.__new__(fastnn.MLPClassifier)
    ours.__setstate__(theirs.__getstate__())
    assert ours.n_jobs is None and ours.get_params()["n_jobs"] is None
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.fixture
def four(monkeypatch):
    """A budget of four CPUs, and how to take from it in other Python threads."""
    monkeypatch.setattr(parallel, "allowed_threads", lambda: 4)
    return parallel.Budget()


def test_threads_that_ask_at_once_get_the_same_entry_points():
    """Where nothing can be kept on disk they would be compiled twice else, under the same names."""
    dtype, seen = np.dtype("float32"), []

    def argument_types(real):
        if not seen:
            seen.append(None)
            seen.append(engine._wanted(dtype))  # as another thread meanwhile
        return {"X": types.Array(real, 1, "C")}

    engine = team.Engine(lambda crew, arguments: None, argument_types)
    assert engine._wanted(dtype) is seen[1]


class Other:
    """A call in another Python thread: takes when it is made, ends at `end`."""

    def __init__(self, budget, wanted):
        self.taken = None
        self._may_end = threading.Event()
        self._has_taken = threading.Event()

        def work():
            call = threading.Lock()
            with call:
                self.taken = budget.take(wanted, call)
                self._has_taken.set()
                self._may_end.wait(60)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def has_taken(self, seconds=60):
        return self._has_taken.wait(seconds)

    def end(self):
        self._may_end.set()
        self._thread.join(60)


def test_alone_a_call_gets_what_it_asks_for(four):
    for wanted in (1, 3, 9):
        call = threading.Lock()
        with call:
            assert four.take(wanted, call) == wanted


def test_beside_others_a_call_gets_what_they_leave(four):
    others = []
    for wanted, given in ((2, 2), (1, 1), (4, 1)):
        others.append(Other(four, wanted))
        assert others[-1].has_taken() and others[-1].taken == given
    others.append(Other(four, 4))
    assert not others[-1].has_taken(0.05)  # all CPUs are taken, one as the second of a team: it waits for that
    others[0].end()
    assert others[-1].has_taken() and others[-1].taken == 2
    for other in others:
        other.end()
    assert four.most == 4


def test_whoever_waits_is_left_room(four, monkeypatch):
    monkeypatch.setattr(parallel, "LOOKS_APART", 1.0)
    first = Other(four, 4)
    assert first.has_taken() and first.taken == 4
    second = Other(four, 4)
    assert not second.has_taken(0.05)
    first.end()
    call = threading.Lock()
    with call:
        assert four.take(4, call) == 3
        assert second.has_taken() and second.taken == 1
    second.end()


def test_more_callers_than_cpus_all_run(four):
    others = [Other(four, 1) for _ in range(7)]
    assert all(other.has_taken(5) and other.taken == 1 for other in others)
    for other in others:
        other.end()


def test_nobody_waits_for_ever(four, monkeypatch):
    """A handler may come within the call that is waited for, and itself wait for who waits."""
    monkeypatch.setattr(parallel, "MOST_WAITING", 0.3)
    call = threading.Lock()
    with call:
        assert four.take(4, call) == 4
        another = Other(four, 4)
        assert not another.has_taken(0.1)
        assert another.has_taken() and another.taken == 1 and four.most == 5
        another.end()


def test_who_waits_for_another_thread_than_the_main_one_waits_as_long_as_it_takes(four, monkeypatch):
    """There are no handlers in it, whether or not the main one waits, too."""
    monkeypatch.setattr(parallel, "MOST_WAITING", 0.1)
    team = Other(four, 4)
    assert team.has_taken()
    mine = threading.Lock()
    four._held = {**four._held, mine: (0, threading.main_thread().ident)}
    another = Other(four, 4)
    with mine:
        assert not another.has_taken(0.5)
    team.end()
    assert another.has_taken() and another.taken == 4 and four.most == 4
    another.end()


def test_what_a_call_holds_is_held_until_it_ends(four, monkeypatch):
    """However long that takes: a clock that says ten years later changes nothing."""
    long = Other(four, 4)
    assert long.has_taken()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3e8)
    another = Other(four, 2)
    assert not another.has_taken(0.2)
    long.end()
    assert another.has_taken() and another.taken == 2
    another.end()


BOTH_CALLS = pytest.mark.parametrize("call", ["call_team", "call_at_once"])


def at_each_moment(call, is_watched):
    """As `helpers.interrupted_calls`, of a call of a team of four."""
    return interrupted_calls(lambda: getattr(workers, call)(4, lambda crew, arguments: None, ()), is_watched)


@BOTH_CALLS
def test_whatever_ends_a_call_ends_what_it_holds(call, four, monkeypatch):
    monkeypatch.setattr(parallel, "budget", four)
    monkeypatch.setattr(workers.workers, "short", workers.ShortTeam())
    monkeypatch.setattr(parallel, "LOOKS_APART", 1000.0)  # who waits in vain stays
    errors = []
    for error in at_each_moment(call, lambda code: code.co_filename in (workers.__file__, parallel.__file__)):
        errors.append(error)  # with its traceback, which keeps all frames
        assert not any(call.locked() for call in four._held)
    assert len(errors) > 10


@BOTH_CALLS
def test_ctrl_c_loses_no_worker(call, monkeypatch):
    """At each of the same moments: a thread that is lost is not told to end, and stopped within machine code."""
    theirs, pool = set(threading.enumerate()), workers.Workers()
    monkeypatch.setattr(workers, "workers", pool)
    n_errors = 0
    functions = workers.call_team, workers.call_at_once, workers._enlist, workers.Workers.take, workers.Worker.start
    watched = [function.__code__ for function in functions]
    for n_errors, _ in enumerate(at_each_moment(call, lambda code: code in watched), 1):
        assert {worker._thread for worker in pool.free + pool.short.members} >= set(threading.enumerate()) - theirs
        getattr(workers, call)(4, lambda crew, arguments: None, ())  # in which each has a thread again
        assert {worker._thread for worker in pool.free + pool.short.members} == set(threading.enumerate()) - theirs
        pool.short.size = 0
        if n_errors % 2:
            pool.end()  # the next has new ones to start
    assert n_errors > 5
    pool.end()
    assert set(threading.enumerate()) <= theirs


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_the_workers_end(ctrl_c_raises):
    """Nothing is printed, and they end all the same."""
    script = """
        import atexit, os, signal, threading
        atexit.register(lambda: print(threading.active_count(), signal.getsignal(signal.SIGINT).__name__))
        from fastnn import workers
        join = workers.Worker.join
        def interrupted(worker, seconds):
            os.kill(os.getpid(), signal.SIGINT)
            join(worker, seconds)
        workers.Worker.join = interrupted
        workers.call_team(4, lambda crew, arguments: None, ())
    """
    process = started(script)
    assert process.communicate(timeout=300) == ("1 default_int_handler\n", "")
    assert process.returncode == 0


def test_threads_that_would_run_within_the_caller(monkeypatch):
    """As greenlets of gevent or eventlet in their place: a worker would wait there for ever."""

    class Greenlet(threading.Thread):
        def start(self):
            self._ident = threading.get_ident()
            self.run()

    monkeypatch.setattr(workers.threading, "Thread", Greenlet)
    monkeypatch.setattr(workers, "workers", workers.Workers())
    crews = []
    for call in (workers.call_team, workers.call_at_once):
        for _ in range(2):
            call(3, lambda crew, arguments: crews.append(crew.size), ())
    assert crews == [0, 0, 0, 0]


def test_short_calls_take_no_part(monkeypatch):
    """The prediction of a row has no time to wait."""
    monkeypatch.setattr(parallel.budget, "take", None)
    net = fastnn.MLP((20, 10, 2))
    for matrix in (np.asarray, sparse.csr_array):
        net.forward(matrix(np.zeros((1, 20), "float32")))
        with pytest.raises(TypeError):
            net.forward(matrix(np.ones((20_000, 20), "float32")))


def test_a_run_of_calls_is_of_one_thread_and_without_pauses(monkeypatch):
    caller, now, run = 1, 10.0, parallel.Run()
    monkeypatch.setattr(parallel, "threading", SimpleNamespace(get_ident=lambda: caller))
    monkeypatch.setattr(parallel, "time", SimpleNamespace(perf_counter=lambda: now))

    def calls(n, apart):
        nonlocal now
        found = []
        for _ in range(n):
            now += apart
            found.append(run.goes_on())
        return found

    assert not any(calls(10, 0.0006))
    assert calls(20, 0.00015) == [False] * 6 + [True] * 14
    caller = 2
    assert calls(20, 0.00015) == [False] * 7 + [True] * 13
    for _ in range(20):
        caller = 3 - caller
        assert not any(calls(5, 0.00015))


def test_a_prediction_goes_on_alone_where_a_team_has_all_cpus(four):
    """It would be over before it had waited; others leave it room meanwhile."""
    fit, short = threading.Lock(), threading.Lock()
    with fit:
        assert four.take(4, fit) == 4
        with short:
            assert four.take(2, short, waits=False) == 1
            assert four.take(4, fit) == 3
        assert four.take(4, fit) == 4
    assert four.most == 4


def test_predictions_of_few_rows_do_not_wait(monkeypatch):
    asked, take = [], parallel.budget.take
    monkeypatch.setattr(parallel.budget, "take", lambda n, call, waits: asked.append(waits) or take(n, call, waits))
    monkeypatch.setattr(workers.workers, "short", workers.ShortTeam())
    net = fastnn.MLP((784, 1024, 10), random_state=0)  # a row is more than one thread predicts as fast
    for n in (1, 50, 100, 50):
        net.forward(np.ones((n, 784), "float32"))
    assert asked == [False, True, False]


@pytest.fixture
def short(four, monkeypatch):
    """Make short calls on four CPUs, as it were; return how many threads they had and how many asked the budget."""
    asked, take = [], four.take
    monkeypatch.setattr(four, "take", lambda *arguments, **named: asked.append(arguments) or take(*arguments, **named))
    monkeypatch.setattr(parallel, "budget", four)
    monkeypatch.setattr(workers.workers, "short", workers.ShortTeam())

    def calls(*wanted):
        asked.clear()
        sizes = []
        for n in wanted:
            workers.call_at_once(n, lambda crew, arguments: sizes.append(1 + len(set(crew.tolist()))), ())
        return sizes, len(asked)

    return calls


def test_short_calls_keep_their_cpus_until_somebody_asks(four, short):
    assert short(2, 2, 2) == ([2, 2, 2], 1)
    assert short(3, 3, 2, 2) == ([3, 3, 2, 2], 2)
    other = Other(four, 4)  # which is not left waiting for them
    assert other.has_taken() and other.taken == 4
    assert short(2, 2) == ([1, 1], 2)
    other.end()
    assert short(2, 2) == ([2, 2], 1)


def test_who_makes_short_calls_is_left_a_cpu_between_them(four, short, monkeypatch):
    """Two teams that are called in turns would be in each other's way as soon as they meet again."""
    now = 1.0
    clock = SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(parallel, "time", clock)
    with ThreadPoolExecutor(1) as thread:
        def another(*wanted):
            return thread.submit(short, *wanted).result()

        met = []
        workers.call_at_once(4, lambda crew, arguments: met.append(another(4)), ())
        assert met == [([1], 1)]
        assert short(4, 4) == another(4, 4) == ([3, 3], 2)
        now += 0.003  # since they met
        assert another(4, 4) == ([4, 4], 1)
        long = Other(four, 4)  # to which those that are over mean nothing
        assert long.has_taken() and long.taken == 4
        long.end()


def test_a_handler_within_a_short_call_of_a_team_that_another_thread_has_called(four, short):
    """It is known as nested: its own longer call does not wait for the one beneath it."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(short, 4).result() == ([4], 1)
    taken = []

    def handler(crew, arguments):
        call = threading.Lock()
        with call:
            taken.append(four.take(4, call))

    workers.call_at_once(4, handler, ())
    assert taken == [1]


def test_short_and_long_calls_in_turns_have_the_same_workers(four, short):
    """Each for its own kind: none moves from one to the other and leaves the first to start a new one."""
    def turn():
        workers.call_team(4, lambda crew, arguments: None, ())
        return short(2, 3, 2)

    turn()
    turn()  # in which those that the short calls have taken are made up for
    before = threading.active_count()
    for _ in range(20):
        assert turn() == ([2, 3, 2], 3)
    assert threading.active_count() == before


def test_a_call_of_a_handler_does_not_wait_for_the_one_that_it_came_in(four):
    """Which would not end before; it goes on alone."""
    outer, inner = threading.Lock(), threading.Lock()
    with outer:
        assert four.take(4, outer) == 4
        with inner:
            assert four.take(4, inner) == 1
    other = Other(four, 4)
    assert other.has_taken() and other.taken == 4
    other.end()


def test_a_handler_may_predict_and_train_wherever_it_comes():
    """At each moment of a call at which Python calls one: within the locks of the budget and of workspaces, too."""
    script = """
        import sys
        import numpy as np
        import fastnn
        from fastnn import model, parallel, workers

        fastnn.set_num_threads(2)
        model.FLOPS_PER_THREAD = 1e-9
        X, y = np.ones((3000, 20), "float32"), np.zeros(3000, int)
        outer, inner = (fastnn.MLP((20, 30, 2), random_state=0) for _ in range(2))
        files = [module.__file__ for module in (model, parallel, workers)]

        def calls(net):
            net.forward(X[:40])
            net.forward(X)
            net.loss_and_gradients(X, y)

        def handle(frame, event, argument):
            global n_moments
            if event in ("call", "c_return") and frame.f_code.co_filename in files:
                n_moments += 1
                if n_moments % 7 == n_runs:
                    sys.setprofile(None)
                    calls(inner)
                    sys.setprofile(handle)

        calls(outer)
        for n_runs in range(7):
            n_moments = 0
            sys.setprofile(handle)
            calls(outer)
            sys.setprofile(None)
        print(n_moments > 50)
    """
    out, _ = run_script(script)
    assert out.split() == ["True"]


def test_a_short_call_within_another_has_a_team_of_its_own(four, short):
    """As of another thread, or of a signal's handler, in which to wait for the outer call would be to wait forever."""
    crews = []

    def outer(crew, arguments):
        crews.append(crew)
        workers.call_at_once(2, lambda crew, arguments: crews.append(crew), ())

    workers.call_at_once(2, outer, ())
    assert [len(crew) for crew in crews] == [1, 1] and crews[0][0] != crews[1][0]
    assert four.most == 4
    assert short(2, 2) == ([2, 2], 1)


def test_long_calls_of_one_thread_are_counted(monkeypatch):
    """Or a team beside them would have the CPUs that they run on."""
    taken, take = [], parallel.budget.take
    monkeypatch.setattr(parallel.budget, "take", lambda n, *args, **named: taken.append(n) or take(n, *args, **named))
    monkeypatch.setattr(workers.workers, "short", workers.ShortTeam())
    net, X = fastnn.MLP((20, 10, 2)), np.ones((20_000, 20), "float32")
    with fastnn.threads(1):
        for rows in (X, sparse.csr_array(X)):
            net.forward(rows)
        net.train_epoch(X, np.zeros(len(X), int), fastnn.SGD())
    assert taken == [1, 1, 1]


def test_a_call_in_a_team_ends_before_the_next_begins(teams):
    """The exact count of threads in compiled calls, of 4 Python threads that each ask for all CPUs."""
    expected, found = train(), []
    parallel.budget.most = 0
    workers = [threading.Thread(target=lambda: found.append(train(n_jobs=-1))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 4
    assert parallel.budget.most <= max(parallel.allowed_threads(), 4)
    assert not any(call.locked() for call in parallel.budget._held)


def work_in_eight_threads(monkeypatch):
    """Fit and predict on four CPUs, as it were, all of which each thread asks for; return what ran at once."""
    monkeypatch.setattr(model, "FLOPS_PER_THREAD", 1e-9)
    monkeypatch.setattr(parallel, "allowed_threads", lambda: 4)
    running, errors = Running(), []
    running.watch(monkeypatch.setattr)
    begin = threading.Barrier(8)

    def work(number):
        try:
            begin.wait()
            fitted = fit(X, n_jobs=-1, max_iter=3, solver=("adam", "lbfgs")[number % 2], early_stopping=number < 2)
            for i in range(100):
                fitted.predict(X[i : i + 1])
                if number % 4 == i % 4:
                    fitted.predict_proba(X)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return running


def test_fits_and_predictions_share_what_is_allowed(monkeypatch):
    """The exact count, by the calls that are made: as many calls as there are callers, and workers where there is room.

    Predictions that do not wait have no workers beside a team; what they may add is themselves.
    """
    running = work_in_eight_threads(monkeypatch)
    assert not running.excess(4)
    assert any(n for _, n, _ in running.seen)  # the first call is alone
    assert running.most() <= 8 and all(calls + short <= 8 for calls, _, short in running.seen)


def test_what_is_more_than_allowed_is_counted(monkeypatch):
    """Guards the test above."""
    monkeypatch.setattr(parallel.budget, "take", lambda wanted, *_, **__: wanted)
    assert work_in_eight_threads(monkeypatch).excess(4)


# -- workers -----------------------------------------------------------------------------------------------------------


@jit.jit
def meet(thread, n, marks):
    """Leave a mark, and wait a second or so for those of all others."""
    marks[8 * thread] += 1
    for _ in range(100_000_000):
        total = 0
        for i in range(n):
            total += team._load(marks, 8 * i)  # the compiler must not read them once for all
        if total >= n:
            break


_code = team.code_of(meet)


def start(crew, arguments):
    team.call_team(crew, _code(arguments, ()), team.address_of(arguments))


@pytest.fixture(scope="module")
def meeting():
    """Let a team of threads meet; return how often each of them was there."""
    arguments = types.Tuple([types.int64, types.int64[::1]])
    code = numba.njit(nogil=True)(start).compile(types.void(team.CREW, arguments))

    def run(n):
        marks = np.zeros(8 * n, np.int64)
        workers.call_team(n, lambda crew, marks: code(crew, (len(crew) + 1, marks)), marks)
        return marks[::8].tolist()

    return run


def test_all_of_a_team_meet(meeting):
    for n in (1, 2, 2, 3, 7, 2, 1):
        assert meeting(n) == [1] * n


def await_sleep(worker):
    deadline = time.monotonic() + 60
    while worker.mailbox[team.DOES] != team.ASLEEP:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_sleeps_is_woken(meeting):
    meeting(2)
    worker = workers.workers.free[-1]
    await_sleep(worker)
    assert meeting(2) == [1, 1]
    assert workers.workers.free[-1] is worker


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell CPUs")
def test_a_worker_that_was_woken_may_run_where_it_might_before(meeting):
    meeting(2)
    worker = workers.workers.free[-1]
    allowed = os.sched_getaffinity(worker.mailbox[team.SLEEPER])
    for _ in range(3):
        await_sleep(worker)
        assert meeting(2) == [1, 1]
        assert os.sched_getaffinity(worker.mailbox[team.SLEEPER]) == allowed == os.sched_getaffinity(0)


def test_workers_are_used_again(meeting):
    meeting(4)
    before = threading.active_count()
    for _ in range(20):
        meeting(4)
    assert threading.active_count() == before


def test_teams_of_several_python_threads_have_workers_of_their_own(meeting):
    found = []
    callers = [threading.Thread(target=lambda: found.extend(meeting(2) for _ in range(50))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(marks[0] == 1 and sum(marks) in (1, 2) for marks in found) and len(found) == 150
    assert len(workers.workers.free) == len({int(worker.crew[0]) for worker in workers.workers.free})


def test_a_process_ends_at_once_and_its_workers_with_it():
    script = """
        import atexit, threading, time
        ended = []
        atexit.register(lambda: ended.append(threading.active_count()) or print(ended, time.perf_counter() - begin < 5))
        import numpy as np, fastnn
        fastnn.set_num_threads(5)
        net = fastnn.MLP((100, 100, 100))
        net.forward(np.ones((20_000, 100), "float32"))
        assert threading.active_count() == 5, threading.active_count()
        begin = time.perf_counter()
    """
    out, _ = run_script(script)
    assert out.split() == ["[1]", "True"]


def test_predictions_after_the_workers_have_ended():
    """Of a handler that was registered before the package was imported, and so is called after its own."""
    script = """
        import atexit
        atexit.register(lambda: print(all((net.forward(X) == expected).all() for _ in range(100))))
        import numpy as np, fastnn
        from fastnn import workers
        fastnn.set_num_threads(2)
        net, X = fastnn.MLP((784, 1024, 1024, 10), random_state=0), np.ones((1, 784), "float32")
        expected = net.forward(X)
        assert len(workers.workers.short.members) == 1
    """
    out, _ = run_script(script)
    assert out.split() == ["True"]


def test_a_process_does_not_wait_for_each_of_many_workers_that_do_not_come(monkeypatch):
    now = 0.0

    class Lost:
        def tell_to_end(self):
            pass

        def join(self, seconds):
            nonlocal now
            now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    lost = workers.Workers()
    lost.free += [Lost() for _ in range(100)]
    lost.end()
    assert now == workers.PATIENCE


def test_errors_of_a_long_call_are_raised():
    def fail(crew, arguments):
        raise IndexError("index is out of bounds")

    with pytest.raises(IndexError, match="out of bounds"):
        workers.call_and_listen(fail, workers.ALONE, (), np.zeros(64, np.int64))


def test_what_a_handler_raises_ends_a_long_call():
    """Whatever it is: a batch system's SIGTERM may raise SystemExit."""
    state = np.zeros(64, np.int64)

    def last(crew, arguments):
        _thread.interrupt_main(signal.SIGTERM)
        while not state[team.STOP]:
            time.sleep(0.001)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit):
            workers.call_and_listen(last, workers.ALONE, (), state)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize("is_changed", [False, True])
def test_cpus_that_a_worker_is_given_as_it_wakes_are_kept(is_changed):
    """A call has it wake on another CPU; `taskset` may come before it does, and is not to be undone."""
    both = sorted(os.sched_getaffinity(0))[:2]
    if len(both) < 2 or both[-1] >= 63:
        pytest.skip("needs two CPUs")
    worker = workers.Worker()
    worker.start()
    try:
        mailbox, words = worker.mailbox, worker.mailbox[team.CPUS :]
        asleep_in_mailbox(mailbox)
        words[0], words[WORDS_OF_CPUS] = sum(1 << cpu for cpu in both), 1 << both[1]
        os.sched_setaffinity(mailbox[team.SLEEPER], {both[0] if is_changed else both[1]})
        mailbox[team.DOES] = team.WAITS
        system.ring(int(mailbox[team.BELL]))
        asleep_in_mailbox(mailbox)
        assert os.sched_getaffinity(mailbox[team.SLEEPER]) == ({both[0]} if is_changed else set(both))
    finally:
        worker.tell_to_end()
        worker.join(60)


def asleep_in_mailbox(mailbox):
    while mailbox[team.DOES] != team.ASLEEP:
        time.sleep(0.001)


def test_ctrl_c_while_the_thread_of_a_long_call_starts(monkeypatch):
    """What the call works on is not let go before the call has ended."""
    start, state, ended = _thread.start_new_thread, np.zeros(64, np.int64), []

    def interrupted(*args):
        start(*args)
        raise KeyboardInterrupt

    def call(crew, arguments):
        while not state[team.STOP]:
            time.sleep(0.001)
        time.sleep(0.01)
        ended.append(True)

    monkeypatch.setattr(_thread, "start_new_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.call_and_listen(call, workers.ALONE, (), state)
    assert ended


A_LONG_CALL = """
if hasattr(signal, "alarm"):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
try:
    workers.call_and_listen(lambda *_: None, workers.ALONE, (), np.zeros(64, np.int64))
except KeyboardInterrupt:
    print("interrupted")
"""


def assert_a_long_call_is_interrupted(script):
    """Run a script that prepares for it, then the call; the end of a process that hangs is its alarm's."""
    assert run_script(textwrap.dedent(script) + A_LONG_CALL)[0] == "interrupted\n"


def test_ctrl_c_at_the_moment_that_a_long_call_ends():
    """The lock that tells of the end has been acquired, but an exception takes the place of that answer."""
    script = """
        import signal
        import threading
        import numpy as np
        from fastnn import workers

        class Lock:
            def __init__(self):
                self._lock = lock()

            def acquire(self, timeout=-1):
                if self._lock.acquire(timeout=timeout) and timeout >= 0:
                    raise KeyboardInterrupt

            def release(self):
                self._lock.release()

        lock, threading.Lock = threading.Lock, Lock
    """
    assert_a_long_call_is_interrupted(script)


@pytest.mark.skipif(os.name != "posix", reason="alarms of POSIX")
def test_ctrl_c_at_each_moment_of_a_long_call():
    """Also while there is a look at the memory that a thread needs: nobody waits for a call that never begins."""
    script = """
        import signal, sys
        import numpy as np
        from fastnn import workers
        from fastnn.kernels import room

        def interrupt(frame, event, argument):
            global n_moments
            if event in ("call", "c_return") and frame.f_code.co_filename in (workers.__file__, room.__file__):
                n_moments += 1
                if n_moments == n_ends + 1:
                    raise KeyboardInterrupt

        signal.alarm(60)
        calls, n_ends, is_interrupted = [], 0, True
        while is_interrupted:
            n_moments, is_interrupted = 0, False
            sys.setprofile(interrupt)
            try:
                workers.call_and_listen(lambda *args: calls.append(args), workers.ALONE, (), np.zeros(64, np.int64))
            except KeyboardInterrupt:
                is_interrupted = True
                n_ends += 1
            sys.setprofile(None)
        print(n_ends, len(calls))
    """
    n_ends, n_calls = map(int, run_script(script)[0].split())
    assert n_ends > 8 and n_calls > n_ends / 2  # the first moments are before there is a thread to wait for


def test_ctrl_c_while_another_is_looked_at(ctrl_c_raises):
    """Two signals may come at once; nor may the second let go what the call works on."""
    ended = []

    class State:
        """Is interrupted as it is written to, where the first exception is caught."""

        def __init__(self):
            self.is_written = False

        def __setitem__(self, at, value):
            is_first, self.is_written = not self.is_written, True
            if is_first:
                raise KeyboardInterrupt

    def call(crew, arguments):
        _thread.interrupt_main()
        while not state.is_written:
            time.sleep(0.001)
        time.sleep(0.01)
        ended.append(True)

    state = State()
    with pytest.raises(KeyboardInterrupt):
        workers.call_and_listen(call, workers.ALONE, (), state)
    assert ended


def test_ctrl_c_again_and_again_while_a_long_call_ends(ctrl_c_raises):
    """A key that is held down sends many."""
    state, ended = np.zeros(64, np.int64), []

    def call(crew, arguments):
        for _ in range(4):
            _thread.interrupt_main()
            time.sleep(3 * LOOKS_APART)
        ended.append(bool(state[team.STOP]))

    with pytest.raises(KeyboardInterrupt):
        workers.call_and_listen(call, workers.ALONE, (), state)
    assert ended == [True]


def test_ctrl_c_where_no_thread_can_be_started_for_a_long_call(ctrl_c_raises):
    """It comes before the call begins: nobody waits for one that never does."""
    script = """
        import _thread, signal, sys
        import numpy as np
        from fastnn import workers

        def refuse(*_):
            raise RuntimeError("can't start new thread")

        def interrupt(frame, *_):
            if frame.f_code.co_name == "work":
                raise KeyboardInterrupt  # which ends the tracing too

        _thread.start_new_thread = refuse
        sys.settrace(interrupt)
    """
    assert_a_long_call_is_interrupted(script)


def test_a_long_call_where_no_thread_can_be_started(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    calls = []
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    workers.call_and_listen(lambda *args: calls.append(args), workers.ALONE, (1,), np.zeros(64, np.int64))
    assert len(calls) == 1


def test_where_no_thread_can_be_started(teams, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    expected = train(n_jobs=1)
    monkeypatch.setattr(workers.workers, "free", [])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert train(n_jobs=3) == expected


# -- beside Numba's threading layers -----------------------------------------------------------------------------------

TBB = os.path.join(sys.prefix, "lib", "libtbb.so.12")  # where Numba by itself does not find it


def is_there(layer):
    if os.path.exists(TBB):
        ctypes.CDLL(TBB, mode=ctypes.RTLD_GLOBAL)
    try:
        importlib.import_module(f"numba.np.ufunc.{layer}" + ("" if layer == "workqueue" else "pool"))
    except ImportError:
        return False
    return True


LAYERS = [
    pytest.param(layer, marks=pytest.mark.skipif(not is_there(layer), reason=f"there is no {layer}"))
    for layer in ("tbb", "omp", "workqueue")
]
every_layer = pytest.mark.parametrize("layer", LAYERS)
# For tests that load no layer, and those of ten seconds; with FASTNN_FULL=1 they too go through every layer.
by_default = pytest.mark.parametrize("layer", ["default"])
every_layer_in_full = every_layer if os.environ.get("FASTNN_FULL") == "1" else by_default

JOB = f"""
import multiprocessing, os, signal, sys, threading, warnings
sys.path.insert(0, {HERE!r})
warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
warnings.simplefilter("ignore", UserWarning)
import numpy as np
from fastnn import parallel
from pool_job import running, train, train_and_count, work
from running import watched

def trained_in_a_team():
    bits = train()
    assert parallel.budget.most == 2, parallel.budget.most
    return bits

if __name__ == "__main__":
    serial = train(n_jobs=1)
"""


def run_job(layer, script, **environment):
    lines = "".join(f"    {line}\n" for line in script.strip("\n").splitlines())
    environment = {**dict.fromkeys(VARIABLES), "NUMBA_NUM_THREADS": "2", "TEAMS_FOR_ALL": "1", **environment}
    return run_script(JOB + lines, NUMBA_THREADING_LAYER=layer, PYTHONPATH=path_to(HERE), **environment)


@every_layer_in_full
def test_eight_python_threads_fit_and_predict_at_once(layer):
    script = """
seeds = list(range(4)) * 2
expected = {(seed, dtype): train(seed, 1, dtype) for seed in range(4) for dtype in ("float32", "float64")}
found = []
def work(seed, dtype):
    for _ in range(3):
        found.append(((seed, dtype), train(seed, 2, dtype)))
workers = [threading.Thread(target=work, args=(seed, ("float32", "float64")[i // 4])) for i, seed in enumerate(seeds)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert len(found) == 24
for key, bits in found:
    assert bits == expected[key], key
"""
    run_job(layer, script)


@pytest.mark.parametrize("layer", LAYERS[-1:])
def test_two_python_threads_where_there_is_no_layer_but_workqueue(layer):
    """Which ends a process whose Python threads use it at once."""
    script = """
both, found = threading.Barrier(2), []
def work():
    both.wait()
    found.extend(train() for _ in range(3))
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert found == [serial] * 6
"""
    run_job(layer, script)


@every_layer
def test_parallel_regions_of_the_user_run_beside(layer):
    """And children of a process that has loaded the layer, and that has trained, train too."""
    script = f"""
import ctypes, numba
if os.path.exists({TBB!r}):
    ctypes.CDLL({TBB!r}, mode=ctypes.RTLD_GLOBAL)
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(x.size):
        s += x[i]
    return s
x = np.ones(10_000)
total(x)
found, done = [], threading.Event()
def work():
    found.extend(train() for _ in range(5))
    done.set()
worker = threading.Thread(target=work)
worker.start()
while not done.is_set():
    assert total(x) == x.size
worker.join()
assert found == [serial] * 5
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if trained_in_a_team() == serial else 1)
    assert os.waitpid(child, 0)[1] == 0
"""
    run_job(layer, script)


@FORKS
@every_layer_in_full
def test_children_of_a_server_that_has_trained_train(layer):
    """A pre-forking server: several children at once, and children of children; the parent goes on."""
    script = """
assert trained_in_a_team() == serial
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        good = trained_in_a_team() == serial
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if trained_in_a_team() == serial else 1)
        os._exit(0 if good and os.waitpid(grandchild, 0)[1] == 0 else 1)
    children.append(child)
assert train() == serial
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert train() == serial
"""
    run_job(layer, script)


@FORKS
@every_layer_in_full
def test_a_fork_beside_threads_that_train(layer):
    """The child has none of them, nor what they held."""
    script = """
done = threading.Event()
def work():
    while not done.is_set():
        train()
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers: worker.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if train() == serial else 1)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for worker in workers: worker.join()
"""
    run_job(layer, script)


POOLS = {
    "multiprocessing fork": """
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(train, [0] * 4)
""",
    "multiprocessing spawn": """
with multiprocessing.get_context("spawn").Pool(2) as pool:
    found = pool.map(train, [0] * 4)
""",
    "joblib multiprocessing": """
import joblib
found = joblib.Parallel(2, backend="multiprocessing")(joblib.delayed(train)() for _ in range(4))
""",
    "joblib loky": """
import joblib
found = joblib.Parallel(2, backend="loky")(joblib.delayed(train)() for _ in range(4))
""",
    "joblib threading": """
import joblib
found = joblib.Parallel(2, backend="threading")(joblib.delayed(train)() for _ in range(4))
""",
}


@every_layer_in_full
@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_a_process_that_has_trained(pool, layer):
    if "fork" in pool and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    run_job(layer, f"assert trained_in_a_team() == serial\n{POOLS[pool]}\nassert found == [serial] * 4")


@FORKS
def test_workers_of_a_pool_may_be_given_a_number_of_threads_of_their_own():
    """Though the process that forks them has found out what it may use."""
    script = """
        import multiprocessing, os
        import fastnn

        def give():
            os.environ["FASTNN_NUM_THREADS"] = "1"

        def tell(_):
            return fastnn.get_num_threads()

        print(tell(0))
        with multiprocessing.get_context("fork").Pool(1, give) as pool:
            print(*pool.map(tell, [0]))
    """
    out, _ = run_script(script, FASTNN_NUM_THREADS="5")
    assert out.split() == ["5", "1"]


# -- nested in others' workers -----------------------------------------------------------------------------------------

MANY = dict.fromkeys(VARIABLES)  # the machine as it is

# Beside the threads in compiled calls one more may run, in Python code between two calls, or as a worker that yields to
# whoever wants its CPU before it goes to sleep.
FROM_OUTSIDE = """
if sys.platform == "linux":
    assert np.median(looks) <= n + 1, looks
"""
IN_THREADS = """
import joblib
n = parallel.allowed_threads()
with watched() as looks:
    joblib.Parallel(n, backend="threading")(joblib.delayed(work)() for _ in range(4 * n))
"""


@pytest.mark.alone
@every_layer_in_full
def test_no_more_threads_than_allowed_in_joblibs_threads(layer):
    script = """
import joblib
n = parallel.allowed_threads()
found = joblib.Parallel(n, backend="threading")(joblib.delayed(train)(0, -1) for _ in range(4 * n))
assert set(found) == {serial}
assert not running.excess(n) and running.most() <= n, running.seen
"""
    run_job(layer, script + IN_THREADS + FROM_OUTSIDE, **MANY)


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how many threads run")
@pytest.mark.skipif(parallel.allowed_threads() == 1, reason="one CPU")
def test_more_threads_than_allowed_are_seen():
    """Guards the tests beside it."""
    without = "parallel.budget.take = lambda wanted, *_: wanted"
    run_job("default", f"{without}{IN_THREADS}assert np.median(looks) > n + 1, looks", **MANY)


@pytest.mark.alone
@every_layer_in_full
def test_no_more_threads_than_allowed_in_lokys_workers(layer):
    script = """
import joblib
n = parallel.allowed_threads()
workers = joblib.Parallel(n, backend="loky")
found = workers(joblib.delayed(train_and_count)() for _ in range(2 * n))
assert {bits for bits, *_ in found} == {serial}
assert {(most, *excess) for _, most, excess in found} == {(1,)}, found
with watched() as looks:
    workers(joblib.delayed(work)() for _ in range(4 * n))
"""
    run_job(layer, script + FROM_OUTSIDE, **MANY)


@pytest.mark.alone
@every_layer_in_full
@pytest.mark.parametrize("processes", [False, True])
def test_no_more_threads_than_allowed_in_dask_workers(processes, layer, tmp_path):
    pytest.importorskip("distributed")
    script = f"""
import dask
dask.config.set({{"temporary-directory": {str(tmp_path)!r}}})
from distributed import Client, LocalCluster
n = parallel.allowed_threads()
shape = dict(n_workers=n, threads_per_worker=1) if {processes} else dict(n_workers=1, threads_per_worker=n)
with LocalCluster(processes={processes}, dashboard_address=None, **shape) as cluster, Client(cluster) as client:
    found = client.gather([client.submit(train_and_count, pure=False) for _ in range(4 * n)])
    with watched() as looks:
        client.gather([client.submit(work, pure=False) for _ in range(4 * n)])
assert {{bits for bits, *_ in found}} == {{serial}}
assert max(most for _, most, _ in found) * (n if {processes} else 1) <= n, found
assert not any(excess for *_, excess in found), found
"""
    run_job(layer, script + FROM_OUTSIDE, **MANY)
