"""Does the loss single the contexts out: lifts over chance, with a bootstrap over prompts.

Array suffixes: B replicates; P prompts of a sample; T types; E pairs; M rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok.analyse.accumulate import Batch
from rocktok.analyse.bootstrap import (
    MIN_PROMPTS,
    REPLICATES,
    PromptBootstrap,
    interval,
    poisson_weights,
)
from rocktok.analyse.persistence import Thresholds
from rocktok.analyse.similarity import Similarity, Windows, labels

Array = npt.NDArray[Any]
Rows = dict[str, Array]

#: Occurrences of a type that are compared: persistent ones, and others, so many of each at most.
LIFT_SAMPLE = 1_000

COLUMNS = (
    "persistence_lift_low",
    "persistence_lift_high",
    "context_similar",
    "context_similar_other",
    "context_lift",
    "context_lift_low",
    "context_lift_high",
    "lifts_undefined",
    "singled_out",
)


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
    """Similar pairs and all pairs of partners, plain and under the weights of each replicate."""

    similar: float
    pairs: float
    similar_B: Array
    pairs_B: Array

    @property
    def share(self) -> float | None:
        """P(similar); None without pairs."""
        return self.similar / self.pairs if self.pairs else None


def pair_sums(
    similarity: Similarity, ours: tuple[Windows, Array], theirs: tuple[Windows, Array], seed: int
) -> PairSums:
    """Ordered pairs of partners between windows, given with the prompt (uint64) of each.

    A pair weighs w_p·w_p′; a pair within a prompt (other partner rules) w_p.
    """
    from scipy.sparse import csr_matrix

    prompt_P, place = np.unique(np.concatenate((ours[1], theirs[1])), return_inverse=True)
    our_M, their_M = place[: len(ours[1])], place[len(ours[1]) :]
    size = len(prompt_P)
    weight_PB = poisson_weights(seed, REPLICATES, prompt_P)
    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for row_E, other_E in similarity.similar_pairs(ours[0], theirs[0]):
        rows.append(our_M[row_E])
        others.append(their_M[other_E])
    row_E, other_E = np.concatenate(rows), np.concatenate(others)
    across_E = row_E != other_E
    similar = csr_matrix(
        (np.ones(int(across_E.sum())), (row_E[across_E], other_E[across_E])), shape=(size, size)
    )
    similar_B = ((similar @ weight_PB) * weight_PB).sum(axis=0)
    similar_B += np.bincount(row_E[~across_E], minlength=size) @ weight_PB
    our_P, their_P = (np.bincount(at, minlength=size) for at in (our_M, their_M))
    inside_P = our_P * their_P
    # Labels lie within prompts: rows under the same one are no partners.
    within_P = inside_P - _same_label((ours[0].label_M, our_M), (theirs[0].label_M, their_M), size)
    pairs_B = (our_P @ weight_PB) * (their_P @ weight_PB) - inside_P @ weight_PB**2
    pairs_B += within_P @ weight_PB
    pairs = float(len(our_M) * len(their_M) - inside_P.sum() + within_P.sum())
    return PairSums(float(len(row_E)), pairs, similar_B, pairs_B)


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


def context_lift(
    similarity: Similarity, partners: str, persistent: Rows, other: Rows, seed: int
) -> tuple[Lift, float | None, float | None]:
    """`context_lift` of a type, and P(similar | both persistent), P(similar | one, one not).

    No interval below 20 prompts among the rows, or where a twentieth of the replicates are
    undefined. Null where no persistent occurrence is like one that is not.
    """
    ours = Windows(persistent["window"], labels(persistent, partners)), persistent["prompt"]
    theirs = Windows(other["window"], labels(other, partners)), other["prompt"]
    both, one = pair_sums(similarity, ours, ours, seed), pair_sums(similarity, ours, theirs, seed)
    if not both.share or not one.share:
        value = 0.0 if both.share == 0 and one.share else None
        return Lift(value), both.share, one.share
    with np.errstate(invalid="ignore", divide="ignore"):
        lift_B = (both.similar_B / both.pairs_B) / (one.similar_B / one.pairs_B)
    value = both.share / one.share
    prompts = len(np.unique(np.concatenate((ours[1], theirs[1]))))
    found = (None, None, 0) if prompts < MIN_PROMPTS else interval(lift_B)
    return Lift(value, *found), both.share, one.share


def singled_out(lifts: tuple[Lift, Lift]) -> bool | None:
    """False where an interval covers 1 or lies below; True where both lie above; else unknown."""
    lows = [lift.low for lift in lifts]
    if any(low is not None and low <= 1 for low in lows):
        return False
    return None if None in lows else True


def lift_row(
    persistence: Lift, context: tuple[Lift, float | None, float | None]
) -> dict[str, float | bool | None]:
    """The columns of a type's row."""
    lift, similar, similar_other = context
    return {
        **{f"persistence_lift_{k}": asdict(persistence)[k] for k in ("low", "high")},
        "context_similar": similar,
        "context_similar_other": similar_other,
        "context_lift": lift.value,
        "context_lift_low": lift.low,
        "context_lift_high": lift.high,
        "lifts_undefined": persistence.undefined + lift.undefined,
        "singled_out": singled_out((persistence, lift)),
    }
