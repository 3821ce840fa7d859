"""Would another sample of prompts rank the same types first: overlap of rankings, the cutoff.

Disjoint halves of the prompts share no text, and understate the overlap at the whole sample's
size; nested subsamples, the paper's, share text with the whole and overstate it. Printed together
they are a bracket. Source: arXiv 2605.09253, appendix; halves, replicates and rank intervals ours.

Array suffixes: B replicates; T candidate types; R repeats; K places of a ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stability.result import (
    Cutoff,
    FirstK,
    NestedOverlap,
    Overlap,
    RankingPair,
    Recommended,
    ScoreRow,
)
from rocktok.analyses.stability.scores import Moments, least_of_two, scores
from rocktok.stats.ranks import spearman

#: Mean Jaccard of disjoint halves that a recommended K must reach.
WANTED = 0.7

#: Larger K, as a share of all types, are not recommended: any two picks would overlap by chance.
MOST = 1 / 3

#: Types that are drawn again: this many times the largest K, and at least so many.
CANDIDATES, LEAST_CANDIDATES = 4, 1024

#: Shares of the prompts in nested subsamples; the paper's 50 to 400 of 500.
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)


def ranked(score_T: Array, count_T: Array, token_T: Array) -> Array:
    """Places of the types, best first: larger score, then larger count, then smaller id."""
    order: Array = np.lexsort((token_T, -count_T, -score_T))
    return order


def jaccard_of_some(first: Array, second: Array) -> float | None:
    """`jaccard`; None where either is empty, and nothing was picked to agree on."""
    return jaccard(first, second) if len(first) and len(second) else None


def jaccard(first: Array, second: Array) -> float | None:
    """|A ∩ B| / |A ∪ B| of two arrays of distinct values; None for two empty ones."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else None


class Samples:
    """Rankings of the candidates in samples; sums are (2, T, ·): counts, and losses.

    Attributes:
        types: the candidates' ids.
        limit: no other type's loss in a sample is above this; None: it has no bound, as a part of
            losses of either sign may be larger than their sum. −inf: there is no other type.
    """

    def __init__(self, types: Array, limit: float | None) -> None:
        self.types, self.limit = types, limit

    def order(self, sums_QT: Array) -> Array:
        """Candidates by Rock Score in one sample; those that it does not hold are left out."""
        order = ranked(sums_QT[1], sums_QT[0], self.types)
        kept: Array = order[sums_QT[0][order] > 0]
        return kept

    def by_frequency(self, sums_QT: Array) -> Array:
        """Candidates by their occurrences alone; those that a sample does not hold are left out."""
        order = ranked(sums_QT[0], sums_QT[0], self.types)
        there: Array = order[sums_QT[0][order] > 0]
        return there

    def certain(self, sums: list[tuple[Array, Array]], k: int) -> float | None:
        """Share of samples, given with their orders, whose first k can hold no other type.

        None where that cannot be told.
        """
        if self.limit is None:
            return None
        if self.limit == -np.inf:
            return 1.0
        sure = [
            len(order) >= k and sums_QT[1][order[k - 1]] > self.limit for sums_QT, order in sums
        ]
        return float(np.mean(sure))


def overlap(pairs: list[tuple[Array, Array]], k: int) -> Overlap:
    """Mean, least and largest Jaccard of the first k of pairs of rankings, and mean Spearman."""
    shares = [jaccard(a[:k], b[:k]) for a, b in pairs]
    ranks = [_rank_correlation(a[:k], b[:k]) for a, b in pairs]
    shared = [x for x in shares if x is not None]
    related = [x for x in ranks if x is not None]
    return {
        "jaccard": float(np.mean(shared)) if shared else None,
        "jaccard_least": min(shared, default=None),
        "jaccard_most": max(shared, default=None),
        "spearman": float(np.mean(related)) if related else None,
    }


def _rank_correlation(first: Array, second: Array) -> float | None:
    """Spearman on the union; types of one list alone share the places after the other's last."""
    # By candidate: sorting the union takes several times as long.
    listed_T = np.bincount(np.concatenate((first, second)))
    union = np.flatnonzero(listed_T)
    places = []
    for order in (first, second):
        rank_T = np.full(len(listed_T), (len(order) + 1 + len(union)) / 2)
        rank_T[order] = np.arange(1, len(order) + 1)
        places.append(rank_T[union])
    return spearman(*places)


def cutoff_rows(
    samples: Samples, halves_QTRH: Array, nested_QTRS: Array, sizes: list[int], k_grid: list[int],
    coverage_K: Array, whole: Array,
) -> list[Cutoff]:  # fmt: skip
    """One mapping per K; see `StabilityResult`. `whole`: the ranking of all prompts."""
    repeats = halves_QTRH.shape[2]
    half_orders = [[samples.order(halves_QTRH[:, :, r, h]) for h in (0, 1)] for r in range(repeats)]
    frequent = [[samples.by_frequency(halves_QTRH[:, :, r, h]) for h in (0, 1)]
                for r in range(repeats)]  # fmt: skip
    nested = [[samples.order(nested_QTRS[:, :, r, s]) for r in range(repeats)]
              for s in range(len(sizes))]  # fmt: skip
    drawn = [(halves_QTRH[:, :, r, h], half_orders[r][h]) for r in range(repeats) for h in (0, 1)]
    drawn += [(nested_QTRS[:, :, r, s], nested[s][r])
              for r in range(repeats) for s in range(len(sizes))]  # fmt: skip
    rows: list[Cutoff] = []
    for k in k_grid:
        subsamples: list[NestedOverlap] = [
            {"prompts": size, **overlap([(order, whole) for order in orders], k)}
            for size, orders in zip(sizes, nested, strict=True)
        ]
        rows.append({
            "k": k,
            "coverage": float(coverage_K[k - 1]),
            # Of two random picks the expected overlap is about this.
            "chance": k / (2 * len(coverage_K) - k),
            "eligible": k <= MOST * len(coverage_K),
            # With few prompts all of them may fall into one half: that half has no other.
            "halves": overlap([(a, b) for a, b in half_orders if len(a) and len(b)], k),
            "by_frequency": overlap([(a, b) for a, b in frequent if len(a) and len(b)], k)[
                "jaccard"
            ],
            "nested": subsamples,
            "certain": samples.certain(drawn, k),
        })  # fmt: skip
    return rows


def recommend(rows: list[Cutoff]) -> Recommended | None:
    """The largest eligible K whose halves have a mean Jaccard of `WANTED`."""
    able = (row for row in rows if row["eligible"])
    good = [row for row in able if (row["halves"]["jaccard"] or 0.0) >= WANTED]
    if not good:
        return None
    best = max(good, key=lambda row: row["k"])
    return {"k": best["k"], "coverage": best["coverage"], "jaccard": best["halves"]["jaccard"]}


def in_first_k(token_T: Array, sum_TB: Array, few_prompts_T: Array, k: int) -> dict[int, FirstK]:
    """Token id → share of the replicates with the type among the first k, and its 95% ranks.

    A type that a replicate does not hold ranks below all T there. No ranks where few prompts carry
    a type's loss.

    `sum_TB`: counts and losses of the candidates in each replicate, (2, T, B).
    """
    count_BT, loss_BT = np.ascontiguousarray(sum_TB.transpose(0, 2, 1))
    rank_BT = np.full(loss_BT.shape, len(token_T) + 1)
    for b in range(len(loss_BT)):
        order = ranked(loss_BT[b], count_BT[b], token_T)
        order = order[count_BT[b, order] > 0]
        rank_BT[b, order] = np.arange(1, len(order) + 1)
    ends = np.quantile(rank_BT, [0.025, 0.975], axis=0, method="inverted_cdf")
    return {
        v: {
            "in_first_k": float((rank_BT[:, t] <= k).mean()),
            "rank_low": None if few_prompts_T[t] else int(ends[0, t]),
            "rank_high": None if few_prompts_T[t] else int(ends[1, t]),
            "few_prompts_carry_it": bool(few_prompts_T[t]),
        }
        for t, v in enumerate(token_T.tolist())
    }


@dataclass(frozen=True)
class Sample:
    """Types of a log (ascending ids), and their moments in each half of its prompts."""

    token_T: Array
    halves: list[Moments]

    @property
    def whole(self) -> Moments:
        """Of both halves."""
        return Moments(*(a + b for a, b in zip(*(_parts(m) for m in self.halves), strict=True)))

    def scores(self, moments: Moments, token_T: Array) -> dict[str, Array]:
        """Scores by some of its moments, of the types asked for; −inf for those not held."""
        at = np.minimum(np.searchsorted(self.token_T, token_T), len(self.token_T) - 1)
        here_T = self.token_T[at] == token_T
        return {k: np.where(here_T, v[at], -np.inf) for k, v in _scored(moments).items()}


def score_rows(ours: Sample, other: Sample | None, k: int) -> list[ScoreRow]:
    """The twelve scores: overlap of their first k between two halves, coverage, and agreement.

    The four that take the smaller of two logs take `other` as the second, and between halves its
    halves. Without it they take the two halves for logs; nothing is left then to compare them with.
    """
    token_T, whole = ours.token_T, ours.whole
    of_all = ours.scores(whole, token_T)
    by_half = [ours.scores(moments, token_T) for moments in ours.halves]
    if other is None:
        of_all |= least_of_two(*by_half)
    else:
        of_all |= least_of_two(of_all, other.scores(other.whole, token_T))
        theirs = [other.scores(moments, token_T) for moments in other.halves]
        by_half = [a | least_of_two(a, b) for a, b in zip(by_half, theirs, strict=True)]
    tops = {name: _top(values, whole, token_T, k) for name, values in of_all.items()}
    total = whole.loss_T.sum()
    rows: list[ScoreRow] = []
    for name, top in tops.items():
        sides = [_top(s[name], m, token_T, k) for s, m in zip(by_half, ours.halves, strict=True)
                 if name in s]  # fmt: skip
        rows.append(
            {
                "score": name,
                "jaccard_halves": jaccard_of_some(*sides) if sides else None,
                "coverage": (
                    float(whole.loss_T[top].sum() / total) if total and len(top) else None
                ),
                "jaccard_with_rock_score": jaccard_of_some(top, tops["n·mean"]),
                "median_frequency": float(np.median(whole.count_T[top])) if len(top) else None,
            }
        )
    return rows


def _parts(moments: Moments) -> tuple[Array, Array, Array]:
    return moments.count_T, moments.loss_T, moments.square_T


def _scored(moments: Moments) -> dict[str, Array]:
    """Scores of all types, −inf for those that the sample does not hold."""
    seen = np.flatnonzero(moments.count_T)
    seen_scores = scores(Moments(*(values[seen] for values in _parts(moments))))
    spread = {name: np.full(len(moments.count_T), -np.inf) for name in seen_scores}
    for name, values in seen_scores.items():
        spread[name][seen] = values
    return spread


def _top(score_T: Array, moments: Moments, token_T: Array, k: int) -> Array:
    order = ranked(score_T, moments.count_T, token_T)[:k]
    kept: Array = order[np.isfinite(score_T[order])]
    return kept


#: Rankings of `detect`'s table that are compared; "persistent loss" is ℓ̄·|O_PH|.
RANKINGS = ("rock_score", "persistent_loss", "context_rock_score", "retained_loss")


def short_rankings(tokens: Sequence[Mapping[str, Any]], k: int) -> dict[str, int]:
    """Rankings in which some types have a score above 0, but fewer than half of k: how many."""
    sizes = {name: sum(bool(row[name]) for row in _with_loss(tokens)) for name in RANKINGS}
    return {name: size for name, size in sizes.items() if 0 < 2 * size < k}


def _with_loss(tokens: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [{**row, "persistent_loss": row["mean_loss"] * row["persistent"]} for row in tokens]


def ablation(tokens: Sequence[Mapping[str, Any]], k: int) -> list[RankingPair]:
    """Pairwise Jaccard of the first k by each ranking, of types that have a score above 0.

    None where a ranking has no such type.
    """
    values, tops = _with_loss(tokens), {}
    for name in RANKINGS:
        able = [row for row in values if row[name]]
        able.sort(key=lambda row: (-row[name], -row["frequency"], row["token_id"]))
        tops[name] = np.array([row["token_id"] for row in able[:k]], dtype=np.int64)
    return [
        {"first": a, "second": b, "k": k, "jaccard": jaccard_of_some(tops[a], tops[b])}
        for a, b in combinations(RANKINGS, 2)
    ]
