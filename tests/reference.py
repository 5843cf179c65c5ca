"""An obvious NumPy twin of every kernel, in the dtype of what it is given: the tests' idea of right.

Rows are samples here, (n, units), and nothing is blocked, padded, transposed or in place.
"""

import numpy as np


def logistic(z):
    e = np.exp(-np.abs(z))
    return np.where(z > 0, 1 / (1 + e), e / (1 + e))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# name: (a = f(z), df/dz from a)
ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "logistic": (logistic, lambda a: a * (1 - a)),
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "relu": (lambda z: np.where(z < 0, 0, z), lambda a: np.where(a == 0, 0.0, 1.0)),
}


def xlogx(t):
    return np.where(t == 0, 0, t * np.log(np.where(t == 0, 1, t)))


def identity_loss(z, t):
    return (z - t) ** 2 / 2


def logistic_loss(z, t):
    return np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))


def softmax_loss(z, t):
    shifted = z - z.max(axis=1, keepdims=True)
    return t * (np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted)


def exp_loss(z, t):
    return xlogx(t) - t * z - t + np.exp(z)


# name: (outputs from z, loss of each output from z and t, dE/dz)
OUTPUTS = {
    "identity": (lambda z: z, identity_loss, lambda z, t: z - t),
    "logistic": (logistic, logistic_loss, lambda z, t: logistic(z) - t),
    "softmax": (softmax, softmax_loss, lambda z, t: softmax(z) * t.sum(axis=1, keepdims=True) - t),
    "exp": (np.exp, exp_loss, lambda z, t: np.exp(z) - t),
}


def one_hot(labels, n_out):
    return np.eye(n_out)[labels]


def dense(X):
    """X, or the array that a CSR matrix stands for: entries of one place add up."""
    if isinstance(X, np.ndarray):
        return X
    whole = np.zeros(X.shape, X.dtype)
    for row in range(len(whole)):
        for k in range(X.indptr[row], X.indptr[row + 1]):
            whole[row, X.indices[k]] += X.data[k]
    return whole


def layers_of(weights, biases, activations, X):
    """Inputs of every layer, and the last pre-activations."""
    inputs = [X]
    for w, b, name in zip(weights, biases, [*activations, None], strict=True):
        z = inputs[-1] @ w + b
        if name is None:
            return inputs, z
        inputs.append(ACTIVATIONS[name][0](z))


def forward(weights, biases, activations, output, X):
    return OUTPUTS[output][0](layers_of(weights, biases, activations, X)[1])


def loss_and_gradients(weights, biases, activations, output, X, T, sample_weight=None, alpha=0.0):
    _, loss, derivative = OUTPUTS[output]
    s = np.ones(len(X), X.dtype) if sample_weight is None else sample_weight
    total = s.sum()
    inputs, z = layers_of(weights, biases, activations, X)
    squares = sum((w * w).sum() for w in weights)
    value = ((s[:, None] * loss(z, T)).sum() + alpha / 2 * squares) / total
    delta = s[:, None] * derivative(z, T)
    dw, db = [], []
    for layer in reversed(range(len(weights))):
        dw.insert(0, (inputs[layer].T @ delta + alpha * weights[layer]) / total)
        db.insert(0, delta.sum(axis=0) / total)
        if layer:
            delta = delta @ weights[layer].T * ACTIVATIONS[activations[layer - 1]][1](inputs[layer])
    return value, dw, db


def sgd_step(w, g, m, v, step, learning_rate=0.001, momentum=0.9, nesterov=True):
    m = momentum * m - learning_rate * g
    return (w + momentum * m - learning_rate * g if nesterov else w + m), m, v


def adam_step(w, g, m, v, step, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    rate = learning_rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return w - rate * m / (np.sqrt(v) + epsilon), m, v


STEPS = {"SGD": sgd_step, "Adam": adam_step}


def train(weights, biases, activations, output, X, T, rule, settings, batches, sample_weight=None, alpha=0.0):
    """Return the parameters after one update for each batch of row indices, and the mean loss over the rows."""
    n, params = len(weights), [*weights, *biases]
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    losses = 0.0
    for step, rows in enumerate(batches, start=1):
        s = None if sample_weight is None else sample_weight[rows]
        loss, dw, db = loss_and_gradients(params[:n], params[n:], activations, output, X[rows], T[rows], s, alpha)
        losses += loss * len(rows)
        for i, g in enumerate([*dw, *db]):
            params[i], m[i], v[i] = STEPS[rule](params[i], g, m[i], v[i], step, **settings)
    return params[:n], params[n:], losses / sum(map(len, batches))


def batches_of(order, batch_size):
    return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def to_panels(matrix, panels):
    """A matrix (slow, fast) as the flat panels of products.py, padded with zeros; `panels` as layout.panels."""
    flat = []
    for start, width in panels:
        panel = np.zeros((len(matrix), width), matrix.dtype)
        part = matrix[:, start : start + width]
        panel[:, : part.shape[1]] = part
        flat.append(panel.reshape(-1))
    return np.concatenate(flat)
