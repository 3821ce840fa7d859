"""Whether arms lie to one side of their baselines beyond what one lucky baseline explains.

All arms are compared with the same baselines, so the signs of their differences are not
independent: a baseline that was lucky makes nearly all of them negative. What is exchangeable if no
arm has an effect is which runs are called baselines.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array

#: Baselines that are asked for.
BASELINES = 5

#: Work of the exact distribution, in additions, above which it is approximated.
MOST_WORK = 200_000_000


def rank_sum_p(first: Array, second: Array) -> float:
    """Two-sided p of the rank sum of one group among both, labels permuted, in (0, 1].

    Mid-ranks where values are tied. Exact where the distribution can be computed, else by the
    normal approximation with ties. One baseline against K arms:
    min(1, 2·min(1 + #{arms ≥ baseline}, 1 + #{arms ≤ baseline})/(K + 1)).
    """
    from scipy.stats import rankdata

    if len(first) > len(second):
        first, second = second, first
    runs = len(first) + len(second)
    # Twice the mid-ranks are whole numbers.
    rank_N = np.rint(2 * rankdata(np.concatenate((first, second)))).astype(np.int64)
    observed = int(rank_N[: len(first)].sum())
    most = int(np.sort(rank_N)[-len(first) :].sum())
    if runs * len(first) * most > MOST_WORK:
        from scipy.stats import mannwhitneyu

        if len(set(rank_N.tolist())) == 1:
            return 1.0
        return float(mannwhitneyu(first, second, method="asymptotic").pvalue)
    share_S = _subset_sums(rank_N, len(first), most)
    low, high = float(share_S[: observed + 1].sum()), float(share_S[observed:].sum())
    return min(1.0, 2 * min(low, high))


def _subset_sums(rank_N: Array, size: int, most: int) -> Array:
    """Probabilities of the sum of `size` of the ranks, each subset as likely as any other."""
    ways_RS = np.zeros((size + 1, most + 1))
    ways_RS[0, 0] = 1.0
    for rank in map(int, rank_N):
        # From the largest subset down, so that no rank is in one twice.
        for taken in range(size, 0, -1):
            ways_RS[taken, rank:] += ways_RS[taken - 1, : most + 1 - rank]
    share_S: Array = ways_RS[size] / ways_RS[size].sum()
    return share_S
