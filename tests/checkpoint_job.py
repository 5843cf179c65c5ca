"""A job for test_checkpoint: fits that are killed at random moments, and resumed until they are done.

python checkpoint_job.py FOLDER SETTING KILLS
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import fastnn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 10))
Y = (X[:, 0] * X[:, 1] + 0.3 * RNG.normal(size=300) > 0).astype(int) + (X[:, 2] > 1)
WEIGHT = RNG.uniform(0.5, 2.0, 300)
COMMON = {"hidden_layer_sizes": (20, 10), "random_state": 3, "batch_size": 16, "learning_rate_init": 0.01}
SETTINGS = {
    "adam": {"max_iter": 60, "tol": 0.0},
    "sgd": {
        "solver": "sgd", "learning_rate": "adaptive", "momentum": 0.8, "tol": 1e-2, "n_iter_no_change": 2,
        "max_iter": 200,
    },
    "early_stopping": {"early_stopping": True, "n_iter_no_change": 25, "max_iter": 200, "validation_fraction": 0.2},
    "weights": {"max_iter": 50, "tol": 0.0, "batch_size": 300},
    "callbacks": {"max_iter": 200, "n_iter_no_change": 200},
}  # fmt: skip


class Batches(fastnn.Callback):
    """Sees each batch, which makes each a moment to save in."""

    def on_batch_end(self, fit):
        assert 0 < fit.batch <= fit.n_batches


def callbacks(setting, folder):
    if setting != "callbacks":
        return []
    return [
        fastnn.EarlyStopping(X[:100], Y[:100], "accuracy", patience=25),
        fastnn.LearningRateSchedule(lambda epoch: 0.02 / (1 + epoch)),
        fastnn.JSONLinesLog(folder / "log.jsonl"),
        fastnn.CSVLog(folder / "log.csv"),
        Batches(),
    ]


def fitted(setting, folder, *others):
    model = fastnn.MLPClassifier(**{**COMMON, **SETTINGS[setting]}, callbacks=[*callbacks(setting, folder), *others])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, Y, WEIGHT if setting == "weights" else None)


def outcome(model, folder):
    """All that must be the same, as text."""
    history = {name: column for name, column in model.history_.items() if name != "seconds"}
    logs = [[json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("*.jsonl")]
    for row in (row for log in logs for row in log):
        del row["seconds"]
    rows = [line.split(",")[:2] for path in folder.glob("*.csv") for line in path.open()]
    return json.dumps({
        "parameters": [array.tobytes().hex() for array in [*model.coefs_, *model.intercepts_]],
        "epochs": [model.n_iter_, model.t_], "loss_curve": model.loss_curve_, "history": history,
        "scores": model.validation_scores_, "best": [model.best_loss_, model.best_validation_score_],
        "logs": logs, "rows": rows,
    })  # fmt: skip


def run_in_child(setting, folder):
    """Fit in a forked process, and leave what came of it in a file."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            model = fitted(setting, folder, fastnn.Checkpoint(folder / "checkpoint", every=0))
            (folder / "outcome").write_text(outcome(model, folder))
            status = 0
        finally:
            os._exit(status)
    return pid


def main(folder, setting, n_kills):
    (folder / "whole").mkdir()
    expected = outcome(fitted(setting, folder / "whole"), folder / "whole")
    random.seed(n_kills)
    kills = runs = 0
    while kills < n_kills:
        work, done, longest = folder / f"run{runs}", False, 0.05
        work.mkdir()
        runs += 1
        while not done:
            began = time.monotonic()
            pid = run_in_child(setting, work)
            deadline = began + random.uniform(0.0, longest)
            while not done and time.monotonic() < deadline:
                finished, status = os.waitpid(pid, os.WNOHANG)
                assert status == 0
                done = finished == pid
                time.sleep(0.001)
            if not done:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)[1] == 0
                kills += not done
                longest *= 1.1  # so that it comes to an end on a slow disk
        assert (work / "outcome").read_text() == expected, f"{setting}, run {runs}: not the same"
    print(f"{setting}: {kills} kills in {runs} runs, all the same")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
