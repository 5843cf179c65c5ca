"""Limits of the system: what does not fit raises or goes on without, and nothing aborts, hangs or is half done."""

import sys

import pytest
from subprocesses import run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux keeps them")

# Each case runs in a child of one process; `ended` tells how that came out.
CHILDREN = """
    import hashlib, os, resource, sys, warnings
    warnings.simplefilter("ignore")
    import numpy as np
    import fastnn
    from fastnn import MLPClassifier, model  # imports are not on trial: those of OpenBLAS may hang
    model.FLOPS_PER_THREAD = 1e-9  # no network is too small for a team
    path = sys.argv[1]
    rng = np.random.default_rng(0)
    X, y = rng.random((2000, 100)).astype("float32"), np.arange(2000) % 3

    def fitted(**params):
        settings = {"max_iter": 2, "random_state": 0, "n_jobs": 2, **params}
        return MLPClassifier((100, 100), **settings).fit(X, y)

    def bits(model):
        print(hashlib.sha256(model.predict_proba(X).tobytes() + model.coefs_[0].tobytes()).hexdigest(), flush=True)

    def memory(mib):
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, 2 * (pages * resource.getpagesize() + (mib << 20),))

    def ended(case):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            try:
                case()
            except BaseException as error:
                print(type(error).__name__, error, flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status == 0, status
"""


def results(script, path, **environment):
    return run_script(CHILDREN + script, path, **environment)[0].splitlines()


def test_little_memory_is_a_memory_error_or_serial_work(tmp_path):
    """Such as LLVM, which ends the process, and a thread that cannot begin, for which Python waits for ever."""
    script = """
    ended(lambda: bits(fitted()))
    for mib in (0, 8, 64, 200, 700):
        ended(lambda: [memory(mib), bits(fitted())])
    model = fitted()
    for mib in (0, 2, 64):
        ended(lambda: [memory(mib), bits(model)])
    """
    right, *found = results(script, tmp_path / "file")
    assert len(found) == 8 and all(line == right or line.startswith("MemoryError") for line in found), found
    assert found[3:5] == [right, right]  # and so is what there is room for
    assert any("to load its kernels fastnn needs 32 MiB" in line for line in found)


def test_little_memory_leaves_the_cache(tmp_path):
    """The kernels are as good as before."""
    script = """
    from fastnn.kernels import jit, team
    team.worker()
    (folder,) = (start.folder for start in jit.starts if start.name == "worker")
    before = sorted(folder.iterdir())
    def load(error):
        def fail(*_):
            raise error
        jit.CheckedFiles._load_data = fail
        jit.entry_points(jit.Wanted(team.serve, team.types.void(team.types.int64), "worker"))
        print("compiled", flush=True)
    ended(lambda: load(MemoryError()))
    ended(lambda: load(OSError(24, "Too many open files")))
    print(sorted(folder.iterdir()) == before)
    """
    assert [line.strip() for line in results(script, tmp_path / "file")] == ["MemoryError", "compiled", "True"]


def test_little_memory_leaves_files_whole(tmp_path):
    pytest.importorskip("safetensors")
    script = """
    model = fitted()
    model.save(path)
    before = open(path, "rb").read()
    def save(mib):
        memory(mib)
        model.save(path)
        print("saved", flush=True)
    for mib in (0, 1, 16):
        ended(lambda: save(mib))
        assert open(path, "rb").read() == before
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    def resume(mib):
        memory(mib)
        bits(fitted(callbacks=[fastnn.Checkpoint(path + ".checkpoint", every=0)]))
    bits(model)
    for mib in (0, 1, 3, 64):
        ended(lambda: resume(mib))
    bits(fitted(callbacks=[fastnn.Checkpoint(path + ".checkpoint", every=0)]))
    """
    *saves, right = (lines := results(script, tmp_path / "file"))[:4]
    assert saves[-1] == "saved"
    assert all(line == "saved" or line.startswith(("MemoryError", "ImportError")) for line in saves), saves
    *resumed, last = lines[4:]
    assert last == right and all(line == right or line.startswith("MemoryError") for line in resumed), resumed


def test_no_more_processes(tmp_path):
    """The limit counts threads too, of the same user in all processes; root has none."""
    script = """
    from fastnn.kernels import team
    bits(fitted(n_jobs=1))
    def limited():
        team.worker()  # loaded by who may read the files
        if os.geteuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        bits(fitted(n_jobs=3))
    ended(limited)
    """
    right, found = results(script, tmp_path / "file")
    assert found == right
