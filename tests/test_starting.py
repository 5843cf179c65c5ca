"""New processes: stale machine code never runs, many may start at once, and what is wrong with the cache costs time."""

import compileall
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from subprocesses import finished, path_to, run_script, started

import fastnn
from fastnn.__main__ import main
from fastnn.kernels import jit

# The short round of each test runs always; the full ones with FASTNN_FULL=1.
FULL = os.environ.get("FASTNN_FULL") == "1"
PACKAGE = Path(fastnn.__file__).parent

# A function of few lines in the place of the kernels, in a file of its own that calls one of theirs.
SMALL = """
import numpy as np
from numba import types
from fastnn.kernels import jit
from fastnn.kernels.activations import relu_forward

jit.NOTE_AFTER = 1000.0  # on a slow machine too

def ask(out):
    relu_forward(out)

def answer():
    out = np.full(1, 2.0)
    (entry,) = jit.entry_points(jit.Wanted(ask, types.void(types.float64[::1]), "small"))
    entry(out)
    return out[0]
"""
ANSWER = "import small; print(small.answer(), small.jit.starts[0].is_compiled)"

TRAIN = """
    import hashlib, sys, warnings
    warnings.simplefilter("ignore")
    import numpy as np
    import fastnn
    from fastnn.kernels import jit
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 20)).astype(sys.argv[1]), rng.integers(0, 5, 300)
    model = fastnn.MLPClassifier((30,), max_iter=3, random_state=0).fit(X, y)
    print(hashlib.sha256(b"".join(w.tobytes() for w in model.coefs_)).hexdigest())
    print(sum(start.is_compiled for start in jit.starts))
"""


@pytest.fixture
def small(tmp_path):
    """The environment of a process that finds `small.py`, and no kernels in its cache."""
    (tmp_path / "small.py").write_text(SMALL)
    return {"PYTHONPATH": path_to(tmp_path, PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}


def answer(environment, script=ANSWER):
    """The answer, whether it was compiled, and what went to stderr."""
    out, err = run_script(script, **environment)
    value, is_compiled = out.split()
    return float(value), is_compiled == "True", err


# -- stale code --------------------------------------------------------------------------------------------------------


def test_found_by_the_next_process(small):
    assert answer(small) == (2.0, True, "")
    assert answer(small) == (2.0, False, "")


def test_what_is_found_needs_nothing_that_compiles(small):
    used = "'dispatcher' in vars(small.relu_forward), 'numba.np.arrayobj' in sys.modules"
    found = [run_script(f"import sys; {ANSWER}; print({used})", **small)[0].split() for _ in range(2)]
    assert found == [["2.0", "True", "True", "True"], ["2.0", "False", "False", "False"]]


def test_an_edited_callee_in_another_file_is_compiled(small, tmp_path):
    """Numba's own cache looks at the file of the function that is called, and runs the old code."""
    copied = tmp_path / "edited" / "fastnn"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**small, "PYTHONPATH": f"{copied.parent}{os.pathsep}{small['PYTHONPATH']}"}
    assert answer(environment)[:2] == (2.0, True)
    assert answer(environment)[:2] == (2.0, False)
    file = copied / "kernels" / "activations.py"
    source = file.read_text()
    assert "zero = z.dtype.type(0.0)" in source
    file.write_text(source.replace("zero = z.dtype.type(0.0)", "zero = z.dtype.type(4.0)"))
    assert answer(environment)[:2] == (4.0, True)
    file.write_text(source)
    assert answer(environment)[:2] == (2.0, False)


def test_an_install_without_sources_is_told_from_another(small, tmp_path):
    prints = set()
    for change in ("", "\nCHANGED = True\n"):
        copied = tmp_path / f"edited{len(change)}" / "fastnn"
        shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
        with open(copied / "kernels" / "activations.py", "a") as file:
            file.write(change)
        compileall.compile_dir(copied, quiet=1, legacy=True)
        for source in copied.rglob("*.py"):
            source.unlink()
        for _ in range(2):
            prints.add(run_script(FINGERPRINT, PYTHONPATH=str(copied.parent)))
    assert len(prints) == 2


@pytest.mark.parametrize("what", ["numba.__version__ = '0'", "llvmlite.__version__ = '0'", "sys.version += '+'"])
def test_another_version_is_compiled(what, small):
    script = f"import sys, llvmlite, numba\nbefore = sys.version\n{what}\n"
    code = "import fastnn.kernels.jit as jit\nfingerprint = jit._fingerprint()\nprint(fingerprint, 0)"
    assert run_script(script + code, **small) != run_script(code, **small)


FINGERPRINT = "import fastnn.kernels.jit as jit\nprint(jit._fingerprint())"


def test_another_setting_of_numba_is_compiled(small, tmp_path):
    """Wherever it is set: as in Numba, which reads a file in the working directory too."""
    prints = {run_script(FINGERPRINT, **small), run_script(FINGERPRINT, **small, NUMBA_LOOP_VECTORIZE="0")}
    assert len(prints) == 2
    prints.add(run_script(f"import numba\nnumba.config.LOOP_VECTORIZE = 0\n{FINGERPRINT}", **small))
    if importlib.util.find_spec("yaml"):
        (tmp_path / ".numba_config.yaml").write_text("loop_vectorize: 0\n")
        prints.add(run_script(f"import os\nos.chdir({str(tmp_path)!r})\n{FINGERPRINT}", **small))
    assert len(prints) == 2


@pytest.mark.parametrize("name", ["NUM_THREADS", "THREADING_LAYER_PRIORITY", "CUDA_LOG_SIZE"])
def test_a_setting_that_leaves_the_code_as_it_is(name, small):
    value = {"THREADING_LAYER_PRIORITY": "omp"}.get(name, "1")
    assert run_script(FINGERPRINT, **small, **{f"NUMBA_{name}": value}) == run_script(FINGERPRINT, **small)


def test_code_without_its_index_is_not_there(small, tmp_path):
    answer(small)
    (index,) = (tmp_path / "cache").glob("*/small/*.nbi")
    index.unlink()
    assert run_script("import small; print(small.jit.is_cached('small'))", **small) == ("False\n", "")
    assert answer(small) == (2.0, True, "")


def test_two_types_of_cpu_share_a_folder(small, tmp_path):
    generic = {**small, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    for _ in range(2):
        for environment in (small, generic):
            value, is_compiled, err = answer(environment)
            assert (value, err) == (2.0, "")
    assert not is_compiled
    assert len(list((tmp_path / "cache").glob("kernels-*"))) == 2


# -- folders -----------------------------------------------------------------------------------------------------------

# Numba loads the rest of itself with the first function, from an environment that may be root's alone.
AS_NOBODY = f"import os, numba, small; numba.njit(lambda x: x)(1); os.geteuid() or os.seteuid(65534); {ANSWER}"
POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


@pytest.fixture
def shared(small, public_path):
    """The folder of kernels, for everyone to read."""
    folder = public_path / "cache"
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o755)


@POSIX
def test_kernels_that_can_only_be_read_are_used(small, shared):
    """Of an image, say, that was built by another user."""
    assert answer(small)[:2] == (2.0, True)
    for each in (*shared.rglob("*"), shared):
        each.chmod(0o555 if each.is_dir() else 0o444)
    assert answer(small, AS_NOBODY) == (2.0, False, "")


@POSIX
def test_an_empty_folder_that_can_only_be_read(small, shared):
    shared.chmod(0o555)
    value, is_compiled, err = answer(small, AS_NOBODY)
    assert (value, is_compiled) == (2.0, True)
    assert err.count("\n") <= 1


def test_no_home_and_a_package_that_cannot_be_written(small):
    script = """
        import os.path
        from pathlib import Path

        mkdir, os.path.expanduser = Path.mkdir, lambda path: path

        def refuse(path, *arguments, **others):
            if "__pycache__" in path.parts:
                raise PermissionError
            mkdir(path, *arguments, **others)

        Path.mkdir = refuse
        import small
        assert small.jit.cache_folder() is None
    """
    homeless = {**small, "NUMBA_CACHE_DIR": None, "HOME": None, "XDG_CACHE_HOME": None}
    for _ in range(2):
        value, is_compiled, err = answer(homeless, f"{script}\n        {ANSWER}")
        assert (value, is_compiled) == (2.0, True)
        assert err.count("\n") <= 1, err


@POSIX
def test_a_folder_within_one_that_is_somebody_elses(small, shared):
    """As HOME=/root is in a container that another user runs."""
    shared.chmod(0o700 if os.geteuid() == 0 else 0)
    value, is_compiled, err = answer({**small, "NUMBA_CACHE_DIR": str(shared / "fastnn")}, AS_NOBODY)
    assert (value, is_compiled) == (2.0, True)
    assert err.count("\n") <= 1


@POSIX
def test_a_full_disk(small):
    """No file may grow beyond 100 bytes."""
    script = "import resource, small; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    value, is_compiled, err = answer(small, script + ANSWER)
    assert (value, is_compiled) == (2.0, True)
    assert "cannot be kept" in err and err.count("\n") == 1
    assert answer(small)[:2] == (2.0, True)  # nothing was left that is in the way


def test_damaged_machine_code_is_never_run(small, tmp_path):
    """What a crash of the machine leaves of a file may be as long as the whole, and unpickle well."""
    answer(small)
    for part in range(4):
        (file,) = (tmp_path / "cache").glob("*/small/*.nbc")
        content = bytearray(file.read_bytes())
        start = len(content) * part // 4
        content[start : start + 64] = bytes(byte ^ 1 for byte in content[start : start + 64])
        file.write_bytes(content)
        value, is_compiled, err = answer(small)
        assert value == 2.0 and is_compiled and "cannot be used" in err, part
        assert answer(small) == (2.0, False, ""), part


def test_the_cache_is_removed_while_a_process_runs(small, tmp_path):
    script = f"""
        import shutil
        import small
        small.jit.cache_folder()
        shutil.rmtree({str(tmp_path / "cache")!r})
        assert small.answer() == 2.0
        shutil.rmtree({str(tmp_path / "cache")!r})
        assert small.answer() == 2.0
        print(2.0, True)
    """
    assert answer(small, script)[0] == 2.0
    assert answer(small)[:2] == (2.0, False)  # kept by the second


# -- folders that nobody uses any more ---------------------------------------------------------------------------------


def kernels(base, number, days):
    """A folder as of another version, last used some days ago."""
    folder = base / f"kernels-{number:016x}"
    (folder / "float32").mkdir(parents=True)
    (folder / "float32" / "code.nbc").write_bytes(b"code")
    used = time.time() - 86400 * days
    os.utime(folder, (used, used))
    return folder


def test_folders_that_nobody_uses_are_removed(small, tmp_path):
    base = tmp_path / "cache"
    new = kernels(base, 2, 89)
    others = [kernels(base, 3, 91).rename(base / name) for name in ("kernels-mine", "kernels-0123456789abcdefg")]
    if os.name == "posix":
        others.append(base / f"kernels-{4:016x}")
        others[-1].symlink_to(others[0])
    kernels(base, 1, 91)
    assert answer(small)[:2] == (2.0, True)
    (own,) = set(base.iterdir()) - {new, *others}
    assert own.name.startswith("kernels-") and list(own.glob("small/*.nbc"))
    os.utime(own, (0, 0))
    late = kernels(base, 1, 91)
    assert answer(small) == (2.0, False, "")
    assert time.time() - own.stat().st_mtime < 3600  # it is in use
    assert late.exists()  # only who makes a new folder looks around


def test_many_processes_remove_folders_at_once(small, tmp_path):
    base = tmp_path / "cache"
    script = """
        import small, sys
        base = small.jit.Path(sys.argv[1])
        print("ready", flush=True)
        while not (base / "go").exists():
            pass
        small.jit._remove_unused(base)
    """
    kept = kernels(base, 1000, 1)
    for number in range(300):
        kernels(base, number, 91)
    processes = [started(script, base, **small) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (base / "go").touch()
    assert [finished(process) for process in processes] == [("", "")] * 4
    assert set(base.iterdir()) == {kept, base / "go"} and (kept / "float32" / "code.nbc").exists()


@POSIX
def test_what_cannot_be_removed_stays(small, shared):
    old = kernels(shared, 1, 91)
    old.chmod(0o555)
    script = "import os, small; os.geteuid() or os.seteuid(65534); small.jit._remove_unused(small.jit.Path(%r))"
    run_script(script % str(shared), **small)
    assert old.exists()


def test_damaged_kernels_of_several_processes_at_once(small, tmp_path):
    """Each removes what it cannot use, of the others too: all answer, with a line at most, and the next finds it."""
    answer(small)
    for file in (tmp_path / "cache").glob("*/small/*.nb?"):
        file.write_bytes(os.urandom(1000))
    for out, err in [finished(process) for process in [started(ANSWER, **small) for _ in range(4)]]:
        assert out.startswith("2.0 ") and err.count("\n") <= 1
    assert answer(small) == (2.0, False, "")


# -- many at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_number", range(20 if FULL else 1))
def test_cold_processes_at_once(round_number, tmp_path):
    """What each dtype and all of them need is compiled once, by one process each; all train alike."""
    dtypes = ("float32", "float64") * (8 if FULL else 2)
    processes = [started(TRAIN, dtype, NUMBA_CACHE_DIR=str(tmp_path), FASTNN_NUM_THREADS="1") for dtype in dtypes]
    results = [finished(process, 600)[0].split() for process in processes]
    assert len({(dtype, bits) for dtype, (bits, _) in zip(dtypes, results, strict=True)}) == 2
    # Of a dtype the loop and four parts; the shuffle, and the worker.
    assert sum(int(compiled) for _, compiled in results) == 2 * 5 + 2
    # And what they left is right.
    for dtype, (bits, _) in list(zip(dtypes, results, strict=True))[:2]:
        out, _ = run_script(TRAIN, dtype, NUMBA_CACHE_DIR=str(tmp_path), FASTNN_NUM_THREADS="1")
        assert out.split() == [bits, "0"]


SPARSE_AFTER_DENSE = """
    import numpy as np
    import scipy.sparse
    import fastnn
    from fastnn.kernels import jit
    X = np.eye(20, dtype="float32")
    for rows in (X, scipy.sparse.csr_matrix(X), X):
        del jit.starts[:]
        fastnn.MLP((20, 3), dtype="float32", random_state=0).train_epoch(rows, np.arange(20) % 3, fastnn.Adam())
        print(*sorted(start.name for start in jit.starts))
"""


def test_what_sparse_rows_need_is_not_there_before_them(tmp_path):
    out, _ = run_script(SPARSE_AFTER_DENSE, NUMBA_CACHE_DIR=str(tmp_path))
    dense, sparse, after = out.split("\n")[:3]
    assert "float32-loss" in dense and "sparse" not in dense and not after
    assert sparse.split() == ["float32-sort", "float32-sparse-forward", "float32-sparse-gradient"]


PARTS_OF_ONE_TYPE = """
import sys
import numpy as np
from numba import types
from fastnn.kernels import jit, team

@jit.jit
def first(number, out):
    out[0] = number

@jit.jit
def second(number, out):
    out[1] = number

@jit.jit
def run(thread, codes, arguments):
    for i in range(codes.size):
        team.call_code(codes[i], i + 5, team.address_of((arguments,)))

def start(codes, arguments):
    run(0, codes, team.address_of(arguments))

OUT = types.int64[::1]
parts = [team.part_of(globals()[name], [types.int64], {"out": OUT}, name) for name in sys.argv[1:]]
entries = jit.entry_points(*[jit.Wanted(part, types.void(*team.CALL), name) for part, name in zip(parts, sys.argv[1:])])
found = [jit.address_in_memory(entry) for entry in entries]
print(len(set(found)), *(entry.is_compiled for entry in jit.starts))
if len(found) == 2:
    out = np.zeros(2, np.int64)
    (code,) = jit.entry_points(jit.Wanted(start, types.void(OUT, types.Tuple([OUT])), "start"))
    code(np.array(found), (out,))
    print(*out)
"""


def test_parts_that_different_processes_have_compiled(tmp_path):
    """Each is itself, though each was its process's first, and Numba's counter gave both the same number."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    for name in ("first", "second"):
        assert run_script(PARTS_OF_ONE_TYPE, name, **environment)[0].split() == ["1", "True"]
    out, _ = run_script(PARTS_OF_ONE_TYPE, "first", "second", **environment)
    assert out.split() == ["2", "False", "False", "5", "6"]


@pytest.mark.parametrize("round_number", range(20 if FULL else 2))
def test_small_processes_at_once(round_number, small):
    processes = [started(ANSWER, **small) for _ in range(16 if FULL else 6)]
    outs = [finished(process)[0] for process in processes]
    assert sorted(outs) == ["2.0 False\n"] * (len(outs) - 1) + ["2.0 True\n"]


def test_a_killed_process_blocks_nobody(small):
    script = """
        import time
        import small
        folder = small.jit.cache_folder()
        file = open(folder / "small.lock", "ab")
        assert small.jit._lock(file)
        print("locked", flush=True)
        time.sleep(600)
    """
    holder = started(script, **small)
    assert holder.stdout.readline() == "locked\n"
    waiting = started("import small; small.jit.NOTE_AFTER = 0.1; " + ANSWER, **small)
    assert "compiling the kernels" in waiting.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    holder.kill()
    out, err = finished(waiting)
    assert out == "2.0 True\n"
    assert not err
    holder.communicate()


def test_nobody_waits_for_what_is_on_disk(small):
    """Whoever still has its lock."""
    script = """
        import small
        looks = []
        def is_kept(folder):
            looks.append(folder)
            return len(looks) > 2
        small.jit._is_kept, small.jit._lock = is_kept, lambda file: False
        with small.jit._alone(small.jit.cache_folder() / "small"):
            print(len(looks))
    """
    assert run_script(script, **small)[0] == "3\n"


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_without_locks_all_compile(number, small):
    if sys.platform == "win32":
        pytest.skip("msvcrt has them always")
    script = f"""
        import errno, fcntl
        def refuse(*_):
            raise OSError(errno.{number}, "no locks here")
        fcntl.flock = refuse
    """
    assert answer(small, f"{script}\n        {ANSWER}")[:2] == (2.0, True)


def test_who_waits_too_long_compiles(small):
    script = "import small; small.jit.PATIENCE = 0.1; small.jit._lock = lambda file: False; "
    assert answer(small, script + ANSWER)[:2] == (2.0, True)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

WAITS = """
import time
import small
SETUP
compile = small.jit._compile
def slowly(*arguments):
    print("compiling", flush=True)
    time.sleep(SECONDS)
    compile(*arguments)
small.jit._compile = slowly
small.jit.once(small.answer)()
"""


def interrupted(process, line):
    """Interrupt a process when it has printed a line."""
    assert process.stdout.readline() == line
    process.send_signal(signal.SIGINT)
    return process


def test_ctrl_c_that_the_compiler_swallows(small, ctrl_c_raises):
    """As ctypes does in a callback of LLVM's, and Python in a destructor."""
    script = """
        import _thread, time
        import small
        compile = small.jit._compile
        def deaf(*arguments):
            try:
                _thread.interrupt_main()
                time.sleep(1)
            except KeyboardInterrupt:
                pass
            compile(*arguments)
        small.jit._compile = deaf
        try:
            small.jit.once(small.answer)()
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert run_script(script, **small)[0] == "interrupted\n"
    assert answer(small) == (2.0, False, "")  # it has been kept


@POSIX
def test_a_process_that_ctrl_c_ends_keeps_what_it_compiles(small, ctrl_c_raises):
    script = WAITS.replace("SECONDS", "1").replace("SETUP", "")
    process = interrupted(started(script, **small), "compiling\n")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT
    assert answer(small) == (2.0, False, "")


@POSIX
def test_ctrl_c_again_ends_a_process_that_compiles(small, ctrl_c_raises):
    setup = "import atexit; atexit.register(print, 'ending', flush=True)"
    script = WAITS.replace("SECONDS", "600").replace("SETUP", setup)
    process = interrupted(interrupted(started(script, **small), "compiling\n"), "ending\n")
    while process.poll() is None:  # the first of them may come too early
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate()
    assert process.returncode == -signal.SIGINT


@POSIX
def test_ctrl_c_ends_a_process_that_waits_for_another(small, ctrl_c_raises):
    script = """
        import small
        small.jit._lock = lambda file: print("waiting", flush=True)
        small.jit.once(small.answer)()
    """
    process = interrupted(started(script, **small), "waiting\n")
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT


@POSIX
def test_ctrl_c_while_the_first_fit_compiles(tmp_path, ctrl_c_raises):
    script = TRAIN + """
    print(model.n_iter_, len(model.predict(X)))
    """
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "FASTNN_NUM_THREADS": "1"}
    process = started(script, "float32", **environment)
    assert "compiling the kernels" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = finished(process)
    compiled, *model = out.split()[1:]
    assert int(compiled) <= 1, "at most the shuffle is compiled yet"
    assert model == ["0", "300"], "no epoch, but a model"
    assert not err
    assert run_script(TRAIN, "float32", **environment)[0].split()[1] == "0"


# -- what the user is told ---------------------------------------------------------------------------------------------

SLOW = """
import time
import small
compile, small.jit.NOTE_AFTER = small.jit._compile, 0.01
def slowly(*arguments):
    time.sleep(0.3)
    compile(*arguments)
small.jit._compile = slowly
SETUP
small.answer()
small.answer()
print(small.answer(), True)
"""


@pytest.mark.parametrize(
    ("setup", "times"),
    [
        ("", 1),
        ("import logging; logging.getLogger('fastnn').addHandler(logging.NullHandler())", 1),
        ("import logging; logging.basicConfig()", 1),
        ("import logging; logging.basicConfig(filename='/dev/null')", 0),  # the user wants it there
    ],
    ids=["no logging", "a null handler", "logging to stderr", "logging to a file"],
)
def test_a_slow_compile_is_told_once(setup, times, small):
    if "/dev/null" in setup and os.name != "posix":
        pytest.skip("there is no /dev/null")
    _, _, err = answer(small, SLOW.replace("SETUP", setup))
    assert err.count("compiling the kernels; this machine keeps them") == times, err


def test_a_quick_compile_is_not_told(small):
    assert jit.NOTE_AFTER == 1.0
    assert answer(small)[2] == ""


def test_where_no_thread_can_be_started(small):
    """Such as the one that tells of a slow compile."""
    script = """
        import threading
        def refuse(thread):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
    """
    for is_compiled in (True, False):
        assert answer(small, f"{script}\n        {ANSWER}")[:2] == (2.0, is_compiled)


# -- a compiler that is not there --------------------------------------------------------------------------------------


def test_without_a_compiler_there_is_one_clear_error(small):
    script = """
        import fastnn
        for name in ("MLP", "MLPClassifier"):
            try:
                getattr(fastnn, name)
            except RuntimeError as error:
                print(error)
    """
    out, _ = run_script(script, **small, NUMBA_DISABLE_JIT="1")
    assert [line.split(";")[0] for line in out.splitlines()] == [
        "fastnn needs Numba's compiler, got NUMBA_DISABLE_JIT=1 (or DISABLE_JIT in numba.config)"
    ] * 2


def test_a_compiler_that_is_switched_off_later(small):
    script = """
        import numba, small
        numba.config.DISABLE_JIT = 1
        try:
            small.answer()
        except RuntimeError as error:
            print(error)
        numba.config.DISABLE_JIT = 0
        assert small.answer() == 2.0
    """
    assert "fastnn needs Numba's compiler" in run_script(script, **small)[0]


def test_ctrl_c_within_an_import_does_not_stop_the_next_compile():
    """It may come where the lock of imports has just been taken, as here, and another thread imports."""
    script = """if True:
        import _imp, importlib
        from fastnn.kernels.listening import call_apart
        _imp.acquire_lock()
        print(call_apart(importlib.import_module, "this").__name__)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("this\n"), done.stderr


# -- warmup ------------------------------------------------------------------------------------------------------------


FOR_ALL = ["exchange", "worker"]
PARTS = [
    "", "-loss", "-update", "-backward", "-forward", "-sort", "-sparse-forward", "-sparse-gradient", "-prediction",
]  # fmt: skip


def warm_up(*arguments, **environment):
    script = "import sys; from fastnn.__main__ import main; sys.exit(main(['warmup', *sys.argv[1:]]))"
    process = started(script, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_warmup_fills_the_cache(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    code, out, _ = warm_up("--dtype", "float64", **environment)
    assert code == 0
    names = [*FOR_ALL, *(f"float64{part}" for part in PARTS)]
    lines = [line.split()[:3] for line in out.splitlines()[:-1]]
    assert sorted(lines) == sorted([name, "compiled", "in"] for name in names)
    assert out.splitlines()[-1] == f"kept in {next(tmp_path.iterdir())}"
    code, out, err = warm_up("--dtype", "float64", **environment)
    assert (code, err) == (0, "")
    assert out.count(" found in ") == len(names) and "compiled" not in out
    out, _ = run_script(TRAIN, "float64", **environment)
    assert out.split()[1] == "0"


def test_warmup_takes_both_dtypes_by_default():
    code, out, _ = warm_up()
    assert code == 0
    names = [*FOR_ALL, *(dtype + part for dtype in ("float32", "float64") for part in PARTS)]
    assert sorted(line.split()[0] for line in out.splitlines()[:-1]) == sorted(names)


def test_warmup_fails_where_nothing_can_be_kept(monkeypatch, capsys):
    monkeypatch.setattr(jit, "is_cached", lambda name: False)
    assert main(["warmup", "--dtype", "float32"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_warmup_tells_of_code_that_cannot_be_kept(monkeypatch, capsys):
    monkeypatch.setattr(jit, "is_cached", lambda name: False)
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    monkeypatch.setattr(jit.numba.config, "OPT", 0)
    assert jit.cache_folders.__wrapped__() == []
    assert main(["warmup", "--dtype", "float32"]) == 1
    assert "not kept: with NUMBA_OPT=0 they cannot be kept; unset it" in capsys.readouterr().err


def test_warmup_refuses_other_dtypes():
    code, _, err = warm_up("--dtype", "float16")
    assert code == 2 and "float16" in err
