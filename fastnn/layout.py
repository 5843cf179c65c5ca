"""Where everything lies: offsets of weights, activations, deltas and tiles in the flat buffers the kernels work in."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.kernels import forward, products
from fastnn.kernels import plan as P
from fastnn.kernels.optimizers import N_CONSTANTS
from fastnn.kernels.simd import LINE, lanes
from fastnn.kernels.team import state_size
from fastnn.pieces import parts

Array = npt.NDArray[Any]

# The kernels' own arithmetic, as plain Python: what is laid out here is walked there.
round_up, panel_width = products.round_up.py_func, products.panel_width.py_func

SLACK = 16 * 48  # elements past the end of a buffer that a transposed block of padding may touch
MAX_CAPACITY = 2048  # rows held at once by a wide network
NARROW_BLOCK = 480  # rows of a block of a narrow network
NARROW_ROWS = 32 * NARROW_BLOCK  # rows held at once by a narrow network
WIDE_BLOCK_BYTES = 576 * 1024  # one layer's input for a block of a wide network: about half of L2
NARROW_PARAMS = 8192
# Operations of a step, in float32, that two threads go through faster than one: its rows then make two blocks.
SHARED_FLOPS = 4_000_000


def empty(size: int, dtype: Any) -> Array:
    """Return zeros on a 64-byte boundary, so that no two threads share a cache line of what they write."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size * itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size * itemsize].view(dtype)


def panels(n: int, width: int) -> list[tuple[int, int]]:
    """First element and width of each panel of `n` elements, `width` lanes to a vector; see `panel_width`."""
    found, start = [], 0
    while start < n:
        size = panel_width(n - start, width)
        found.append((start, size))
        start += size
    return found


@dataclasses.dataclass(frozen=True)
class Layout:
    """Offsets and sizes of one network, whatever the batch and the threads."""

    sizes: tuple[int, ...]
    dtype: np.dtype[Any]

    @functools.cached_property
    def lanes(self) -> int:
        return lanes(self.dtype)

    @functools.cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(n_in, n_out) of each layer."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @functools.cached_property
    def n_weights(self) -> int:
        """Weights of all layers, without biases and padding."""
        return sum(i * o for i, o in self.pairs)

    @functools.cached_property
    def weight_offsets(self) -> list[int]:
        return _offsets([(i + 1) * round_up(o, self.lanes) for i, o in self.pairs], self._line)

    @property
    def n_params(self) -> int:
        return self.weight_offsets[-1]

    @property
    def _line(self) -> int:
        return max(self.lanes, LINE // self.dtype.itemsize)

    @functools.cached_property
    def tiles(self) -> Array:
        """One row per tile of W, a panel of input units by a panel of output units."""
        rows = [
            (layer, i, width_in, o, width_out)
            for layer, (n_in, n_out) in enumerate(self.pairs)
            for i, width_in in panels(n_in + 1, self.lanes)
            for o, width_out in panels(n_out, self.lanes)
        ]
        return np.array(rows, np.int64)

    def shares(self, n_threads: int) -> Array:
        """Tile numbers at which each thread's share begins and ends, of about equal work."""
        work = np.cumsum(self.tiles[:, P.TILE_IN_WIDTH] * self.tiles[:, P.TILE_OUT_WIDTH])
        bounds = np.searchsorted(work, work[-1] * np.arange(1, n_threads) / n_threads, side="left") + 1
        return np.concatenate([[0], bounds, [len(work)]]).astype(np.int64)

    def pack(self, params: Array, layer: int, weights: Array, biases: Array) -> None:
        """Write W (n_in, n_out) and b (n_out,) into the panels of one layer."""
        for start, width in panels(len(biases), self.lanes):
            panel, columns = self._panel(params, layer, start, width), slice(start, start + width)
            panel[:-1, : len(biases) - start] = weights[:, columns]
            panel[-1, : len(biases) - start] = biases[columns]

    @property
    def used(self) -> Array:
        """Indices of the parameters in the buffer that holds them and padding."""
        marks = empty(self.n_params, self.dtype)
        for layer, (n_in, n_out) in enumerate(self.pairs):
            self.pack(marks, layer, np.broadcast_to(1.0, (n_in, n_out)), np.ones(n_out))
        return np.flatnonzero(marks)

    def unpack(self, params: Array, layer: int) -> Array:
        """Return W and b of one layer, (n_in + 1, n_out) with the bias as the last row."""
        n_in, n_out = self.pairs[layer]
        whole = np.empty((n_in + 1, n_out), self.dtype)
        for rows in parts(n_in + 1, n_out):  # new memory, which the system gives page by page
            for start, width in panels(n_out, self.lanes):
                whole[rows, start : start + width] = self._panel(params, layer, start, width)[rows, : n_out - start]
        return whole

    def _panel(self, params: Array, layer: int, start: int, width: int) -> Array:
        n_rows = self.pairs[layer][0] + 1
        at = self.weight_offsets[layer] + start * n_rows
        return params[at : at + n_rows * width].reshape(n_rows, width)

    @functools.lru_cache(maxsize=256)  # noqa: B019 (layouts are few and small)
    def rounds(self, n_rows: int, sparse: bool) -> "Rounds":
        """How batches of up to `n_rows` rows are gone through."""
        line, narrow = self._line, self.is_narrow(n_rows, sparse)
        if narrow:
            block = self._narrow_block(n_rows)
            most = NARROW_ROWS // block * block
        else:
            fitting = WIDE_BLOCK_BYTES // ((max(self.held(sparse)) + 1) * self.dtype.itemsize)
            block, most = max(3 * line, min(NARROW_BLOCK, fitting // line * line)), MAX_CAPACITY
        capacity = min(round_up(n_rows, block if narrow else line), most)
        return Rounds(narrow, sparse, min(block, round_up(capacity, line)), capacity, n_rows > capacity)

    def _narrow_block(self, n_rows: int) -> int:
        """Rows of a block of a narrow network, in blocks that threads can share evenly where that pays."""
        rows = min(n_rows, NARROW_ROWS)
        n_blocks = -(-rows // NARROW_BLOCK)
        if n_blocks == 1 and 6 * rows * self.n_weights * self.dtype.itemsize / 4 >= SHARED_FLOPS:
            n_blocks = 2
        if n_blocks > 4:
            n_blocks = round_up(n_blocks, 4)
        return int(min(NARROW_BLOCK, round_up(-(-rows // n_blocks), self._line)))

    def held(self, sparse: bool) -> tuple[int, ...]:
        """Units of the layers whose values a block holds; sparse inputs are read where they lie."""
        return self.sizes[1:] if sparse else self.sizes

    def is_narrow(self, n_rows: int, sparse: bool) -> bool:
        """Whether gradients come cheaper by dot products over the rows of a block than by tiles.

        Counted in vector operations per row: a dot costs its products and a reduction, a tile its products over
        whole vectors of outputs, the transpose of its deltas, and as much again for inputs from other cores' caches.
        """
        if sparse or sum((i + 1) * o for i, o in self.pairs) > NARROW_PARAMS:
            return False
        vectors = self._narrow_block(n_rows) // self.lanes
        sums = sum(round_up(i, 4) * round_up(o, 4) + round_up(o, self.lanes) for i, o in self.pairs)
        dots = sums * (1 + 4 / vectors)
        tiles = sum((i + 1) * round_up(o, self.lanes) + 8 * (i + 1 + o) for i, o in self.pairs)
        return bool(dots < tiles)


# Models of the same shapes share what follows from these.
layout_of = functools.lru_cache(maxsize=256)(Layout)


def _offsets(lengths: Iterable[int], line: int) -> list[int]:
    """Running sums of the lengths, each rounded up to whole cache lines; the last one is the total."""
    return [0, *itertools.accumulate(round_up(n, line) for n in lengths)]


@dataclasses.dataclass(frozen=True)
class Rounds:
    """What the buffers for batches depend on beside the network; batches alike in this can share them."""

    narrow: bool
    sparse: bool
    block: int  # rows carried through all the layers together
    capacity: int  # rows held at once
    several: bool  # whether a batch can be larger than that, so that gradients wait between its rounds

    def blocks_of_slice(self, n_slices: int, line: int) -> tuple[int, int]:
        """Return how many rows the blocks of one of so many slices have, and how many blocks it has at most."""
        granule = self.block if self.narrow else line
        rows = -(-self.capacity // granule // n_slices) * granule
        n_blocks = -(-rows // self.block)
        return self.block if self.narrow else int(round_up(-(-rows // n_blocks), line)), n_blocks


class Plan:
    """What the kernels are told of one network for one kind of batches on `n_threads` threads: offsets, no memory."""

    def __init__(
        self, layout: Layout, activations: tuple[int, ...], output: int, rounds: Rounds, n_threads: int
    ) -> None:
        line, held = layout._line, layout.held(rounds.sparse)
        narrow, sparse, capacity = rounds.narrow, rounds.sparse, rounds.capacity
        block, n_blocks = rounds.blocks_of_slice(n_threads, line)
        ld = block + line
        by_unit = [round_up(n + 1, layout.lanes) * ld for n in held]
        if sparse:
            by_unit.insert(0, 0)
        deltas = max(by_unit)
        n = len(layout.sizes)
        # A wide network's gradients want the inputs of all blocks; where none is kept, blocks lie in one place.
        kept = 1 if narrow else n_blocks
        scratch_sizes = [*by_unit[:-1] * kept, by_unit[-1], deltas, deltas, layout.sizes[-1] * ld, ld, 4 * ld,
                         (3 * layout.lanes) ** 2, SLACK]
        at = _offsets(scratch_sizes, line)
        shared = (n - 1) * kept
        delta_sizes = [] if narrow else [round_up(o, layout.lanes) * capacity for o in layout.sizes[1:]]
        rows_at = _offsets([*delta_sizes, SLACK], line)

        self.layout, self.capacity = layout, capacity
        self.fields = _fields(P.N_FIELDS, {
            P.OUTPUT: output, P.NARROW: narrow, P.BLOCK_ROWS: block, P.BLOCKS: n_blocks, P.CAPACITY: capacity,
            P.SCRATCH: at[-1], P.DELTA_A: at[shared + 1], P.DELTA_B: at[shared + 2], P.TARGET: at[shared + 3],
            P.WEIGHT: at[shared + 4], P.WORK: at[shared + 5], P.TILE: at[shared + 6], P.N_PARAMS: layout.n_params,
        })  # fmt: skip
        self.layers = np.zeros((n_threads * n_blocks, n - 1, P.N_LAYER_FIELDS), np.int64)
        for layer, (n_in, n_out) in enumerate(layout.pairs):
            self.layers[:, layer] = _fields(P.N_LAYER_FIELDS, {
                P.N_IN: n_in, P.N_OUT: n_out, P.WEIGHTS: layout.weight_offsets[layer],
                P.ACTIVATION: activations[layer] if layer < n - 2 else 0,
                P.DELTA_ROWS: 0 if narrow else rows_at[layer],
            })  # fmt: skip
            for number in range(n_threads * n_blocks):
                base, inputs = number // n_blocks * at[-1], number % n_blocks % kept * (n - 1) + layer
                outputs = shared if layer == n - 2 else inputs + 1
                self.layers[number, layer, P.INPUT_UNITS] = base + at[inputs]
                self.layers[number, layer, P.OUTPUT_UNITS] = base + at[outputs]
        self.shares = layout.shares(n_threads)
        self.team_size = state_size(n_threads)
        self.sizes = {
            "rows": rows_at[-1],
            "scratch": at[-1] * n_threads,
            "partial": layout.n_params * (capacity // block) if narrow else 0,
            "gradients": layout.n_params + SLACK if rounds.several else 0,
            "constants": N_CONSTANTS,
            "row_loss": capacity,
            "squares": len(layout.tiles),
        }


def _fields(n: int, values: dict[int, Any]) -> Array:
    return np.array([values.get(field, 0) for field in range(n)], np.int64)


plan_of = functools.lru_cache(maxsize=256)(Plan)


class Workspace:
    """The buffers of a plan."""

    rows: Array
    scratch: Array
    partial: Array
    gradients: Array
    constants: Array
    row_loss: Array
    squares: Array

    def __init__(self, plan: Plan) -> None:
        self.layout, self.capacity, self.layers, self.shares = plan.layout, plan.capacity, plan.layers, plan.shares
        self.plan = plan.fields.copy()  # `reserve` writes to it
        starts = _offsets(plan.sizes.values(), self.layout._line)
        memory = empty(starts[-1], self.layout.dtype)
        for (name, size), start in zip(plan.sizes.items(), starts[:-1], strict=True):
            setattr(self, name, memory[start : start + size])
        self.identity = np.arange(plan.capacity)
        self.team = empty(plan.team_size, np.int64)
        self.buckets, self.values = empty(0, np.int64), empty(0, self.layout.dtype)

    def reserve(self, n_entries: int) -> None:
        """Make room to sort so many entries of the sparse rows held, and the bias of each row."""
        if n_entries + self.capacity <= self.values.size:
            return
        size = 1 << (n_entries + self.capacity).bit_length()  # room for a little more, the next time
        n_starts = len(panels(self.layout.sizes[0] + 1, self.layout.lanes)) + 2
        self.plan[P.BUCKETS] = round_up(n_starts, LINE // 8)
        self.plan[P.ENTRIES] = self.plan[P.BUCKETS] * (len(self.shares) - 1)
        self.buckets = empty(int(self.plan[P.ENTRIES]) + size, np.int64)
        self.values = empty(size, self.layout.dtype)


class ForwardWorkspace:
    """The buffers and plans of one network for prediction on up to `n_threads` threads."""

    def __init__(
        self, layout: Layout, activations: tuple[int, ...], output: int, params: Array, n_threads: int
    ) -> None:
        self.n_threads = n_threads
        layers = np.zeros((len(layout.pairs), P.N_LAYER_FIELDS), np.int64)
        layers[:, [P.N_IN, P.N_OUT]] = layout.pairs
        layers[:, P.WEIGHTS] = layout.weight_offsets[:-1]
        layers[:-1, P.ACTIVATION] = activations
        ld = forward.leading_dimension_of.py_func(layers.reshape(-1), layout.lanes)
        scratch = empty(n_threads * forward.scratch_size.py_func(ld), layout.dtype)
        state = empty(state_size(n_threads), np.int64)
        self._arrays = layers, params, scratch, state
        fields = [output, *(field for array in self._arrays for field in (array.ctypes.data, array.size)), 0]
        self.fields = np.array(fields, np.int64)
        self.address = self.fields.ctypes.data  # of all that the kernel takes for the network
