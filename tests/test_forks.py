"""Forks: whatever compiles or is interrupted meanwhile, nothing hangs, and no lock stays taken."""

import os

import pytest
from subprocesses import path_to, run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def run_forks(script, *arguments, **environment):
    """Run a script that may import from the folder of the tests."""
    return run_script(script, *arguments, PYTHONPATH=path_to(os.path.dirname(__file__)), **environment)


def test_a_fork_while_another_thread_compiles(tmp_path):
    """The child would wait for a thread that it does not have."""
    script = """
        import threading, warnings
        warnings.simplefilter("ignore")
        import numba
        import fastnn
        from fastnn.kernels import jit
        from forking import fork

        def compile_on():
            for _ in range(200):
                if done.is_set():
                    return
                numba.njit(lambda x: x + 1)(1)
                compile_double()

        def compile_in_the_child():
            assert numba.njit(lambda x: x + 2)(1) == 3
            fastnn.MLP((2, 3, 1))
            compile_double()

        def compile_double():
            jit.entry_points(jit.Wanted(double, numba.types.void(numba.types.float64[::1]), "double"))

        def double(out):
            out[0] *= 2

        done = threading.Event()
        threads = [threading.Thread(target=compile_on) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(10):
            fork(compile_in_the_child)
        done.set()
        for thread in threads: thread.join()
    """
    run_forks(script, NUMBA_CACHE_DIR=str(tmp_path))


def test_ctrl_c_while_a_fork_waits_for_the_compiler(ctrl_c_raises):
    """An error in what Python calls before a fork is lost, and the fork goes on: without the locks neither would."""
    script = """
        import os, signal, threading, time
        import numba
        from fastnn.kernels import forks
        from forking import are_free, child_of, ends_well, held_by_another

        def compile_in_the_child():
            assert are_free() and numba.njit(lambda x: x + 2)(1) == 3

        thread = held_by_another(forks.compiling)
        for seconds in (0.3, 0.5):
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            child = child_of(compile_in_the_child)
            began = time.monotonic()
            time.sleep(60)
        except KeyboardInterrupt:
            assert time.monotonic() - began < 30  # it has ended the call
            print("Ctrl-C was seen")
        assert ends_well(child)
        thread.join()
        assert are_free()
    """
    assert run_forks(script) == ("Ctrl-C was seen\n", "")


def test_ctrl_c_while_a_fork_is_made(ctrl_c_raises):
    """Whenever it comes, the locks are free afterwards, in both processes, and the next fork takes them all."""
    script = """
        import os, sys, threading
        os.register_at_fork(before=lambda: n_taken.append(len(forks._taken[threading.get_ident()][-1])))  # the last one
        from fastnn.kernels import forks
        from forking import are_free, child_of, ends_well
        from helpers import interrupted_calls

        def look():
            sys.setprofile(None)
            assert are_free()

        def fork():
            child = child_of(look)
            sys.setprofile(None)
            ends.append(ends_well(child))

        sys.unraisablehook = lambda unraisable: None
        forks._raise_soon = lambda lost: None
        n_taken, ends, n = [], [], 0
        of_forks = {function.__code__ for function in vars(forks).values() if hasattr(function, "__code__")}
        for _ in interrupted_calls(fork, lambda code: code in of_forks):
            n += 1
            assert are_free(), n
        assert n > 10 and all(ends) and set(n_taken) == {1 + len(forks._LOCKS)}, (n, ends, n_taken)

        def take(taken):
            if errors:
                raise errors.pop()
            take_locks(taken)

        def lose(error):
            if more_errors:
                raise more_errors.pop()
            told.append(error)

        told, errors, more_errors = [], [KeyboardInterrupt(), KeyboardInterrupt()], [KeyboardInterrupt()]
        take_locks, forks._take_locks, forks._lose = forks._take_locks, take, lose
        fork()
        assert len(told) == 2 and n_taken.pop() == 1 + len(forks._LOCKS), (told, n_taken)
    """
    run_forks(script)


def test_a_handler_that_forks_within_a_compile_of_its_own_thread():
    """It does not wait for who waits for it: another thread that is within a compile of fastnn."""
    script = """
        import threading
        from numba.core.compiler_lock import global_compiler_lock
        from fastnn.kernels import forks
        from forking import fork

        def compile_on():
            with forks.compiling:
                compiles.set()
                with global_compiler_lock:
                    pass

        def compile_in_the_child():
            assert forks.compiling.acquire(blocking=False)

        with global_compiler_lock:
            compiles = threading.Event()
            thread = threading.Thread(target=compile_on)
            thread.start()
            compiles.wait()
            fork(compile_in_the_child)
        thread.join()
    """
    run_forks(script)


def test_what_a_signal_raises_where_there_is_no_room_for_a_thread():
    script = """
        import os, signal, sys, threading
        from fastnn.kernels import forks

        def no_room():
            raise RuntimeError("can't start new thread")

        def take(taken):
            if not forks._lost:
                raise SystemExit(143)
            take_locks(taken)

        forks.check_room_for_a_thread = no_room
        take_locks, forks._take_locks = forks._take_locks, take
        try:
            os.fork()
            os._exit(0)
        except SystemExit as end:
            print(end.code)
        assert os.wait()[1] == 0
    """
    assert run_script(script) == ("143\n", "")


def test_what_ends_a_job_while_a_fork_waits_for_the_compiler():
    """As does SIGTERM with the usual handler: what it raises is not lost, nor what another signal's does."""
    script = """
        import functools, os, signal, sys, threading, time
        from fastnn.kernels import forks
        from forking import child_of, ends_well, held_by_another

        class Preempted(Exception):
            def __init__(self, *, number):
                self.number = number

        def preempt(number, frame):
            raise Preempted(number=number)

        def end_once(to, number, frame):
            signal.signal(number, to)
            sys.exit(143)

        class End:
            def __call__(self, number, frame):
                sys.exit(143)

        def wait():
            began = time.monotonic()
            try:
                time.sleep(60)
            finally:
                assert time.monotonic() - began < 30  # the error has ended the call

        def fork_meanwhile(end):
            held_by_another(forks.compiling)
            signal.signal(signal.SIGTERM, end)
            try:
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                child = child_of(lambda: None)
                wait()
            except SystemExit as end:
                print(end.code)
            try:
                wait()
            except Preempted as end:
                print(end.number == signal.SIGUSR1)
            assert ends_well(child)

        signal.signal(signal.SIGUSR1, preempt)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGTERM, signal.SIGUSR1})
        ends = [functools.partial(end_once, to) for to in (signal.SIG_IGN, signal.SIG_DFL)]
        for end in [lambda *_: sys.exit(143), End(), *ends]:
            fork_meanwhile(end)
    """
    assert run_forks(script) == (4 * "143\nTrue\n", "")


def test_forks_at_once_one_of_them_within_a_compile():
    """As by a handler of the log: who waits for the compiler has nothing that the other waits for."""
    script = """
        import threading, time
        from fastnn.kernels import forks
        from forking import fork

        def fork_within_a_compile():
            with forks.compiling:
                compiles.set()
                time.sleep(0.3)
                fork()

        compiles = threading.Event()
        threads = [threading.Thread(target=target, daemon=True) for target in (fork_within_a_compile, fork)]
        threads[0].start()
        compiles.wait()
        threads[1].start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    """
    run_forks(script)


def test_a_handler_that_forks_while_a_fork_waits():
    script = """
        import os, signal, threading
        from numba.core.compiler_lock import global_compiler_lock
        from forking import are_free, child_of, ends_well, held_by_another

        def fork(*_):
            ends.append(ends_well(child_of(lambda: None)))

        ends, thread = [], held_by_another(global_compiler_lock)
        signal.signal(signal.SIGUSR1, fork)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        fork()
        thread.join()
        assert ends == [True, True] and are_free()
    """
    run_forks(script)


def test_a_fork_while_another_process_compiles_and_hangs(tmp_path):
    """What waits for it has nothing half done; a fork does not wait as long, and the child does without its locks."""
    script = """
        import threading, time
        import numba
        from fastnn.kernels import forks, jit
        from forking import child_of, ends_well

        def double(out):
            out[0] *= 2

        def compile_double():
            jit.PATIENCE = patience
            jit.entry_points(jit.Wanted(double, numba.types.void(numba.types.float64[::1]), "double"))

        def compile_in_the_child():
            global patience
            jit._lock, patience = lock, 0
            compile_double()

        lock = jit._lock
        jit._lock = lambda file: False  # as if another process had it
        patience = 60
        thread = threading.Thread(target=compile_double, daemon=True)
        thread.start()
        while not forks.waiting:
            time.sleep(0.01)
        child = child_of(compile_in_the_child)
        assert thread.is_alive() and ends_well(child)
        jit._lock = lock
        thread.join()
        assert numba.njit(lambda x: x + 2)(1) == 3
    """
    run_forks(script, NUMBA_CACHE_DIR=str(tmp_path))


def test_a_child_of_a_process_that_waits_for_another_to_compile(tmp_path):
    """It has none of the locks of its parent's: nobody waits for it, whether its parent goes on or dies."""
    script = """
        import os, pathlib, signal, sys, time
        from fastnn.kernels import jit
        from forking import child_of, fork

        def look():
            assert file.closed and not jit._lock_files

        folder = pathlib.Path(sys.argv[1], "small")
        with open(folder.with_suffix(".lock"), "w") as another:
            with jit._alone(folder):
                (file,) = jit._lock_files
                fork(look)
                assert not jit._lock(another)
                jit._lock_files.clear()
                child = child_of(lambda: time.sleep(60))  # forked as the file is opened
                assert not jit._lock(another)
            assert jit._lock(another)
        os.kill(child, signal.SIGKILL)
    """
    run_forks(script, tmp_path)


def test_a_fork_whose_locks_cannot_be_taken():
    """It goes on without them, and gives back those that it has."""
    script = """
        from fastnn.kernels import forks
        from forking import are_free, fork

        def acquire(lock):
            tries.append(lock)
            if lock is forks._LOCKS[1]:
                raise MemoryError
            return lock.acquire()

        forks._acquire, tries = acquire, []
        fork()
        assert len(tries) == 2 * forks.MOST_TRIES - 1, len(tries)
        assert are_free()
    """
    assert "MemoryError" in run_forks(script)[1]
