"""One arm against another on the same problems: exact sign-flip test, bootstrap interval.

A problem's difference is a whole number, the correct draws of one arm minus those of the other. So
few values occur, and a bootstrap resample of the problems is a draw of how often each value occurs:
multinomial, exact in law, without a matrix of resamples and problems.

Array suffixes: P problems; K distinct values, or pairs; B resamples; A arms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array

#: Resamples of the problems.
REPLICATES = 10_000

#: Seed of the resamples in the authors' scripts, and how many there are.
THEIR_SEED, THEIR_REPLICATES = 42, 10_000

#: Pairs below which a difference has no interval.
MIN_PAIRS = 3

#: Smallest p: where the exact one is below what float64 holds.
_TINY = float(np.finfo(np.float64).tiny)


def flips_p(difference_P: Array) -> float:
    """Exact two-sided p of a sum of differences under flips of their signs, in (0, 1].

    Each problem's difference keeps or changes its sign with even chances, as a whole, draws
    together; p is the probability of a sum at least as far from 0. Zero differences do not matter.
    With one draw it is McNemar's exact test.
    """
    size_P = np.abs(difference_P[difference_P != 0]).astype(np.int64)
    observed = abs(int(difference_P.sum()))
    if not observed:
        return 1.0
    # The flipped sum is 2·T − W, with T the sum of the sizes that stay above zero.
    whole = int(size_P.sum())
    share_T = _halves(*np.unique(size_P, return_counts=True))
    return min(1.0, max(_TINY, 2 * float(share_T[(whole + observed) // 2 :].sum())))


def _halves(size_K: Array, count_K: Array) -> Array:
    """Probabilities of Σ size·B, B independent and 0 or 1 with even chances, by their sum."""
    from scipy.stats import binom

    order = np.argsort(-count_K)
    size, count = int(size_K[order[0]]), int(count_K[order[0]])
    share_T = np.zeros(size * count + 1)
    share_T[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
    for index in order[1:]:
        size = int(size_K[index])
        for _ in range(int(count_K[index])):
            longer_T = np.zeros(len(share_T) + size)
            longer_T[: len(share_T)] = share_T / 2
            longer_T[size:] += share_T / 2
            share_T = longer_T
    return share_T


def resampled(difference_P: Array, replicates: int, seed: tuple[int, ...]) -> Array:
    """(B,) float64, means of resampled problems; two problems more than there are.

    The two are as large as the largest difference, one of either sign: without them the problems
    that an arm changes in one of a thousand texts would mostly not be among these, and intervals be
    points. With one draw this is the bootstrap's form of the adjusted interval of Bonett and Price
    (2012), which adds one to either kind of discordant pair.
    """
    largest = max(1, int(np.abs(difference_P).max(initial=0)))
    value_K, count_K = np.unique(
        np.concatenate((difference_P, [largest, -largest])), return_counts=True
    )
    problems = int(count_K.sum())
    drawn_BK = np.random.default_rng(seed).multinomial(
        problems, count_K / problems, size=replicates
    )
    means_B: Array = (drawn_BK @ value_K) / problems
    return means_B


def interval(means_B: Array, level: float) -> tuple[float, float]:
    """Ends of the central share `level` of resampled means."""
    low, high = np.quantile(means_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def percentile_p(difference_PA: Array) -> Array:
    """(A,) the authors' p: 2·min(share of resampled sums ≥ 0, share ≤ 0), which may exceed 1.

    Each arm is resampled by the same indices, drawn from `default_rng(42)`. The resamples are
    centred at the estimate, not at the null hypothesis; kept for comparison.
    """
    problems, arms = difference_PA.shape
    generator = np.random.default_rng(THEIR_SEED)
    # As many rows at a time as make some millions of indices: the stream is that of one call.
    rows = max(1, min(THEIR_REPLICATES, 2_000_000 // problems))
    up_A, down_A = np.zeros(arms, np.int64), np.zeros(arms, np.int64)
    difference_PA = difference_PA.astype(np.float64)
    for start in range(0, THEIR_REPLICATES, rows):
        size = min(rows, THEIR_REPLICATES - start)
        index_BP = generator.integers(0, problems, size=(size, problems))
        index_BP += problems * np.arange(size)[:, None]
        count_BP = np.bincount(index_BP.ravel(), minlength=size * problems)
        # Whole numbers below 2⁵³: exact.
        sum_BA = count_BP.reshape(size, problems).astype(np.float64) @ difference_PA
        up_A += (sum_BA >= 0).sum(axis=0)
        down_A += (sum_BA <= 0).sum(axis=0)
    share_A: Array = 2 * np.minimum(up_A, down_A) / THEIR_REPLICATES
    return share_A


@dataclass(frozen=True)
class Difference:
    """Mean over K pairs of a rock's number minus its control's; ends None with too few."""

    pairs: int
    value: float | None
    low: float | None
    high: float | None


def paired_difference(
    rocks: dict[int, float],
    controls: Iterable[tuple[int | None, float]],
    level: float,
    *,
    given: bool = True,
) -> Difference:
    """Student's t of the differences within pairs; several controls of a rock count as their mean.

    Args:
        rocks: token id → its number.
        controls: (the rock that it is a control of, its number).
        level: the interval is at 1 − level.
        given: whether there is an interval at all.
    """
    from scipy.special import stdtrit

    of_rock: dict[int, list[float]] = {}
    for rock, value in controls:
        if rock is not None and rock in rocks:
            of_rock.setdefault(rock, []).append(value)
    difference_K = np.array([rocks[v] - float(np.mean(own)) for v, own in of_rock.items()])
    pairs = len(difference_K)
    if not pairs:
        return Difference(0, None, None, None)
    value = float(difference_K.mean())
    if pairs < MIN_PAIRS or not given:
        return Difference(pairs, value, None, None)
    error = float(difference_K.std(ddof=1)) / pairs**0.5
    reach = float(stdtrit(pairs - 1, 1 - level / 2)) * error
    return Difference(pairs, value, value - reach, value + reach)
