"""One-to-one matching within calipers.

Array suffixes: R those to be matched; A those that may be their controls; C covariates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def match(rock_RC: Array, other_AC: Array, caliper_C: Array) -> tuple[Array, Array]:
    """Pairs of least total Σ_c |Δ_c| / caliper_c, as many as there can be within every caliper.

    Returns (pairs (n, 2) of places in R and in A, places in R left alone, ascending). A value that
    is not finite matches nothing. Source: Hungarian method (SciPy); calipers ours.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(rock_RC) or not len(other_AC):
        return np.zeros((0, 2), dtype=np.int64), np.arange(len(rock_RC))
    apart = np.zeros((len(rock_RC), len(other_AC)))
    forbidden = np.zeros(apart.shape, dtype=bool)
    for c, caliper in enumerate(caliper_C):
        steps = np.abs(rock_RC[:, c, None] - other_AC[None, :, c])
        forbidden |= ~(steps <= caliper)
        apart += steps / caliper
    # A pair beyond a caliper costs more than all others together, so it is never preferred.
    cost = np.where(forbidden, 1.0 + len(caliper_C) * len(rock_RC), apart)
    row, column = linear_sum_assignment(cost)
    kept = ~forbidden[row, column]
    pairs = np.stack([row[kept], column[kept]], axis=1)
    return pairs, np.setdiff1d(np.arange(len(rock_RC)), pairs[:, 0])
