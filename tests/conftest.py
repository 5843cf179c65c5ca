"""What all test files may use."""

import os
import signal

import pytest

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

collect_ignore = ["swap_sklearn.py"]  # a plugin, not to be imported for doctests


@pytest.fixture(autouse=True)
def turn(request, tmp_path_factory):
    """Where pytest-xdist runs several tests at once, wait for one marked `alone`, or for all others before it."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not fcntl:
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent
    with open(shared / "door", "w") as door, open(shared / "room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)  # who waits before the room keeps the others from it
        fcntl.flock(room, fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
        fcntl.flock(room, fcntl.LOCK_UN)  # a child that lives on has the file open


@pytest.fixture
def ctrl_c_raises():
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def public_path(tmp_path):
    """A temporary folder to which all users find the way."""
    for folder in (tmp_path, *tmp_path.parents[:3]):  # of a run, of one of its processes, and of this user
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    return tmp_path
