"""Compiled loops of `few.count_drawn`: rows drawn at random, each compared with many rows.

Rows that are alike share more than what is frequent: an index of the drawn rows leaves out the
frequent columns, as far as a row has none but too little there to be alike by them alone (as in
All-Pairs, Bayardo, Ma and Srikant 2007). What it leaves out is bounded by lengths; where that bound
is reached it is added up, and where rounding could tell a pair from the threshold all is, in the
reference's order.

Loops check nothing: indices must be in range. Array suffixes: N rows of ours, one type after
another; D drawn rows; E entries of drawn rows, or picks of them, one type after another; T types; C
columns; P postings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.pairs.few_loops import Compared
from rocktok.pairs.loops import Rule, alike, dot_product
from rocktok.pairs.merge import PackedRows

#: A column is frequent where one drawn row of so many has it.
FREQUENT = 40

#: Bounds are widened by this factor: far more than rounding.
_WIDE = 1 + 1e-9


class DrawnIndex(NamedTuple):
    """Drawn rows by column, from `start_C` on in ascending row, but for what is left out.

    `frequent_C`: of which columns entries may be left out. `rest_D`: length of what is left out of
    a row, or how many entries where these are counted; `left_ptr_D`: where these entries begin.
    """

    start_C: Array
    row_P: Array
    value_P: Array
    frequent_C: Array
    rest_D: Array
    left_ptr_D: Array
    left_column_E: Array
    left_value_E: Array


@part
def _budget(rule: Rule, size: float) -> float:
    """What may be left out of a row, at most: less than what any row shares that is alike."""
    threshold = max(rule.threshold, 0.0) / _WIDE
    if rule.kind == 0:
        return (threshold * size) ** 2
    if rule.kind == 1:
        return threshold * size
    return threshold * rule.offsets


@Kernel
def index_drawn(rows: PackedRows, rule: Rule, kept_E: Array, index: DrawnIndex) -> None:
    """Fill the index; `start_C` comes in as zeros, and `kept_E` has room for all entries."""
    start_C, frequent_C = index.start_C, index.frequent_C
    count_C = np.zeros(len(frequent_C), np.int32)
    for e in range(len(rows.column_E)):
        count_C[rows.column_E[e]] += 1
    for c in range(len(count_C)):
        frequent_C[c] = FREQUENT * count_C[c] >= len(rows.size_R)
    for d in range(len(rows.size_R)):
        most_left = _budget(rule, rows.size_R[d])
        begin, end = rows.ptr_R[d], rows.ptr_R[d + 1]
        kept_E[begin:end] = True
        rest = 0.0
        while True:
            # The most frequent one first.
            most, at = 0, -1
            for e in range(begin, end):
                c = rows.column_E[e]
                if kept_E[e] and frequent_C[c] and count_C[c] > most:
                    most, at = count_C[c], e
            if at < 0:
                break
            value = rows.value_E[at] ** 2 if rule.kind == 0 else rows.value_E[at]
            if rest + value >= most_left:
                break
            rest += value
            kept_E[at] = False
        index.rest_D[d] = np.sqrt(rest) if rule.kind == 0 else rest
        left = index.left_ptr_D[d]
        for e in range(begin, end):
            if not kept_E[e]:
                index.left_column_E[left] = rows.column_E[e]
                index.left_value_E[left] = rows.value_E[e]
                left += 1
        index.left_ptr_D[d + 1] = left
    for e in range(len(rows.column_E)):
        if kept_E[e]:
            start_C[rows.column_E[e] + 2] += 1
    for c in range(2, len(start_C)):
        start_C[c] += start_C[c - 1]
    for d in range(len(rows.size_R)):
        for e in range(rows.ptr_R[d], rows.ptr_R[d + 1]):
            if kept_E[e]:
                p = start_C[rows.column_E[e] + 1]
                index.row_P[p], index.value_P[p] = d, rows.value_E[e]
                start_C[rows.column_E[e] + 1] += 1


@part
def _probe(
    rows: PackedRows, row: int, rule: Rule, index: DrawnIndex, last: Any, score_D: Array,
    touched_D: Array, value_C: Array,
) -> tuple[int, float]:  # fmt: skip
    """Drawn rows up to `last` that share an indexed column with a row, listed, and how much.

    Returns how many, and by what to multiply the rests for a bound of what is left out. Sets the
    row's values in frequent columns, `value_C`.
    """
    touched, frequent = 0, 0.0
    for e in range(rows.ptr_R[row], rows.ptr_R[row + 1]):
        c, value = rows.column_E[e], rows.value_E[e]
        if index.frequent_C[c]:
            frequent += value * value
            value_C[c] = value
        for p in range(index.start_C[c], index.start_C[c + 1]):
            d = index.row_P[np.uint32(p)]
            if d > last:
                break
            product = value * index.value_P[np.uint32(p)]
            if product == 0.0:
                continue
            if score_D[d] == 0.0:
                touched_D[touched] = d
                touched += 1
            score_D[d] += product
    return touched, np.sqrt(frequent) if rule.kind == 0 else 1.0


@part
def _left(index: DrawnIndex, d: int, value_C: Array) -> float:
    """What a drawn row shares with another in the columns that the index leaves out."""
    total = 0.0
    for e in range(index.left_ptr_D[d], index.left_ptr_D[d + 1]):
        total += index.left_value_E[e] * value_C[index.left_column_E[e]]
    return total


@Kernel
def count_drawn(
    draws: Compared,
    index: DrawnIndex,
    ours: Compared,
    ptr_T: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: Rule,
    similar_E: Array,
) -> None:
    """Count, of each pick, the rows of its type that are similar and under another label.

    A drawn row is picked for a type at most once. Counts come in as zeros.
    """
    drawn = len(draws.label_N)
    score_D, touched_D = np.zeros(drawn, np.float64), np.empty(drawn, np.int32)
    value_C = np.zeros(len(index.frequent_C), np.float64)
    pick_D = np.full(drawn, -1, np.int64)
    for t in range(len(ptr_T) - 1):
        last = np.int64(-1)
        for i in range(pick_ptr_T[t], pick_ptr_T[t + 1]):
            pick_D[pick_E[i]] = i
            last = max(last, pick_E[i])
        for b in range(ptr_T[t], ptr_T[t + 1]):
            touched, scale = _probe(ours.rows, b, rule, index, last, score_D, touched_D, value_C)
            for k in range(touched):
                d = touched_D[k]
                score = score_D[d]
                score_D[d] = 0.0
                i = pick_D[d]
                least = draws.limit_N[d] + draws.slope_N[d] * ours.other_N[b]
                if i < 0 or (score + index.rest_D[d] * scale) * _WIDE < least:
                    continue
                if draws.label_N[d] == ours.label_N[b]:
                    continue
                score += _left(index, d, value_C)
                if score * _WIDE < least:
                    continue
                if not (least > 0.0 and score > least * _WIDE):
                    dot = dot_product(draws.rows, d, ours.rows, b)
                    if not alike(rule, dot, draws.rows.size_R[d], ours.rows.size_R[b]):
                        continue
                similar_E[i] += 1
            for e in range(ours.rows.ptr_R[b], ours.rows.ptr_R[b + 1]):
                value_C[ours.rows.column_E[e]] = 0.0
        for i in range(pick_ptr_T[t], pick_ptr_T[t + 1]):
            pick_D[pick_E[i]] = -1
