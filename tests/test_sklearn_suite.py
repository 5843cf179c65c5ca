"""scikit-learn's own tests of its perceptrons, run against ours in their place."""

import os
import re
import subprocess
import sys
from pathlib import Path

from sklearn_versions import counts
from subprocesses import path_to


def test_sklearns_own_tests(tmp_path):
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "swap_sklearn", "-p", "no:cacheprovider", "-c", str(settings),
        "--pyargs", "sklearn.neural_network.tests.test_mlp",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": path_to(Path(__file__).parent)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # Anything that did not pass has a word of its own in the last line.
    only_passed = re.fullmatch(r"(\d+) passed in .*", run.stdout.splitlines()[-1])
    assert only_passed, run.stdout + run.stderr
    assert int(only_passed[1]) == counts()[0]
