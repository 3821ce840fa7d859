"""One-to-one matching within calipers.

Array suffixes: R those to be matched; A those that may be their controls; C covariates.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from rocktok._types import Array

#: Pairs whose distances are worked out at once: they stay in a processor's cache.
_AT_ONCE = 1 << 16


class Balance(TypedDict):
    """Standardised mean difference of one covariate, before and after matching."""

    covariate: str
    pairs: int
    smd_before: float | None
    smd_after: float | None


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
    # A pair beyond a caliper costs more than all others together, so it is never preferred.
    beyond = 1.0 + len(caliper_C) * len(rock_RC)
    # Some rows at a time: there may be a hundred million pairs.
    some = max(1, _AT_ONCE // len(other_AC))
    for at in (slice(start, start + some) for start in range(0, len(rock_RC), some)):
        for c, caliper in enumerate(caliper_C):
            # The logarithm of a loss of 0 is −∞, and apart from itself by NaN: within no caliper.
            with np.errstate(invalid="ignore"):
                steps = rock_RC[at, c, None] - other_AC[None, :, c]
            np.abs(steps, out=steps)
            forbidden[at] |= ~(steps <= caliper)
            steps /= caliper
            apart[at] += steps
        apart[at][forbidden[at]] = beyond
    row, column = linear_sum_assignment(apart)
    kept = ~forbidden[row, column]
    pairs = np.stack([row[kept], column[kept]], axis=1)
    return pairs, np.setdiff1d(np.arange(len(rock_RC)), pairs[:, 0])


def balance(names: tuple[str, ...], rock_RC: Array, other_AC: Array, pairs: Array) -> list[Balance]:
    """Standardised mean differences of each covariate, before and after matching.

    Both are in units of one spread, √(mean of the variances of rocks and others before), so that
    they compare; `smd_after` is None without pairs.
    """
    rows: list[Balance] = []
    for c, covariate in enumerate(names):
        before = _finite(rock_RC[:, c]), _finite(other_AC[:, c])
        after = _finite(rock_RC[pairs[:, 0], c]), _finite(other_AC[pairs[:, 1], c])
        variances = [values.var() for values in before if len(values)]
        spread = math.sqrt(sum(variances) / len(variances)) if variances else 0.0
        rows.append({
            "covariate": covariate,
            "pairs": len(pairs),
            "smd_before": _difference(*before, spread),
            "smd_after": _difference(*after, spread),
        })  # fmt: skip
    return rows


def _finite(values: Array) -> Array:
    finite: Array = values[np.isfinite(values)]
    return finite


def _difference(rocks: Array, others: Array, spread: float) -> float | None:
    if not len(rocks) or not len(others) or spread <= 0:
        return None
    return float(rocks.mean() - others.mean()) / spread
