"""False discovery rate."""

from __future__ import annotations

import numpy as np

from rocktok._types import Array


def benjamini_hochberg(p_M: Array, tests: int | None = None) -> Array:
    """q-values of tests of a family (Benjamini and Hochberg 1995); equal p share the larger place.

    `tests`: of the family, those that are not given having p = 1; None: all are given.
    """
    order = np.argsort(p_M, kind="stable")
    sorted_M = p_M[order]
    place_M = np.searchsorted(sorted_M, sorted_M, side="right")
    raw_M = np.minimum(1.0, (len(p_M) if tests is None else tests) * sorted_M / place_M)
    q_M = np.empty(len(p_M))
    q_M[order] = np.minimum.accumulate(raw_M[::-1])[::-1]
    return q_M
