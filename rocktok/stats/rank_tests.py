"""Tests on ranks, without the import of scipy.stats, which takes longer than most analyses.

Shape suffixes: G values of a group, N of both.
"""

from __future__ import annotations

import math

import numpy as np

from rocktok._types import Array

#: Of two groups of which one has so few values, and without ties, the distribution is counted out.
FEW = 8


def mann_whitney_p(first_G: Array, second_G: Array) -> float:
    """Two-sided p of the Mann-Whitney test, as `scipy.stats.mannwhitneyu` gives it.

    Normal approximation, corrected for ties and continuity; for few values without ties SciPy's
    exact distribution. NaN where a value is NaN.

    Raises `ValueError` for an empty group.
    """
    few = min(len(first_G), len(second_G))
    if not few:
        raise ValueError("the Mann-Whitney test needs a value in each group")
    both_N = np.concatenate((first_G, second_G)).astype(np.float64)
    if np.isnan(both_N).any():
        return math.nan
    _, place_N, count_U = np.unique(both_N, return_inverse=True, return_counts=True)
    if few <= FEW and len(count_U) == len(both_N):
        from scipy.stats import mannwhitneyu

        return float(mannwhitneyu(first_G, second_G).pvalue)
    from scipy.special import ndtr

    # Mid-ranks: those of equal values are the mean of the ranks they take up.
    rank_N = (np.cumsum(count_U) - (count_U - 1) / 2)[place_N]
    m, n, total = len(first_G), len(second_G), len(both_N)
    above = float(rank_N[:m].sum()) - m * (m + 1) / 2
    ties = float((count_U.astype(np.float64) ** 3 - count_U).sum())
    spread = math.sqrt(m * n / 12 * ((total + 1) - ties / (total * (total - 1))))
    beyond = max(above, m * n - above) - m * n / 2 - 0.5
    if not spread:
        return 1.0  # all values are the same
    return float(min(1.0, 2 * ndtr(-beyond / spread)))
