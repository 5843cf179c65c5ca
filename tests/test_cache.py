"""Kept machine code that is damaged, or cannot be kept, costs time and nothing else."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numba import types
from numba.core import caching

import fastnn
from fastnn.kernels import forward, jit


def double(x, out):
    out[0] = 2.0 * x


SIGNATURE = types.void(types.float64, types.float64[::1])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(jit, "cache_folders", lambda: [tmp_path])
    return tmp_path


def compiled(function):
    (code,) = jit.entry_points(jit.Wanted(function, SIGNATURE, "double"))
    return code


def result():
    out = np.zeros(1)
    compiled(double)(3.0, out)
    return out[0]


def kept(folder, kind):
    return list((folder / "double").rglob(f"*.{kind}"))


def test_it_is_kept_and_used_again(folder):
    assert not jit.is_cached("double")
    assert result() == 6.0
    assert jit.is_cached("double")
    (code,) = kept(folder, "nbc")
    before = code.stat().st_mtime_ns
    assert result() == 6.0
    assert code.stat().st_mtime_ns == before


def times(factor):
    def double(x, out):
        out[0] = factor * x

    return double


def test_it_is_found_by_its_folder_alone(folder):
    """What a function's cells hold, such as Numba's intrinsics, differs from process to process."""
    for factor in (2.0, 3.0):
        out = np.zeros(1)
        compiled(times(factor))(3.0, out)
        assert out[0] == 6.0
    assert not jit.starts[-1].is_compiled


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[: len(old) // 2], lambda old: b"\x93" * len(old)])
def test_damaged_files_are_compiled_again(folder, kind, damage, caplog):
    result()
    (file,) = kept(folder, kind)
    file.write_bytes(damage(file.read_bytes()))
    assert result() == 6.0
    assert "compiled again" in caplog.text
    caplog.clear()
    assert result() == 6.0 and not caplog.text


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_folder_in_the_place_of_a_file_is_removed(folder, kind, caplog):
    """Or every process would compile, as it can keep nothing."""
    result()
    (file,) = kept(folder, kind)
    file.unlink()
    file.mkdir()
    assert result() == 6.0
    assert "compiled again" in caplog.text
    caplog.clear()
    assert result() == 6.0 and not caplog.text
    assert not jit.starts[-1].is_compiled


def test_a_full_disk(folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert result() == 6.0
    assert "cannot be kept" in caplog.text


def test_no_home(tmp_path):
    """Without a home and without a writable package there is no cache, and no folder of that name comes about."""
    script = "from fastnn import info; from fastnn.kernels import jit; info._short(jit.cache_folder())"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    script = (
        "import os.path; os.path.expanduser = lambda path: path; from pathlib import Path; mkdir = Path.mkdir\n"
        "def refuse(path, *args, **kwargs):\n"
        "    if '__pycache__' in path.parts: raise PermissionError\n"
        "    mkdir(path, *args, **kwargs)\n"
        "Path.mkdir = refuse\n" + script.replace("; info", "; assert jit.cache_folder() is None; info")
    )
    environment.pop("NUMBA_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, cwd=tmp_path, env=environment)
    assert not list(tmp_path.iterdir())


def test_what_others_compile_meanwhile_is_not_kept_here(folder):
    before = jit.numba.config.CACHE_DIR
    seen = []

    class Watched(jit.Entry):
        def define_pipelines(self):
            seen.append(jit.numba.config.CACHE_DIR)
            return super().define_pipelines()

    entry, jit.Entry = jit.Entry, Watched
    try:
        result()
    finally:
        jit.Entry = entry
    assert seen == [before]


def test_ready_kernels_are_known():
    fastnn.MLP((2, 2)).forward(np.zeros((1, 2), "float32"))
    assert forward.is_compiled(np.dtype("float32"))
