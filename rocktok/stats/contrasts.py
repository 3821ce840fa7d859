"""Groups of types compared by the bootstrap over prompts: medians and ranks.

Array suffixes: B replicates; T types of a bootstrap; G members of a group.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.stats.bootstrap import two_sided_p
from rocktok.stats.rank_tests import mann_whitney_p

#: Types that a group must have for contrasts to be tested.
MIN_TYPES = 5


def ratio(over_B: Array, under_B: Array) -> Array:
    """Elementwise quotient, NaN where the denominator is not positive."""
    # In their order of the memory: replicates are the innermost of many.
    with np.errstate(divide="ignore", invalid="ignore"):
        values_B: Array = np.divide(over_B, under_B, dtype=np.float64)
    np.copyto(values_B, np.nan, where=~(under_B > 0))
    return values_B


class OverTypes(TypedDict):
    """A measure of two groups of types compared.

    Without intervals: where types differ, noise in each takes the medians with it, and 95% of the
    replicates cover 75 to 88% (docs/statistics.md). `p`: bootstrap over prompts. `p_types_naive`:
    Mann-Whitney, which takes types for independent.
    """

    difference_of_medians: float
    rank_biserial: float
    undefined_replicates: int
    p: float
    p_types_naive: float


class Contrast(OverTypes):
    """With how many types either group has."""

    types_first: int
    types_second: int


class ContrastColumns(TypedDict, total=False):
    """`OverTypes` in a row that may lack it, as too few types could be compared."""

    difference_of_medians: float
    rank_biserial: float
    undefined_replicates: int
    p: float
    p_types_naive: float


def contrast(values_T: Array, values_BT: Array, first: Array, second: Array) -> Contrast:
    """Difference of the medians, and rank-biserial correlation, of two groups of types.

    Args:
        values_T: a measure of each type; `values_BT`: the same in each replicate, NaN: undefined.
        first, second: places of the groups' members in T.

    `p_types_naive` is the paper's Mann-Whitney test, which takes types for independent draws.
    """
    apart_B = _medians(values_BT[:, first]) - _medians(values_BT[:, second])
    naive = mann_whitney_p(values_T[first], values_T[second])
    return {
        "types_first": len(first),
        "types_second": len(second),
        "difference_of_medians": float(np.median(values_T[first]) - np.median(values_T[second])),
        "rank_biserial": float(_rank_biserial(values_T[first], values_T[second])),
        "undefined_replicates": int((~np.isfinite(apart_B)).sum()),
        "p": two_sided_p(apart_B),
        "p_types_naive": naive,
    }


def _medians(values_BG: Array) -> Array:
    """Median of the defined values of each replicate; NaN where none is."""
    finite_BG = np.isfinite(values_BG)
    all_B, any_B = finite_BG.all(axis=1), finite_BG.any(axis=1)
    medians_B = np.full(len(values_BG), np.nan)
    # The same bits, ten times as fast as row by row.
    medians_B[all_B] = np.median(values_BG[all_B], axis=1)
    medians_B[any_B & ~all_B] = np.nanmedian(values_BG[any_B & ~all_B], axis=1)
    return medians_B


def _rank_biserial(first_G: Array, second_G: Array) -> float:
    """P(x > y) − P(x < y) over pairs of defined values."""
    first, second = first_G[np.isfinite(first_G)], np.sort(second_G[np.isfinite(second_G)])
    if not len(first) or not len(second):
        return float("nan")
    below, up_to = (np.searchsorted(second, first, side=side) for side in ("left", "right"))
    return float((below - (len(second) - up_to)).sum() / (len(first) * len(second)))
