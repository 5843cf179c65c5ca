"""The command line as its users run it, and the files that they give it."""

import gzip
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fastnn
from fastnn import datasets, info, main_job, parallel
from fastnn.datasets import DatasetError

SIZE, TRAIN_ROWS, TEST_ROWS = 4, 60, 20


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastnn", *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def idx(array, magic=None):
    header = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Tiny images whose class shows, half of the files compressed."""
    rng = np.random.default_rng(0)
    for part, n in (("train", TRAIN_ROWS), ("t10k", TEST_ROWS)):
        labels = np.arange(n, dtype=np.uint8) % 3
        images = (60 * labels[:, None, None] + rng.integers(0, 50, (n, SIZE, SIZE))).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_info_names_what_decides_the_speed():
    done = run("info", FASTNN_NUM_THREADS="1", FASTNN_SIMD_BITS="")
    assert done.returncode == 0, done.stderr
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["fastnn"] == fastnn.__version__
    assert lines["numpy"] == np.__version__
    assert lines["threads"] == "1 (FASTNN_NUM_THREADS)"
    assert lines["threading layer"].startswith("fastnn's own threads; Numba's layers")
    assert lines["CPU"]
    assert os.path.expanduser("~") not in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_info_to_a_reader_who_leaves():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        command = [sys.executable, "-m", "fastnn", "info"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_number_of_threads_is_an_error(monkeypatch):
    for value in ("0", "-1", "many", "1e3"):
        monkeypatch.setenv("FASTNN_NUM_THREADS", value)
        with pytest.raises(ValueError, match="FASTNN_NUM_THREADS must be a positive integer"):
            parallel.default_threads.__wrapped__()
    monkeypatch.setenv("FASTNN_NUM_THREADS", "")  # as a script sets it to a variable that is not there
    assert parallel.default_threads.__wrapped__()[1] != "FASTNN_NUM_THREADS"


def test_info_tells_of_a_bad_number_of_threads_in_a_line():
    done = run("info", FASTNN_NUM_THREADS="0")
    message = "python -m fastnn info: error: FASTNN_NUM_THREADS must be a positive integer, got '0'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_bench_ends_at_ctrl_c(monkeypatch):
    """Both libraries turn it into a warning and a model that has trained less, which would falsify the table."""
    job = main_job.digits_job(epochs=5)
    fit = fastnn.MLPClassifier.fit
    monkeypatch.setattr(fastnn.MLPClassifier, "fit", lambda model, X, y: fit(model.set_params(max_iter=3), X, y))
    with pytest.raises(KeyboardInterrupt):
        main_job.run(job, repeats=1)


def test_info_gives_the_default_threads_and_the_reason():
    n, reason = parallel.default_threads()
    assert dict(info.machine())["threads"] == f"{n} ({reason})"


def check_table(output):
    header, fast, slow = (re.split(r"  +", line.strip()) for line in output.splitlines()[3:6])
    assert header[0] == "training" and fast[0] == "fastnn" and slow[0] == "scikit-learn"
    assert fast[2] == "1.00"
    assert fast[3] == slow[3] == "2"
    assert float(fast[4]) == pytest.approx(float(slow[4]), rel=1e-3)
    assert "kernel cache" in output


def test_bench_compares_on_digits():
    done = run("bench", "--epochs", "2", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    check_table(done.stdout)
    assert "Warning" not in done.stderr
    assert "fit/s" not in done.stderr  # the progress bar is for terminals


def test_bench_prints_markdown_to_share():
    done = run("bench", "--epochs", "2", "--repeats", "1", "--share")
    assert done.returncode == 0, done.stderr
    table, machine = done.stdout.split("```text\n")
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows] == ["", "---", "fastnn", "scikit-learn"]
    assert {len(row) for row in rows} == {8}
    assert float(rows[2][4]) == pytest.approx(float(rows[3][4]), rel=1e-3)
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in machine.removesuffix("\n```\n").splitlines())
    assert list(lines) == [name for name, _ in info.machine()]
    assert "(" in lines["threads"]  # the number, and why


def test_bench_compares_on_idx_files(folder):
    done = run("bench", "--epochs", "2", "--repeats", "1", "--data", f"fashion-mnist={folder}")
    assert done.returncode == 0, done.stderr
    assert f"{TRAIN_ROWS} rows to train on, {TEST_ROWS} to test on, network 16-128-3" in done.stdout
    check_table(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--data", "fashion-mnist=/no/such/folder"], "/no/such/folder is not a folder; give the one"),
        (["bench", "--data", "mnist"], "must be fashion-mnist=FOLDER, got 'mnist'"),
        (["bench", "--epochs", "0"], "must be an integer of at least 1, got '0'"),
        (["bench", "--repeats", "many"], "must be an integer of at least 1, got 'many'"),
        ([], "required: command"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_file_is_named(folder):
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    done = run("bench", "--data", f"fashion-mnist={folder}")
    assert done.returncode == 2
    assert f"{file} is not a whole gzip file" in done.stderr
    assert "Traceback" not in done.stderr


def test_digits_are_scaled_and_split_the_same_way_each_time():
    once, again = datasets.digits(), datasets.digits()
    assert once.X_train.dtype == np.float32
    assert once.X_train.min() == 0 and once.X_train.max() == 1
    assert len(once.X_train) + len(once.X_test) == 1797
    np.testing.assert_array_equal(once.X_test, again.X_test)


def test_idx_files_plain_or_compressed(folder):
    data = datasets.fashion_mnist(folder)
    assert data.X_train.shape == (TRAIN_ROWS, SIZE * SIZE)
    assert data.X_test.shape == (TEST_ROWS, SIZE * SIZE)
    assert data.X_train.dtype == np.float32
    np.testing.assert_array_equal(data.y_train, np.arange(TRAIN_ROWS) % 3)
    assert ((data.X_train.max(axis=1) * 255) // 60 == data.y_train).all()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file of unsigned bytes in 3 dimensions .it starts with nothing"),
        (b"\x1f\x8b\x08\x00", "is not an idx file"),  # compressed, but not called so
        (idx(ARRAY, magic=bytes((0, 0, 13, 3))), "is not an idx file"),  # floats
        (idx(ARRAY[0]), "in 3 dimensions .it starts with 00000802"),
        (idx(ARRAY)[:10], "has 10 bytes where its header says"),
        (idx(ARRAY)[:-1], "has 39 bytes where its header says 40; download it again"),
        (idx(ARRAY) + b"\0", "has 41 bytes where its header says 40"),
    ],
)
def test_read_idx_refuses_what_is_not_one(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        datasets.read_idx(path, n_dims=3)


def test_read_idx_refuses_what_is_not_gzip(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(idx(ARRAY))
    with pytest.raises(DatasetError, match="is not a whole gzip file"):
        datasets.read_idx(path, n_dims=3)


def test_files_that_do_not_belong_together(folder):
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(7, np.uint8)))
    with pytest.raises(DatasetError, match="has 7 labels for 60 images"):
        datasets.fashion_mnist(folder)
    labels.unlink()
    with pytest.raises(DatasetError, match=re.escape(f"{labels}[.gz] is missing")):
        datasets.fashion_mnist(folder)


def test_train_and_test_images_of_different_sizes(folder):
    images = np.zeros((TEST_ROWS, 2, 2), np.uint8)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    with pytest.raises(DatasetError, match="differ in size"):
        datasets.fashion_mnist(folder)
