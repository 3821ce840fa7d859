"""Twin of `few` by sparse products, for logs too small to pay for compiled loops.

One product compares what thousands would compare for one type each: the windows of a type share
columns with one another alone, and drawn windows are compared with those of all types at once.

Array suffixes: N rows of ours, one type after another; D drawn rows; E picks of drawn rows, one
type after another, or entries; T types; P pairs of rows; L labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.pairs.few import PartnersByType
from rocktok.pairs.rows import PairRule, SparseRows, ranked

#: Products held at once.
BLOCK = 2_000_000


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
    """As `few.count_by_type`, and the same counts."""
    size_T, types = np.diff(ptr_T), len(ptr_T) - 1
    type_N = np.repeat(np.arange(types), size_T)
    type_E = np.repeat(np.arange(types), np.diff(pick_ptr_T))
    # Most types pick the same rows.
    used_D, row_E = np.unique(pick_E, return_inverse=True)
    place_DT = np.full((len(used_D), types), -1, dtype=np.int32)
    place_DT[row_E, type_E] = np.arange(len(pick_E))
    _, rank_L = np.unique(np.concatenate((label_N, label_D[used_D])), return_inverse=True)
    rank_N, rank_D = rank_L[: len(label_N)], rank_L[len(label_N) :]

    similar_N, similar_E = np.zeros(len(ours), np.int64), np.zeros(len(pick_E), np.int64)
    for row_P, other_P, _ in similar_pairs(ours, ours, type_N, type_N, rule):
        partner_P = rank_N[row_P] != rank_N[other_P]
        similar_N += np.bincount(row_P[partner_P], minlength=len(ours))
    for row_P, other_P, _ in _similar_pairs(_rows(draws, used_D), ours, rule, len(ours)):
        place_P = place_DT[row_P, type_N[other_P]]
        counted_P = (place_P >= 0) & (rank_D[row_P] != rank_N[other_P])
        similar_E += np.bincount(place_P[counted_P], minlength=len(pick_E))

    key_N = type_N * np.int64(len(rank_L) + 1) + rank_N
    key_U, at_N, count_U = np.unique(key_N, return_inverse=True, return_counts=True)
    partners_N, partners_E = size_T[type_N] - count_U[at_N], size_T[type_E]
    for of_label, draws_of in _by_label(key_U % (len(rank_L) + 1), rank_D):
        place_P = place_DT[draws_of, key_U[of_label] // (len(rank_L) + 1)]
        partners_E[place_P[place_P >= 0]] -= count_U[of_label][place_P >= 0]
    return PartnersByType(similar_N, partners_N, similar_E, partners_E)


def similar_pairs(
    ours: SparseRows, theirs: SparseRows, type_N: Array, type_M: Array, rule: PairRule
) -> Iterator[tuple[Array, Array, Array]]:
    """(row of ours, row of theirs, similarity) of all similar rows of one type, by blocks.

    Args:
        ours, theirs: rows of all types, whose columns have one meaning.
        type_N, type_M: the type of each, from 0 on.
        rule: the similarity and its threshold.

    Blocks are in the order of ours.
    """
    most = int(np.bincount(type_M).max(initial=0)) if len(type_M) else 0
    width = 1 + max(int(rows.column_E.max(initial=0)) for rows in (ours, theirs))
    yield from _similar_pairs(
        _apart(ours, type_N, width), _apart(theirs, type_M, width), rule, most
    )


def _apart(rows: SparseRows, type_N: Array, width: int) -> SparseRows:
    """The rows with columns that no two types share, in the same order within a row."""
    type_E = np.repeat(type_N, np.diff(rows.ptr_N))
    column_E = type_E * np.int64(width) + rows.column_E
    return SparseRows(rows.ptr_N, column_E, rows.value_E, rows.size_N)


def _rows(rows: SparseRows, at_D: Array) -> SparseRows:
    """Some of the rows."""
    size_D = np.diff(rows.ptr_N)[at_D]
    ptr_D = np.concatenate(([0], np.cumsum(size_D)))
    entry_E = np.arange(ptr_D[-1]) + np.repeat(rows.ptr_N[at_D] - ptr_D[:-1], size_D)
    return SparseRows(ptr_D, rows.column_E[entry_E], rows.value_E[entry_E], rows.size_N[at_D])


def _similar_pairs(
    ours: SparseRows, theirs: SparseRows, rule: PairRule, most: int
) -> Iterator[tuple[Array, Array, Array]]:
    """(row of ours, row of theirs, similarity) of similar rows, block by block.

    `most`: rows of theirs that a row of ours may share a column with.
    """
    from scipy.sparse import csr_matrix

    column_E, columns = ranked(np.concatenate((ours.column_E, theirs.column_E)))
    cut = len(ours.column_E)
    shape = len(theirs), max(1, columns)
    # Transposed once: of every block it would be again.
    across: Any = csr_matrix((theirs.value_E, column_E[cut:], theirs.ptr_N), shape).T.tocsr()
    step = max(1, BLOCK // max(1, most))
    for start in range(0, len(ours), step):
        ptr_N = ours.ptr_N[start : start + step + 1]
        first, last = ptr_N[0], ptr_N[-1]
        parts = ours.value_E[first:last], column_E[first:last], ptr_N - first
        # Each sum runs over the columns of the row, in their order.
        dots = (csr_matrix(parts, (len(ptr_N) - 1, shape[1])) @ across).tocoo()
        row_P = dots.row + start
        alike_P = rule.alike(dots.data, ours.size_N[row_P], theirs.size_N[dots.col])
        similar_P = (alike_P >= rule.threshold) & (dots.data != 0)
        yield row_P[similar_P], dots.col[similar_P], alike_P[similar_P]


def _by_label(label_U: Array, label_D: Array) -> Iterator[tuple[Array, Array]]:
    """All (place in U, place in D) under the same label, of some U at a time."""
    order_D = np.argsort(label_D, kind="stable")
    start_U = np.searchsorted(label_D[order_D], label_U, "left")
    size_U = np.searchsorted(label_D[order_D], label_U, "right") - start_U
    edge_U = np.concatenate(([0], np.cumsum(size_U)))
    step = max(1, BLOCK // max(1, int(size_U.max(initial=0))))
    for start in range(0, len(label_U), step):
        stop = min(start + step, len(label_U))
        at_P = np.repeat(np.arange(start, stop), size_U[start:stop])
        within_P = np.arange(len(at_P)) - (edge_U[at_P] - edge_U[start])
        yield at_P, order_D[start_U[at_P] + within_P]
