"""Groups of 64 neighbouring float32, compared and added up in vector registers.

Numba knows no vectors, and whether LLVM makes vectors of a loop over lanes, and how wide ones,
depends on what stands around it. These functions are LLVM's own instructions on 64 lanes, which it
cuts into registers of any processor; a comparison of all lanes gives one word of 64 bits. It is
strict, so that at a cut of 0 a score of 0, of what shares nothing, is left out.

Nothing is checked: `at` + 64 must be in range. Array suffixes: T scores, in whole groups; H head
columns of groups, 64 lanes after another; E entries of a row; L lanes of a group.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Lanes of a group, as many as a word has bits.
LANES = 64

_LANES = ir.VectorType(ir.FloatType(), LANES)


def _place(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """Where the lanes from `at` on lie."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _LANES.as_pointer())


def _load(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    return builder.load(_place(context, builder, array_type, array, at), align=4)


def _all(builder: Any, value: Any) -> Any:
    """One number in all lanes."""
    one = builder.insert_element(
        ir.Constant(_LANES, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(one, ir.Constant(_LANES, ir.Undefined), zeros)


def _mask(builder: Any, left: Any, right: Any) -> Any:
    return builder.bitcast(builder.fcmp_ordered(">", left, right), ir.IntType(LANES))


@intrinsic  # type: ignore[untyped-decorator]
def above(_: Any, score_T: Any, at: Any, cut: Any) -> Any:
    """Which of 64 scores from `at` on are above the cut: a bit each, the lowest for the first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, place, least = arguments
        score_L = _load(context, builder, signature.args[0], scores, place)
        return _mask(builder, score_L, _all(builder, least))

    return types.uint64(score_T, types.intp, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def above_sloped(_: Any, score_T: Any, slope_T: Any, at: Any, slope: Any, cut: Any) -> Any:
    """Which of score − slope · slope_T are above the cut; as `above`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, slopes, place, factor, least = arguments
        score_L = _load(context, builder, signature.args[0], scores, place)
        slope_L = _load(context, builder, signature.args[1], slopes, place)
        left_L = builder.fsub(score_L, builder.fmul(slope_L, _all(builder, factor)))
        return _mask(builder, left_L, _all(builder, least))

    return types.uint64(score_T, slope_T, types.intp, types.float32, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_columns(
    _: Any, score_T: Any, at: Any, head_H: Any, first: Any, slot_E: Any, value_E: Any,
    begin: Any, end: Any,
) -> Any:  # fmt: skip
    """Add columns to the scores from `at` on, each times an entry's value: begin … end − 1.

    An entry's column is number slot_E of those that lie from `first` on.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, place, head, base, slots, values, start, stop = arguments
        score_type, _, head_type, _, slot_type, value_type, _, _ = signature.args
        slot = context.make_array(slot_type)(context, builder, slots).data
        value = context.make_array(value_type)(context, builder, values).data
        where = _place(context, builder, score_type, scores, place)
        total = cgutils.alloca_once_value(builder, builder.load(where, align=4))
        with cgutils.for_range_slice(
            builder, start, stop, ir.Constant(start.type, 1), intp=start.type
        ) as (e, _):
            number = builder.zext(builder.load(builder.gep(slot, [e])), base.type)
            offset = builder.add(base, builder.mul(number, ir.Constant(base.type, LANES)))
            head_L = _load(context, builder, head_type, head, offset)
            factor = _all(builder, builder.load(builder.gep(value, [e])))
            added = builder.fadd(builder.load(total), builder.fmul(head_L, factor))
            builder.store(added, total)
        builder.store(builder.load(total), where, align=4)
        return context.get_dummy_value()

    arguments = (
        score_T, types.intp, head_H, types.intp, slot_E, value_E, types.intp, types.intp
    )  # fmt: skip
    return types.void(*arguments), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_: Any, word: Any) -> Any:
    """Index of the lowest bit that is set; a word without one has none."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return word(word), generate
