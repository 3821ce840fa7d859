"""Would half of the prompts name the same rocks: the tested rule again, on half-samples.

Half-samples come in complementary pairs (Shah and Samworth 2013), so that the rocks of one can be
looked for among prompts that had no part in naming them. Everything is computed from sums by type
and prompt, without another look at the log: who is persistent, how much harder places are, and
which contexts are retained stay as all prompts have them. docs/definitions.md says what that does.

Array suffixes: T types; V types that can be tested; J types whose contexts are counted; E pairs of
a type and a cluster; C clusters; H half-samples; S those of a chunk; O pairs of a type and one of
these, whose tails are open; N their chances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.tested import (
    CHANCE_RETAINED,
    MIN_PERSISTENT,
    MIN_PROMPTS,
    MIN_RETAINED,
    REPLICATION_PROMPTS,
    ClusterCounts,
    Replication,
)
from rocktok.analyses.detect.votes import Votes
from rocktok.hashing import hash_rows
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.tail import binomial_tails, tails

#: Half-samples whose sums are held at once.
_CHUNK = 16
#: Chances whose tails are computed at once; 8 bytes each.
_CHANCES = 1 << 20


def half_samples(seed: int, samples: int, key_C: Array) -> Array:
    """(C, H) bool: which clusters each half-sample holds.

    Samples 2i and 2i + 1 have nothing in common, and ⌊C/2⌋ clusters each; where C is odd, another
    cluster is left out of each pair.

    Args:
        samples: H; an odd number is raised by one.
        key_C: a distinct integer for each cluster.
    """
    pairs, half = (samples + 1) // 2, len(key_C) // 2
    member_CH = np.zeros((len(key_C), 2 * pairs), dtype=bool)
    for pair in range(pairs):
        # Keys of their own: independent of halves, groups and the bootstrap.
        order = np.argsort(hash_rows(seed, np.array([-4]), np.array([pair]), key_C), kind="stable")
        member_CH[order[:half], 2 * pair] = True
        member_CH[order[half : 2 * half], 2 * pair + 1] = True
    return member_CH


@dataclass(frozen=True)
class HardSamples:
    """Whether types are persistently hard in each half-sample.

    Attributes:
        place_V: places of the types among all.
        tests_H: m, the number of types among the tests.
        p_VH: p_hard where it can decide; where it cannot, a bound that lies on the same side of
            whatever Benjamini and Hochberg compare it with. 1 where it cannot be tested.
        able_VH: whether a half-sample can test the type: it has enough persistent occurrences, in
            enough clusters.
        held_VH: clusters that hold the type.
        enough_VH: hard enough for a rock.
    """

    place_V: Array
    tests_H: Array
    p_VH: Array
    able_VH: Array
    held_VH: Array
    enough_VH: Array

    def worth_judging(self, fdr: float) -> Array:
        """Which of the types can pass in some half-sample, whatever their contexts."""
        worth_V = np.zeros(len(self.place_V), dtype=bool)
        for p_V, tests in zip(self.p_VH.T, self.tests_H.tolist(), strict=True):
            worth_V |= passed(p_V, tests, fdr)
        return worth_V


def passed(p_V: Array, tests: int, fdr: float) -> Array:
    """Types with a q-value of at most `fdr` among so many tests; those not given have p = 1."""
    small_V = p_V < 1
    passed_V = np.zeros(len(p_V), dtype=bool)
    passed_V[small_V] = benjamini_hochberg(p_V[small_V], tests) <= fdr
    return passed_V


def hard_samples(
    votes: Votes,
    testable_T: Array,
    member_CH: Array,
    fdr: float,
    min_hardness: float,
    *,
    compiled: bool = False,
    each: Callable[..., Iterable[Any]] = starmap,
) -> HardSamples:
    """The test of hardness in each half-sample.

    Args:
        votes: of all clusters.
        testable_T: types that can be tested with all of them, and so the only ones in some.
        member_CH: as `half_samples` gives it.
        compiled: use compiled loops; the same bits.
        each: results of a function and its calls, in order; perhaps on threads.
    """
    place_V = np.flatnonzero(testable_T)
    clusters, samples = member_CH.shape
    shape = len(place_V), samples
    p_VH, held_VH = np.ones(shape), np.zeros(shape, np.int32)
    able_VH, enough_VH = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    tests_H = np.zeros(samples, np.int64)
    everyone = _Sums(votes.type_E, votes.cluster_E, len(votes.token_T), clusters)
    among_E = testable_T[votes.type_E]
    type_E, cluster_E = votes.type_E[among_E], votes.cluster_E[among_E]
    type_E = np.searchsorted(place_V, type_E)
    hard_E, share_E = votes.hard_E[among_E], votes.hard_E[among_E] / votes.rows_E[among_E]
    chance_E = votes.chance_E[among_E]
    voting_E = ~np.isnan(chance_E)
    testable = _Sums(type_E, cluster_E, len(place_V), clusters)
    voters = _Sums(type_E[voting_E], cluster_E[voting_E], len(place_V), clusters)
    chance_E, share_E = chance_E[voting_E], share_E[voting_E]

    # Once for all parts: the values of many pairs are large.
    held = everyone.matrix(np.ones(len(votes.type_E)))
    of_testable = [testable.matrix(value_E) for value_E in (hard_E, hard_E > 0)]
    of_voters = [voters.matrix(x_E) for x_E in (share_E, chance_E, np.ones(len(chance_E)))]

    def of_part(part: slice) -> tuple[Array, ...]:
        member_CS = member_CH[:, part]
        weight_CS = member_CS.astype(np.float64)
        held_TS = held @ weight_CS
        tests_S = (held_TS >= MIN_PROMPTS).sum(axis=0)
        persistent_VS, prompts_VS = (matrix @ weight_CS for matrix in of_testable)
        sum_VS, mean_VS, size_VS = (matrix @ weight_CS for matrix in of_voters)
        able_VS = (persistent_VS >= MIN_PERSISTENT) & (prompts_VS >= MIN_PROMPTS)
        p_VS = _bounds(sum_VS, mean_VS, size_VS, tests_S, fdr)
        open_VS = able_VS & np.isnan(p_VS)
        opened = _open_tails(voters, chance_E, sum_VS, size_VS, open_VS, member_CS, compiled)
        p_VS[open_VS] = np.concatenate([np.zeros(0), *opened])
        p_VS[~able_VS] = 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            hardness_VS = np.where(sum_VS > 0, sum_VS / mean_VS, 0.0)
        return p_VS, held_TS[place_V], able_VS, hardness_VS >= min_hardness, tests_S

    parts = [slice(start, start + _CHUNK) for start in range(0, samples, _CHUNK)]
    for part, found in zip(parts, each(of_part, ((part,) for part in parts)), strict=True):
        p_VH[:, part], held_VH[:, part], able_VH[:, part], enough_VH[:, part], tests_H[part] = found
    return HardSamples(place_V, tests_H, p_VH, able_VH, held_VH, enough_VH)


class _Sums:
    """Sums by type over the clusters of samples; pairs ascend by type, then by cluster."""

    def __init__(self, type_E: Array, cluster_E: Array, types: int, clusters: int) -> None:
        self.cluster_E, self.shape = cluster_E, (types, clusters)
        self.edges = np.searchsorted(type_E, np.arange(types + 1))

    def matrix(self, value_E: Array) -> Any:
        """A sparse matrix; its product with (clusters, S) is added up in the order of these."""
        from scipy.sparse import csr_array

        parts = value_E.astype(np.float64, copy=False), self.cluster_E, self.edges
        return csr_array(parts, shape=self.shape)

    def of(self, value_E: Array, member_CS: Array) -> Array:
        """(types, S) float64, added up in the order of the clusters."""
        sums: Array = self.matrix(value_E) @ member_CS.astype(np.float64)
        return sums


def _bounds(sum_VS: Array, mean_VS: Array, size_VS: Array, tests_S: Array, fdr: float) -> Array:
    """Of tails that need no recursion a bound on the same side; NaN for the others.

    1 where the tail is at least 1/2, as the median of such a sum is next to its mean (Jogdeo and
    Samuels 1968). Hoeffding's (1963, theorem 1) where that is below the smallest threshold, fdr/m.
    """
    bound_VS = np.full(sum_VS.shape, np.nan)
    whole_VS = np.floor(sum_VS + 1e-12)
    if fdr < 0.5:
        bound_VS[whole_VS + 1 <= np.floor(mean_VS - 1e-9)] = 1.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        yes_VS = whole_VS * np.log(whole_VS / mean_VS)
        left_VS = size_VS - whole_VS
        no_VS = np.where(left_VS > 0, left_VS * np.log(left_VS / (size_VS - mean_VS)), 0.0)
        tail_VS = np.exp(-(yes_VS + no_VS) * (1 - 1e-9))
        least_S = fdr / np.maximum(tests_S, 1)
    sure_VS = (whole_VS > mean_VS) & (tail_VS <= least_S)
    bound_VS[sure_VS] = tail_VS[sure_VS]
    return bound_VS


def _open_tails(
    voters: _Sums,
    chance_E: Array,
    sum_VS: Array,
    size_VS: Array,
    open_VS: Array,
    member_CS: Array,
    compiled: bool,
) -> Iterator[Array]:
    """The tails of the open pairs of a type and a half-sample, in their order, some at a time."""
    type_O, sample_O = np.nonzero(open_VS)
    votes_O = size_VS[type_O, sample_O].astype(np.int64)
    end_O = np.cumsum(votes_O)
    stop = 0
    while stop < len(type_O):
        start, before = stop, end_O[stop] - votes_O[stop]
        stop = max(start + 1, int(np.searchsorted(end_O, before + _CHANCES, side="right")))
        at = slice(start, stop)
        some = voters, chance_E, type_O[at], sample_O[at], member_CS
        chance_N = _chances(*some, int(votes_O[at].sum())) if compiled else _chances_numpy(*some)
        sum_O = sum_VS[type_O[at], sample_O[at]]
        yield tails(chance_N, votes_O[at], sum_O, compiled=compiled)


def _chances(
    voters: _Sums, chance_E: Array, type_O: Array, sample_O: Array, member_CS: Array, count: int
) -> Array:
    """Chances of the clusters of each pair, one pair after another; `count`: of all. Compiled."""
    from rocktok.analyses.stability import sample_loops

    # Room for one more, which is written to before it is known to be none of theirs.
    chance_N = np.empty(count + 1)
    member_CS = np.ascontiguousarray(member_CS)
    sample_loops.gather(
        type_O, sample_O, voters.edges, voters.cluster_E, chance_E, member_CS, chance_N
    )
    return chance_N[:count]


def _chances_numpy(
    voters: _Sums, chance_E: Array, type_O: Array, sample_O: Array, member_CS: Array
) -> Array:
    """Twin of `_chances`."""
    type_T, start_T = np.unique(type_O, return_index=True)
    parts = []
    for v, at_S in zip(type_T.tolist(), np.split(sample_O, start_T[1:]), strict=True):
        pairs = slice(*voters.edges[v : v + 2])
        inside = member_CS[voters.cluster_E[pairs]][:, at_S].T
        parts.append(np.broadcast_to(chance_E[pairs], inside.shape)[inside])
    return np.concatenate(parts)


@dataclass(frozen=True)
class RockSamples:
    """Rocks of each half-sample.

    Attributes:
        place_V: places of the types among all; no other type is named in any.
        named_VH: whether a half-sample names the type.
        replication: of the rocks of all half-samples in the other of their pair.
    """

    place_V: Array
    named_VH: Array
    replication: Replication

    @property
    def inclusion_V(self) -> Array:
        """Share of the half-samples that name the type."""
        share_V: Array = self.named_VH.mean(axis=1)
        return share_V

    @property
    def mean_rocks(self) -> float:
        """Rocks of a half-sample, mean."""
        return float(self.named_VH.sum() / self.named_VH.shape[1])


def rock_samples(
    hard: HardSamples,
    contexts: Mapping[int, ClusterCounts | None],
    excluded_T: Array,
    member_CH: Array,
    fdr: float,
) -> RockSamples:
    """The whole rule in each half-sample.

    Args:
        contexts: place of a type among all → judged and retained occurrences by cluster, None: no
            null to judge by. Of the types that are worth judging, or more.
        excluded_T: types that the options keep from being rocks.
    """
    counted = [(place, counts) for place, counts in sorted(contexts.items()) if counts is not None]
    row_J = np.searchsorted(hard.place_V, [place for place, _ in counted]).astype(np.int64)
    sizes = [len(counts.cluster_C) for _, counts in counted]
    cluster_E, judged_E, retained_E = (
        np.concatenate([np.zeros(0, np.int64), *(getattr(counts, name) for _, counts in counted)])
        for name in ("cluster_C", "judged_C", "retained_C")
    )
    sums = _Sums(np.repeat(np.arange(len(sizes)), sizes), cluster_E, len(sizes), len(member_CH))
    voters_JH = sums.of(np.ones(len(cluster_E)), member_CH).astype(np.int64)
    votes_JH = sums.of(retained_E / np.maximum(judged_E, 1), member_CH)
    judged_JH, retained_JH = sums.of(judged_E, member_CH), sums.of(retained_E, member_CH)
    p_JH = np.maximum(hard.p_VH[row_J], binomial_tails(CHANCE_RETAINED, voters_JH, votes_JH))
    p_JH[hard.p_VH[row_J] == 1] = 1.0
    share_JH = retained_JH / np.maximum(judged_JH, 1)
    large_JH = hard.enough_VH[row_J] & (retained_JH > 0) & (share_JH >= MIN_RETAINED)
    large_JH &= ~excluded_T[hard.place_V[row_J], None]
    named_VH = np.zeros(hard.p_VH.shape, dtype=bool)
    for h, tests in enumerate(hard.tests_H.tolist()):
        named_VH[row_J, h] = passed(p_JH[:, h], tests, fdr) & large_JH[:, h]
    return RockSamples(hard.place_V, named_VH, _replicated(hard, named_VH))


def _replicated(hard: HardSamples, named_VH: Array) -> Replication:
    """Rocks of each half-sample, among the prompts of the other of its pair."""
    other_H: Any = np.arange(named_VH.shape[1]) ^ 1
    held_VH = named_VH & (hard.held_VH[:, other_H] >= REPLICATION_PROMPTS)
    hard_VH = held_VH & hard.enough_VH[:, other_H]
    return Replication(int(named_VH.sum()), int(held_VH.sum()), int(hard_VH.sum()))
