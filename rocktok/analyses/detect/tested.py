"""Which types are rocks: a test of each against what its prompts and places let expect.

A rock is hard at both steps in more of its prompts than other types in the same places are, and in
contexts that recur more often than by chance; both beyond chance (Benjamini-Hochberg over all types
that enough prompts hold) and by enough to matter. docs/definitions.md has the rule; it is ours.

Array suffixes: T types; E pairs of a type and a cluster; M persistent occurrences that were judged;
C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.votes import Votes
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.tail import binomial_tails, tails
from rocktok.stats.tally import run_starts

#: Prompts that must hold a type for it to be among the tests.
MIN_PROMPTS = 5
#: Persistent occurrences, and prompts that hold one, for a type to be tested.
MIN_PERSISTENT = 5
#: Share of the persistent occurrences that η "auto" retains by chance, at most.
CHANCE_RETAINED = 0.05
#: Share of the judged occurrences of a rock that must be retained.
MIN_RETAINED = 0.10
#: How many times as hard as expected a rock must be.
MIN_HARDNESS = 1.5
#: False discovery rate of the default call.
FDR = 0.05
#: Share of the loss whose types should be testable before a log without rocks says much.
WANTED_SHARE = 0.5
#: Parts of the prompts from which growth is measured: quarters, then halves.
PARTS = 4
#: Growth of the testable share for each doubling of the text below which nothing is foretold.
_LEAST_GROWTH = 0.01

#: Prompts of the other half that must hold a rock for it to be looked for there.
REPLICATION_PROMPTS = 3


@dataclass(frozen=True)
class HardTests:
    """Whether each type is persistently hard in its prompts.

    Attributes:
        token_T: token ids, ascending.
        prompts_held: clusters that hold the type: prompts, or where these are grouped groups.
        hardness: votes over expected votes; infinite where none were expected.
        p_hard: chance of as many votes, or more.
        testable: enough persistent occurrences, in enough prompts.
        testable_in: (T, 2) shares of the quarters, and of the halves, of the prompts that would be
            enough alone.
    """

    token_T: Array
    prompts_held: Array
    hardness: Array
    p_hard: Array
    testable: Array
    testable_in: Array

    @property
    def among(self) -> Array:
        """The types that are counted among the tests, whatever their losses."""
        among_T: Array = self.prompts_held >= MIN_PROMPTS
        return among_T

    def worth_judging(self, fdr: float) -> Array:
        """Types that can pass at all, whatever their contexts: no other needs to be judged.

        A p-value is never below `p_hard`, and with larger p-values fewer types pass.
        """
        p_T = np.where(self.testable, self.p_hard, 1.0)
        return _q_values(p_T, self.among) <= fdr

    def beyond_chance(self, fdr: float, min_hardness: float) -> Array:
        """Types that are persistently hard beyond chance, in whatever contexts."""
        hard_T: Array = self.worth_judging(fdr) & self.testable & (self.hardness >= min_hardness)
        return hard_T


def hard_tests(votes: Votes, *, all_types: bool = False, compiled: bool = False) -> HardTests:
    """The test of each type from one vote of each prompt that holds it.

    `p_hard` is NaN for types that are not testable, but with `all_types`. `compiled`: the same
    bits, faster in large logs.
    """
    types = len(votes.token_T)
    sums = _type_sums_compiled(votes) if compiled else _type_sums(votes)
    votes_T, expected_T, count_TQ, persistent_TQ, prompts_TQ = sums
    testable_T = _enough(persistent_TQ.sum(axis=1), prompts_TQ.sum(axis=1))
    halves = persistent_TQ[:, :2] + persistent_TQ[:, 2:], prompts_TQ[:, :2] + prompts_TQ[:, 2:]
    shares = [_enough(*part).mean(axis=1) for part in ((persistent_TQ, prompts_TQ), halves)]
    wanted_T = np.ones(types, dtype=bool) if all_types else testable_T
    p_hard_T = np.full(types, np.nan)
    p_hard_T[wanted_T] = tails(
        votes.chance_E[wanted_T[votes.type_E] & ~np.isnan(votes.chance_E)],
        count_TQ[wanted_T, 1],
        votes_T[wanted_T],
        compiled=compiled,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        hardness_T = np.where(votes_T > 0, votes_T / expected_T, 0.0)
    return HardTests(
        votes.token_T,
        count_TQ[:, 0],
        hardness_T,
        p_hard_T,
        testable_T,
        np.stack(shares, axis=1),
    )


def _type_sums(votes: Votes) -> tuple[Array, Array, Array, Array, Array]:
    """Sums of each type: votes, expected ones, pairs and those that vote (T, 2), and by part of the
    clusters persistent occurrences and clusters that hold one, (T, `PARTS`).
    """
    types = len(votes.token_T)
    voting_E = ~np.isnan(votes.chance_E)
    type_V = votes.type_E[voting_E]
    votes_T = np.bincount(type_V, votes.hard_E[voting_E] / votes.rows_E[voting_E], types)
    expected_T = np.bincount(type_V, votes.chance_E[voting_E], types)
    counts = [np.bincount(type_P, minlength=types) for type_P in (votes.type_E, type_V)]
    # Clusters are in the order of hashes: each fourth is as good as drawn.
    part_E = votes.type_E * PARTS + votes.cluster_E % PARTS
    persistent_TQ = np.bincount(part_E, votes.hard_E, types * PARTS).reshape(-1, PARTS)
    prompts_TQ = np.bincount(part_E[votes.hard_E > 0], minlength=types * PARTS).reshape(-1, PARTS)
    return votes_T, expected_T, np.stack(counts, axis=1), persistent_TQ, prompts_TQ


def _type_sums_compiled(votes: Votes) -> tuple[Array, Array, Array, Array, Array]:
    from rocktok.analyses.detect import vote_loops

    types = len(votes.token_T)
    votes_T, expected_T = np.zeros(types), np.zeros(types)
    count_TQ, persistent_TQ, prompts_TQ = (
        np.zeros((types, columns), np.int64) for columns in (2, PARTS, PARTS)
    )
    pairs = votes.type_E, votes.cluster_E, votes.rows_E, votes.hard_E, votes.chance_E
    vote_loops.type_votes(*pairs, votes_T, expected_T, count_TQ, persistent_TQ, prompts_TQ)
    return votes_T, expected_T, count_TQ, persistent_TQ, prompts_TQ


def _enough(persistent: Array, prompts: Array) -> Array:
    enough: Array = (persistent >= MIN_PERSISTENT) & (prompts >= MIN_PROMPTS)
    return enough


def text_wanted(hard: HardTests, loss_T: Array) -> float | None:
    """How many times as much text until types with half of the loss are testable.

    1 where they are; None where the share of the loss in testable types does not grow from a
    quarter of the prompts to all of them. It is taken to go on growing as it did, by so much for
    each doubling.
    """
    total = float(loss_T.sum())
    if total <= 0:
        return None
    share = float(loss_T[hard.testable].sum()) / total
    if share >= WANTED_SHARE:
        return 1.0
    quarter = float(loss_T @ hard.testable_in[:, 0]) / total
    growth = (share - quarter) / np.log2(PARTS)
    return float(2 ** ((WANTED_SHARE - share) / growth)) if growth >= _LEAST_GROWTH else None


def _q_values(p_T: Array, among_T: Array) -> Array:
    q_T = np.ones(len(p_T))
    q_T[among_T] = benjamini_hochberg(p_T[among_T])
    return q_T


@dataclass(frozen=True)
class Recurrence:
    """What the contexts of a type's persistent occurrences came to.

    Attributes:
        judged, hits: occurrences judged, and retained ones among them.
        voters, votes: clusters that hold a judged occurrence, and their votes: the retained share
            in each.
        judgeable: False where there is no null to judge by.
        retained: retained occurrences of all persistent ones, estimated where these were sampled.
    """

    judged: int
    hits: int
    voters: int
    votes: float
    judgeable: bool
    retained: float


@dataclass(frozen=True)
class ClusterCounts:
    """Judged occurrences of a type, and retained ones among them, in each cluster that holds any.

    `cluster_C` ascends.
    """

    cluster_C: Array
    judged_C: Array
    retained_C: Array

    @property
    def votes(self) -> float:
        """Sum over the clusters of the retained share in each."""
        share_C = self.retained_C / self.judged_C
        return float(np.cumsum(share_C)[-1]) if len(share_C) else 0.0


def context_counts(cluster_M: Array, retained_M: Array) -> ClusterCounts:
    """By cluster, from the cluster of each judged occurrence and whether it is retained."""
    order = np.argsort(cluster_M, kind="stable")
    sorted_M = cluster_M[order]
    starts = run_starts(sorted_M)
    if len(starts) == 0:
        none = np.zeros(0, np.int64)
        return ClusterCounts(none, none, none)
    judged_C = np.diff(np.append(starts, len(order)))
    retained_C = np.add.reduceat(retained_M[order].astype(np.int64), starts)
    return ClusterCounts(sorted_M[starts], judged_C, retained_C)


@dataclass(frozen=True)
class TestedTypes:
    """The tested rule's numbers of all types; NaN where contexts were not judged.

    `hard` has the others. `q_value` is exact for what passes, whichever types were not
    `worth_judging`.
    """

    hard: HardTests
    p_context: Array
    p_value: Array
    q_value: Array
    tested: Array
    score: Array
    is_rock: Array

    @property
    def tests(self) -> int:
        """m: the number of types among the tests."""
        return int(self.hard.among.sum())


def judge_types(
    hard: HardTests,
    recurrence: Mapping[int, Recurrence],
    mean_loss_T: Array,
    persistent_T: Array,
    fdr: float = FDR,
    min_hardness: float = MIN_HARDNESS,
) -> TestedTypes:
    """The rule.

    Args:
        hard: of all types.
        recurrence: place of a type → its contexts, for all that are `worth_judging`, or more.
        mean_loss_T: mean loss at post of all occurrences.
        persistent_T: persistent occurrences.
        fdr: largest q-value of a rock.
        min_hardness: smallest hardness of a rock.
    """
    types = len(hard.token_T)
    places = np.array(sorted(recurrence), dtype=np.int64)
    judged = [recurrence[place] for place in places.tolist()]
    voters = np.array([one.voters for one in judged], dtype=np.int64)
    sums = np.array([one.votes for one in judged])
    p_context_T = np.full(types, np.nan)
    p_context_T[places] = binomial_tails(CHANCE_RETAINED, voters, sums)
    judgeable = np.array([one.judgeable for one in judged], dtype=bool)
    p_context_T[places[~judgeable]] = np.nan
    tested_T = hard.testable.copy()
    tested_T[places[~judgeable]] = False
    p_T = np.where(tested_T, np.fmax(hard.p_hard, p_context_T), 1.0)
    q_T = _q_values(p_T, hard.among)
    retained_T, recurs_T = np.full(types, np.nan), np.zeros(types, dtype=bool)
    retained_T[persistent_T == 0] = 0.0
    retained_T[places[judgeable]] = [one.retained for one in judged if one.judgeable]
    recurs_T[places] = [one.hits > 0 and one.hits / one.judged >= MIN_RETAINED for one in judged]
    unjudged_T = tested_T & np.isnan(p_context_T)
    rock_T = tested_T & ~unjudged_T & (q_T <= fdr) & (hard.hardness >= min_hardness) & recurs_T
    p_T[unjudged_T] = q_T[unjudged_T] = np.nan
    score_T = mean_loss_T * (retained_T - CHANCE_RETAINED * persistent_T)
    return TestedTypes(hard, p_context_T, p_T, q_T, tested_T, score_T, rock_T)


@dataclass(frozen=True)
class Replication:
    """How rocks of one half of the prompts fare in the other half.

    `held`: rocks that enough prompts of the other half hold; `hard`: those that are hard there.
    """

    rocks: int
    held: int
    hard: int

    @property
    def share(self) -> float | None:
        """Of the rocks that could be looked for, those that are hard there, too."""
        return self.hard / self.held if self.held else None


def replication(rocks: Array, other: HardTests, min_hardness: float = MIN_HARDNESS) -> Replication:
    """Rocks (token ids) of half 0 among the types of half 1."""
    here_T = np.isin(other.token_T, rocks) & (other.prompts_held >= REPLICATION_PROMPTS)
    hard_T = here_T & (other.hardness >= min_hardness)
    return Replication(len(rocks), int(here_T.sum()), int(hard_T.sum()))
