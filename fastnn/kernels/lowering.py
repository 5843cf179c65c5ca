"""How the inner functions become LLVM IR, in half of the instructions that Numba writes.

What it writes of a loop over a range, or of an element of an array, takes the same way through memory each time, and
all of that text is written, read again and optimised away. Here these come out as they are after that. What it looks
up in its tables for each sum of two numbers, three times in vain, is one instruction.
"""

import collections
import functools
import operator
from typing import Any

from llvmlite import ir
from numba.core import ir as numba_ir
from numba.core import types
from numba.core.lowering import Lower

from fastnn.kernels.width import PREFERENCE

SIZES = {"size": "nitems", "shape": "shape"}  # attributes of arrays, and the members that they are
# What LLVM calls operators of two integers, and of two real numbers.
COMPARISONS = {operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.eq: "=="}
INTEGER = {operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.and_: "and_", operator.or_: "or_"}
REAL = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul"}
EXTREMES = {min: "<", max: ">"}  # the comparison after which the first of two numbers is taken
RANGES = {types.range_state64_type, types.range_iter64_type}


def is_extreme_of_integers(function: Any, args: Any) -> bool:
    """Whether a call is `min` or `max` of two integers."""
    is_extreme = isinstance(function, types.Function) and function.typing_key in EXTREMES
    return is_extreme and [types.unliteral(kind) for kind in args] == [types.int64] * 2  # type: ignore[attr-defined]


class Builder(ir.IRBuilder):  # type: ignore[misc]
    """Takes from a structure what has been put into it before."""

    def extract_value(self, agg: Any, idx: Any, name: str = "") -> Any:
        path = list(idx) if isinstance(idx, (tuple, list)) else [idx]
        while isinstance(agg, ir.instructions.InsertValue):
            put = list(agg.indices)
            if path[: len(put)] == put:
                agg, path = agg.value, path[len(put) :]
                if not path:
                    return agg
            elif put[: len(path)] == path:
                break
            else:
                agg = agg.aggregate
        return super().extract_value(agg, path, name)


class InnerLower(Lower):  # type: ignore[misc]
    """Numba's way from its own IR to LLVM's, shorter for variables, elements of arrays and ranges."""

    def setup_function(self, fndesc: Any) -> None:
        super().setup_function(fndesc)
        if not self.flags.forceinline:
            self.function.attributes.update(["noinline", PREFERENCE])
        self.builder = Builder(self.entry_block)
        self.call_helper = self.call_conv.init_call_helper(self.builder)

    # -- variables ----------------------------------------------------------------------------------------------------

    def _find_singly_assigned_variable(self) -> None:
        """Find what needs no memory: variables that get one value, before all who use it."""
        blocks, lifetimes = self.func_ir.blocks, self.func_ir.variable_lifetime
        assigned = collections.Counter(
            statement.target.name for block in blocks.values() for statement in block.find_insts(numba_ir.Assign)
        )
        users = collections.defaultdict(list)
        for at, names in lifetimes.usedefs.usemap.items():
            for name in names:
                users[name].append(at)
        dominators = lifetimes.cfg.dominators()
        self._singly_assigned_vars = {
            name
            for home, names in lifetimes.usedefs.defmap.items()
            for name in names
            # Blocks become IR in the order of their numbers.
            if assigned[name] == 1 and all(home < at and home in dominators[at] for at in users[name])
        }
        self._blk_local_varmap: dict[str, Any] = {}

    def storevar(self, value: Any, name: str, argidx: int | None = None) -> None:
        if name in self._singly_assigned_vars:
            super().storevar(value, name, argidx)
        else:
            self.builder.store(value, self.getvar(name))

    def delvar(self, name: str) -> None:
        """Do nothing: nobody counts references."""

    # -- numbers ------------------------------------------------------------------------------------------------------

    def lower_binop(self, resty: Any, expr: Any, op: Any) -> Any:
        signature = self.fndesc.calltypes[expr]
        write = self._instruction(op, *signature.args)
        if write is None:
            return super().lower_binop(resty, expr, op)
        operands = [self._cast_var(var, kind) for var, kind in zip((expr.lhs, expr.rhs), signature.args, strict=True)]
        return self.context.cast(self.builder, write(*operands), signature.return_type, resty)

    def _instruction(self, op: Any, left: Any, right: Any) -> Any:
        """Return what writes an operator as one instruction, if it is one."""
        is_integer = left == types.int64
        if left != right or not (is_integer or left in (types.float32, types.float64)):
            return None
        if op in COMPARISONS:
            compare = self.builder.icmp_signed if is_integer else self.builder.fcmp_ordered
            return functools.partial(compare, COMPARISONS[op])
        name = (INTEGER if is_integer else REAL).get(op)
        return name and getattr(self.builder, name)

    # -- elements of arrays -------------------------------------------------------------------------------------------

    def lower_getitem(self, resty: Any, expr: Any, value: Any, index: Any, signature: Any) -> Any:
        array_type, index_type = signature.args
        if not self._is_plain(array_type, index_type):
            return super().lower_getitem(resty, expr, value, index, signature)
        pointer = self._element(array_type, self.loadvar(value.name), self._cast_var(index, index_type))
        element = self.builder.load(pointer)
        return self.context.cast(self.builder, element, signature.return_type, resty)

    def lower_setitem(self, target_var: Any, index_var: Any, value_var: Any, signature: Any) -> Any:
        array_type, index_type, value_type = signature.args
        if not self._is_plain(array_type, index_type):
            return super().lower_setitem(target_var, index_var, value_var, signature)
        value = self.context.cast(self.builder, self._cast_var(value_var, value_type), value_type, array_type.dtype)
        pointer = self._element(array_type, self.loadvar(target_var.name), self._cast_var(index_var, index_type))
        return self.builder.store(value, pointer)

    def _is_plain(self, array_type: Any, index_type: Any) -> bool:
        return (
            not self.context.enable_boundscheck
            and isinstance(array_type, types.Array)
            and (array_type.ndim, array_type.layout, array_type.aligned) == (1, "C", True)
            and isinstance(array_type.dtype, (types.Integer, types.Float))
            and index_type == types.int64
        )

    def _element(self, array_type: Any, array: Any, index: Any) -> Any:
        """Return the pointer to an element; a negative index counts from the end."""
        builder = self.builder
        if not isinstance(index, ir.Constant) or index.constant < 0:
            size = builder.extract_value(self._member(array_type, array, "shape"), 0)
            is_negative = builder.icmp_signed("<", index, index.type(0))
            index = builder.select(is_negative, builder.add(size, index), index)
        return builder.gep(self._member(array_type, array, "data"), [index])

    def _member(self, array_type: Any, array: Any, name: str) -> Any:
        return self.context.data_model_manager[array_type].get(self.builder, array, name)

    # -- calls, ranges ------------------------------------------------------------------------------------------------

    def _lower_call_normal(self, fnty: Any, expr: Any, signature: Any) -> Any:
        if is_extreme_of_integers(fnty, signature.args):
            first, second = (self._cast_var(argument, types.int64) for argument in expr.args)
            is_first = self.builder.icmp_signed(EXTREMES[fnty.typing_key], first, second)
            return self.builder.select(is_first, first, second)
        if signature.return_type != types.range_state64_type or set(signature.args) != {types.int64}:
            return super()._lower_call_normal(fnty, expr, signature)
        given = [self._cast_var(argument, types.int64) for argument in expr.args]
        start, stop, step = given[0] if len(given) > 1 else _integer(0), given[len(given) > 1], _integer(1)
        return self._struct(signature.return_type, start, stop, given[2] if len(given) > 2 else step)

    def lower_expr(self, resty: Any, expr: Any) -> Any:
        if expr.op == "getattr" and expr.attr in SIZES and isinstance(self.typeof(expr.value.name), types.Array):
            return self._member(self.typeof(expr.value.name), self.loadvar(expr.value.name), SIZES[expr.attr])
        if expr.op in ("getiter", "iternext") and self.typeof(expr.value.name) in RANGES:
            value = self.loadvar(expr.value.name)
            members = [self.builder.extract_value(value, i) for i in range(len(value.type.elements))]
            if expr.op == "iternext":
                return self._next_of_range(resty, *members)
            if isinstance(members[2], ir.Constant) and members[2].constant > 0:
                return self._begin_range(resty, *members)
        return super().lower_expr(resty, expr)

    def _begin_range(self, iterator_type: Any, start: Any, stop: Any, step: Any) -> Any:
        count = self.builder.sub(stop, start)
        if step.constant > 1:
            count = self.builder.sdiv(self.builder.add(count, _integer(step.constant - 1)), step)
        places = [self.alloca_lltype("$range", start.type) for _ in range(2)]
        for place, first in zip(places, (start, count), strict=True):
            self.builder.store(first, place)
        return self._struct(iterator_type, places[0], stop, step, places[1])

    def _next_of_range(self, pair_type: Any, place: Any, stop: Any, step: Any, count_place: Any) -> Any:
        builder = self.builder
        value, count = builder.load(place), builder.load(count_place)
        builder.store(builder.add(value, step), place)
        builder.store(builder.sub(count, _integer(1)), count_place)
        return self._struct(pair_type, value, builder.icmp_signed(">", count, _integer(0)))

    def _struct(self, kind: Any, *members: Any) -> Any:
        struct = ir.Constant(self.context.get_value_type(kind), ir.Undefined)
        for i, member in enumerate(members):
            struct = self.builder.insert_value(struct, member, i)
        return struct


def _integer(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)
