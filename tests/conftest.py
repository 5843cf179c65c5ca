"""What all test files may use."""

import signal

import pytest

collect_ignore = ["swap_sklearn.py"]  # a plugin, not to be imported for doctests


@pytest.fixture
def ctrl_c_raises():
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
