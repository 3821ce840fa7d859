"""Does the loss single the contexts out: lifts over chance, with intervals over prompts.

Array suffixes: B replicates; P prompts of a sample; T types; E pairs; M rows; K sums that prompts
are weighed for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows, labels
from rocktok.analyses.detect.persistence import Thresholds, reaches
from rocktok.analyses.detect.similarity import Similarity
from rocktok.stats.accumulator import Batch
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap, poisson_weights
from rocktok.stats.intervals import Estimate, effective_prompts, ends

#: Occurrences of a type that are compared: persistent ones, and others, so many of each at most.
LIFT_SAMPLE = 1_000

#: Prompts whose weights are drawn at once.
_DRAWN = 1 << 9


class LiftColumns(TypedDict, total=False):
    """Of a type: whether the loss singles its contexts out; None where that cannot be said.

    Measured on the half of the prompts that did not choose it, `persistence_lift_measured` too.
    """

    persistence_lift_measured: float | None
    persistence_lift_low: float | None
    persistence_lift_high: float | None
    context_similar: float | None
    context_similar_other: float | None
    context_lift: float | None
    context_lift_low: float | None
    context_lift_high: float | None
    singled_out: bool | None


@dataclass(frozen=True)
class Lift:
    """A ratio and its 95% interval (None where it cannot be had).

    `few_prompts`: whether there is none because few prompts carry the ratio.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    few_prompts: bool = False


class HardBootstrap(PromptBootstrap):
    """Rows, hard at pre, hard at post and at both, by type, under the weights of each replicate.

    The thresholds are held fixed: replicates do not choose new quantiles.
    """

    def __init__(
        self,
        types: Array,
        thresholds: Thresholds,
        seed: int,
        *,
        compiled: bool = False,
        threads: int = 1,
    ) -> None:
        quantities = ("", "hard_pre", "hard_post", "persistent")
        super().__init__(types, quantities, seed, compiled=compiled, threads=threads)
        self.thresholds = thresholds
        self.needs = ("token_id", "sequence_id", "prompt", "loss_pre", "loss_post")

    def update(self, batch: Batch) -> None:
        """Add a joined batch of whole sequences."""
        post = np.inf if self.thresholds.post is None else self.thresholds.post
        hard = {
            "hard_pre": reaches(batch["loss_pre"], self.thresholds.pre),
            "hard_post": reaches(batch["loss_post"], post),
            "persistent": self.thresholds.chosen(batch),
        }
        marks = {name: hard_N.astype(np.float32) for name, hard_N in hard.items()}
        super().update({**batch, **marks})

    def lifts(self) -> list[Lift]:
        """`persistence_lift` of each of the types."""
        if self.thresholds.post is None:
            return [Lift(None)] * len(self.types)
        count, pre, post, both = map(self.each, self.quantities)
        # By those hard at both, types with more of them by chance alone would have an interval.
        both = replace(both, prompts=np.minimum(pre.prompts, post.prompts))
        lift = (both / pre) / (post / count)
        few_T, (low_T, high_T) = lift.few_prompts, _interval(lift)
        return [
            Lift(_number(value), _number(low), _number(high), bool(few))
            for value, low, high, few in zip(lift.value, low_T, high_T, few_T, strict=True)
        ]


def _interval(lift: Estimate) -> tuple[Array, Array]:
    """On the logarithm: a lift of 50 whose denominator is not well known is no lift of 0."""
    low, high = lift.log().interval(positive=False)
    return np.exp(low), np.exp(high)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class PairSums:
    """Similar pairs and all pairs of partners.

    `similar_P`, `pairs_P`: what they gain with the weight of a prompt, to first order; whole
    numbers. `prompts`: effective prompts behind the rows of either side, the fewer of both.
    """

    similar: float
    pairs: float
    similar_P: Array
    pairs_P: Array
    prompts: float

    @property
    def share(self) -> float | None:
        """P(similar); None without pairs."""
        return self.similar / self.pairs if self.pairs else None

    def estimate(self, similar_B: Array, pairs_B: Array) -> Estimate:
        """The share, with its effects; given what either number gains in each replicate.

        Their spread is the jackknife's, which is never too small on average (Efron and Stein 1981).
        """
        share = np.array(self.similar / self.pairs)
        # The share's logarithm is that of the similar pairs less that of all.
        effect_B = share * (similar_B / (self.similar or 1) - pairs_B / self.pairs)
        return Estimate(share, effect_B, np.array(self.prompts))


def pair_sums(
    similarity: Similarity,
    ours: tuple[Windows, Array],
    theirs: tuple[Windows, Array],
    size: int,
    counts: tuple[Array, Array] | None = None,
) -> PairSums:
    """Ordered pairs of partners between windows, given with the place of each one's prompt.

    A pair weighs w_p·w_p′; a pair within a prompt (other partner rules) w_p. `size`: prompts.
    `counts`: similar partners of each, where partners are of other prompts, so that pairs need not
    be listed.
    """
    our_M, their_M = ours[1], theirs[1]
    if counts is None:
        similar_P, similar = _similar(similarity, ours, theirs, size)
    else:
        # Whole numbers below 2⁵³: exact as floats.
        similar_P = np.bincount(our_M, counts[0], size) + np.bincount(their_M, counts[1], size)
        similar = int(counts[0].sum())
    our_P, their_P = (np.bincount(at, minlength=size) for at in (our_M, their_M))
    here_P = our_P * their_P
    # Pairs of partners within a prompt: none where partners are of other prompts.
    within_P: Array = np.zeros(size)
    if counts is None:
        # Labels lie within prompts: rows under the same one are no partners.
        labels = (ours[0].label_M, our_M), (theirs[0].label_M, their_M)
        within_P = here_P - _same_label(*labels, size)
    pairs_P = our_P * len(their_M) + their_P * len(our_M) - 2 * here_P + within_P
    pairs = float(len(our_M) * len(their_M) - here_P.sum() + within_P.sum())
    prompts = min(effective_prompts(count_P) for count_P in (our_P, their_P))
    return PairSums(float(similar), pairs, similar_P, pairs_P, prompts)


def _similar(
    similarity: Similarity, ours: tuple[Windows, Array], theirs: tuple[Windows, Array], size: int
) -> tuple[Array, int]:
    """Similar pairs by prompt, and all of them: those across prompts are of both."""
    our_M, their_M = ours[1], theirs[1]
    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for row_E, other_E in similarity.similar_pairs(ours[0], theirs[0]):
        rows.append(our_M[row_E])
        others.append(their_M[other_E])
    row_E, other_E = np.concatenate(rows), np.concatenate(others)
    across_E = row_E != other_E
    # A pair across prompts is of both, one within a prompt of that one alone.
    similar_P = np.bincount(row_E, minlength=size)
    return similar_P + np.bincount(other_E[across_E], minlength=size), len(row_E)


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


@dataclass(frozen=True)
class PromptWeights:
    """Weights of the replicates of prompts that many types share: drawn once, a byte each.

    Attributes:
        prompt_P: ascending. weight_PB: uint8.
    """

    prompt_P: Array
    weight_PB: Array

    @classmethod
    def draw(cls, seed: int, prompt_P: Array) -> PromptWeights:
        """Weights of these prompts, as of `poisson_weights`."""
        weight_PB = np.empty((len(prompt_P), REPLICATES), np.uint8)
        for start in range(0, len(prompt_P), _DRAWN):
            rows = slice(start, start + _DRAWN)
            weight_PB[rows] = poisson_weights(seed, REPLICATES, prompt_P[rows])
        return cls(prompt_P, weight_PB)

    def gains(self, prompt_P: Array, value_PK: Array, *, compiled: bool = False) -> Array:
        """(K, B): sums over some of the prompts of values times weights less 1.

        Values are whole numbers: sums are exact, and the same with the compiled loop, which makes
        no matrix of the weights.
        """
        place_P = np.searchsorted(self.prompt_P, prompt_P)
        if not compiled:
            excess_PB = np.subtract(self.weight_PB[place_P], 1.0)
            gain_KB: Array = value_PK.T @ excess_PB
            return gain_KB
        from rocktok.stats import bootstrap_loops

        gain_KB = np.zeros((value_PK.shape[1], REPLICATES))
        # As of one type, each of whose pairs is of a run of its own.
        bootstrap_loops.weigh_pairs(
            np.array([0, len(place_P)]), np.arange(len(place_P), dtype=np.int32),
            place_P.astype(np.int32), value_PK, np.ones(value_PK.shape[1]),
            np.arange(value_PK.shape[1]), self.weight_PB, gain_KB[None],
        )  # fmt: skip
        gain_KB -= value_PK.sum(axis=0)[:, None]
        return gain_KB


#: A lift, P(similar | both persistent), and P(similar | one, one not).
ContextLift = tuple[Lift, float | None, float | None]


def context_lift(
    similarity: Similarity,
    partners: str,
    persistent: dict[str, Array],
    other: dict[str, Array],
    seed: int,
    weights: PromptWeights | None = None,
) -> ContextLift:
    """`context_lift` of a type, and P(similar | both persistent), P(similar | one, one not).

    Where no persistent occurrence is like one that is not, the lift has no value and a lower bound
    alone (`_least_lift`). `weights`: those of `seed`, if they were drawn.
    """
    prompt_P, place = np.unique(
        np.concatenate((persistent["prompt"], other["prompt"])), return_inverse=True
    )
    cut = len(persistent["prompt"])
    contents = similarity.contents
    ours = Windows(persistent[contents], labels(persistent, partners)), place[:cut]
    theirs = Windows(other[contents], labels(other, partners)), place[cut:]
    across = partners == "other-prompt" and similarity.loaded
    sides = ours, theirs
    counts = (
        similarity.count_between(ours[0], [windows for windows, _ in sides]) if across else None
    )
    both, one = (
        pair_sums(similarity, ours, rows, len(prompt_P), None if counts is None else counts[k])
        for k, rows in enumerate(sides)
    )
    if not both.share:
        return Lift(0.0 if both.share == 0 and one.share else None), both.share, one.share
    if one.share is None:
        return Lift(None), both.share, None
    drawn = weights or PromptWeights.draw(seed, prompt_P)
    sums = [both.similar_P, both.pairs_P, one.similar_P, one.pairs_P]
    value_PK = np.stack(sums, axis=1).astype(np.float64)
    gain_KB = drawn.gains(prompt_P, value_PK, compiled=similarity.loaded)
    common = both.estimate(*gain_KB[:2])
    if one.share == 0:
        return _least_lift(common, theirs[1]), both.share, one.share
    estimate = common / one.estimate(*gain_KB[2:])
    low, high = ends(_interval(estimate))
    few = bool(estimate.few_prompts)
    return Lift(float(estimate.value), low, high, few), both.share, one.share


def _least_lift(both: Estimate, their_M: Array) -> Lift:
    """A lower bound where no pair of a persistent and another occurrence is similar: 97.5% by 95%.

    Were the share of prompts with another occurrence like a persistent one above −ln(0.025)/m, m of
    them without one would be seen in less than 2.5% of the logs; and such prompts hold no more than
    the largest seen here does, all like all.
    """
    low, _ = ends(_interval(both))
    most = -np.log(0.025) * np.bincount(their_M).max() / len(their_M)
    least = None if low is None else float(low / min(1.0, most))
    return Lift(None, least, None, bool(both.few_prompts))


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

    @property
    def few_prompts(self) -> bool:
        """Whether an interval is left out because few prompts carry a lift."""
        return self.persistence.few_prompts or self.context.few_prompts

    def columns(self) -> LiftColumns:
        """Those of a type's row."""
        return {
            "persistence_lift_measured": self.persistence.value,
            "persistence_lift_low": self.persistence.low,
            "persistence_lift_high": self.persistence.high,
            "context_similar": self.similar,
            "context_similar_other": self.similar_other,
            "context_lift": self.context.value,
            "context_lift_low": self.context.low,
            "context_lift_high": self.context.high,
            "singled_out": self.singled_out,
        }
