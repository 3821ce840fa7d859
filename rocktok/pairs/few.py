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
    return _look_up(draws, label_D, ours, label_N, ptr_T, pick_E, pick_ptr_T, rule)[0]


def count_between(
    draws: SparseRows,
    label_D: Array,
    others: Sequence[tuple[SparseRows, Array]],
    rule: PairRule,
) -> list[tuple[Array, Array]]:
    """Compare some rows with others; rows under the same label are no partners.

    Args:
        draws: D rows, whose columns mean what those of the others do. label_D: uint64.
        others: several times N rows, and their labels.
        rule: the similarity and its threshold.

    Returns:
        For each of the others (D,) and (N,) int64: similar partners of each of the draws among
        them, and of each of them among the draws.
    """
    ours = SparseRows.joined([rows for rows, _ in others])
    label_N = np.concatenate([label_N for _, label_N in others])
    ptr_T = np.cumsum([0, *(len(rows) for rows, _ in others)])
    pick_E = np.tile(np.arange(len(draws)), len(others))
    pick_ptr_T = np.arange(len(others) + 1) * len(draws)
    similar_E, similar_N = _look_up(draws, label_D, ours, label_N, ptr_T, pick_E, pick_ptr_T, rule)
    edges = ptr_T[1:-1]
    return list(zip(np.split(similar_E, len(others)), np.split(similar_N, edges), strict=True))


def _look_up(
    draws: SparseRows,
    label_D: Array,
    ours: SparseRows,
    label_N: Array,
    ptr_T: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: PairRule,
) -> tuple[Array, Array]:
    """`count_drawn`, and of each row the picks that are similar and under another label."""
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
    similar_E, similar_N = (np.zeros(len(values), np.int64) for values in (pick_E, label_N))
    drawn_loops.count_drawn(
        rows_of_loops(draws, label_D, asked),
        index,
        rows_of_loops(ours, label_N, asked),
        _array(ptr_T, np.int64),
        _array(pick_E, np.int64),
        _array(pick_ptr_T, np.int64),
        asked,
        similar_E,
        similar_N,
    )
    return similar_E, similar_N


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
