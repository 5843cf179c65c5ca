"""The thin model class: owns the parameters of a network, checks what goes in, and calls the compiled engine."""

import collections
import contextlib
import functools
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from fastnn import parallel, pieces, saving, workers
from fastnn.kernels import epoch, forward
from fastnn.kernels.activations import ACTIVATIONS
from fastnn.kernels.losses import OUTPUTS
from fastnn.kernels.optimizers import NONE, Optimizer, finite_number
from fastnn.kernels.width import SIMD_BITS
from fastnn.layout import SLACK, ForwardWorkspace, Workspace, empty, layout_of, plan_of
from fastnn.rows import Examples, Rows, check_range, flat, is_plain, nothing

Array = npt.NDArray[Any]
Losses = tuple[float, float]  # of the data, and the penalty

# Operations per step and thread below which another thread costs more than it saves, measured on two cores in float32.
FLOPS_PER_THREAD = 2_000_000
# What the update of one parameter stands for beside them: it waits for memory.
FLOPS_PER_UPDATE = 32
# Each thread has a scratch of its own; results are the same for any number.
MOST_THREADS_PER_CORE = 4
# Prediction reads the weights, from L2 or beyond, which takes as long as the products of so many rows; for each entry
# of a sparse row it does so anew.
ROWS_PER_READ = 6
# Operations of the first of several compiled calls, some hundredths of a second, where a step stands for some beside
# those of its products, and so does a row. Between calls Python sees Ctrl-C; how long the first took sets the others.
FLOPS_PER_CALL, FLOPS_BESIDE_STEP, FLOPS_BESIDE_ROW = 1e9, 1e5, 1500
FLOPS_BESIDE_ENTRY = 1000  # of a sparse row
FLOPS_BESIDE_WEIGHT = 64  # of a large network, whose weights and moments wait for memory
SECONDS_PER_CALL = 0.1
FLOPS_PER_FORWARD = 4e9  # of the first call of a prediction, in float32
MOST_UNLESS_RUN = 3  # times `FLOPS_PER_THREAD`: a prediction of one thread, unless it is one of a run of calls
FLOPS_AT_ONCE = 1e8  # of one that does not wait for CPUs, half a millisecond
# As many epochs go into one call as take some hundredths of a second, and have room for their orders.
FLOPS_PER_EPOCHS, ROWS_PER_EPOCHS = 1e9, 1_000_000

_spare_lock = threading.RLock()  # a handler of a signal may train or predict while its thread has it
if hasattr(os, "register_at_fork"):  # another Python thread may have it at that moment
    os.register_at_fork(after_in_child=_spare_lock._at_fork_reinit)  # type: ignore[attr-defined]
_BUFFERS = (
    "_layout", "_params", "_spare", "_spare_forward", "_code", "_flops_of_row", "_most_alone",
    "_most_unless_run", "_most_at_once", "_nothing", "_no_rows",
)  # fmt: skip
MOST_SPARE = 16  # workspaces for prediction that are kept: so many Python threads predict at once without new ones
_NO_SETTINGS, _INT64 = np.zeros(0), np.dtype(np.int64)


class _NotFiniteError(ValueError):
    """X is not finite."""


class Epochs:
    """Epochs that are gone through in one call, and what they come to; a loss that is not finite ends them early."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.result = np.zeros(2 * n + 2)

    @property
    def n_done(self) -> int:
        """Epochs that have been gone through."""
        return int(self.result[-2])

    @property
    def steps(self) -> int:
        """The optimizer's steps, those of earlier calls too, and one that Ctrl-C has cut if it has updated a weight."""
        return int(self.result[-1])

    @steps.setter
    def steps(self, steps: int) -> None:
        self.result[-1] = steps

    def means(self, n_rows: int) -> list[Losses]:
        """Return the mean loss and the mean penalty of each epoch of `n_rows` rows that has been gone through."""
        sums = self.result.tolist()
        return [(sums[2 * i] / n_rows, sums[2 * i + 1] / n_rows) for i in range(self.n_done)]


class Parameters(list[Array]):
    """The weights or the biases, one read-only array per layer; assigning an item writes it to the network.

    As long as the network is deep: what would change the length raises TypeError.
    """

    def __init__(self, name: str, values: list[Array], write: Callable[[int, Array], None]) -> None:
        for value in values:
            value.flags.writeable = False
        super().__init__(values)
        self._name, self._write = name, write

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        if isinstance(index, slice):
            self._refuse()
        try:
            layer = range(len(self))[index]
        except (IndexError, TypeError) as error:
            raise type(error)(
                f"{self._name} must be assigned to by an integer from 0 to {len(self) - 1}, a layer, or from"
                f" {-len(self)} to -1, got {self._name}[{index!r}]"
            ) from None
        self._write(layer, value)
        stored = np.array(value, self[layer].dtype)
        stored.flags.writeable = False
        super().__setitem__(layer, stored)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the number of layers is fixed; assign to one item, or a whole list to the network")

    append = extend = insert = pop = remove = clear = reverse = sort = _refuse
    __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> Any:
        return list, (list(self),)


class MLP:
    """A multilayer perceptron: z = a . W + b, a = f(z), from one layer to the next.

    Parameters
    ----------
    sizes : sequence of int
        Units of every layer, inputs and outputs included; two entries make a linear model.
    activation : {"identity", "logistic", "tanh", "relu"} or a sequence of them, default "relu"
        Activation of all hidden layers, or one for each.
    output : {"identity", "logistic", "softmax", "exp"}, default "softmax"
        Output function, which decides the loss: half the squared error summed over the outputs; log-loss of each
        output; log-loss of the classes; half the Poisson deviance.
    dtype : {"float32", "float64"}, default "float32"
    random_state : int, numpy.random.RandomState or None
        Source of the initial parameters, uniform in +-sqrt(6 / (n_in + n_out)) (Glorot and Bengio, 2010; with 2 for 6
        where the activation is logistic), drawn in scikit-learn's order.

    Examples
    --------
    >>> import numpy as np, fastnn
    >>> net = fastnn.MLP((2, 4, 1), activation="tanh", output="logistic", dtype="float64", random_state=0)
    >>> net.forward(np.array([[0.0, 1.0], [1.0, 1.0]])).shape
    (2, 1)
    """

    # Of a row, or of one of several outputs, the largest log-loss that is told; its gradient goes on beyond it.
    most_loss = math.inf

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Sequence[str] = "relu",
        output: str = "softmax",
        dtype: npt.DTypeLike = "float32",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self._sizes = _checked_sizes(sizes)
        self._activations = _checked_activations(activation, len(self.sizes) - 2)
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, got {output!r}")
        self._output, self._output_code = output, OUTPUTS.index(output)
        self._dtype = _checked_dtype(dtype)
        rng = _checked_random_state(random_state)
        self._allocate()
        last = activation if isinstance(activation, str) else (self.activations or ("identity",))[-1]
        self._initialise(rng, last)

    def _allocate(self) -> None:
        self._layout = layout_of(self.sizes, self.dtype)
        self._params = empty(self._layout.n_params + SLACK, self.dtype)
        self._identity = uuid.uuid4().hex
        self._spare: dict[Any, Workspace] = {}
        self._spare_forward: collections.deque[ForwardWorkspace] = collections.deque(maxlen=MOST_SPARE)
        self._nothing, self._no_rows = nothing(self.dtype), nothing(_INT64)

    def _initialise(self, rng: np.random.RandomState, last_activation: str) -> None:
        """Draw the parameters; the last layer, which has no activation, goes by the activation named last."""
        activations = [*self.activations, last_activation]
        weights, biases = [], []
        for (n_in, n_out), activation in zip(self._layout.pairs, activations, strict=True):
            bound = np.sqrt((2.0 if activation == "logistic" else 6.0) / (n_in + n_out))
            weights.append(pieces.drawn(functools.partial(rng.uniform, -bound, bound), n_in, n_out))
            biases.append(rng.uniform(-bound, bound, n_out))
        self._write(weights, biases)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of every layer, inputs and outputs included."""
        return self._sizes

    @property
    def activations(self) -> tuple[str, ...]:
        """Activation of each hidden layer."""
        return self._activations

    @property
    def output(self) -> str:
        """Output function, which decides the loss."""
        return self._output

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the parameters, of X and of the outputs."""
        return self._dtype

    # -- parameters -----------------------------------------------------------------------------------------------

    @property
    def weights(self) -> list[Array]:
        """Copies of the weights, one (n_in, n_out) array per layer; assign the list or an item of it to set them."""
        weights = [layer[:-1] for layer in self.by_layer(self._params)]
        return Parameters("weights", weights, self._set_weights)

    @weights.setter
    def weights(self, values: Sequence[npt.ArrayLike]) -> None:
        self._write(self._checked_parameters("weights", values, self._layout.pairs), list(self.biases))

    @property
    def biases(self) -> list[Array]:
        """Copies of the biases, one (n_out,) array per layer; assign the list or an item of it to set them."""
        biases = [layer[-1] for layer in self.by_layer(self._params)]
        return Parameters("biases", biases, self._set_biases)

    @biases.setter
    def biases(self, values: Sequence[npt.ArrayLike]) -> None:
        shapes = [(n_out,) for _, n_out in self._layout.pairs]
        self._write(list(self.weights), self._checked_parameters("biases", values, shapes))

    @property
    def _range(self) -> range:
        return range(len(self.sizes) - 1)

    def _set_weights(self, layer: int, value: Any) -> None:
        self.weights = [value if i == layer else old for i, old in enumerate(self.weights)]

    def _set_biases(self, layer: int, value: Any) -> None:
        self.biases = [value if i == layer else old for i, old in enumerate(self.biases)]

    def _checked_parameters(self, name: str, values: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        if not hasattr(values, "__len__"):
            raise TypeError(f"{name} must be a list of {len(shapes)} arrays, one per layer, got {values!r}")
        if len(values) != len(shapes):
            raise ValueError(f"{name} must have {len(shapes)} arrays, one per layer, got {len(values)}")
        arrays = [_as_array(f"{name}[{layer}]", value) for layer, value in enumerate(values)]
        for layer, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
            if array.shape != shape:
                raise ValueError(f"{name}[{layer}] must have shape {shape}, got {array.shape}")
            if array.dtype.kind not in "biuf":
                raise TypeError(f"{name}[{layer}] must be real numbers, got dtype {array.dtype}")
        return arrays

    def _write(self, weights: Sequence[Array], biases: Sequence[Array]) -> None:
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            self._layout.pack(self._params, layer, w, b)

    def snapshot(self) -> Array:
        """Return all parameters, for `restore`."""
        return pieces.copied(self._params)

    def restore(self, snapshot: Array) -> None:
        """Set all parameters to those of a snapshot of this network."""
        self._params[:] = snapshot

    def by_layer(self, values: Array) -> list[Array]:
        """Return what `snapshot`, or another array of a value for each parameter, has of each layer.

        They are copies (n_in + 1, n_out), biases last.
        """
        return [self._layout.unpack(values, layer) for layer in self._range]

    def is_finite(self) -> bool:
        """Whether all parameters are finite."""
        return pieces.is_finite(self._params)

    @property
    def flat_parameters(self) -> Array:
        """All parameters as the engine keeps them, with padding that is to stay 0: a view, to read and to write."""
        return self._params[: self._layout.n_params]

    @property
    def used_parameters(self) -> Array:
        """Where in `flat_parameters` there is no padding."""
        return self._layout.used

    def moments_by_layer(self, optimizer: Optimizer) -> list[list[Array]]:
        """Return each moment that the optimizer holds for this network, as arrays (n_in + 1, n_out), biases last."""
        moments = [] if optimizer.moments is None else np.split(optimizer.moments, optimizer.n_moments)
        return [self.by_layer(moment) for moment in moments]

    def set_moments(self, optimizer: Optimizer, moments: list[list[Array]]) -> None:
        """Give a new optimizer the moments that `moments_by_layer` returned, here or on another machine.

        Raises
        ------
        ValueError, TypeError
            If they are not those of such a network and optimizer.
        """
        if len(moments) != optimizer.n_moments:
            raise ValueError(f"optimizer must have {optimizer.n_moments} moments, got {len(moments)}")
        shapes = [(n_in + 1, n_out) for n_in, n_out in self._layout.pairs]
        checked = [self._checked_parameters(f"moments[{n}]", arrays, shapes) for n, arrays in enumerate(moments)]
        for moment, arrays in zip(np.split(self._adopt(optimizer), optimizer.n_moments), checked, strict=True):
            for layer, array in enumerate(arrays):
                self._layout.pack(moment, layer, array[:-1], array[-1])

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is this network's, or nobody's yet."""
        return optimizer.owner in (None, self._owner)

    def with_functions(self, activation: str, output: str) -> Self:
        """Return a copy with other functions between the same parameters; optimizers of this network are its own."""
        twin = type(self)(self.sizes, activation, output, self.dtype, random_state=0)
        twin._params[:] = self._params
        twin._identity = self._identity
        return twin

    # -- use ------------------------------------------------------------------------------------------------------

    def forward(self, X: Any, out: Array | None = None) -> Array:
        """Return the outputs for rows of X.

        Parameters
        ----------
        X : array or CSR matrix of the network's dtype, shape (n, n_in), or array (n_in,) for one row
            An array is C-contiguous. A matrix is anything with SciPy's `format`, `shape`, `data`, `indices` and
            `indptr`; its entries may be in any order, and those of one place add up.
        out : array (n, n_out) of the same kind, optional
            Where to leave the outputs.

        Returns
        -------
        array (n, n_out), or (n_out,) for one row

        Raises
        ------
        TypeError, ValueError
            If X or out is not as described; no kernel has run then.
        """
        if _lies_well(X, self._dtype):
            if X.ndim == 2 and X.shape[1] == self._sizes[0]:
                return self._forward(X, out, False)
            if X.shape == self._sizes[:1]:
                return self._forward(X.reshape(1, -1), out, True)
        if type(X) is np.memmap:  # whose rows are, too: to make each of them takes as long as to predict from it
            return self.forward(X.view(np.ndarray), out)
        one = isinstance(X, np.ndarray) and X.ndim == 1
        rows = Rows.of(X.reshape(1, -1) if one else X, self.sizes[0], self.dtype)
        if not rows.sparse:
            return self._forward(rows.dense.reshape(rows.n, self.sizes[0]), out, one)
        return self._forward(np.empty((rows.n, 0), self.dtype), out, False, rows)

    def forward_if_finite(self, X: Any) -> Array | None:
        """Return the outputs for a matrix of at least one row that `forward` takes, if all of it is finite.

        The kernel looks at what it reads, in less time than NumPy takes to be called. None if X is anything else.
        """
        if _lies_well(X, self._dtype) and X.ndim == 2 and X.shape[1] == self._sizes[0] and X.shape[0] > 0:
            try:
                return self._forward(X, None, False, looks=True)
            except _NotFiniteError:
                return None
        return None

    def _forward(
        self, X: Array, out: Array | None, one: bool, sparse: Rows | None = None, looks: bool = False
    ) -> Array:
        """Return the outputs for a matrix, or for the one row of it without an axis of rows.

        Sparse rows come with an X of as many rows, and no columns. Raises where it `looks` and X is not finite.
        """
        n = len(X)
        if out is None:
            out = np.empty((n, self._sizes[-1]), self._dtype)
        else:
            self._check_out(out, n, one, X if sparse is None else sparse)
            out = out.reshape(1, -1) if one else out
        is_short = self._is_short(n, sparse)
        if n <= self._most_unless_run and sparse is None:  # a function less to call, for one row
            n_threads = 1 if is_short else 2
        else:
            n_threads = self._threads_for(self._flops_of_forward(n, sparse), least=2)
        try:  # in a function of its own, for one row this took a fifteenth of the time
            work = self._spare_forward.pop()
        except IndexError:
            work = None
        if work is None or work.n_threads < n_threads:  # other Python threads have them, or they are for fewer
            work = ForwardWorkspace(self._layout, self._activation_codes(), self._output_code, self._params, n_threads)
        work.fields[forward.FINITE] = looks
        if sparse is not None or n > self._most_at_once:
            self._forward_in_calls(X, sparse, out, work, n_threads, is_short)
        elif is_short:
            self._code(workers.ALONE, (1, X, 0, out, work.address))
        else:
            workers.call_at_once(n_threads, self._code, (n_threads, X, 0, out, work.address))
        is_refused = looks and not work.fields[forward.FINITE]
        self._spare_forward.append(work)
        if is_refused:
            raise _NotFiniteError
        return out.reshape(-1) if one else out

    def _forward_in_calls(
        self, X: Array, sparse: Rows | None, out: Array, work: ForwardWorkspace, n_threads: int, is_short: bool
    ) -> None:
        """Call the engine often enough that Ctrl-C need not wait long."""
        code = self._code  # compiled before CPUs are held
        # No rows may want no operations.
        flops = max(1.0, self._flops_of_forward(len(X), sparse))
        step = max(1, int(len(X) * min(1.0, FLOPS_PER_FORWARD / flops)))
        for start, stop in _calls(0, len(X), step, 1):
            rows = slice(start, stop)
            entries = None if sparse is None else sparse.addresses(start)
            arguments = n_threads, X[rows], 0 if entries is None else entries.ctypes.data, out[rows], work.address
            if is_short:  # it ends before it would be counted
                code(workers.ALONE, arguments)
            else:
                workers.call_team(n_threads, code, arguments)

    @functools.cached_property
    def _code(self) -> Any:
        return forward.code(self._dtype)

    @property
    def is_ready(self) -> bool:
        """Whether `forward` needs not wait for the compiler."""
        return "_code" in self.__dict__ or forward.is_compiled(self._dtype)

    def _flops_of_forward(self, n_rows: int, sparse: Rows | None = None) -> float:
        """Operations in float32 that take as long as a forward pass, in which the weights are read at least once."""
        if sparse is None:
            return self._flops_of_row * max(n_rows, ROWS_PER_READ)
        n_in, n_out = self._layout.pairs[0]
        shared, own = self._layout.n_weights - n_in * n_out, sparse.width * n_out
        return self._in_float32(2.0 * (shared * max(n_rows, ROWS_PER_READ) + own * ROWS_PER_READ * n_rows))

    @functools.cached_property
    def _flops_of_row(self) -> float:
        return self._in_float32(2.0 * self._layout.n_weights)

    def _in_float32(self, flops: float) -> float:
        """Operations in float32 that take as long."""
        return flops * self._dtype.itemsize / 4

    def _is_short(self, n_rows: int, sparse: Rows | None) -> bool:
        """Whether one thread predicts as fast as two, and ends before it would be counted."""
        if sparse is None:
            return n_rows <= self._most_alone or (n_rows <= self._most_unless_run and not parallel.run.goes_on())
        return self._flops_of_forward(n_rows, sparse) <= FLOPS_PER_THREAD

    @functools.cached_property
    def _most_alone(self) -> int:
        """Dense rows that one thread always predicts as fast as two."""
        return self._rows_within(FLOPS_PER_THREAD)

    @functools.cached_property
    def _most_unless_run(self) -> int:
        """Dense rows that it predicts as fast unless the call is one of a run."""
        return self._rows_within(MOST_UNLESS_RUN * FLOPS_PER_THREAD)

    @functools.cached_property
    def _most_at_once(self) -> int:
        """Dense rows whose prediction is over before one that waits for CPUs would look again."""
        return self._rows_within(FLOPS_AT_ONCE)

    def _rows_within(self, flops: float) -> int:
        """Return for how many dense rows a prediction takes no longer than so many operations."""
        rows = int(flops / self._flops_of_row)
        return rows if rows >= ROWS_PER_READ else 0

    def _activation_codes(self) -> tuple[int, ...]:
        return tuple(ACTIVATIONS.index(name) for name in self._activations)

    def loss_and_gradients(
        self, X: Any, y: Array, sample_weight: Array | None = None, alpha: float = 0.0
    ) -> tuple[float, list[Array], list[Array]]:
        """Return the mean loss with its L2 penalty, and its gradients in all weights and all biases.

        Parameters
        ----------
        X : array or CSR matrix (n, n_in), n at least 1
            As for `forward`.
        y : class indices (n,), or targets (n, n_out); (n,) will do for targets where there is one output
        sample_weight : array (n,), optional
        alpha : float >= 0, default 0
            The loss is (sum of weight * loss + alpha / 2 * sum of squared weights) / (sum of weight).

        Examples
        --------
        >>> import numpy as np, fastnn
        >>> net = fastnn.MLP((2, 3, 2), dtype="float64", random_state=0)
        >>> loss, dw, db = net.loss_and_gradients(np.eye(2), np.array([0, 1]))
        >>> [g.shape for g in dw], [g.shape for g in db]
        ([(2, 3), (3, 2)], [(3,), (2,)])
        """
        gradients = empty(self._layout.n_params, self.dtype)
        with self.evaluation(self.examples(X, y, sample_weight), alpha, gradients) as evaluate:
            data, penalty = evaluate()
        whole = [self._layout.unpack(gradients, layer) for layer in self._range]
        return data + penalty, [g[:-1].copy() for g in whole], [g[-1].copy() for g in whole]

    def examples(self, X: Any, y: Any, sample_weight: Any = None) -> Examples:
        """Check rows and what is to be learnt from them, once for many epochs; arguments as of `loss_and_gradients`."""
        rows = Rows.of(X, self.sizes[0], self.dtype)
        if not rows.n:
            raise ValueError("X must have at least one row, got 0")
        labels, targets = self._checked_targets(y, rows.n)
        weight = self._nothing if sample_weight is None else self._checked_weight(sample_weight, rows.n)
        return Examples(rows, labels, targets, weight)

    @contextlib.contextmanager
    def evaluation(self, examples: Examples, alpha: float, gradient: Array) -> Iterator[Callable[[], Losses]]:
        """Give what returns the mean loss and the penalty at the parameters of the moment, as often as is wanted.

        Their gradient is left in `gradient`, which lies as `flat_parameters`.
        """
        n, epochs = examples.rows.n, Epochs(1)
        with self._engine(examples, n, n, alpha, epochs, gradients=gradient) as run:

            def evaluate() -> Losses:
                epochs.result[:] = 0
                run(0, n)
                return epochs.means(n)[0]

            yield evaluate

    def train_epoch(
        self,
        X: Any,
        y: Array,
        optimizer: Optimizer,
        batch_size: int = 128,
        order: Array | None = None,
        alpha: float = 0.0,
        sample_weight: Array | None = None,
    ) -> float:
        """Go once through the rows, one update per batch, and return the mean of the losses before each update.

        Parameters
        ----------
        X, y, sample_weight, alpha
            As for `loss_and_gradients`; the penalty is taken per batch.
        optimizer : Adam or SGD
            Keeps its moments from one call to the next; it belongs to this network from the first call on.
        batch_size : int >= 1, default 128
            The last batch may be shorter.
        order : integer array, optional
            Row indices in the order of the epoch; the rows as they lie if omitted.

        Notes
        -----
        Ctrl-C takes effect between compiled calls, about a tenth of a second apart, and within a batch that takes
        longer. It leaves a usable network, in which such a batch may have updated a part of the weights.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a fastnn optimizer such as fastnn.Adam(), got {optimizer!r}")
        if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size.__index__() < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        examples = self.examples(X, y, sample_weight)
        indices = None if order is None else _checked_order(order, examples.rows.n)
        n_rows, epochs = examples.rows.n if indices is None else len(indices), Epochs(1)
        self.train(examples, n_rows, optimizer, batch_size.__index__(), indices, alpha, epochs)
        return sum(epochs.means(n_rows)[0])

    def train(
        self,
        examples: Examples,
        n_rows: int,
        optimizer: Optimizer,
        batch_size: int,
        order: Array | None,
        alpha: float,
        epochs: Epochs,
    ) -> None:
        """As `train_epoch`, several times over: `order` has `n_rows` entries for each epoch, or once for all of them.

        What has been done, Ctrl-C or not, stands in `epochs`.
        """
        self._run(examples, n_rows, min(batch_size, n_rows), alpha, epochs, order, optimizer)

    def epochs_per_call(self, examples: Examples, n_rows: int, batch_size: int) -> int:
        """How many epochs of so many rows go into one call of `train` before Python wants to be asked again."""
        flops = -(-n_rows // batch_size) * self._flops_within_step(examples.rows, batch_size)
        return max(1, int(min(FLOPS_PER_EPOCHS / flops, ROWS_PER_EPOCHS / n_rows)))

    def train_part(
        self, examples: Examples, optimizer: Optimizer, batch_size: int, order: Array | None, alpha: float,
        first: int, stop: int, sums: Losses,
    ) -> Losses:  # fmt: skip
        """Train on the rows [first, stop) of an epoch, from one batch's beginning to the beginning of another.

        Return the sums of data loss and penalty over the rows so far, which before were `sums`; in the end they are, to
        the bit, those of an epoch that is gone through at once.
        """
        epochs = Epochs(1)
        epochs.result[:2] = sums
        self._run(examples, stop, batch_size, alpha, epochs, order, optimizer, first=first)
        return float(epochs.result[0]), float(epochs.result[1])

    @property
    def _owner(self) -> str:
        return f"{self._identity}/{SIMD_BITS}"  # how moments lie depends on the width of vectors

    def _adopt(self, optimizer: Optimizer) -> Array:
        """Return the optimizer's moments, which are of this network from now on."""
        if optimizer.owner is None:
            optimizer.moments = empty(optimizer.n_moments * self._layout.n_params, self.dtype)
            optimizer.owner = self._owner  # after them: Ctrl-C may come in between
        elif not self.owns(optimizer):
            raise ValueError(
                "optimizer holds the moments of another network, or of a machine with other vectors; "
                "make a new one for this network"
            )
        moments, size = optimizer.moments, optimizer.n_moments * self._layout.n_params
        if not isinstance(moments, np.ndarray) or moments.shape != (size,) or moments.dtype != self.dtype:
            raise ValueError(f"optimizer.moments must be an array of {size} {self.dtype} numbers; make a new optimizer")
        return moments

    def _run(
        self,
        examples: Examples,
        n_rows: int,
        batch_size: int,
        alpha: float,
        epochs: Epochs,
        order: Array | None = None,
        optimizer: Optimizer | None = None,
        first: int = 0,
    ) -> None:
        """Train on the rows [first, n_rows) in calls of the engine short enough that Ctrl-C need not wait long."""
        steps = max(1, int(FLOPS_PER_CALL / self._flops_within_step(examples.rows, batch_size)))
        call_rows = n_rows if epochs.n > 1 else steps * batch_size
        with self._engine(examples, n_rows, batch_size, alpha, epochs, order, optimizer) as run:
            for start, stop in _calls(first, n_rows, call_rows, batch_size):
                try:
                    run(start, stop)
                finally:  # Ctrl-C takes effect as soon as the call is back, and the moments have moved
                    if optimizer:
                        optimizer.steps = epochs.steps
                    if stop < n_rows:
                        epochs.result[-2] = 0

    @contextlib.contextmanager
    def _engine(
        self,
        examples: Examples,
        n_rows: int,
        batch_size: int,
        alpha: float,
        epochs: Epochs,
        order: Array | None = None,
        optimizer: Optimizer | None = None,
        gradients: Array | None = None,
    ) -> Iterator[Callable[[int, int], None]]:
        """Give what calls the engine for the rows from one to another of `epochs`, as often as is wanted.

        It trains with `optimizer`, or leaves the gradients of one batch in `gradients`.
        """
        if finite_number("alpha", alpha) < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha!r}")
        X = examples.rows
        flops = self._flops_of_step(X, batch_size)
        n_threads = self._threads_for(self._in_float32(flops))
        is_long = flops * epochs.n * n_rows >= FLOPS_PER_THREAD * batch_size  # else it ends before it would be counted
        is_listened_to = self._flops_within_step(X, batch_size) >= FLOPS_PER_CALL  # a batch takes as long as Ctrl-C may
        code = epoch.code(self.dtype, X.sparse)  # compiled before CPUs are held
        distance = 0 if order is None or len(order) == n_rows else n_rows
        rule, hyper = (optimizer.code, optimizer.hyper(self.dtype)) if optimizer else (NONE, _NO_SETTINGS)
        moments = self._adopt(optimizer) if optimizer else self._nothing
        key, work = self._borrowed(batch_size, n_threads, X.sparse)
        epochs.steps = optimizer.steps if optimizer else 0
        try:
            if X.sparse:
                work.reserve(X.most_entries(work.capacity, order))
            if gradients is None:
                gradients = work.gradients if batch_size > work.capacity else self._nothing
            buffers = (
                float(alpha), self.most_loss, hyper,
                work.plan, work.layers, self._layout.tiles, work.shares, X.dense, X.data, X.indices, X.indptr,
                examples.labels, examples.targets, examples.weight, self._no_rows if order is None else order,
                self._params, moments, gradients, work.rows, work.scratch,
                work.partial, work.buckets, work.values, work.row_loss, work.squares, work.constants, epochs.result,
                work.identity, work.team,
            )  # fmt: skip

            def run(start: int, stop: int) -> None:
                work.team[:] = 0
                arguments = (n_threads, start, stop, epochs.n, distance, batch_size, rule, epochs.steps, *buffers)
                if is_long or is_listened_to:
                    workers.call_team(n_threads, code, arguments, work.team if is_listened_to else None)
                else:
                    code(workers.ALONE, arguments)

            yield run
        finally:
            self._give_back(key, work)

    def _flops_of_step(self, X: Rows, batch_size: int) -> float:
        """Operations of the products of a step; where the first layer's are few, of its update too."""
        n_in, n_out = self._layout.pairs[0]
        products = self._layout.n_weights + (X.width - n_in) * n_out
        return 6 * products * batch_size + (FLOPS_PER_UPDATE * n_in * n_out if X.sparse else 0)

    def _flops_within_step(self, X: Rows, batch_size: int) -> float:
        """Operations in float32 that take as long as a step, or somewhat longer, with all that it has beside them."""
        flops = self._flops_of_step(X, batch_size) + FLOPS_BESIDE_WEIGHT * self._layout.n_weights
        return self._in_float32(flops) + FLOPS_BESIDE_STEP + batch_size * _flops_beside_row(X)

    def _threads_for(self, flops: float, least: int = 1) -> int:
        """Threads that pay off for steps of so many operations in float32, at least so many where they are allowed."""
        most = max(least, int(flops / FLOPS_PER_THREAD))
        if most <= 1:
            return 1
        return min(most, parallel.get_num_threads(), MOST_THREADS_PER_CORE * parallel.allowed_threads())

    def _borrowed(self, batch_size: int, n_threads: int, sparse: bool) -> tuple[Any, Workspace]:
        """Take a workspace: a spare one, or a new one while another Python thread has it."""
        key = (self._layout.rounds(batch_size, sparse), n_threads)
        with _spare_lock:
            work = self._spare.pop(key, None)
        if work is None:
            work = Workspace(plan_of(self._layout, self._activation_codes(), self._output_code, key[0], n_threads))
        return key, work

    def _give_back(self, key: Any, work: Workspace) -> None:
        with _spare_lock:
            if len(self._spare) > 3:
                self._spare.pop(next(iter(self._spare)))
            self._spare[key] = work

    # -- checks ---------------------------------------------------------------------------------------------------

    def _check_out(self, out: Array, n: int, one: bool, X: Array | Rows) -> None:
        expected = (self._sizes[-1],) if one else (n, self._sizes[-1])
        if not is_plain(out) or out.dtype != self._dtype:
            found = f"dtype {out.dtype}" if is_plain(out) else type(out).__name__
            raise TypeError(
                f"out must be a plain NumPy array of dtype {self._dtype}, got {found};"
                f" use numpy.empty({expected}, {self._dtype.name!r})"
            )
        if out.shape != expected:
            raise ValueError(f"out must have shape {expected}, got {out.shape}; leave it out to have an array made")
        if not out.flags.carray:
            raise ValueError(
                "out must be C-contiguous, aligned and writeable, got"
                f" {', '.join(name for name, there in _layout_of(out) if not there)};"
                f" use numpy.empty({expected}, {self._dtype.name!r})"
            )
        owns = out.base is None  # its memory, which can then be that of its own views alone
        inputs = X.arrays if isinstance(X, Rows) else () if owns and X.base is None and X is not out else (X,)
        for array in inputs if owns else (*inputs, self._params):
            if np.may_share_memory(array, out):
                name = "the network's parameters" if array is self._params else "X"
                raise ValueError(f"out must not share memory with {name}, got a view of it; use another array")

    def _checked_targets(self, y: Any, n: int) -> tuple[Array, Array]:
        """Return class indices and targets as the kernels take them, one of them empty."""
        n_out = self.sizes[-1]
        y = _as_array("y", y)
        if y.dtype.kind not in "biuf":
            raise TypeError(f"y must be class indices or real targets, got dtype {y.dtype}")
        if y.ndim == 1 and y.dtype.kind in "biu" and n_out > 1:
            if y.shape != (n,):
                raise ValueError(f"y must have {n} entries, one per row of X, got {y.shape[0]}")
            check_range("y", y, n_out)
            return flat(np.require(y, np.int64, ["C", "A"])), self._nothing
        if y.shape != (n, n_out) and not (n_out == 1 and y.shape == (n,)):
            raise ValueError(f"y must have shape ({n},) for class indices or ({n}, {n_out}) for targets, got {y.shape}")
        if y.dtype.kind in "iu" and y.ndim == 1 and self.output in ("logistic", "softmax"):
            check_range("y", y, 2 if self.output == "logistic" else 1)
        if self.output != "identity" and y.size and y.min() < 0:
            raise ValueError(f"y must be at least 0 for output {self.output!r}, got {y.min()}")
        if self.output in ("logistic", "softmax") and y.size and y.max() > 1:
            raise ValueError(f"y must be at most 1 for output {self.output!r}, got {y.max()}")
        if self.output == "softmax" and y.ndim == 1 and y.dtype.kind in "biu":
            y = np.ones(n)
        return self._no_rows, flat(np.require(y, self.dtype, ["C", "A"]))

    def _checked_weight(self, sample_weight: Any, n: int) -> Array:
        weight = _as_array("sample_weight", sample_weight)
        if weight.dtype.kind not in "biuf":
            raise TypeError(f"sample_weight must be real numbers, got dtype {weight.dtype}")
        if weight.shape != (n,):
            raise ValueError(f"sample_weight must have shape ({n},), got {weight.shape}")
        with np.errstate(over="ignore"):
            weight = np.require(weight, self.dtype, ["C", "A"])
        if not pieces.is_finite(weight):
            raise ValueError(f"sample_weight must be finite in {self.dtype}, got NaN or infinity")
        with np.errstate(over="ignore"):
            total = sum(float(np.abs(weight[part]).sum(dtype=np.float64)) for part in pieces.parts(n))
        if total > 1 / np.finfo(self.dtype).tiny:  # losses are divided by it
            raise ValueError(f"sample_weight must be smaller, its sum is {total}; divide it by its mean")
        smallest = min(np.abs(weight[part]).min(where=weight[part] != 0, initial=1) for part in pieces.parts(n))
        if smallest < np.finfo(self.dtype).tiny:
            raise ValueError(f"sample_weight must be 0 or at least {np.finfo(self.dtype).tiny}, got {smallest}")
        return flat(weight)

    # -- files and pickles ----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, which `fastnn.load` reads.

        `torch.nn.Sequential(Linear, activation, Linear, ...).load_state_dict(safetensors.torch.load_file(path))` takes
        the weights too. The moments of an optimizer are not in the file; a pickle of network and optimizer has them.

        Parameters
        ----------
        path : str or os.PathLike
            The file appears, or takes the place of another, when all of it is on disk.

        Raises
        ------
        ValueError
            If a parameter is not finite.
        TypeError
            If this is a subclass of `MLP`.
        OSError
            If the file cannot be written; what was there before stays.
        ImportError
            If safetensors is not installed.
        """
        saving.save(path, self, self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the network without its buffers; how they lie depends on the machine."""
        state = {name: value for name, value in vars(self).copy().items() if name not in _BUFFERS}
        return {**state, "weights": [np.array(w) for w in self.weights], "biases": [np.array(b) for b in self.biases]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        others = dict(state)
        weights, biases = others.pop("weights"), others.pop("biases")
        vars(self).update(others)
        self._dtype = _checked_dtype(others["_dtype"])
        self._allocate()
        self._identity = state["_identity"]
        self._write(weights, biases)

    def __repr__(self) -> str:
        return f"MLP({self.sizes}, activation={self.activations}, output={self.output!r}, dtype={self.dtype.name!r})"


def _lies_well(X: Any, dtype: np.dtype[Any]) -> bool:
    """Whether kernels take X as it is, but for its shape; what does not lie so is looked at more closely elsewhere."""
    return type(X) is np.ndarray and X.dtype == dtype and (flags := X.flags).c_contiguous and flags.aligned


def _flops_beside_row(X: Rows) -> float:
    return FLOPS_BESIDE_ROW + (FLOPS_BESIDE_ENTRY * X.width if X.sparse else 0)


def _calls(first: int, n_rows: int, rows: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield where calls for the rows [first, n_rows) begin and stop; how long one of them takes sets the next one."""
    while first < n_rows:
        began, stop = time.perf_counter(), min(n_rows, first + rows)
        yield first, stop
        rows, first = rows_of_next_call(stop - first, step, time.perf_counter() - began), stop


def rows_of_next_call(rows: int, step: int, seconds: float) -> int:
    """Return the rows, a multiple of `step`, of a compiled call that follows one of `rows` in so many seconds."""
    return max(1, int(rows / step * min(8.0, SECONDS_PER_CALL / max(seconds, 1e-9)))) * step


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if isinstance(sizes, (str, bytes)) or not hasattr(sizes, "__len__") or len(sizes) < 2:
        raise ValueError(f"sizes must list at least the inputs and the outputs, got {sizes!r}")
    for size in sizes:
        if isinstance(size, bool) or not hasattr(size, "__index__") or size.__index__() < 1:
            raise ValueError(f"sizes must be integers of at least 1, got {sizes!r}")
    return tuple(size.__index__() for size in sizes)


def _checked_activations(activation: str | Sequence[str], n_hidden: int) -> tuple[str, ...]:
    named = [activation] if isinstance(activation, str) else activation
    if not isinstance(named, (list, tuple)) or any(name not in ACTIVATIONS for name in named):
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    names = tuple(named) * (n_hidden if isinstance(activation, str) else 1)
    if len(names) != n_hidden:
        raise ValueError(
            f"activation must name one activation, or one for each of {n_hidden} hidden layers, got {activation!r}"
        )
    return names


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        found = None
    if found not in (np.float32, np.float64) or not found.isnative:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return np.dtype(found.type)  # NumPy's own: to compare another one with it, as a pickle's is, takes longer


def _checked_random_state(random_state: Any) -> np.random.RandomState:
    if isinstance(random_state, np.random.RandomState):
        return random_state
    try:
        if not isinstance(random_state, (bool, np.bool_)):
            return np.random.RandomState(random_state)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"random_state must be an integer in [0, 2**32), a numpy.random.RandomState or None, got {random_state!r}"
    )


def _layout_of(array: Array) -> list[tuple[str, bool]]:
    """Return what an array is not, and whether it is all the same."""
    flags = array.flags
    return [("not contiguous", flags.c_contiguous), ("not aligned", flags.aligned), ("read-only", flags.writeable)]


def _as_array(name: str, values: Any) -> Array:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array: {error}") from error


def _checked_order(order: Any, n: int) -> Array:
    indices = _as_array("order", order)
    if indices.ndim != 1 or indices.size == 0:
        raise ValueError(f"order must list at least one row index, got shape {indices.shape}")
    if indices.dtype.kind not in "iu":
        raise TypeError(f"order must be integers, got dtype {indices.dtype}")
    check_range("order", indices, n)
    return flat(np.require(indices, np.int64, ["C", "A"]))
