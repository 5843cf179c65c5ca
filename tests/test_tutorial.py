"""The network this project grew from: 2-4-1, sigmoids, full-batch gradient descent on the four corners of XOR.

The script had two faults. It left the sigmoid's derivative out of the hidden layer, and its labels (n,) against
outputs (n, 1) made a square of errors. Here neither can happen.
"""

import re
from pathlib import Path

import numpy as np

import fastnn

README = Path(__file__).parents[1] / "README.md"


def noisy_xor(n=200):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, (n, 2))
    return corners + rng.normal(scale=0.1, size=(n, 2)), corners[:, 0] ^ corners[:, 1]


def tutorial(X, y):
    net = fastnn.MLP((2, 4, 1), activation="logistic", output="logistic", dtype="float64", random_state=0)
    sgd = fastnn.SGD(learning_rate=2.0, momentum=0.9)
    losses = [net.train_epoch(X, y, sgd, batch_size=len(X)) for _ in range(1000)]
    return net, losses


def test_it_learns():
    X, y = noisy_xor()
    net, losses = tutorial(X, y)
    assert ((net.forward(X)[:, 0] > 0.5) == y).mean() > 0.95
    assert losses[-1] < 0.2 * losses[0]


def test_the_ten_lines_of_the_readme():
    (code,) = re.findall(r"```python\n(import numpy as np, fastnn\n.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 10
    names = {}
    exec(code, names)
    assert names["loss"] < 0.1
    assert ((names["net"].forward(names["X"])[:, 0] > 0.5) == names["y"]).mean() > 0.95


def test_flat_labels_and_a_column_give_the_same_bits():
    X, y = noisy_xor()
    flat, flat_losses = tutorial(X, y)
    column, column_losses = tutorial(X, y[:, None])
    assert flat_losses == column_losses
    assert flat.forward(X).tobytes() == column.forward(X).tobytes()


def test_the_hidden_layer_has_its_derivative():
    """What the script left out: the slope of the loss in a hidden weight."""
    X, y = noisy_xor()
    net = fastnn.MLP((2, 4, 1), activation="logistic", output="logistic", dtype="float64", random_state=0)
    _, (dw, _), _ = net.loss_and_gradients(X, y)
    w, h, loss = net.weights[0], 1e-6, []
    for step in (h, -h):
        net.weights[0] = w + step * np.eye(2, 4)
        loss.append(net.loss_and_gradients(X, y)[0])
    assert abs((loss[0] - loss[1]) / (2 * h) - (dw[0, 0] + dw[1, 1])) < 1e-8
