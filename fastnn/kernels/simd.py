"""The vector instructions, written as LLVM IR: the micro-kernel, the transpose, the dot block, raw views, prefetch.

The only file that speaks LLVM. Every intrinsic takes an array and an *element offset* into it; nothing here checks
a bound, so callers own the layout. Vectors are `SIMD_BITS` wide whatever the machine has: LLVM splits what is too
wide, which lets each width be tested everywhere.
"""

import enum
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastnn.kernels.jit import jit
from fastnn.kernels.width import SIMD_BITS

LINE = 64  # bytes of a cache line
# Bytes of W that each k of the row kernel asks for: a block of rows asks for a panel like its own while it meets it.
AHEAD = LINE // 2
UNIT_BITS = 32  # of a sparse entry's place: the input unit; the bits above are the row
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


# Most rows of the register block by its width in vectors: with three vectors loaded and one broadcast, 8x3 fills 28 of
# AVX-512's 32 registers (NEON has 32 too), 4x3 fills 16 of AVX2's.
PANEL_VECTORS = 3
_MOST_ROWS = {1: 8, 2: 6, 3: 4} if SIMD_BITS == 256 else {1: 16, 2: 12, 3: 8}
_ROWS_OF = (0, _MOST_ROWS[1], _MOST_ROWS[2], _MOST_ROWS[3])


def heights(vectors: int) -> list[int]:
    """Rows that a register block of so many vectors can have: the most, and powers of two for what is left."""
    return [_MOST_ROWS[vectors], *(rows for rows in (8, 4, 2, 1) if rows < _MOST_ROWS[vectors])]


def lanes(dtype: Any) -> int:
    """Elements of one vector."""
    return int(SIMD_BITS // (8 * np.dtype(dtype).itemsize))


@jit
def block_height(rows, vectors):
    """Height of the next register block where `rows` are left, one of `heights`."""
    most = _ROWS_OF[vectors]
    return most if rows >= most else 8 if rows >= 8 else 4 if rows >= 4 else 2 if rows >= 2 else 1


def _vector_type(element: Any) -> Any:
    return ir.VectorType(element, SIMD_BITS // {"float": 32, "double": 64}[str(element)])


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.data_model_manager[array_type].get(builder, array, "data")
    return builder.gep(data, [offset])


def _internal(module: Any, name: str, function_type: Any, build: Callable[[Any], None]) -> Any:
    """Return the module's own function `name`, built once and never inlined: one copy serves every caller."""
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, function_type, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    function.attributes.add("optsize")  # not unrolled by LLVM, which would fill more registers than there are
    build(function)
    return function


def _load(builder: Any, pointer: Any, vector: Any) -> Any:
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _broadcast(builder: Any, scalar: Any, vector: Any) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _fma(builder: Any, vector: Any) -> Any:
    name = f"llvm.fma.v{vector.count}f{32 if str(vector.element) == 'float' else 64}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)


def _own(builder: Any, pointer: Any) -> None:
    """Store what is there, which makes the line this core's; PREFETCHW was measured to do nothing for a shared line."""
    word = builder.bitcast(pointer, I32.as_pointer())
    builder.store_atomic(builder.load_atomic(word, "monotonic", 4), word, "monotonic", 4)


def _opaque(builder: Any, value: Any) -> Any:
    """Hide how a number came about from LLVM, which would put addresses together anew in each turn of a loop."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], side_effect=False)


def _prefetch(builder: Any, pointer: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    arguments = [ir.Constant(I32, value) for value in (0, 2, 1)]  # to read, into L2, data
    builder.call(function, [builder.bitcast(pointer, cgutils.voidptr_t), *arguments])


class Kind(enum.Enum):
    """What a micro-kernel does beside C (+)= A' B, which each product does in its own way."""

    FORWARD = "micro_kernel"
    BACKWARD = "transposed_kernel"  # A lies by m, in panels of k that go on elsewhere
    GRADIENT = "gradient_kernel"  # A lies by m; lines to be written become this core's own


def _repeat(builder: Any, n: Any, values: list[Any], body: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Emit `values = body(values)`, n times over, and return the values after that."""
    before = builder.block
    check, step, done = (builder.append_basic_block(name) for name in ("check", "step", "done"))
    builder.branch(check)
    builder.position_at_end(check)
    i, phis = builder.phi(I64), [builder.phi(value.type) for value in values]
    builder.cbranch(builder.icmp_unsigned("<", i, n), step, done)
    builder.position_at_end(step)
    following = [builder.add(i, ir.Constant(I64, 1)), *body(phis)]
    end = builder.block
    builder.branch(check)
    for phi, first, value in zip([i, *phis], [ir.Constant(I64, 0), *values], following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, end)
    builder.position_at_end(done)
    return phis


def _cells(builder: Any, c: Any, ldc: Any, m: int, v: int, count: int) -> Iterator[Any]:
    """Pointers to the vectors of a block of C."""
    for i in range(m):
        row = builder.gep(c, [builder.mul(ldc, ir.Constant(I64, i))])
        yield from (builder.gep(row, [ir.Constant(I64, j * count)]) for j in range(v))


def _outer_product(
    builder: Any, m: int, v: int, vector: Any, by_m: Any, by_k: Any, ldb: Any, is_plain: bool = False
) -> Callable[[Any, Any, list[Any]], list[Any]]:
    """Return what adds A[k, m] * B[k, v vectors] to the sums, and goes to the next k of both.

    A plain loop, which does little else, has general registers for a pointer to each row of A.
    """
    fma, count = _fma(builder, vector), vector.count
    # Every fourth row of A by a pointer of its own: offsets to all of them would not fit in the general registers.
    *near, apart = (builder.mul(by_m, ir.Constant(I64, i)) for i in (*range(min(m, 4)), 4))
    if is_plain:
        *near, apart = (_opaque(builder, distance) for distance in (*near, apart))

    def products(a_k: Any, b_k: Any, sums: list[Any]) -> list[Any]:
        columns = [_load(builder, builder.gep(b_k, [ir.Constant(I64, j * count)]), vector) for j in range(v)]
        row, results = a_k, []
        for i in range(m):
            row = builder.gep(row, [apart]) if i and i % 4 == 0 else row
            scalar = _broadcast(builder, builder.load(builder.gep(row, [near[i % 4]])), vector)
            results += [builder.call(fma, [scalar, columns[j], sums[i * v + j]]) for j in range(v)]
        return [builder.gep(a_k, [by_k]), builder.gep(b_k, [ldb]), *results]

    return products


def _build_micro_kernel(function: Any, kind: Kind, m: int, v: int, vector: Any) -> None:
    """C[m, v vectors] (+)= sum over k of A[k, m] * B[k, v vectors], every accumulator in a register."""
    c, ldc, a, lda, b, ldb, k, accumulate, ahead, own, n_lines, panels, distance = function.args
    count = vector.count
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    line = ir.Constant(I64, count * LINE * 8 // SIMD_BITS)
    by_k, by_m = (lda, ir.Constant(I64, 1)) if kind is Kind.FORWARD else (ir.Constant(I64, 1), lda)
    products = _outer_product(builder, m, v, vector, by_m, by_k, ldb)

    def cells() -> Iterator[Any]:
        return _cells(builder, c, ldc, m, v, count)

    def step(values: list[Any]) -> list[Any]:
        ahead_k, a_k, b_k, *sums = values
        results = products(a_k, b_k, sums)
        _prefetch(builder, ahead_k)
        return [builder.gep(ahead_k, [line]), *results]

    def owning_step(values: list[Any]) -> list[Any]:
        own_k, ahead_k, *others = values
        results = step([ahead_k, *others])
        _prefetch(builder, builder.gep(ahead_k, [distance]))
        _own(builder, own_k)
        return [builder.gep(own_k, [line]), *results]

    def plain_step(values: list[Any]) -> list[Any]:
        a_k, b_k, *sums = values
        return products(a_k, b_k, sums)

    def panel(values: list[Any]) -> list[Any]:
        ahead_panel, a_panel, *_ = values
        _, _, *results = _repeat(builder, k, values, step)
        return [builder.gep(ahead_panel, [distance]), builder.gep(a_panel, [distance]), *results]

    entry, loading, start = builder.block, *(builder.append_basic_block(name) for name in ("loading", "start"))
    builder.cbranch(accumulate, loading, start)
    builder.position_at_end(loading)
    loaded = [_load(builder, cell, vector) for cell in cells()]
    builder.branch(start)
    builder.position_at_end(start)
    sums = [builder.phi(vector) for _ in loaded]
    for phi, value in zip(sums, loaded, strict=True):
        phi.add_incoming(ir.Constant(vector, [0.0] * count), entry)
        phi.add_incoming(value, loading)
    if kind is Kind.GRADIENT:
        # Two loops: to own a line again and again, once there are none left, took 4 % of the time.
        n_owning = builder.select(builder.icmp_unsigned("<", n_lines, k), n_lines, k)
        _, _, *values = _repeat(builder, n_owning, [own, ahead, a, b, *sums], owning_step)
        values = _repeat(builder, builder.sub(k, n_owning), values, plain_step)
    elif kind is Kind.BACKWARD:
        values = _repeat(builder, panels, [ahead, a, b, *sums], panel)
    else:
        values = _repeat(builder, k, [ahead, a, b, *sums], step)
    for cell, value in zip(cells(), values[-len(sums) :], strict=True):
        _store(builder, value, cell)
    builder.ret_void()


def _call_micro_kernel(context: Any, builder: Any, signature: Any, args: Any, kind: Kind) -> Any:
    """Call the micro-kernel of m rows and v vectors."""
    _, _, ldc, _, _, lda, _, _, ldb, k, m, v, accumulate = args[:13]
    c, a, b, ahead = (_pointer(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 3, 6, 13))
    own, n_lines = ir.Constant(c.type, None), ir.Constant(I64, 0)
    panels, distance = ir.Constant(I64, 1), ir.Constant(I64, 0)
    if kind is Kind.GRADIENT:
        distance, own = args[15], _pointer(context, builder, signature.args[16], args[16], args[17])
        n_lines = args[18]
    elif kind is Kind.BACKWARD:
        panels, distance = args[15:]
    arguments = [
        c, ldc, a, lda, b, ldb, k, builder.trunc(accumulate, I1), ahead, own, n_lines, panels, distance,
    ]  # fmt: skip
    _call_by_shape(builder, kind.value, arguments, m, v, functools.partial(_build_micro_kernel, kind=kind))
    return context.get_dummy_value()


def _call_by_shape(
    builder: Any, name: str, arguments: list[Any], m: Any, v: Any, build: Callable[..., None]
) -> None:
    """Call the function `name` for register blocks of m rows and v vectors; C is the first argument."""
    vector = _vector_type(arguments[0].type.pointee)
    kernel_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    end = builder.append_basic_block(f"{name}_end")
    switch = builder.switch(builder.add(builder.mul(m, ir.Constant(I64, 4)), v), end)
    for vectors in _MOST_ROWS:
        for rows in heights(vectors):
            full_name = f"fastnn_{name}_{vector.element}_{vector.count}_{rows}x{vectors}"
            with builder.goto_block(builder.append_basic_block()):
                block = builder.block
                made = functools.partial(build, m=rows, v=vectors, vector=vector)
                builder.call(_internal(builder.module, full_name, kernel_type, made), arguments)
                builder.branch(end)
            switch.add_case(ir.Constant(I64, rows * 4 + vectors), block)
    builder.position_at_end(end)


def _product(c: Any, a: Any, b: Any, ahead: Any) -> list[Any]:
    """Types of the arguments that all micro-kernels share, in their order."""
    i = types.int64
    return [c, i, i, a, i, i, b, i, i, i, i, i, types.boolean, ahead, i]


@intrinsic
def micro_kernel(typingctx, c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, ahead, ahead_at):
    """C[m, v vectors] (+)= sum over k of A[k, m] * B[k, v vectors]; m one of `heights`, v up to 3, k at least 1.

    Each k also asks for one cache line of `ahead`, from `ahead_at` on: what a later call will want from L3 or from
    another core arrives meanwhile, where a burst of requests would fill the miss buffers and stall the loads.
    """

    def codegen(context, builder, signature, args):
        return _call_micro_kernel(context, builder, signature, args, Kind.FORWARD)

    return types.void(*_product(c, a, b, ahead)), codegen


@intrinsic
def transposed_kernel(
    typingctx, c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate, ahead, ahead_at, panels, distance
):
    """As `micro_kernel`, with A[m, k] for A[k, m], and as many k in each of `panels` panels of A, `distance` apart.

    What is asked for ahead lies in panels the same distance apart.
    """

    def codegen(context, builder, signature, args):
        return _call_micro_kernel(context, builder, signature, args, Kind.BACKWARD)

    return types.void(*_product(c, a, b, ahead), types.int64, types.int64), codegen


@intrinsic
def gradient_kernel(
    typingctx, c, c_at, ldc, a, a_at, lda, b, b_at, ldb, k, m, v, accumulate,
    ahead, ahead_at, distance, own, own_at, n_lines,
):  # fmt: skip
    """As `micro_kernel`, with A[m, k] for A[k, m]; `n_lines` cache lines of `own`, from own_at on, become this core's.

    The first k bring over, one each, lines that another core holds for reading; an update would wait for each store.
    Meanwhile, and no longer, as many lines of `ahead` are asked for, and as many again `distance` elements on.
    """

    def codegen(context, builder, signature, args):
        return _call_micro_kernel(context, builder, signature, args, Kind.GRADIENT)

    return types.void(*_product(c, a, b, ahead), types.int64, own, types.int64, types.int64), codegen


def _four_steps(
    builder: Any, m: int, vector: Any, lda: Any, ldw: Any, distance: Any
) -> Callable[[list[Any]], list[Any]]:
    """Return what goes through four k of a panel of one vector, row by row of A.

    There each number of A has a single FMA to itself, and no time for anything else. So a pointer goes down the rows,
    too many for a general register each, and reads at constant distances.
    """
    fma = _fma(builder, vector)

    def times(n: int) -> list[Any]:
        return [builder.mul(distance, ir.Constant(I64, n))]

    def steps(values: list[Any]) -> list[Any]:
        ahead, a, w, *sums = values
        columns, row = [], a
        for _ in range(4):
            columns.append(_load(builder, w, vector))
            w = builder.gep(w, [ldw])
        for i in range(m):
            row = _opaque(builder, builder.gep(row, [lda]) if i else row)
            for k, column in enumerate(columns):
                scalar = _broadcast(builder, builder.load(builder.gep(row, [ir.Constant(I64, k)])), vector)
                sums[i] = builder.call(fma, [scalar, column, sums[i]])
        for k in range(0, 4, LINE // AHEAD):
            _prefetch(builder, builder.gep(ahead, times(k)))
        return [builder.gep(ahead, times(4)), builder.gep(a, [ir.Constant(I64, 4)]), w, *sums]

    return steps


def _build_row_kernel(function: Any, m: int, v: int, vector: Any) -> None:
    z, ldz, a, lda, w, ldw, k, floor, ahead = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    products = _outer_product(builder, m, v, vector, lda, ir.Constant(I64, 1), ldw, is_plain=True)
    distance = ir.Constant(I64, vector.count * AHEAD * 8 // SIMD_BITS)

    def step(values: list[Any]) -> list[Any]:
        ahead_k, a_k, w_k, *sums = values
        results = products(a_k, w_k, sums)
        if m == _MOST_ROWS[v]:  # a kernel of few rows reads W as fast as it comes
            _prefetch(builder, ahead_k)
        return [builder.gep(ahead_k, [distance]), *results]

    zero = ir.Constant(vector, [0.0] * vector.count)
    values = [ahead, a, w, *[zero] * (m * v)]
    if v == 1 and m == _MOST_ROWS[v]:
        fours, k = builder.lshr(k, ir.Constant(I64, 2)), builder.and_(k, ir.Constant(I64, 3))
        values = _repeat(builder, fours, values, _four_steps(builder, m, vector, lda, ldw, distance))
    _, _, biases, *sums = _repeat(builder, k, values, step)
    added = [_load(builder, part, vector) for part in _parts(builder, biases, v, vector)]
    least = _broadcast(builder, floor, vector)
    for i, cell in enumerate(_cells(builder, z, ldz, m, v, vector.count)):
        total = builder.fadd(sums[i], added[i % v])
        _store(builder, builder.select(builder.fcmp_ordered("<", total, least), least, total), cell)
    builder.ret_void()


@intrinsic
def row_kernel(typingctx, z, z_at, ldz, a, a_at, lda, w, w_at, ldw, k, m, v, floor, ahead_at):
    """Z[m, v vectors] = W[k] + the sum over k of A[m, k] W[k, v vectors], at least `floor`; NaN stays NaN.

    With the most rows, each k also asks for `AHEAD` bytes of W, from `ahead_at` on; see `micro_kernel`.
    """
    i = types.int64

    def codegen(context, builder, signature, args):
        to, rows, weights = (_pointer(context, builder, signature.args[n], args[n], args[n + 1]) for n in (0, 3, 6))
        ahead = _pointer(context, builder, signature.args[6], args[6], args[13])
        arguments = [to, args[2], rows, args[5], weights, args[8], args[9], args[12], ahead]
        _call_by_shape(builder, "row_kernel", arguments, args[10], args[11], _build_row_kernel)
        return context.get_dummy_value()

    return types.void(z, i, i, a, i, i, w, i, i, i, i, i, z.dtype, i), codegen


@intrinsic
def copy_first(typingctx, target, target_at, source, source_at, n):
    """Copy the first n elements of a vector, or all of it."""
    i = types.int64

    def codegen(context, builder, signature, args):
        to, start = (_pointer(context, builder, signature.args[a], args[a], args[a + 1]) for a in (0, 2))
        vector = _vector_type(context.get_data_type(signature.args[0].dtype))
        numbers = ir.VectorType(I64, vector.count)
        there = builder.icmp_signed("<", ir.Constant(numbers, list(range(vector.count))),
                                    _broadcast(builder, args[4], numbers))
        pointer = vector.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [vector, pointer, I32, there.type])
        bits = 32 if str(vector.element) == "float" else 64
        store = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.masked.store.v{vector.count}f{bits}.p0"
        )
        align = ir.Constant(I32, 4)
        builder.call(store, [_load(builder, start, vector), builder.bitcast(to, pointer), align, there])
        return context.get_dummy_value()

    return types.void(target, i, source, i, i), codegen


def _call_by_width(builder: Any, name: str, arguments: list[Any], v: Any, build: Callable[..., None]) -> None:
    """Call the function `name` for panels of v vectors."""
    vector = _vector_type(arguments[0].type.pointee)
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    end = builder.append_basic_block(f"{name}_end")
    switch = builder.switch(v, end)
    for vectors in _MOST_ROWS:
        full_name = f"fastnn_{name}_{vector.element}_{vector.count}_{vectors}"
        with builder.goto_block(builder.append_basic_block()):
            block = builder.block
            function = _internal(builder.module, full_name, kind, functools.partial(build, v=vectors, vector=vector))
            builder.call(function, arguments)
            builder.branch(end)
        switch.add_case(ir.Constant(I64, vectors), block)
    builder.position_at_end(end)


def _parts(builder: Any, row: Any, v: int, vector: Any) -> list[Any]:
    """Pointers to the vectors of a row of a panel."""
    return [builder.gep(row, [ir.Constant(I64, j * vector.count)]) for j in range(v)]


def _build_sparse_row(function: Any, v: int, vector: Any) -> None:
    z, data, indices, n, w, bias = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    fma, width = _fma(builder, vector), ir.Constant(I64, v * vector.count)

    def row_of_w(unit: Any) -> list[Any]:
        row = builder.gep(w, [builder.mul(unit, width)])
        return [_load(builder, part, vector) for part in _parts(builder, row, v, vector)]

    def step(values: list[Any]) -> list[Any]:
        x, unit, *sums = values
        scalar = _broadcast(builder, builder.load(x), vector)
        row = row_of_w(builder.zext(builder.load(unit), I64))
        added = [builder.call(fma, [scalar, part, total]) for part, total in zip(row, sums, strict=True)]
        return [builder.gep(x, [ir.Constant(I64, 1)]), builder.gep(unit, [ir.Constant(I64, 1)]), *added]

    _, _, *sums = _repeat(builder, n, [data, indices, *row_of_w(bias)], step)
    for total, part in zip(sums, _parts(builder, z, v, vector), strict=True):
        _store(builder, total, part)
    builder.ret_void()


@intrinsic
def sparse_row(typingctx, z, z_at, data, data_at, indices, indices_at, n, w, w_at, bias, v):
    """Z[v vectors] = W[bias] + the sum over n entries of data[k] W[indices[k]], where rows of W are v vectors."""
    i = types.int64

    def codegen(context, builder, signature, args):
        to, x, unit, w = (_pointer(context, builder, signature.args[a], args[a], args[a + 1]) for a in (0, 2, 4, 7))
        _call_by_width(builder, "sparse_row", [to, x, unit, args[6], w, args[9]], args[10], _build_sparse_row)
        return context.get_dummy_value()

    return types.void(z, i, data, i, indices, i, i, w, i, i, i), codegen


def _build_sparse_tile(function: Any, v: int, vector: Any) -> None:
    c, values, places, n, b = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    fma, width, one = _fma(builder, vector), ir.Constant(I64, v * vector.count), ir.Constant(I64, 1)

    def step(pointers: list[Any]) -> list[Any]:
        value, place = pointers
        scalar, packed = _broadcast(builder, builder.load(value), vector), builder.load(place)
        row = builder.gep(b, [builder.mul(builder.lshr(packed, ir.Constant(I64, UNIT_BITS)), width)])
        unit = builder.and_(packed, ir.Constant(I64, 2**UNIT_BITS - 1))
        target = builder.gep(c, [builder.mul(unit, width)])
        for to, part in zip(_parts(builder, target, v, vector), _parts(builder, row, v, vector), strict=True):
            total = builder.call(fma, [scalar, _load(builder, part, vector), _load(builder, to, vector)])
            _store(builder, total, to)
        return [builder.gep(value, [one]), builder.gep(place, [one])]

    _repeat(builder, n, [values, places], step)
    builder.ret_void()


@intrinsic
def sparse_tile(typingctx, c, c_at, values, values_at, places, places_at, n, b, b_at, v):
    """C[unit] += values[k] B[row] for n places row << UNIT_BITS | unit, where rows of B and of C are v vectors."""
    i = types.int64

    def codegen(context, builder, signature, args):
        to, x, place, b = (_pointer(context, builder, signature.args[a], args[a], args[a + 1]) for a in (0, 2, 4, 7))
        _call_by_width(builder, "sparse_tile", [to, x, place, args[6], b], args[9], _build_sparse_tile)
        return context.get_dummy_value()

    return types.void(c, i, values, i, places, i, i, b, i, i), codegen


def _piece(element: Any) -> int:
    """Elements of 128 bits."""
    return {"float": 4, "double": 2}[str(element)]


def _transpose_in_registers(
    builder: Any, source: Callable[[int, int], Any], vector: Any, n_columns: int
) -> list[Any]:
    """Return the transposed columns of a block of as many rows as lanes; `source(row, column)` points at an element.

    Pieces of 128 bits are loaded to where they belong, which leaves transposes within 128-bit lanes alone.
    """
    count, piece = vector.count, _piece(vector.element)
    part = ir.VectorType(vector.element, piece)

    def shuffle(x: Any, y: Any, mask: list[int]) -> Any:
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(mask)), mask))

    def gathered(row: int, column: int) -> Any:
        parts = [_load(builder, source(row + above, column), part) for above in range(0, count, piece)]
        while len(parts) > 1:
            both = list(range(2 * parts[0].type.count))
            parts = [shuffle(parts[i], parts[i + 1], both) for i in range(0, len(parts), 2)]
        return parts[0]

    def interleaved(x: Any, y: Any, run: int) -> tuple[Any, Any]:
        halves = []
        for first in (0, piece // 2):
            within = [side * count + first + run * k + e
                      for k in range(piece // (2 * run)) for side in (0, 1) for e in range(run)]
            halves.append(shuffle(x, y, [base + index for base in range(0, count, piece) for index in within]))
        return halves[0], halves[1]

    rows: list[Any] = []
    for column in range(0, n_columns, piece):
        v = [gathered(row, column) for row in range(piece)]
        if piece == 2:
            rows += interleaved(v[0], v[1], 1)
        else:
            (a, b), (c, d) = interleaved(v[0], v[1], 1), interleaved(v[2], v[3], 1)
            rows += [*interleaved(a, c, 2), *interleaved(b, d, 2)]
    return rows


def _build_transpose(function: Any, element: Any, indexed: bool, n_columns: int) -> None:
    target, target_ld, source, source_ld, index = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    vector = _vector_type(element)
    numbers = [ir.Constant(I64, row) for row in range(vector.count)]
    if indexed:
        numbers = [builder.load(builder.gep(index, [number])) for number in numbers]
    lines = [builder.gep(source, [builder.mul(source_ld, number)]) for number in numbers]

    def at(row: int, column: int) -> Any:
        return builder.gep(lines[row], [ir.Constant(I64, column)])

    for row, value in enumerate(_transpose_in_registers(builder, at, vector, n_columns)):
        _store(builder, value, builder.gep(target, [builder.mul(target_ld, ir.Constant(I64, row))]))
    builder.ret_void()


def _call_transpose(context: Any, builder: Any, signature: Any, args: Any, name: str, whole: bool) -> Any:
    """Call the function `name` for a block of lanes rows, which `args` may index, and lanes columns or one piece."""
    indexed = len(args) > 6
    element = context.get_data_type(signature.args[0].dtype)
    to, start = (_pointer(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 3))
    index = ir.Constant(I64.as_pointer(), None)
    if indexed:
        index = _pointer(context, builder, signature.args[6], args[6], args[7])
    lanes = _vector_type(element).count
    arguments = [to, args[2], start, args[5], index]
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    build = functools.partial(
        _build_transpose, element=element, indexed=indexed, n_columns=lanes if whole else _piece(element)
    )
    builder.call(_internal(builder.module, f"fastnn_{name}_{element}_{lanes}", kind, build), arguments)
    return context.get_dummy_value()


@intrinsic
def transpose_block(typingctx, target, target_at, target_ld, source, source_at, source_ld):
    """Transpose one block of lanes x lanes elements: target[j, i] = source[i, j]."""
    i = types.int64

    def codegen(context, builder, signature, args):
        return _call_transpose(context, builder, signature, args, "transpose_block", True)

    return types.void(target, i, i, source, i, i), codegen


@intrinsic
def gather_block(typingctx, target, target_at, target_ld, source, source_at, source_ld, index, index_at):
    """Transpose one block of lanes rows that lie anywhere: target[j, i] = source[index[i], j]."""
    i = types.int64

    def codegen(context, builder, signature, args):
        return _call_transpose(context, builder, signature, args, "gather_block", True)

    return types.void(target, i, i, source, i, i, index, i), codegen


@intrinsic
def gather_piece(typingctx, target, target_at, target_ld, source, source_at, source_ld, index, index_at):
    """As `gather_block`, of the first `piece_of` columns alone."""
    i = types.int64

    def codegen(context, builder, signature, args):
        return _call_transpose(context, builder, signature, args, "gather_piece", False)

    return types.void(target, i, i, source, i, i, index, i), codegen


@intrinsic
def piece_of(typingctx, array):
    """Elements of the array's dtype in 128 bits, a constant to the compiler."""

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, _piece(context.get_data_type(signature.args[0].dtype)))

    return types.int64(array), codegen


@intrinsic
def view(typingctx, array, offset, size):
    """array[offset : offset + size] without a check, a wrap-around or a reference count."""
    signature = types.Array(array.dtype, 1, "C")(array, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        array, offset, size = args
        result = context.make_array(signature.return_type)(context, builder)
        itemsize = ir.Constant(I64, context.get_abi_sizeof(context.get_data_type(signature.return_type.dtype)))
        context.populate_array(
            result,
            data=_pointer(context, builder, signature.args[0], array, offset),
            shape=[size], strides=[itemsize], itemsize=itemsize, meminfo=None,
        )
        return result._getvalue()

    return signature, codegen


# Where each architecture keeps "subnormals are zero": intrinsics that read and write the control register, and bits.
_CONTROL = {"x86_64": 0x8040, "aarch64": 1 << 24}  # MXCSR: FTZ and DAZ; FPCR: FZ
_ARCHITECTURE = llvm.get_process_triple().split("-")[0].replace("arm64", "aarch64").replace("AMD64", "x86_64")


def _control(builder: Any) -> Any:
    if _ARCHITECTURE == "aarch64":
        kind = ir.FunctionType(I64, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr"), [])
    if _ARCHITECTURE != "x86_64":
        return ir.Constant(I64, 0)
    place = cgutils.alloca_once(builder, I32)
    _mxcsr(builder, "st", place)
    return builder.zext(builder.load(place), I64)


def _set_control(builder: Any, value: Any) -> None:
    if _ARCHITECTURE == "aarch64":
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr"), [value])
    elif _ARCHITECTURE == "x86_64":
        place = cgutils.alloca_once(builder, I32)
        builder.store(builder.trunc(value, I32), place)
        _mxcsr(builder, "ld", place)


def _mxcsr(builder: Any, which: str, place: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{which}mxcsr")
    builder.call(function, [builder.bitcast(place, cgutils.voidptr_t)])


@intrinsic
def ask_for(typingctx, array, at):
    """Ask for the cache line of array[at], which a later instruction will want."""

    def codegen(context, builder, signature, args):
        _prefetch(builder, _pointer(context, builder, signature.args[0], *args))
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def flush_subnormals(typingctx):
    """From here on this thread takes subnormal numbers as zero; return what `restore_subnormals` wants.

    Moments of units that no longer learn decay into subnormals, and Adam takes twice as long over them.
    """

    def codegen(context, builder, signature, args):
        before = _control(builder)
        _set_control(builder, builder.or_(before, ir.Constant(I64, _CONTROL.get(_ARCHITECTURE, 0))))
        return before

    return types.int64(), codegen


@intrinsic
def restore_subnormals(typingctx, before):
    """End what `flush_subnormals` began."""

    def codegen(context, builder, signature, args):
        _set_control(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Return x y + z, rounded once."""
    signature = x(x, x, x)

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return signature, codegen


@intrinsic
def same_bits(typingctx, x, dtype):
    """Return the number of type `dtype` that has the bits of x."""
    kind = dtype.dtype

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(x, dtype), codegen


@intrinsic
def sum_of_squares(typingctx, array):
    """Sum of squares of a whole number of vectors, in four sums of vectors that take turns."""
    signature = array.dtype(array)

    def codegen(context, builder, signature, args):
        element = context.get_data_type(signature.args[0].dtype)
        vector = _vector_type(element)
        zero = ir.Constant(vector, [0.0] * vector.count)
        fma = _fma(builder, vector)
        struct = context.make_array(signature.args[0])(context, builder, value=args[0])
        size = builder.extract_value(struct.shape, 0)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(4)]
        zero_index, step = ir.Constant(I64, 0), ir.Constant(I64, vector.count)
        with cgutils.for_range_slice(builder, zero_index, size, step, I64) as (at, _):
            x = _load(builder, builder.gep(struct.data, [at]), vector)
            newest = builder.call(fma, [x, x, builder.load(sums[0])])
            for target, source in itertools.pairwise(sums):
                builder.store(builder.load(source), target)
            builder.store(newest, sums[3])
        padded = [*(builder.load(one) for one in sums), *[zero] * max(0, vector.count - 4)]
        while len(padded) > vector.count:
            padded = [builder.fadd(padded[0], padded[1]), *padded[2:]]
        totals = _reduced(builder, padded)
        total = builder.extract_element(totals, ir.Constant(I32, 0))
        for i in range(1, min(4, vector.count)):
            total = builder.fadd(total, builder.extract_element(totals, ir.Constant(I32, i)))
        return total

    return signature, codegen


@intrinsic
def lanes_of(typingctx, array):
    """Elements of the array's dtype in one vector, a constant to the compiler."""
    signature = types.int64(array)

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, _vector_type(context.get_data_type(signature.args[0].dtype)).count)

    return signature, codegen


def _dot_shape(count: int) -> tuple[int, int]:
    """Rows and columns of the dot block: sums for half of the registers; whole rows of them reduce to a vector."""
    return 4, min(count, 2 if SIMD_BITS == 256 else 4)


@intrinsic
def dot_shape_of(typingctx, array):
    """Rows and columns of the dot block, constants to the compiler."""
    signature = types.UniTuple(types.int64, 2)(array)

    def codegen(context, builder, signature, args):
        shape = _dot_shape(_vector_type(context.get_data_type(signature.args[0].dtype)).count)
        return context.make_tuple(builder, signature.return_type, [ir.Constant(I64, n) for n in shape])

    return signature, codegen


def _reduced(builder: Any, sums: list[Any]) -> Any:
    """Add up each of `lanes` vectors; element i of the result is the total of vector i."""
    count = len(sums)

    def shuffle(x: Any, y: Any, run: int, first: int) -> Any:
        mask = [base + first + e for base in range(0, 2 * count, 2 * run) for e in range(run)]
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, count), mask))

    run = count // 2
    while len(sums) > 1:
        pairs = [(sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
        sums = [builder.fadd(shuffle(x, y, run, 0), shuffle(x, y, run, run)) for x, y in pairs]
        run //= 2
    return sums[0]


def _first(builder: Any, n: Any, values: Any) -> Any:
    """Return the first n elements of a vector, with 0 for the others."""
    kind = ir.VectorType(I64, values.type.count)
    numbers = ir.Constant(kind, list(range(kind.count)))
    there = builder.icmp_signed("<", numbers, _broadcast(builder, n, kind))
    return builder.select(there, values, ir.Constant(values.type, [0.0] * kind.count))


@intrinsic
def sum_block(typingctx, target, target_at, b, b_at, n, ld, k):
    """target[j] = sum over k vectors of b[j], for as many rows as lanes; 0 beyond the first n."""
    index = types.int64

    def codegen(context, builder, signature, args):
        _, _, _, _, n, ld, k = args
        vector = _vector_type(context.get_data_type(signature.args[0].dtype))
        to, start = (_pointer(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 2))
        rows = _rows_or_last(builder, start, n, ld, vector.count)

        def add(builder: Any, at: Any, sums: list[Any]) -> list[Any]:
            values = [_load(builder, builder.gep(row, [at]), vector) for row in rows]
            return [builder.fadd(total, value) for total, value in zip(sums, values, strict=True)]

        _store(builder, _first(builder, n, _reduced(builder, _sums(builder, k, vector, len(rows), add))), to)
        return context.get_dummy_value()

    return types.void(target, index, b, index, index, index, index), codegen


def _rows_or_last(builder: Any, start: Any, there: Any, ld: Any, most: int) -> list[Any]:
    """Return pointers to `most` rows, `ld` apart; where only `there` of them are, the last one stands in."""
    last, rows = builder.sub(there, ir.Constant(I64, 1)), []
    for i in range(most):
        number = ir.Constant(I64, i)
        at_most = builder.select(builder.icmp_signed("<", number, there), number, last)
        rows.append(builder.gep(start, [builder.mul(at_most, ld)]))
    return rows


def _sums(builder: Any, k: Any, vector: Any, n: int, add: Callable[[Any, Any, list[Any]], list[Any]]) -> list[Any]:
    """Return `n` sums of vectors, to each of which `add` adds k times, at offsets of whole vectors."""
    zero, count = ir.Constant(vector, [0.0] * vector.count), ir.Constant(I64, vector.count)

    def step(values: list[Any]) -> list[Any]:
        at, *sums = values
        return [builder.add(at, count), *add(builder, at, sums)]

    return _repeat(builder, k, [ir.Constant(I64, 0), *[zero] * n], step)[1:]


@intrinsic
def dot_block(typingctx, target, target_at, ldt, a, a_at, m, b, b_at, n, ld, k):
    """target[i, j] = sum over k vectors of a[i] * b[j], for one block of sums of the shape `dot_shape_of`.

    Rows of `a` and `b` are `ld` apart, those of `target` `ldt`. Of a block that is not whole (m, n) the rows are
    written that are there, and 0 beyond the columns.
    """
    index = types.int64
    signature = types.void(target, index, index, a, index, index, b, index, index, index, index)

    def codegen(context, builder, signature, args):
        _, _, ldt, _, _, m, _, _, n, ld, k = args
        vector = _vector_type(context.get_data_type(signature.args[0].dtype))
        to, a_start, b_start = (
            _pointer(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 3, 6)
        )  # fmt: skip
        fma = _fma(builder, vector)
        n_rows, n_columns = _dot_shape(vector.count)
        to_rows = _rows_or_last(builder, to, m, ldt, n_rows)
        a_rows = _rows_or_last(builder, a_start, m, ld, n_rows)
        b_rows = _rows_or_last(builder, b_start, n, ld, n_columns)

        def add(builder: Any, at: Any, sums: list[Any]) -> list[Any]:
            x, y = ([_load(builder, builder.gep(row, [at]), vector) for row in rows] for rows in (a_rows, b_rows))
            return [builder.call(fma, [x[i // n_columns], y[i % n_columns], sums[i]]) for i in range(len(sums))]

        sums = _sums(builder, k, vector, n_rows * n_columns, add)
        for first in range(0, len(sums), vector.count):
            totals = _reduced(builder, sums[first : first + vector.count])
            for at in range(0, vector.count, n_columns):
                mask = ir.Constant(ir.VectorType(I32, n_columns), list(range(at, at + n_columns)))
                row = builder.shuffle_vector(totals, totals, mask)
                _store(builder, _first(builder, n, row), to_rows[(first + at) // n_columns])
        return context.get_dummy_value()

    return signature, codegen


@jit
def elements_of(n_bytes, array):
    """Elements of the array's dtype in `n_bytes` bytes, a constant to the compiler."""
    return n_bytes * 8 * lanes_of(array) // SIMD_BITS
