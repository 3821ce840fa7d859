"""Tests on ranks, without the import of scipy.stats, which takes longer than most analyses.

Shape suffixes: G values of a group, N of both, D differences, W sums of ranks.
"""

from __future__ import annotations

import math

import numpy as np

from rocktok._types import Array

#: Of two groups of which one has so few values, and without ties, the distribution is counted out.
FEW = 8

#: Of so few differences, without ties and zeros, SciPy counts Wilcoxon's distribution out; with
#: these, of so few it goes through all signs.
_FEW_PAIRS = 50
_FEW_TIED = 13


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


def wilcoxon_p(apart_D: Array) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, as `scipy.stats.wilcoxon` gives it.

    Exact for few differences without ties and zeros, else the normal approximation, corrected for
    ties; for very few with them SciPy's own. Zeros are left out.

    Raises `ValueError` where no difference is other than 0.
    """
    apart_D = np.asarray(apart_D, dtype=np.float64)
    size_D = np.abs(apart_D[apart_D != 0])
    if not len(size_D):
        raise ValueError("Wilcoxon's test needs a difference that is not 0")
    _, place_D, count_U = np.unique(size_D, return_inverse=True, return_counts=True)
    plain = len(count_U) == len(apart_D)
    if not plain and len(apart_D) <= _FEW_TIED:
        from scipy.stats import wilcoxon

        return float(wilcoxon(apart_D).pvalue)
    n = len(size_D)
    rank_D = (np.cumsum(count_U) - (count_U - 1) / 2)[place_D]
    above = float(rank_D[apart_D[apart_D != 0] > 0].sum())
    if plain and n <= _FEW_PAIRS:
        return _signed_rank_p(n, int(above))
    from scipy.special import ndtr

    ties = float((count_U.astype(np.float64) ** 3 - count_U).sum())
    spread = math.sqrt((n * (n + 1.0) * (2.0 * n + 1.0) - ties / 2) / 24)
    z = (above - n * (n + 1.0) * 0.25) / spread
    return float(2 * ndtr(-abs(z)))


def _signed_rank_p(n: int, above: int) -> float:
    """Twice the smaller tail: all sums are whole multiples of 2^−n, and so exact in float64."""
    share_W = np.ones(1)
    for rank in range(1, n + 1):
        share_W = (np.pad(share_W, (0, rank)) + np.pad(share_W, (rank, 0))) / 2
    low, high = share_W[: above + 1].sum(), share_W[above:].sum()
    return float(min(1.0, 2 * min(low, high)))
