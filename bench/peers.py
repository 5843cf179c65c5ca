"""One training step in fastnn and in its peers, side by side: `python bench/peers.py [--nets NAME ...] [--json FILE]`.

Every library does the same work in the same dtype on the same cores: gather the batch's rows in a given random order,
forward, loss, backward, Adam. All start from the same weights and go through the same rows, so that the losses of their
first steps must agree; scikit-learn draws its own. They take turns, each timing after a short pause, because the
threads of one library spin for a while after its last call and slow the next one.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance

N_THREADS = 2
FIRST_STEPS = 16
LR, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


@dataclass
class Net:
    """A network, its batch, and the number of rows to draw batches from."""

    name: str
    sizes: tuple
    batch: int
    activation: str = "relu"
    output: str = "softmax"
    rows: int = 10_000

    def flops(self):
        """Operations of the products of one step; the first layer needs no gradient in its inputs."""
        products = sum(i * o for i, o in itertools.pairwise(self.sizes))
        return 6 * self.batch * products - 2 * self.batch * self.sizes[0] * self.sizes[1]

    def title(self):
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}"


NETS = [
    Net("tiny", (2, 4, 1), 100, "logistic", "logistic"),
    Net("small", (20, 7, 3), 50),
    Net("digits", (64, 64, 10), 32),
    Net("odd", (129, 97, 65, 33, 5), 77),
    Net("simplechains", (4, 32, 16, 4), 10_000, "tanh", "identity"),
    Net("mnist128", (784, 128, 10), 128, rows=60_000),
    Net("mnist", (784, 256, 128, 10), 128, rows=60_000),
    Net("large", (784, 1024, 1024, 10), 256, rows=60_000),
]


@dataclass
class Problem:
    """Random rows and targets for a net, and the weights that every library starts from."""

    net: Net
    X: object
    y: object
    weights: list
    biases: list

    @classmethod
    def draw(cls, net, dtype):
        import numpy as np

        import fastnn

        rng = np.random.default_rng(0)
        X = rng.random((net.rows, net.sizes[0])).astype(dtype)
        if net.output == "softmax":
            y = rng.integers(0, net.sizes[-1], net.rows)
        elif net.output == "logistic":
            y = rng.integers(0, 2, (net.rows, net.sizes[-1])).astype(dtype)
        else:
            y = rng.random((net.rows, net.sizes[-1])).astype(dtype)
        start = fastnn.MLP(net.sizes, net.activation, net.output, dtype, random_state=0)
        return cls(net, X, y, list(start.weights), list(start.biases))

    def order(self, steps):
        """Row indices of each step, (steps, batch): as many random passes over the rows as that takes."""
        import numpy as np

        rng, n = np.random.default_rng(1), steps * self.net.batch
        passes = [rng.permutation(self.net.rows) for _ in range(-(-n // self.net.rows))]
        return np.concatenate(passes)[:n].reshape(steps, self.net.batch)


# -- the libraries: each function returns `prepare(order)`, which returns `run()`, which returns the mean loss --------


def fastnn_runner(problem):
    import fastnn

    net, X, y = problem.net, problem.X, problem.y
    model = fastnn.MLP(net.sizes, net.activation, net.output, X.dtype)
    model.weights, model.biases = problem.weights, problem.biases
    adam = fastnn.Adam(LR, BETA_1, BETA_2, EPSILON)

    def prepare(order):
        rows = order.reshape(-1)
        return lambda: model.train_epoch(X, y, adam, net.batch, rows)

    return prepare


def jax_runner(problem):
    import jax
    import jax.numpy as jnp

    net = problem.net
    activation = {"logistic": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}[net.activation]

    def mean_loss(z, t):
        if net.output == "softmax":
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), t[:, None], axis=1))
        if net.output == "logistic":
            return jnp.mean(jnp.sum(jax.nn.softplus(z) - t * z, axis=1))
        return jnp.mean(jnp.sum((z - t) ** 2, axis=1)) / 2

    def loss_of(params, x, t):
        for W, b in params[:-1]:
            x = activation(x @ W + b)
        W, b = params[-1]
        return mean_loss(x @ W + b, t)

    def epoch(state, order, X, y):
        def step(state, rows):
            params, m, v, n = state
            x, t = (a.at[rows].get(mode="promise_in_bounds") for a in (X, y))
            loss, grads = jax.value_and_grad(loss_of)(params, x, t)
            n = n + 1
            rate = LR * jnp.sqrt(1 - BETA_2**n) / (1 - BETA_1**n)
            m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, grads)
            v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, grads)
            params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), params, m, v)
            return (params, m, v, n), loss

        state, losses = jax.lax.scan(step, state, order)
        return state, jnp.mean(losses)

    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    params = [(jnp.array(W), jnp.array(b)) for W, b in zip(problem.weights, problem.biases, strict=True)]
    state = (params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), X.dtype))

    def prepare(order):
        indices = jnp.asarray(order)
        compiled = jax.jit(epoch, donate_argnums=0).lower(state, indices, X, y).compile()

        def run():
            nonlocal state
            state, loss = compiled(state, indices, X, y)
            jax.block_until_ready(state)
            return float(loss)

        return run

    return prepare


def torch_runner(problem, n_threads=N_THREADS):
    import torch
    from torch.nn import functional

    torch.set_num_threads(n_threads)
    net = problem.net
    layers = []
    for n_in, n_out in itertools.pairwise(net.sizes):
        activation = {"logistic": torch.nn.Sigmoid, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[net.activation]
        layers += [torch.nn.Linear(n_in, n_out, dtype=getattr(torch, str(problem.X.dtype))), activation()]
    model = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for layer, W, b in zip(layers[::2], problem.weights, problem.biases, strict=True):
            layer.weight.copy_(torch.tensor(W.T))
            layer.bias.copy_(torch.tensor(b))
    adam = torch.optim.Adam(model.parameters(), lr=LR, betas=(BETA_1, BETA_2), eps=EPSILON, fused=True)
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)

    def mean_loss(z, t):
        if net.output == "softmax":
            return functional.cross_entropy(z, t)
        if net.output == "logistic":
            return functional.binary_cross_entropy_with_logits(z, t, reduction="sum") / len(z)
        return functional.mse_loss(z, t, reduction="sum") / (2 * len(z))

    def prepare(order):
        steps = torch.from_numpy(order)

        def run():
            total = torch.zeros(())
            for rows in steps:
                loss = mean_loss(model(X.index_select(0, rows)), y.index_select(0, rows))
                adam.zero_grad()
                loss.backward()
                adam.step()
                total += loss.detach()
            return float(total) / len(steps)

        return run

    return prepare


def sklearn_runner(problem):
    import numpy as np
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    net = problem.net
    regression = net.output == "identity"
    model = (MLPRegressor if regression else MLPClassifier)(
        hidden_layer_sizes=net.sizes[1:-1], activation=net.activation, alpha=0.0, batch_size=net.batch,
        learning_rate_init=LR, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON, random_state=0,
    )  # fmt: skip
    more = {} if regression else {"classes": np.unique(problem.y)}

    def prepare(order):
        # It shuffles for itself, and gathers from that order; here it gets the rows of as many steps.
        rows = order.reshape(-1)
        X, y = problem.X[rows], problem.y[rows]
        y = y if regression else y.reshape(-1)

        def run():
            model.partial_fit(X, y, **more)
            return None

        return run

    return prepare


RUNNERS = {"fastnn": fastnn_runner, "JAX": jax_runner, "PyTorch": torch_runner, "scikit-learn": sklearn_runner}
MODULES = {"fastnn": ["fastnn"], "JAX": ["jax"], "PyTorch": ["torch"], "scikit-learn": ["sklearn"]}


# -- timing -----------------------------------------------------------------------------------------------------------

LOOK = 0.02  # seconds
MOST_LOOKS = 50


def wait_for_quiet():
    """Wait until threads of the library before have gone to sleep: OpenBLAS's go round for a tenth of a second."""
    for _ in range(MOST_LOOKS):
        before = time.process_time()
        time.sleep(LOOK)
        if time.process_time() - before < LOOK / 10:
            return


def elapsed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def prepared(runner, problem, seconds):
    """Return a run of about `seconds`, its number of steps, and the mean loss of the very first steps."""
    prepare = runner(problem)
    first = prepare(problem.order(FIRST_STEPS))
    loss = first()
    steps = max(2, int(seconds / (elapsed(first) / FIRST_STEPS)))
    run = prepare(problem.order(steps))
    run()
    return run, steps, loss


def compare(net, dtype, libraries, repeats, seconds):
    """Return microseconds a step of each library, and the micro-kernel's peak on one and on two cores."""
    from bench.peak import peak_gflops

    problem = Problem.draw(net, dtype)
    runs = {name: prepared(RUNNERS[name], problem, seconds) for name in libraries}
    check_losses(net, {name: loss for name, (_, _, loss) in runs.items() if loss is not None})
    times, peaks = {name: [] for name in runs}, {1: [], N_THREADS: []}
    for _ in range(repeats):
        for n_threads, found in peaks.items():
            wait_for_quiet()
            found.append(peak_gflops(dtype, n_threads))
        for name, (run, steps, _) in runs.items():
            wait_for_quiet()
            times[name].append(1e6 * elapsed(run) / steps)
    return {
        "net": net.name, "title": net.title(), "dtype": dtype, "flops": net.flops(), "microseconds": times,
        "peak": {str(n_threads): max(found) for n_threads, found in peaks.items()},
    }  # fmt: skip


def check_losses(net, losses):
    """Refuse a comparison of libraries that do not compute the same thing."""
    for name, loss in losses.items():
        if abs(loss - losses["fastnn"]) > 1e-3 * abs(losses["fastnn"]):
            raise SystemExit(f"{net.name}: {name} is not doing the same, its first losses differ: {losses}")


# -- the tables -------------------------------------------------------------------------------------------------------


def render(stored):
    """Markdown: a table for each dtype, and where the figures are from."""
    lines = []
    for _, group in itertools.groupby(stored["results"], key=lambda result: result["dtype"]):
        results = list(group)
        lines += [table(results), "", peak_line(results), ""]
    threads, repeats = stored["threads"], stored["repeats"]
    lines.append(f"Microseconds a step (GFLOP/s), {threads} threads each, median of {repeats} timings in turns.")
    return "\n".join([*lines, *stored["notes"], "", provenance.line(stored)])


def table(results):
    """Markdown: microseconds a step and GFLOP/s of each library, the ratio to the fastest peer, percent of the peak."""
    header = ["net", *results[0]["microseconds"], "fastest peer / fastnn", "fastnn, % of the micro-kernel's peak"]
    peak = best_peak(results, N_THREADS)
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for result in results:
        medians = {name: statistics.median(samples) for name, samples in result["microseconds"].items()}
        speeds = {name: result["flops"] / us / 1e3 for name, us in medians.items()}
        peers = [us for name, us in medians.items() if name != "fastnn"]
        rows.append([
            f"{result['net']}: {result['title']}",
            *(f"{us:,.1f} ({speeds[name]:.1f})" if us < 100 else f"{us:,.0f} ({speeds[name]:.1f})"
              for name, us in medians.items()),
            f"{min(peers) / medians['fastnn']:.2f}" if peers else "-",
            f"{speeds['fastnn'] / peak:.0%}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def best_peak(results, n_threads):
    """The limit is the best that the micro-kernel was seen to reach in this run: what disturbs it only lowers it."""
    return max(result["peak"][str(n_threads)] for result in results)


def peak_line(results):
    one, two = (best_peak(results, n_threads) for n_threads in (1, N_THREADS))
    return (
        f"{results[0]['dtype']}: the micro-kernel alone, its best in this run: {one:.0f} GFLOP/s on 1 core, "
        f"{two:.0f} on {N_THREADS}."
    )


def limit_threads():
    """Give every library the same cores; before any of them is imported, as they read this once. fastnn, too."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(N_THREADS)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it sees cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_THREADS])
    import fastnn

    fastnn.set_num_threads(N_THREADS)


def measure(options):
    libraries, notes = command_line.installed(MODULES)
    repeats, seconds = (3, 0.05) if options.quick else (options.repeats, 0.15)
    results = []
    for dtype, wanted in {"float32": libraries, "float64": ["fastnn", "scikit-learn"]}.items():
        if options.quick and dtype == "float64":
            continue
        for net in NETS:
            if net.name in options.nets:
                print(f"{dtype} {net.name}", file=sys.stderr)
                results.append(compare(net, dtype, wanted, repeats, seconds))
    return {**provenance.here(N_THREADS, libraries), "repeats": repeats, "notes": notes, "results": results}


def main():
    names = [net.name for net in NETS]
    parser = argparse.ArgumentParser(description="Compare a training step of fastnn with its peers'.")
    parser.add_argument("--nets", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = command_line.comparison(parser, 15, "timings", "3 short timings each, and no float64")
    limit_threads()
    stored = measure(options)
    provenance.publish(stored, render(stored), options)


if __name__ == "__main__":
    command_line.run(main)
