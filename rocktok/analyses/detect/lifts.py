"""Does the loss single the contexts out: lifts over chance, with a bootstrap over prompts.

Array suffixes: B replicates; P prompts of a sample; T types; E pairs; M rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.similarity import Similarity, Windows, labels
from rocktok.stats.accumulator import Batch
from rocktok.stats.bootstrap import (
    MIN_PROMPTS,
    REPLICATES,
    PromptBootstrap,
    interval,
    poisson_weights,
)

#: Occurrences of a type that are compared: persistent ones, and others, so many of each at most.
LIFT_SAMPLE = 1_000


class LiftColumns(TypedDict, total=False):
    """Of a type: whether the loss singles its contexts out; None where that cannot be said."""

    persistence_lift_low: float | None
    persistence_lift_high: float | None
    context_similar: float | None
    context_similar_other: float | None
    context_lift: float | None
    context_lift_low: float | None
    context_lift_high: float | None
    lifts_undefined: int | None
    singled_out: bool | None


@dataclass(frozen=True)
class Lift:
    """A ratio, its 95% interval (None where it cannot be had), and undefined replicates."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: int = 0


class HardBootstrap(PromptBootstrap):
    """Rows, hard at pre, hard at post and at both, by type, under the weights of each replicate.

    The thresholds are held fixed: replicates do not choose new quantiles.
    """

    def __init__(self, types: Array, thresholds: Thresholds, seed: int) -> None:
        super().__init__(types, ("", "hard_pre", "hard_post", "persistent"), seed)
        self.thresholds = thresholds
        self.needs = ("token_id", "sequence_id", "prompt", "loss_pre", "loss_post")

    def update(self, batch: Batch) -> None:
        """Add a joined batch of whole sequences."""
        pre_N, post_N = (batch[name].astype(np.float64) for name in ("loss_pre", "loss_post"))
        hard_post_N = post_N >= (np.inf if self.thresholds.post is None else self.thresholds.post)
        hard = {
            "hard_pre": pre_N >= self.thresholds.pre,
            "hard_post": hard_post_N,
            "persistent": self.thresholds.chosen(batch),
        }
        super().update({**batch, **hard})

    def lift(self, v: int) -> Lift:
        """`persistence_lift` of one of the types; no interval below 20 prompts that hold it."""
        at = int(np.searchsorted(self.types, v))
        value = _hard_lift(self.sum_TM[at][None])[0]
        if self.thresholds.post is None or not np.isfinite(value):
            return Lift(None)
        if not self.enough_T[at]:
            return Lift(float(value))
        return Lift(float(value), *interval(_hard_lift(self.sum_BTM[:, at])))


def _hard_lift(sum_BM: Array) -> Array:
    count_B, pre_B, post_B, both_B = sum_BM.T
    with np.errstate(invalid="ignore", divide="ignore"):
        lift_B: Array = both_B * count_B / (pre_B * post_B)
    return lift_B


@dataclass(frozen=True)
class PairSums:
    """Similar pairs and all pairs of partners, plain and under the weights of each replicate.

    `slope_P`: what a share's logarithm gains with the weight of a prompt. `kernel_PP`: symmetric,
    with zeros on the diagonal; half of what it gains with the product of two prompts' weights.
    """

    similar: float
    pairs: float
    similar_B: Array
    pairs_B: Array
    slope_P: Array
    kernel_PP: Array

    @property
    def share(self) -> float | None:
        """P(similar); None without pairs."""
        return self.similar / self.pairs if self.pairs else None

    @property
    def share_B(self) -> Array:
        """P(similar) in each replicate."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share_B: Array = self.similar_B / self.pairs_B
        return share_B


def pair_sums(
    similarity: Similarity, ours: tuple[Windows, Array], theirs: tuple[Windows, Array],
    weight_PB: Array,
) -> PairSums:  # fmt: skip
    """Ordered pairs of partners between windows, given with the place of each one's prompt.

    A pair weighs w_p·w_p′; a pair within a prompt (other partner rules) w_p.
    """
    from scipy.sparse import csr_matrix

    our_M, their_M = ours[1], theirs[1]
    size = len(weight_PB)
    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for row_E, other_E in similarity.similar_pairs(ours[0], theirs[0]):
        rows.append(our_M[row_E])
        others.append(their_M[other_E])
    row_E, other_E = np.concatenate(rows), np.concatenate(others)
    across_E = row_E != other_E
    similar = csr_matrix(
        (np.ones(int(across_E.sum())), (row_E[across_E], other_E[across_E])), shape=(size, size)
    )
    inside_P = np.bincount(row_E[~across_E], minlength=size)
    similar_B = ((similar @ weight_PB) * weight_PB).sum(axis=0) + inside_P @ weight_PB
    our_P, their_P = (np.bincount(at, minlength=size) for at in (our_M, their_M))
    here_P = our_P * their_P
    # Labels lie within prompts: rows under the same one are no partners.
    within_P = here_P - _same_label((ours[0].label_M, our_M), (theirs[0].label_M, their_M), size)
    pairs_B = (our_P @ weight_PB) * (their_P @ weight_PB) - here_P @ weight_PB**2
    pairs_B += within_P @ weight_PB
    pairs = float(len(our_M) * len(their_M) - here_P.sum() + within_P.sum())
    both_PP = np.outer(our_P, their_P).astype(np.float64)
    np.fill_diagonal(both_PP, 0)
    similar_PP = similar.toarray()
    # The share's logarithm is that of the similar pairs less that of all.
    kernel_PP = similar_PP / (len(row_E) or 1) - both_PP / (pairs or 1)
    slope_P = kernel_PP.sum(axis=0) + kernel_PP.sum(axis=1)
    slope_P += inside_P / (len(row_E) or 1) - within_P / (pairs or 1)
    kernel_PP = (kernel_PP + kernel_PP.T) / 2
    return PairSums(float(len(row_E)), pairs, similar_B, pairs_B, slope_P, kernel_PP)


def _same_label(ours: tuple[Array, Array], theirs: tuple[Array, Array], size: int) -> Array:
    """By prompt, the pairs of rows under the same label."""
    label_L, at = np.unique(np.concatenate((ours[0], theirs[0])), return_inverse=True)
    cut = len(ours[0])
    our_L = np.bincount(at[:cut], minlength=len(label_L))
    their_L = np.bincount(at[cut:], minlength=len(label_L))
    prompt_L = np.zeros(len(label_L), dtype=np.int64)
    prompt_L[at] = np.concatenate((ours[1], theirs[1]))
    counts: Array = np.bincount(prompt_L, our_L * their_L, minlength=size)
    return counts


def narrowing(slope_P: Array, kernel_PP: Array) -> float:
    """How much too wide a bootstrap of pairs is: its deviations are to be multiplied by this.

    Replicates of a mean over pairs vary by what single prompts contribute, and by what pairs of
    prompts do; but the first, measured on the sample, holds the noise of the second already
    (Arcones and Giné 1992). The first alone, the jackknife's variance, is never too small on
    average (Efron and Stein 1981). Where pairs prevail, as where all contexts are about as common,
    it is two thirds of the replicates'; with a few frequent kinds of contexts nearly all of it.
    """
    single, double = float((slope_P**2).sum()), 2 * float((kernel_PP**2).sum())
    return float(np.sqrt(single / (single + double))) if single > 0 else 1.0


def context_lift(
    similarity: Similarity,
    partners: str,
    persistent: dict[str, Array],
    other: dict[str, Array],
    seed: int,
) -> tuple[Lift, float | None, float | None]:
    """`context_lift` of a type, and P(similar | both persistent), P(similar | one, one not).

    No interval below 20 prompts among the rows, or where a twentieth of the replicates are
    undefined. Where no persistent occurrence is like one that is not, the lift has no value and a
    lower bound alone (`_least_lift`).
    """
    prompt_P, place = np.unique(
        np.concatenate((persistent["prompt"], other["prompt"])), return_inverse=True
    )
    cut = len(persistent["prompt"])
    ours = Windows(persistent["window"], labels(persistent, partners)), place[:cut]
    theirs = Windows(other["window"], labels(other, partners)), place[cut:]
    weight_PB = poisson_weights(seed, REPLICATES, prompt_P)
    both, one = (pair_sums(similarity, ours, rows, weight_PB) for rows in (ours, theirs))
    if both.share and one.share == 0:
        return _least_lift(both, ours[1], theirs[1]), both.share, one.share
    if not both.share or not one.share:
        value = 0.0 if both.share == 0 and one.share else None
        return Lift(value), both.share, one.share
    value = both.share / one.share
    if len(prompt_P) < MIN_PROMPTS:
        return Lift(value), both.share, one.share
    factor = narrowing(both.slope_P - one.slope_P, both.kernel_PP - one.kernel_PP)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift_B = value * (both.share_B / one.share_B / value) ** factor
    return Lift(value, *interval(lift_B)), both.share, one.share


def _least_lift(both: PairSums, our_M: Array, their_M: Array) -> Lift:
    """A lower bound where no pair of a persistent and another occurrence is similar: 97.5% by 95%.

    Were the share of prompts with another occurrence like a persistent one above −ln(0.025)/m, m of
    them without one would be seen in less than 2.5% of the logs; and such prompts hold no more than
    the largest seen here does, all like all. No bound below 20 prompts with persistent occurrences.
    """
    if len(np.unique(our_M)) < MIN_PROMPTS:
        return Lift(None)
    assert both.share is not None
    factor = narrowing(both.slope_P, both.kernel_PP)
    low, _, undefined = interval(both.share * (both.share_B / both.share) ** factor)
    most = -np.log(0.025) * np.bincount(their_M).max() / len(their_M)
    return Lift(None, None if low is None else float(low / min(1.0, most)), None, undefined)


def singled_out(lifts: tuple[Lift, Lift]) -> bool | None:
    """False where an interval covers 1 or lies below; True where both lie above; else unknown."""
    lows = [lift.low for lift in lifts]
    if any(lift.low is not None and lift.high is not None and lift.low <= 1 for lift in lifts):
        return False
    # A lower bound alone, at 1 or below, says nothing.
    return True if all(low is not None and low > 1 for low in lows) else None


@dataclass(frozen=True)
class Lifts:
    """Both lifts of a type, over chance and over its other occurrences.

    Attributes:
        persistence: `persistence_lift`. context: `context_lift`.
        similar: P(similar | both persistent). similar_other: P(similar | one, one not).
        sampled: whether not all occurrences were compared.
    """

    persistence: Lift
    context: Lift
    similar: float | None
    similar_other: float | None
    sampled: bool

    @property
    def singled_out(self) -> bool | None:
        """Whether the loss singles the contexts out."""
        return singled_out((self.persistence, self.context))

    def columns(self) -> LiftColumns:
        """Those of a type's row."""
        return {
            "persistence_lift_low": self.persistence.low,
            "persistence_lift_high": self.persistence.high,
            "context_similar": self.similar,
            "context_similar_other": self.similar_other,
            "context_lift": self.context.value,
            "context_lift_low": self.context.low,
            "context_lift_high": self.context.high,
            "lifts_undefined": self.persistence.undefined + self.context.undefined,
            "singled_out": self.singled_out,
        }
