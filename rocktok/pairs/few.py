"""Similar windows of many types, each with few of them, counted exactly.

An inverted index of a type's windows adds up what one window shares with each of them, in float64
and in the reference's order. Making it costs what its entries do: for thousands of types far less
than `pairs.count`, which is for many windows of one.

Importing this module imports neither numba nor SciPy.

Array suffixes: N rows of ours, one type after another; D drawn rows; E picks of drawn rows, one
type after another; T types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.pairs.count import count_similar
from rocktok.pairs.rows import KINDS, PairRule, SparseRows

#: Rows of a type from which they have an index of `pairs.count`: to make it takes as long as some
#: thousand comparisons of each row, which are then several times as fast.
MANY = 1_500


@dataclass(frozen=True)
class PartnersByType:
    """Of each row of ours, and of each pick: similar partners, and all of them, in its type."""

    similar_N: Array
    partners_N: Array
    similar_E: Array
    partners_E: Array


def count_by_type(
    ours: SparseRows,
    label_N: Array,
    ptr_T: Array,
    draws: SparseRows,
    label_D: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: PairRule,
) -> PartnersByType:
    """Compare the rows of each type with one another, and some drawn rows with those of the type.

    Rows under the same label are no partners.

    Args:
        ours: N rows. label_N: uint64. ptr_T: (T + 1,) where each type's begin.
        draws: D rows, whose columns mean what those of ours do. label_D: uint64.
        pick_E: which drawn rows are compared with a type; pick_ptr_T: (T + 1,) where these begin.
        rule: the similarity and its threshold.

    Returns:
        int64 counts: for every pair the answer of `Similarity.count_similar`, ties included.
    """
    from rocktok.pairs import few_loops

    similar_N, partners_N = (np.zeros(len(ours), dtype=np.int64) for _ in range(2))
    partners_E = np.zeros(len(pick_E), dtype=np.int64)
    asked = rule_of_loops(rule)
    few_loops.count_types(
        rows_of_loops(ours, label_N, asked),
        _array(ptr_T, np.int64),
        _array(label_D, np.uint64),
        _array(pick_E, np.int64),
        _array(pick_ptr_T, np.int64),
        asked,
        1 + int(ours.column_E.max(initial=-1)),
        MANY,
        similar_N,
        partners_N,
        partners_E,
    )
    ends = _array(ptr_T, np.int64)
    for t in np.flatnonzero(np.diff(ends) >= MANY).tolist():
        rows = slice(ends[t], ends[t + 1])
        similar_N[rows] = count_similar(ours.rows(rows), None, rule, (label_N[rows], label_N[rows]))
    similar_E = count_drawn(draws, label_D, ours, label_N, ptr_T, pick_E, pick_ptr_T, rule)
    return PartnersByType(similar_N, partners_N, similar_E, partners_E)


def count_drawn(
    draws: SparseRows,
    label_D: Array,
    ours: SparseRows,
    label_N: Array,
    ptr_T: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: PairRule,
) -> Array:
    """(E,) int64: of each pick, the rows of its type that are similar and under another label.

    Arguments as of `count_by_type`; a drawn row is picked for a type at most once.
    """
    from rocktok.pairs import drawn_loops, merge

    columns = 1 + max(int(rows.column_E.max(initial=-1)) for rows in (ours, draws))
    asked, entries = rule_of_loops(rule), len(draws.column_E)
    index = drawn_loops.DrawnIndex(
        np.zeros(columns + 2, np.int32),
        np.empty(entries, np.int32),
        np.empty(entries, np.float64),
        np.zeros(columns, np.bool_),
        np.zeros(len(draws), np.float64),
        np.zeros(len(draws) + 1, np.int32),
        np.empty(entries, np.int32),
        np.empty(entries, np.float64),
    )
    packed = merge.PackedRows(draws.ptr_N, draws.column_E, draws.value_E, draws.size_N)
    drawn_loops.index_drawn(packed, asked, np.empty(entries, np.bool_), index)
    similar_E = np.zeros(len(pick_E), np.int64)
    drawn_loops.count_drawn(
        rows_of_loops(draws, label_D, asked),
        index,
        rows_of_loops(ours, label_N, asked),
        _array(ptr_T, np.int64),
        _array(pick_E, np.int64),
        _array(pick_ptr_T, np.int64),
        asked,
        similar_E,
    )
    return similar_E


def count_between(
    ours: SparseRows, label_M: Array, others: Sequence[tuple[SparseRows, Array]], rule: PairRule
) -> list[tuple[Array, Array]]:
    """Compare some rows with others, themselves among them; no partners under the same label.

    Args:
        ours: M rows, a few thousand at most. label_M: uint64.
        others: several times N rows, whose columns mean what those of ours do, and their labels.
        rule: the similarity and its threshold.

    Returns:
        For each of the others (M,) and (N,) int64: similar partners of each of ours among them, and
        of each of them among ours.
    """
    counts = []
    for theirs, label_N in others:
        if theirs is ours:
            similar_M = _count_own(ours, label_M, rule)
            counts.append((similar_M, similar_M))
        else:
            counts.append(_count_others(ours, label_M, theirs, label_N, rule))
    return counts


def _count_own(ours: SparseRows, label_M: Array, rule: PairRule) -> Array:
    """(M,) similar partners of each row among the others; each pair is looked at once."""
    from rocktok.pairs import few_loops

    asked, rows = rule_of_loops(rule), len(ours)
    similar_M, partners_M, none = (np.zeros(size, np.int64) for size in (rows, rows, 0))
    few_loops.count_types(
        rows_of_loops(ours, label_M, asked),
        np.array([0, rows]),
        np.zeros(0, np.uint64),
        none,
        np.zeros(2, np.int64),
        asked,
        1 + int(ours.column_E.max(initial=-1)),
        rows + 1,
        similar_M,
        partners_M,
        none,
    )
    return similar_M


def _count_others(
    ours: SparseRows, label_M: Array, theirs: SparseRows, label_N: Array, rule: PairRule
) -> tuple[Array, Array]:
    from rocktok.pairs import few_loops

    asked = rule_of_loops(rule)
    similar_M, similar_N = (np.zeros(len(rows), np.int64) for rows in (ours, theirs))
    few_loops.count_others(
        rows_of_loops(ours, label_M, asked),
        rows_of_loops(theirs, label_N, asked),
        asked,
        1 + max(int(rows.column_E.max(initial=-1)) for rows in (ours, theirs)),
        similar_M,
        similar_N,
    )
    return similar_M, similar_N


def rule_of_loops(rule: PairRule) -> Any:
    """The rule as the loops take it."""
    from rocktok.pairs import loops

    # As of whole numbers: products are not scaled.
    return loops.Rule(KINDS[rule.kind], float(rule.threshold), float(rule.offsets), True)


def rows_of_loops(rows: SparseRows, label_N: Array, rule: Any) -> Any:
    """Rows with what a dot product must reach for each."""
    from rocktok.pairs import few_loops, index, merge

    slope_N, other_N, limit_N = index.slopes(rows.size_N, rule)
    packed = merge.PackedRows(rows.ptr_N, rows.column_E, rows.value_E, rows.size_N)
    return few_loops.Compared(packed, _array(label_N, np.uint64), limit_N, slope_N, other_N)


def _array(values: Array, dtype: Any) -> Array:
    return np.ascontiguousarray(values, dtype=dtype)
