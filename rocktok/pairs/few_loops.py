"""Compiled loops of `few`: similar windows of many types, each with few of them.

Loops check nothing: indices must be in range. Array suffixes: N rows of ours, one type after
another, or of theirs; M rows of ours; D drawn rows; E picks of drawn rows, one type after another;
T types; C columns; P postings; B rows of a type, padded to whole groups; L lanes of a group; H
slots of a table of labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.pairs.loops import Rule, alike
from rocktok.pairs.merge import PackedRows

#: Rows that are looked at together: fixed, so that the loop over them vectorises.
LANES = 32

#: Products that a pair must reach are lowered by this factor: far more than rounding.
SHORT = 1 - 1e-9


class Compared(NamedTuple):
    """Rows that are compared with those of a type, and their labels (uint64).

    A pair is similar when dot ≥ limit + slope · `other_N` of the other, but for rounding.
    """

    rows: PackedRows
    label_N: Array
    limit_N: Array
    slope_N: Array
    other_N: Array


class Index(NamedTuple):
    """Rows of a type by column, and what they share with one row: `score_B`, zeros in between.

    Postings of a column lie from `start_C` to `next_C`.
    """

    start_C: Array
    next_C: Array
    row_P: Array
    value_P: Array
    score_B: Array
    other_B: Array


@part
def _slot(label: np.uint64, label_H: Array, count_H: Array, mask: np.uint64) -> np.uint64:
    """Where a label stands in an open-addressed table, or would stand."""
    at = (label * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
    while count_H[at] != 0 and label_H[at] != label:
        at = (at + np.uint64(1)) & mask
    return at


@part
def make_room(rows: PackedRows, first: int, last: int, index: Index) -> None:
    """Room for the postings of each column of some entries, in the order in which these appear."""
    start_C, next_C = index.start_C, index.next_C
    for e in range(first, last):
        next_C[rows.column_E[e]] += 1
    room = np.int32(0)
    for e in range(first, last):
        column = rows.column_E[e]
        if next_C[column] > 0:
            start_C[column] = room
            room += next_C[column]
            next_C[column] = -1
    for e in range(first, last):
        next_C[rows.column_E[e]] = start_C[rows.column_E[e]]


@part
def score_row(rows: PackedRows, row: int, index: Index) -> bool:
    """Add up what a row shares with those that have postings, by column in ascending order."""
    column_E, value_E = rows.column_E, rows.value_E
    start_C, next_C, row_P, value_P = index.start_C, index.next_C, index.row_P, index.value_P
    score_B = index.score_B
    some = False
    for e in range(rows.ptr_R[row], rows.ptr_R[row + 1]):
        column, value = column_E[e], value_E[e]
        begin, end = start_C[column], next_C[column]
        some |= begin < end
        for p in range(begin, end):
            # Unsigned: no test for an index from the end.
            score_B[np.uint32(row_P[np.uint32(p)])] += value * value_P[np.uint32(p)]
    return some


@part
def may_reach(score_L: Array, other_L: Array, limit: Any, slope: Any) -> bool:
    """Whether any of some rows side by side may be similar."""
    hit = np.int32(0)
    for b in range(LANES):
        hit |= np.int32(score_L[b] >= limit + slope * other_L[b])
    return bool(hit != 0)


@part
def _count(
    theirs: Compared, a: int, ours: Compared, begin: int, last: int, index: Index, rule: Rule,
    similar_N: Array,
) -> int:  # fmt: skip
    """Partners of row a of theirs among `last` indexed rows of ours that are similar.

    These begin at `begin`, and are counted in `similar_N`, too; clears scores.
    """
    score_B, other_B = index.score_B, index.other_B
    limit, slope = theirs.limit_N[a] * SHORT, theirs.slope_N[a] * SHORT
    size, label = theirs.rows.size_R[a], theirs.label_N[a]
    size_R, label_N = ours.rows.size_R, ours.label_N
    count = 0
    for at in range(0, last, LANES):
        score_L, other_L = score_B[at : at + LANES], other_B[at : at + LANES]
        if may_reach(score_L, other_L, limit, slope):
            for b in range(at, min(at + LANES, last)):
                if score_B[b] < limit + slope * other_B[b]:
                    continue
                if not alike(rule, score_B[b], size, size_R[begin + b]):
                    continue
                if label != label_N[begin + b]:
                    count += 1
                    similar_N[begin + b] += 1
        score_L[:] = 0.0
    return count


@part
def empty_index(columns: int, rows: Any, postings: Any) -> Index:
    """An index of at most so many rows, and of as many postings."""
    padded = (rows // LANES + 1) * LANES
    return Index(
        np.zeros(columns, np.int32),
        np.zeros(columns, np.int32),
        np.empty(postings, np.int32),
        np.empty(postings, np.float64),
        np.zeros(padded, np.float64),
        np.zeros(padded, np.float64),
    )


@part
def fill_index(ours: Compared, begin: int, end: int, index: Index) -> None:
    """Postings of all rows of a type."""
    rows = ours.rows
    next_C = index.next_C
    make_room(rows, rows.ptr_R[begin], rows.ptr_R[end], index)
    for a in range(begin, end):
        index.other_B[a - begin] = ours.other_N[a]
        for e in range(rows.ptr_R[a], rows.ptr_R[a + 1]):
            p = next_C[rows.column_E[e]]
            index.row_P[p], index.value_P[p] = a - begin, rows.value_E[e]
            next_C[rows.column_E[e]] += 1


@Kernel
def count_others(
    ours: Compared,
    theirs: Compared,
    rule: Rule,
    columns: int,
    similar_M: Array,
    similar_N: Array,
) -> None:
    """Count, of rows of ours (M) and of theirs (N), similar partners among the others.

    `columns`: one more than the largest column id. Counts come in as zeros.
    """
    index = empty_index(columns, len(ours.label_N), len(ours.rows.column_E))
    fill_index(ours, 0, len(ours.label_N), index)
    for b in range(len(theirs.label_N)):
        if score_row(theirs.rows, b, index):
            similar_N[b] += _count(theirs, b, ours, 0, len(ours.label_N), index, rule, similar_M)


@Kernel
def count_types(
    ours: Compared,
    ptr_T: Array,
    label_D: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: Rule,
    columns: int,
    many: int,
    similar_N: Array,
    partners_N: Array,
    partners_E: Array,
) -> None:
    """Count, of each row and each pick, partners of its type, and of rows similar ones among these.

    `columns`: one more than the largest column id. `many`: rows of a type from which only its
    partners are counted. Counts come in as zeros.
    """
    rows, label_N = ours.rows, ours.label_N
    most, indexed, postings = np.int64(0), np.int64(0), np.int64(0)
    for t in range(len(ptr_T) - 1):
        size = ptr_T[t + 1] - ptr_T[t]
        most = max(most, size)
        if size < many:
            indexed = max(indexed, size)
            postings = max(postings, rows.ptr_R[ptr_T[t + 1]] - rows.ptr_R[ptr_T[t]])
    index = empty_index(columns, indexed, postings)
    start_C, next_C = index.start_C, index.next_C
    slots = 2
    while slots < 2 * most:
        slots *= 2
    label_H, count_H = np.empty(slots, np.uint64), np.zeros(slots, np.int64)
    for t in range(len(ptr_T) - 1):
        begin, end = ptr_T[t], ptr_T[t + 1]
        first, last = rows.ptr_R[begin], rows.ptr_R[end]
        slots = 2
        while slots < 2 * (end - begin):
            slots *= 2
        mask = np.uint64(slots - 1)
        count_H[:slots] = 0
        for a in range(begin, end):
            at = _slot(label_N[a], label_H, count_H, mask)
            label_H[at] = label_N[a]
            count_H[at] += 1
        for a in range(begin, end):
            partners_N[a] = end - begin - count_H[_slot(label_N[a], label_H, count_H, mask)]
        for i in range(pick_ptr_T[t], pick_ptr_T[t + 1]):
            at = _slot(label_D[pick_E[i]], label_H, count_H, mask)
            partners_E[i] = end - begin - count_H[at]
        if end - begin >= many:
            continue
        for a in range(begin, end):
            index.other_B[a - begin] = ours.other_N[a]
        make_room(rows, first, last, index)
        for a in range(begin, end):
            # Only rows before it have postings yet: each pair is seen once.
            if score_row(rows, a, index):
                before = a - begin
                similar_N[a] += _count(ours, a, ours, begin, before, index, rule, similar_N)
            for e in range(rows.ptr_R[a], rows.ptr_R[a + 1]):
                p = next_C[rows.column_E[e]]
                index.row_P[p], index.value_P[p] = a - begin, rows.value_E[e]
                next_C[rows.column_E[e]] += 1
        for e in range(first, last):
            start_C[rows.column_E[e]] = 0
            next_C[rows.column_E[e]] = 0
