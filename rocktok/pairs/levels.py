"""Similar windows of many types at several thresholds, counted exactly from one look at each pair.

As in `pairs.few`, an inverted index of a type's windows adds up what one window shares with each of
them, in float64 and in the reference's order.

Importing this module imports neither numba nor SciPy.

Array suffixes: N rows of ours, one type after another; D drawn rows; E picks of drawn rows, one
type after another; T types; G thresholds; P pairs.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.pairs.few import rows_of_loops, rule_of_loops
from rocktok.pairs.rows import PairRule, SparseRows


def count_levels(
    ours: SparseRows,
    label_N: Array,
    ptr_T: Array,
    draws: SparseRows,
    label_D: Array,
    pick_E: Array,
    pick_ptr_T: Array,
    rule: PairRule,
    threshold_G: Array,
) -> tuple[Array, Array]:
    """Similar rows of its type under other labels, of each row and of each pick.

    Args:
        ours, label_N, ptr_T, draws, label_D, pick_E, pick_ptr_T: as of `few.count_by_type`.
        rule: the similarity, and the smallest of the thresholds.
        threshold_G: ascending.

    Returns:
        (N, G) and (E, G) int64 counts. Twin: `by_level` of pairs from sparse products.
    """
    from rocktok.pairs import levels_loops

    similar_NG, similar_EG = (
        np.zeros((rows, len(threshold_G)), dtype=np.int64) for rows in (len(ours), len(pick_E))
    )
    asked = rule_of_loops(rule)
    levels_loops.count_levels(
        rows_of_loops(ours, label_N, asked),
        np.ascontiguousarray(ptr_T, dtype=np.int64),
        rows_of_loops(draws, label_D, asked),
        np.ascontiguousarray(pick_E, dtype=np.int64),
        np.ascontiguousarray(pick_ptr_T, dtype=np.int64),
        asked,
        np.ascontiguousarray(threshold_G, dtype=np.float64),
        1 + max(int(rows.column_E.max(initial=-1)) for rows in (ours, draws)),
        similar_NG,
        similar_EG,
    )
    return similar_NG, similar_EG


def by_level(row_P: Array, alike_P: Array, threshold_G: Array, rows: int) -> Array:
    """(rows, G) int64: pairs of each row that are as similar as each threshold, ascending, asks."""
    levels = len(threshold_G)
    level_P = np.searchsorted(threshold_G, alike_P, side="right")
    key_P = row_P * np.int64(levels + 1) + level_P
    count_NL = np.bincount(key_P, minlength=rows * (levels + 1)).reshape(rows, levels + 1)
    reached_NG: Array = np.cumsum(count_NL[:, :0:-1], axis=1)[:, ::-1]
    return reached_NG
