"""Prediction in fastnn and in its peers, side by side: `python bench/inference.py [--nets NAME ...] [--json FILE]`.

Every library has the same float32 weights and the same cores, gets a NumPy array and returns one; what they return must
agree. Each predicts in the fastest of the ways below: one row into an output of the call's own, and one row and more
into outputs that are used again, where a library can do that. They take turns, each timing after a short pause, as in
`bench/peers.py`.
"""

import argparse
import functools
import statistics
import sys
import threading
import time
from pathlib import Path

if not __package__:  # as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's fastnn and bench

from bench import command_line, provenance
from bench.peers import N_THREADS, elapsed, limit_threads, wait_for_quiet

NETS = {
    "64-64-10": (64, 64, 10),
    "784-256-128-10": (784, 256, 128, 10),
    "784-1024-1024-10": (784, 1024, 1024, 10),
}
# Rows of a call, and whether its output may be one that was used before.
CASES = {"1": False, "1 again": True, "8": True, "32": True, "1000": True, "10000": True}
# What one row is to be ahead of the fastest peer by, what a thousand rows are, and their least share of the peak; the
# microseconds that an estimator may take beyond its network.
GOALS_ONE_ROW = dict(zip(NETS, (3, 1.5, 1), strict=True))
GOAL_MANY_ROWS, GOAL_PEAK, GOAL_ESTIMATOR = 1.05, 0.9, 20
ON_ONE_CPU = "1 on one CPU"  # others' calls are of as many threads as all that is measured
LATENCIES, ESTIMATOR_CALLS = 20_000, 2_000
PEAKS = 3  # of each turn, the best of which counts: a core that is held up for a moment has none


# -- the libraries: each function returns `predict(X)`, which makes its output, and one that need not -----------------


def fastnn_predictors(net):
    out = output_of(net)
    return net.forward, lambda X: net.forward(X, out(len(X)))


def output_of(net):
    """Return a function that returns the same output each time that it is given the same number of rows."""
    import numpy as np

    return functools.cache(lambda n: np.empty((n, net.sizes[-1]), net.dtype))


def onnx_model(net):
    """The network as an ONNX graph."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, z = [], [], "X"
    for layer, (weights, biases) in enumerate(zip(net.weights, net.biases, strict=True)):
        constants += [numpy_helper.from_array(weights, f"W{layer}"), numpy_helper.from_array(biases, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [z, f"W{layer}", f"b{layer}"], [f"z{layer}"]))
        z = f"z{layer}"
        if layer < len(net.weights) - 1:
            nodes.append(helper.make_node("Relu", [z], [f"a{layer}"]))
            z = f"a{layer}"
    nodes.append(helper.make_node("Softmax", [z], ["p"], axis=1))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n])]
        for name, n in (("X", net.sizes[0]), ("p", net.sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "mlp", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def onnxruntime_predictors(net):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = N_THREADS
    session = onnxruntime.InferenceSession(onnx_model(net), options, providers=["CPUExecutionProvider"])
    out = output_of(net)

    @functools.cache
    def binding(n):
        bound = session.io_binding()
        bound.bind_output("p", "cpu", 0, np.float32, out(n).shape, out(n).ctypes.data)
        return bound

    def predict_again(X):
        bound = binding(len(X))
        bound.bind_cpu_input("X", X)
        session.run_with_iobinding(bound)
        return out(len(X))

    return lambda X: session.run(None, {"X": X})[0], predict_again


def openvino_predictors(net):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": N_THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx_model(net)), "CPU", settings).create_infer_request()
    infer = functools.partial(request.infer, share_inputs=True)
    return lambda X: infer([X])[0], lambda X: infer([X], share_outputs=True)[0]


def torch_predictors(net):
    import torch

    torch.set_num_threads(N_THREADS)
    layers = []
    for weights, biases in zip(net.weights, net.biases, strict=True):
        layer = torch.nn.Linear(*weights.shape)
        layer.load_state_dict({"weight": torch.tensor(weights.T), "bias": torch.tensor(biases)})
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1)).eval()

    @torch.inference_mode()
    def predict(X):
        return model(torch.from_numpy(X)).numpy()

    return predict, predict


def estimator_like(net):
    """A classifier of fastnn's with a network like this one."""
    import numpy as np

    import fastnn

    X = np.random.default_rng(0).random((4 * net.sizes[-1], net.sizes[0]), dtype="float32")
    y = np.arange(len(X)) % net.sizes[-1]
    return fastnn.MLPClassifier(net.sizes[1:-1], random_state=0).partial_fit(X, y, classes=np.unique(y))


def sklearn_predictors(net):
    model = estimator_like(net).to_sklearn()
    model.coefs_, model.intercepts_ = list(net.weights), list(net.biases)
    return model.predict_proba, model.predict_proba


PREDICTORS = {
    "fastnn": fastnn_predictors, "ONNX Runtime": onnxruntime_predictors, "OpenVINO": openvino_predictors,
    "PyTorch": torch_predictors, "scikit-learn": sklearn_predictors,
}  # fmt: skip
MODULES = {
    "fastnn": ["fastnn"], "ONNX Runtime": ["onnxruntime", "onnx"], "OpenVINO": ["openvino", "onnx"],
    "PyTorch": ["torch"], "scikit-learn": ["sklearn"],
}  # fmt: skip


# -- timing -----------------------------------------------------------------------------------------------------------


def timed(predict, X, n):
    """Seconds that each of n calls takes."""

    def run():
        for _ in range(n):
            predict(X)

    return elapsed(run) / n


def fastest(ways, X):
    return min(ways, key=lambda predict: min(timed(predict, X, 3) for _ in range(5)))


def compare(name, libraries, options):
    """Return microseconds a call of each library by rows, and what else there is to know of one net."""
    import numpy as np

    import fastnn
    from bench.peak import peak_gflops

    net = fastnn.MLP(NETS[name], random_state=0)
    ways = {library: PREDICTORS[library](net) for library in libraries}
    found, peaks = {}, {}
    for case, again in CASES.items():
        X = np.random.default_rng(1).random((rows_of(case), net.sizes[0]), dtype="float32")
        check_same(name, ways, X)
        predictors = {library: fastest(both if again else both[:1], X) for library, both in ways.items()}
        calls = {library: calls_in(options.seconds, predict, X) for library, predict in predictors.items()}
        times = {library: [] for library in predictors}
        peaks[case] = []
        for _ in range(options.repeats):
            wait_for_quiet()
            peaks[case].append(max(peak_gflops("float32", N_THREADS) for _ in range(PEAKS)))
            for library, predict in predictors.items():
                wait_for_quiet()
                predict(X)  # wakes its threads
                times[library].append(1e6 * timed(predict, X, calls[library]))
        found[case] = times
    n_weights = sum(w.size for w in net.weights)
    return {
        "net": name, "flops_of_row": 2 * n_weights, "microseconds": found, "peaks": peaks,
        "bytes": 4 * n_weights, "read": read_seconds(4 * n_weights),
        "estimator": estimator_microseconds(net, options), "latency": single_calls(net, ways, options),
        "threads": latencies(net, options),
    }  # fmt: skip


def rows_of(case):
    return int(case.partition(" ")[0])


def calls_in(seconds, predict, X):
    return max(1, int(seconds / timed(predict, X, 3)))


def check_same(name, ways, X):
    """Refuse a comparison of libraries that do not predict the same."""
    import numpy as np

    expected = np.array(ways["fastnn"][0](X))
    for library, predict in ((library, predict) for library, both in ways.items() for predict in both):
        if not np.allclose(predict(X), expected, rtol=1e-3, atol=1e-6):
            raise SystemExit(f"{name}: {library} does not predict the same")


def single_calls(net, ways, options):
    """Percentiles of the microseconds that a call for one row takes in each library, calls of many turns together."""
    import numpy as np

    X = np.random.default_rng(1).random((1, net.sizes[0]), dtype="float32")
    samples = {library: [] for library in ways}
    for _ in range(options.repeats):
        for library, (predict, _) in ways.items():
            wait_for_quiet()
            predict(X)  # wakes its threads
            call, n = functools.partial(predict, X), calls_in(options.seconds, predict, X)
            samples[library] += [elapsed(call) for _ in range(n)]
    return {library: percentiles(seconds) for library, seconds in samples.items()}


def percentiles(seconds):
    import numpy as np

    return dict(zip(("p50", "p99"), (1e6 * np.percentile(seconds, [50, 99])).tolist(), strict=True))


def read_seconds(n_bytes):
    """Seconds that a plain read of so many bytes takes, from where they come to lie; best of many.

    On one core or on all: for few bytes it takes longer to share them out.
    """
    import numba
    import numpy as np

    def read(parts):
        total = 0.0
        for i in numba.prange(parts.shape[0]):
            total += parts[i].sum()
        return total

    parts = np.ones((N_THREADS, n_bytes // 4 // N_THREADS), np.float32)
    readers = [numba.njit(parallel=shared, fastmath=True)(read) for shared in (False, True)]
    for reader in readers:
        reader(parts)
    return min(timed(reader, parts, 10) for _ in range(50) for reader in readers)


def estimator_microseconds(net, options):
    """Microseconds of single rows in `predict_proba`, as it is and without validation, and in its network's `forward`.

    Call by call in turns; of each turn of many calls the medians.
    """
    import numpy as np
    from sklearn import config_context

    model, X = estimator_like(net), np.random.default_rng(1).random((1, net.sizes[0]), dtype="float32")
    forward, unchecked = model._network().forward, {"assume_finite": True, "skip_parameter_validation": True}
    calls = {
        "forward": (forward, {}), "predict_proba": (model.predict_proba, {}),
        "predict_proba, without validation": (model.predict_proba, unchecked),
    }  # fmt: skip
    n, times = ESTIMATOR_CALLS // 10 if options.quick else ESTIMATOR_CALLS, {name: [] for name in calls}
    for _ in range(options.repeats):
        samples = {name: [] for name in calls}
        for _ in range(n):
            for name, (predict, settings) in calls.items():
                with config_context(**settings):
                    samples[name].append(elapsed(functools.partial(predict, X)))
        for name, seconds in samples.items():
            times[name].append(1e6 * statistics.median(seconds))
    return times


def latencies(net, options):
    """Of `forward` of single rows in 1, 2 and 4 Python threads at once: calls a second, and percentiles of latency."""
    import numpy as np

    import fastnn

    n_calls = LATENCIES // 10 if options.quick else LATENCIES
    X, found = np.random.default_rng(1).random((1, net.sizes[0]), dtype="float32"), {}
    for name, n_threads, n_each in ((ON_ONE_CPU, 1, 1), ("1", 1, N_THREADS), ("2", 2, N_THREADS), ("4", 4, N_THREADS)):
        samples, start_together, spans = np.zeros((n_threads, n_calls)), threading.Barrier(n_threads), []

        def work(mine, start_together=start_together, spans=spans, n_each=n_each):
            clock, forward = time.perf_counter, net.forward
            with fastnn.threads(n_each):
                forward(X)
                start_together.wait()
                begin = clock()
                for i in range(n_calls):
                    start = clock()
                    forward(X)
                    mine[i] = clock() - start
                spans.append((begin, clock()))

        workers = [threading.Thread(target=work, args=[mine]) for mine in samples]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
        found[name] = {"per_second": n_threads * n_calls / seconds, **percentiles(samples)}
    return found


# -- the tables -------------------------------------------------------------------------------------------------------


def markdown(rows):
    rows = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def render(stored):
    """Markdown: the comparison, and smaller tables on single rows."""
    results, threads, repeats = stored["results"], stored["threads"], stored["repeats"]
    parts = [
        comparison(results),
        f"Microseconds a call, float32, {threads} threads each, median of {repeats} timings in turns; a call for"
        " 1 row makes its output, `again` and for more rows it may be one that was used before.",
        single_rows(results), bandwidth(results), estimators(results), at_once(results), *stored["notes"],
        provenance.line(stored),
    ]  # fmt: skip
    return "\n\n".join(parts)


def comparison(results):
    libraries = list(results[0]["microseconds"]["1"])
    share_header = "fastnn, % of the micro-kernel's peak"
    rows = [["net", "rows", *libraries, "fastest peer / fastnn", "to reach", share_header, "to reach"]]
    for result in results:
        for case, times in result["microseconds"].items():
            n = rows_of(case)
            medians = {library: statistics.median(samples) for library, samples in times.items()}
            peers = [us for library, us in medians.items() if library != "fastnn"]
            ratio = min(peers) / medians["fastnn"] if peers else None
            many = n >= 1_000
            share = share_of_peak(result, case) if many else None
            goal = GOALS_ONE_ROW[result["net"]] if case == "1" else GOAL_MANY_ROWS if many else None
            rows.append([
                result["net"], case if n < 1_000 else f"{n:,}",
                *(f"{us:,.1f}" if us < 100 else f"{us:,.0f}" for us in medians.values()),
                f"{ratio:.2f}" if peers else "-", verdict(ratio, goal, "g"),
                f"{share:.0%}" if many else "", verdict(share, GOAL_PEAK, ".0%"),
            ])  # fmt: skip
    return markdown(rows)


def share_of_peak(result, case):
    """Share of the micro-kernel's peak that fastnn reaches: of each turn with that turn's peak, the median.

    Cores that others use too have a peak that comes and goes.
    """
    times, peaks = result["microseconds"][case]["fastnn"], result["peaks"][case]
    flops = result["flops_of_row"] * rows_of(case)
    return statistics.median(flops / us / 1e3 / peak for us, peak in zip(times, peaks, strict=True))


def verdict(value, goal, form):
    return "" if goal is None or value is None else f"≥ {goal:{form}}, {'yes' if value >= goal else 'NO'}"


def single_rows(results):
    rows = [["a call for one row: p50 / p99, µs", *results[0]["latency"]]]
    for result in results:
        rows.append([result["net"], *(f"{us['p50']:.1f} / {us['p99']:.1f}" for us in result["latency"].values())])
    return markdown(rows)


def bandwidth(results):
    rows = [["weights of", "MB", "one row of `forward`, GB/s", "a plain read of as many bytes, GB/s", "share"]]
    for result in results:
        seconds = statistics.median(result["microseconds"]["1"]["fastnn"]) / 1e6
        own, plain = (result["bytes"] / s / 1e9 for s in (seconds, result["read"]))
        rows.append([result["net"], f"{result['bytes'] / 1e6:.2f}", f"{own:.1f}", f"{plain:.1f}", f"{own / plain:.0%}"])
    return markdown(rows)


def estimators(results):
    names = list(results[0]["estimator"])
    rows = [["one row, µs", *names, "predict_proba beyond forward", "to reach"]]
    for result in results:
        medians = [statistics.median(result["estimator"][name]) for name in names]
        beyond = medians[1] - medians[0]
        reached = f"≤ {GOAL_ESTIMATOR}, {'yes' if beyond <= GOAL_ESTIMATOR else 'NO'}"
        rows.append([result["net"], *(f"{us:.1f}" for us in medians), f"{beyond:.1f}", reached])
    return markdown(rows)


def at_once(results):
    header = "one row in several Python threads", "threads", "calls a second", "of one", f"of {ON_ONE_CPU}"
    rows = [[*header, "p50, µs", "p99, µs"]]
    for result in results:
        for n, found in result["threads"].items():
            ones = (result["threads"][one]["per_second"] for one in ("1", ON_ONE_CPU))
            times = [f"{found['per_second'] / one:.2f} x" for one in ones]
            percentiles = f"{found['p50']:.1f}", f"{found['p99']:.1f}"
            rows.append([result["net"], n, f"{found['per_second']:,.0f}", *times, *percentiles])
    return markdown(rows)


def main():
    parser = argparse.ArgumentParser(description="Compare prediction by fastnn with its peers'.")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME", help=", ".join(NETS))
    parser.add_argument("--libraries", nargs="+", choices=PREDICTORS, metavar="NAME", help=", ".join(PREDICTORS))
    options = command_line.comparison(parser, 9, "timings", "3 short timings each")
    options.seconds = 0.002 if options.quick else 0.02
    if options.quick:
        options.repeats = 3
    libraries, notes = command_line.chosen(parser, options.libraries, MODULES)
    limit_threads()
    results = []
    for name in options.nets:
        print(name, file=sys.stderr)
        results.append(compare(name, libraries, options))
    stored = {
        **provenance.here(N_THREADS, libraries), "repeats": options.repeats, "notes": notes, "results": results,
    }  # fmt: skip
    provenance.publish(stored, render(stored), options)


if __name__ == "__main__":
    command_line.run(main)
