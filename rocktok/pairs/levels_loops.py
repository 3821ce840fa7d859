"""Compiled loop of `levels`: similar windows of many types at several thresholds.

Loops check nothing: indices must be in range. Array suffixes as in `few_loops`; G thresholds.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.pairs.few_loops import (
    LANES,
    SHORT,
    Compared,
    Index,
    empty_index,
    fill_index,
    may_reach,
    score_row,
)
from rocktok.pairs.loops import Rule, likeness


@part
def _count(
    one: Compared,
    a: int,
    ours: Compared,
    begin: int,
    last: int,
    index: Index,
    rule: Rule,
    threshold_G: Array,
    count_G: Array,
) -> None:
    """Add the rows of a type that are similar to row a, by threshold; clears scores."""
    score_B, other_B = index.score_B, index.other_B
    limit, slope = one.limit_N[a] * SHORT, one.slope_N[a] * SHORT
    size, label = one.rows.size_R[a], one.label_N[a]
    size_R, label_N = ours.rows.size_R, ours.label_N
    for at in range(0, last, LANES):
        score_L, other_L = score_B[at : at + LANES], other_B[at : at + LANES]
        if may_reach(score_L, other_L, limit, slope):
            for b in range(at, min(at + LANES, last)):
                dot = score_B[b]
                # A dot product of 0 is no entry of a sparse product.
                if dot == 0 or dot < limit + slope * other_B[b] or label == label_N[begin + b]:
                    continue
                how_alike = likeness(rule, dot, size, size_R[begin + b])
                for g in range(len(threshold_G)):
                    count_G[g] += how_alike >= threshold_G[g]
        score_L[:] = 0.0


@Kernel
def count_levels(
    ours: Compared,
    ptr_T: Array,
    draws: Compared,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: Rule,
    threshold_G: Array,
    columns: int,
    similar_NG: Array,
    similar_EG: Array,
) -> None:
    """Count, of each row and each pick, similar rows of its type under other labels.

    `rule`: with the smallest threshold. `columns`: one more than the largest column id. Counts come
    in as zeros.
    """
    rows = ours.rows
    most, postings = np.int64(0), np.int64(0)
    for t in range(len(ptr_T) - 1):
        most = max(most, ptr_T[t + 1] - ptr_T[t])
        postings = max(postings, rows.ptr_R[ptr_T[t + 1]] - rows.ptr_R[ptr_T[t]])
    index = empty_index(columns, most, postings)
    for t in range(len(ptr_T) - 1):
        begin, end = ptr_T[t], ptr_T[t + 1]
        fill_index(ours, begin, end, index)
        for a in range(begin, end):
            if score_row(rows, a, index):
                _count(ours, a, ours, begin, end - begin, index, rule, threshold_G, similar_NG[a])
        for i in range(pick_ptr_T[t], pick_ptr_T[t + 1]):
            if score_row(draws.rows, pick_E[i], index):
                _count(
                    draws, pick_E[i], ours, begin, end - begin, index, rule, threshold_G,
                    similar_EG[i],
                )  # fmt: skip
        for e in range(rows.ptr_R[begin], rows.ptr_R[end]):
            index.start_C[rows.column_E[e]] = 0
            index.next_C[rows.column_E[e]] = 0
