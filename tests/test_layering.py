"""Imports run one way, and what is slow to import waits until it is needed."""

import ast
import os
from pathlib import Path

import pytest
from subprocesses import run_script

import fastnn

PACKAGE = Path(fastnn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(source.relative_to(PACKAGE)) for source in SOURCES]

# Package: the only files that import it.
ALLOWED = {
    "sklearn": {
        "base.py", "estimators.py", "interop.py", "internals.py", "splitting.py", "patching.py", "main_job.py",
        "datasets.py", "callbacks.py",
    },
    "llvmlite": {
        "kernels/simd.py", "kernels/team.py", "kernels/system.py", "kernels/inner.py", "kernels/jit.py", "info.py",
        "kernels/lowering.py", "kernels/width.py", "kernels/forks.py",
    },
    "safetensors": {"saving.py"},
}  # fmt: skip
# patching -> estimators -> base -> training, lbfgs -> model -> workers, rows -> layout, parallel -> kernels; within the
# kernels down to jit and plan; beside the model stand callbacks. interop and splitting know scikit-learn, and nothing
# of fastnn: so they stand at the bottom, as do the files that know neither. So does saving, which asks the package for
# the class that a file names.
LAYERS = [
    {"patching"},
    {"estimators"},
    {"base"},
    {"fitted", "internals"},
    {"training", "lbfgs"},
    {"divergence"},
    {"checkpoint"},
    {"callbacks", "model"},
    {"workers", "rows", "plain", "warmup", "orders"},
    {"layout", "parallel"},
    {"kernels.epoch", "kernels.forward"},
    {"kernels.sparse"},
    {"kernels.step"},
    {"kernels.products", "kernels.activations", "kernels.losses", "kernels.optimizers"},
    {"kernels.elementary"},
    {"kernels.team", "kernels.shuffle"},
    {"kernels.simd"},
    {"kernels.system"},
    {"kernels.jit", "kernels.plan"},
    {"kernels.inner", "kernels.forks", "interop", "splitting", "saving"},
    {"kernels.lowering", "kernels.listening"},
    {"kernels.width", "trees", "checks", "log", "plotting"},
    {"atomic"},
    {"kernels.room", "kernels.collector", "pieces", "history"},
]
RANK = {f"fastnn.{name}": rank for rank, names in enumerate(LAYERS) for name in names}


def imports_of(path, top_level_only=False):
    """Full names of the modules a file imports; a file may import the package itself for its version."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ALLOWED)
def test_imported_in_few_files(package):
    users = {
        name
        for name, source in zip(NAMES, SOURCES, strict=True)
        if any(module.split(".")[0] == package for module in imports_of(source))
    }
    assert users <= ALLOWED[package]


def test_every_layer_exists():
    modules = {"fastnn." + name.removesuffix(".py").replace("/", ".") for name in NAMES}
    assert set(RANK) <= modules


@pytest.mark.parametrize("module", sorted(RANK))
def test_imports_run_one_way(module):
    source = PACKAGE / (module.removeprefix("fastnn.").replace(".", "/") + ".py")
    upwards = [name for name in imports_of(source) if name in RANK and RANK[name] <= RANK[module]]
    assert not upwards


@pytest.mark.parametrize("kernel", [name for name in NAMES if name.startswith("kernels/")])
def test_kernels_know_nothing_of_what_uses_them(kernel):
    own = [name for name in imports_of(PACKAGE / kernel) if name.split(".")[0] == "fastnn" and name != "fastnn"]
    assert all(name.startswith("fastnn.kernels") for name in own)


def modules_after(statement):
    out, _ = run_script(f"import sys; {statement}; print(*sys.modules)")
    return set(out.split())


def test_import_loads_nothing_slow():
    loaded = modules_after("import fastnn; dir(fastnn); fastnn.__version__")
    assert "fastnn" in loaded
    assert not {name for name in loaded if name.startswith("fastnn.")}
    assert not loaded & {"sklearn", "numba", "llvmlite", "scipy", "tqdm"}


@pytest.mark.parametrize("before", ["enable", "disable"])
def test_names_are_imported_without_collections(before):
    script = f"""
import gc, sklearn.neural_network, fastnn
gc.collect()
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
gc.{before}()
fastnn.MLPClassifier
print(gc.isenabled(), collections.count("start"))
"""
    out, _ = run_script(script)
    # One comes when they may again; without the pause there are some eighty.
    assert out.split() == (["True", "1"] if before == "enable" else ["False", "0"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_within_an_import_collects():
    """The thread that would switch the collector on again is not there."""
    script = """
import gc, os, threading
from fastnn.kernels.collector import without_collections

def importing():
    with without_collections():
        begun.set()
        may_end.wait()

begun, may_end = threading.Event(), threading.Event()
thread = threading.Thread(target=importing)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    os._exit(gc.isenabled())
print(gc.isenabled(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
may_end.set()
thread.join()
with without_collections():
    child = os.fork()
    if child == 0:
        os._exit(gc.isenabled())
    print(gc.isenabled(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(gc.isenabled())
"""
    out, _ = run_script(script)
    assert out.split() == ["False", "1", "False", "0", "True"]


def test_the_network_does_not_load_scikit_learn():
    loaded = modules_after("import fastnn; fastnn.MLP((2, 2))")
    assert "numba" in loaded
    assert "sklearn" not in loaded


def test_the_kernels_do_not_load_what_compiles_arrays():
    loaded = modules_after("import fastnn.kernels.epoch, fastnn.kernels.forward")
    assert "numba.core.dispatcher" in loaded
    assert "numba.np.arrayobj" not in loaded


def test_public_names():
    assert set(fastnn.__all__) == set(fastnn._HOMES) <= set(dir(fastnn))
    for name in fastnn.__all__:
        assert getattr(fastnn, name).__module__ == fastnn._HOMES[name]
    with pytest.raises(AttributeError, match="perceptron"):
        fastnn.perceptron  # noqa: B018
