"""Compiled loops of `sketches`: differing bits of pairs, by the processor's count of ones.

All is in 64 bits, so that the loop over theirs vectorises. Loops check nothing: indices must be in
range. Array suffixes: N sketches; T of theirs; M of ours; W their words; E picks of drawn
sketches; X types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import intrinsic

from rocktok._types import Array
from rocktok.kernel import Kernel, part

#: Sketches that are compared with one after another of ours: they stay in the nearest cache.
BLOCK = 1024


@intrinsic  # type: ignore[untyped-decorator]
def _ones(_: Any, word: Any) -> Any:
    """Bits of an integer that are set."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


@part
def _row(
    our_WN: Array, a: int, label: np.uint64, their_WT: Array, label_T: Array,
    begin: int, end: int, most: np.uint64,
) -> Any:  # fmt: skip
    """Near partners of sketch a of ours among begin … end − 1 of theirs."""
    x_0, x_1, x_2, x_3 = our_WN[0, a], our_WN[1, a], our_WN[2, a], our_WN[3, a]
    y_0, y_1 = their_WT[0, begin:end], their_WT[1, begin:end]
    y_2, y_3 = their_WT[2, begin:end], their_WT[3, begin:end]
    label_B = label_T[begin:end]
    count = np.int64(0)
    for b in range(end - begin):
        ones = _ones(x_0 ^ y_0[b]) + _ones(x_1 ^ y_1[b])
        ones += _ones(x_2 ^ y_2[b]) + _ones(x_3 ^ y_3[b])
        count += np.int64(ones <= most) & np.int64(label != label_B[b])
    return count


@part
def _row_and_others(
    our_WN: Array, a: int, label: np.uint64, label_N: Array,
    begin: int, end: int, most: np.uint64, near_N: Array,
) -> Any:  # fmt: skip
    """`_row` among ours; counted for both of a pair."""
    x_0, x_1, x_2, x_3 = our_WN[0, a], our_WN[1, a], our_WN[2, a], our_WN[3, a]
    y_0, y_1 = our_WN[0, begin:end], our_WN[1, begin:end]
    y_2, y_3 = our_WN[2, begin:end], our_WN[3, begin:end]
    label_B, near_B = label_N[begin:end], near_N[begin:end]
    count = np.int64(0)
    for b in range(end - begin):
        ones = _ones(x_0 ^ y_0[b]) + _ones(x_1 ^ y_1[b])
        ones += _ones(x_2 ^ y_2[b]) + _ones(x_3 ^ y_3[b])
        near = np.int64(ones <= most) & np.int64(label != label_B[b])
        count += near
        near_B[b] += near
    return count


@Kernel
def count_near(
    our_WM: Array, label_M: Array, their_WT: Array, label_T: Array,
    begin: int, end: int, most: int, mirrored: bool, near_M: Array,
) -> None:  # fmt: skip
    """Count near partners of begin … end − 1 of ours.

    `mirrored`: ours are theirs, and a pair is looked at once, from its later sketch.
    """
    limit = np.uint64(most)
    for start in range(0, len(label_T), BLOCK):
        for a in range(begin, end):
            last = min(start + BLOCK, len(label_T))
            if mirrored:
                last = min(last, a)
                if last > start:
                    near_M[a] += _row_and_others(
                        our_WM, a, label_M[a], label_M, start, last, limit, near_M
                    )
            else:
                near_M[a] += _row(our_WM, a, label_M[a], their_WT, label_T, start, last, limit)


@part
def _others(label: np.uint64, label_N: Array, begin: int, end: int) -> Any:
    """Rows under another label."""
    label_B = label_N[begin:end]
    count = np.int64(0)
    for b in range(end - begin):
        count += np.int64(label != label_B[b])
    return count


@Kernel
def count_types(
    our_WN: Array, label_N: Array, ptr_X: Array,
    draw_WD: Array, label_D: Array, pick_E: Array, pick_ptr_X: Array, most: int,
    near_N: Array, partners_N: Array, near_E: Array, partners_E: Array,
) -> None:  # fmt: skip
    """Count, of each row and each pick, partners of its type, and near ones among these.

    Counts come in as zeros. `most` below 0: none is near.
    """
    limit = np.uint64(max(most, 0))
    for x in range(len(ptr_X) - 1):
        begin, end = ptr_X[x], ptr_X[x + 1]
        for a in range(begin, end):
            partners_N[a] = _others(label_N[a], label_N, begin, end)
            if most >= 0:
                near_N[a] += _row_and_others(
                    our_WN, a, label_N[a], label_N, begin, a, limit, near_N
                )
        for i in range(pick_ptr_X[x], pick_ptr_X[x + 1]):
            d = pick_E[i]
            partners_E[i] = _others(label_D[d], label_N, begin, end)
            if most >= 0:
                near_E[i] = _row(draw_WD, d, label_D[d], our_WN, label_N, begin, end, limit)
