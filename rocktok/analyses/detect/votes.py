"""How hard each type is in each prompt, beside what its place and its prompt let expect.

`hard_sums.HardSums` takes one pass. In a small log its sums hold the `Votes` already; in a large
one `OccurrenceSums` counts these in a second pass, with what the first one says of each prompt and
each place.

Array suffixes: N rows; M some rows; E pairs of a type and a cluster; I keys of sums; T types; B
strata; C clusters; P prompts; Q sums of a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.clusters import Clusters, by_sequence
from rocktok.analyses.detect.persistence import Choice
from rocktok.analyses.detect.strata import (
    STRATA,
    sequence_starts,
    strata_of,
)
from rocktok.stats.accumulator import Batch
from rocktok.stats.tally import Tally, counted, cut, run_starts, run_sums

NEEDS = ("token_id", "sequence_id", "position", "prompt", "loss_pre", "loss_post")

#: Pairs of a type and a prompt, their sums, places of the types, mean ratios of places.
Pairs = tuple[Array, Array, Array, Array]

#: Expected shares of single positions are summed in units of 2⁻³⁶, and are at most 16.
_CHANCE_BITS = 36
_MOST_CHANCE = 16.0


@dataclass(frozen=True)
class Votes:
    """What each cluster says of each type that it holds, by type, then by cluster.

    Attributes:
        token_T: token ids of the types, ascending.
        type_E: place of the pair's type in it.
        cluster_E: its cluster.
        rows_E, hard_E: occurrences, and persistent ones.
        chance_E: expected share of persistent ones; NaN where the cluster holds nothing else, and
            so has no vote.
    """

    token_T: Array
    type_E: Array
    cluster_E: Array
    rows_E: Array
    hard_E: Array
    chance_E: Array


class Expected(Protocol):
    """What a prompt and a place let expect of an occurrence, and how occurrences are summed.

    `token_T`: all types seen; `loss_T`: mean loss at post of their persistent occurrences;
    `bound_T`: type and place cannot be told apart; `columns`: sums of a key; `ascending`: whether
    the keys of `sums` ascend, each once; `clusters`: who votes.
    """

    clusters: Clusters
    token_T: Array
    loss_T: Array
    bound_T: Array
    columns: int
    ascending: bool

    def sums(self, batch: Batch, rows_M: Array, hard_N: Array) -> tuple[Array, Array]:
        """Keys and sums of some rows of a batch; `hard_N`: which rows are persistent."""

    def votes(self, key_I: Array, sum_IQ: Array) -> Votes:
        """From distinct keys, ascending, and their sums."""

    def all_votes(self) -> Votes:
        """From all occurrences."""

    def release(self) -> None:
        """Let go of what votes are made of, tens of bytes a pair: nobody will ask for any."""


def readonly(values_N: Array) -> Array:
    """As int32 of one kind for the compiler, whether it came from Arrow or from NumPy."""
    view = np.ascontiguousarray(values_N, dtype=np.int32).view()
    view.setflags(write=False)
    return view


def pairs_of(
    key_I: Array,
    sum_IQ: Array,
    clusters: int,
    token_T: Array,
    ratio_TB: Array,
    *,
    compiled: bool,
) -> Pairs:
    """What the sums by type, prompt and stratum come to for each pair of a type and a prompt."""
    if compiled:
        from rocktok.analyses.detect import vote_loops

        pairs = vote_loops.count_types(key_I, STRATA)
        pair_E, type_E = np.empty(pairs, np.int64), np.empty(pairs, np.int64)
        sum_EQ, ratio_E = np.empty((pairs, 2), np.int64), np.empty(pairs)
        vote_loops.pair_sums(
            key_I, sum_IQ, clusters, token_T, ratio_TB, pair_E, sum_EQ, type_E, ratio_E
        )
        return pair_E, sum_EQ, type_E, ratio_E
    pair_I = key_I // STRATA
    starts = run_starts(pair_I)
    pair_E = pair_I[starts]
    sum_EQ = np.stack([run_sums(sum_I, starts) for sum_I in sum_IQ.T], axis=1)
    number_I = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(key_I))))
    type_E = np.searchsorted(token_T, pair_E // clusters)
    ratio_I = sum_IQ[:, 0] * ratio_TB[type_E[number_I], key_I % STRATA]
    # `bincount` adds one after another, in the order of the strata.
    ratio_E = np.bincount(number_I, ratio_I, len(starts)) / sum_EQ[:, 0]
    return pair_E, sum_EQ, type_E, ratio_E


class OnePassExpected:
    """From sums by type, prompt and stratum: the prompt's share of persistent rows without the
    type's own.
    """

    columns = 2
    ascending = True

    def __init__(
        self,
        clusters: Clusters,
        token_T: Array,
        ratio_TB: Array,
        loss_T: Array,
        bound_T: Array,
        key_I: Array,
        sum_IQ: Array,
        *,
        compiled: bool = False,
        pairs: Pairs | None = None,
    ) -> None:
        self.clusters, self.token_T, self.ratio_TB = clusters, token_T, ratio_TB
        self.loss_T, self.bound_T, self.compiled = loss_T, bound_T, compiled
        pair_E, sum_EQ, _, _ = pairs or self._pairs(key_I, sum_IQ)
        rate_E = self._rates(pair_E % clusters.count, sum_EQ)
        #: Sums of all rows; pairs of a type and a prompt, and the persistent share among the
        #: prompt's other rows.
        self._made_of = {"key_I": key_I, "sum_IQ": sum_IQ, "pair_E": pair_E, "rate_E": rate_E}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Never changed, and large: shared by all tasks.
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What workers need for `sums`."""
        return {**self.__dict__, "_made_of": {}}

    def all_votes(self, pairs: Pairs | None = None) -> Votes:
        """From all occurrences. `pairs`: those of `pairs_of`, if they are at hand."""
        made_of = self._made_of
        pairs = pairs or self._pairs(made_of["key_I"], made_of["sum_IQ"])
        return self._votes(pairs, made_of["rate_E"])

    def release(self) -> None:
        """Let go of what votes are made of."""
        self._made_of.clear()

    def sums(self, batch: Batch, rows_M: Array, hard_N: Array) -> tuple[Array, Array]:
        """Rows and persistent rows by type, prompt and stratum."""
        token_M = batch["token_id"][rows_M].astype(np.int64)
        pair_M = token_M * self.clusters.count + self.clusters.of_rows(batch)[rows_M]
        return counted(pair_M * STRATA + strata_of(batch)[rows_M], hard_N[rows_M])

    def votes(self, key_I: Array, sum_IQ: Array) -> Votes:
        """π: the prompt's share times the mean ratio of the places, at most 1."""
        pairs = self._pairs(key_I, sum_IQ)
        at = np.searchsorted(self._made_of["pair_E"], pairs[0])
        return self._votes(pairs, self._made_of["rate_E"][at])

    def _votes(self, pairs: Pairs, rate_E: Array) -> Votes:
        pair_E, sum_EQ, type_E, ratio_E = pairs
        chance_E = np.minimum(1.0, rate_E * ratio_E)
        cluster_E = pair_E % self.clusters.count
        return Votes(self.token_T, type_E, cluster_E, sum_EQ[:, 0], sum_EQ[:, 1], chance_E)

    def _rates(self, prompt_E: Array, sum_EQ: Array) -> Array:
        """(E,) the persistent share among the rows of a prompt that are of other types."""
        rate_E = np.full(len(prompt_E), np.nan)
        if self.compiled:
            from rocktok.analyses.detect import vote_loops

            vote_loops.other_rates(prompt_E, sum_EQ, self.clusters.count, rate_E)
            return rate_E
        sum_CQ = np.zeros((self.clusters.count, 2), np.int64)
        for q in range(2):
            sum_CQ[:, q] = np.bincount(prompt_E, sum_EQ[:, q], self.clusters.count)
        others_EQ = sum_CQ[prompt_E] - sum_EQ
        np.divide(others_EQ[:, 1], others_EQ[:, 0], out=rate_E, where=others_EQ[:, 0] > 0)
        return rate_E

    def _pairs(self, key_I: Array, sum_IQ: Array) -> Pairs:
        facts = self.clusters.count, self.token_T, self.ratio_TB
        return pairs_of(key_I, sum_IQ, *facts, compiled=self.compiled)


class TwoPassExpected:
    """From what is known of prompts and of places alone.

    Where prompts are grouped, the share of each occurrence's own prompt has the type in it, and
    what is expected is clipped at 1 for a group and no sooner: both raise it.
    """

    columns = 3
    ascending = False

    def __init__(
        self,
        clusters: Clusters,
        token_T: Array,
        ratio_TB: Array,
        loss_T: Array,
        bound_T: Array,
        sum_PQ: Array,
        everything: tuple[Array, Array] | None = None,
    ) -> None:
        self.clusters, self.token_T, self.ratio_TB = clusters, token_T, ratio_TB
        self.loss_T, self.bound_T, self.sum_PQ = loss_T, bound_T, sum_PQ
        self.rate_P = sum_PQ[:, 1] / np.maximum(sum_PQ[:, 0], 1)
        none = np.zeros(0, np.int64), np.zeros((0, self.columns), np.int64)
        key_E, sum_EQ = none if everything is None else everything
        factor_E = self._without_own(key_E, sum_EQ)
        #: Sums of all rows, and a factor of each.
        self._made_of = {"key_E": key_E, "sum_EQ": sum_EQ, "factor_E": factor_E}
        self.type_V = np.zeros(int(token_T.max(initial=-1)) + 1, np.int32)
        self.type_V[token_T] = np.arange(len(token_T))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What workers need for `sums`."""
        return {**self.__dict__, "_made_of": {}}

    def with_all(self, occurrences: OccurrenceSums) -> TwoPassExpected:
        """The same with the sums of the second pass, over all rows; `votes` needs them."""
        facts = self.token_T, self.ratio_TB, self.loss_T, self.bound_T, self.sum_PQ
        return TwoPassExpected(self.clusters, *facts, occurrences.tally.settle())

    def _without_own(self, key_E: Array, sum_EQ: Array) -> Array:
        """Persistent share of a prompt without the type, as a multiple of that with it."""
        if self.clusters.groups is not None:
            return np.ones(len(key_E))
        prompt_E = key_E % self.clusters.count
        others_EQ = self.sum_PQ[prompt_E] - sum_EQ[:, :2]
        share_E = np.full(len(key_E), np.nan)
        np.divide(others_EQ[:, 1], others_EQ[:, 0], out=share_E, where=others_EQ[:, 0] > 0)
        # Where the share with it is 0, so is this.
        rate_E = self.rate_P[prompt_E]
        factor_E: Array = share_E / np.where(rate_E > 0, rate_E, 1.0)
        return factor_E

    def all_votes(self) -> Votes:
        """From all occurrences."""
        return self.votes(self._made_of["key_E"], self._made_of["sum_EQ"])

    def release(self) -> None:
        """Let go of what votes are made of."""
        self._made_of.clear()

    def all_sums(self, batch: Batch, hard_N: Array) -> tuple[Array, Array]:
        """`sums` of all rows, compiled; ascending keys, each once."""
        from rocktok.analyses.detect import vote_loops

        prompt_S = batch["prompt"][starts := sequence_starts(batch["sequence_id"])]
        key_E, sum_EQ = np.empty(len(hard_N), np.int64), np.empty((len(hard_N), 3), np.int64)
        keys = vote_loops.group_sums(
            readonly(batch["token_id"]),
            readonly(batch["position"]),
            starts,
            self.clusters.of(prompt_S),
            self.rate_P[self.clusters.places(prompt_S)],
            hard_N,
            self.type_V,
            self.ratio_TB,
            _MOST_CHANCE,
            2.0**_CHANCE_BITS,
            self.clusters.count,
            key_E,
            sum_EQ,
        )
        return cut(key_E, sum_EQ, keys)

    def sums(self, batch: Batch, rows_M: Array, hard_N: Array) -> tuple[Array, Array]:
        """Rows, persistent rows and expected ones by type and group."""
        clusters = self.clusters
        rate_N = by_sequence(batch, lambda prompt_S: self.rate_P[clusters.places(prompt_S)])
        token_M = batch["token_id"][rows_M].astype(np.int64)
        ratio_M = self.ratio_TB[self.type_V[token_M], strata_of(batch)[rows_M]]
        chance_M = np.minimum(rate_N[rows_M] * ratio_M, _MOST_CHANCE)
        units_M = np.rint(chance_M * 2**_CHANCE_BITS).astype(np.int64)
        ones_M = np.ones(len(rows_M), np.int64)
        key_M = token_M * clusters.count + clusters.of_rows(batch)[rows_M]
        return key_M, np.stack([ones_M, hard_N[rows_M].astype(np.int64), units_M], axis=1)

    def votes(self, key_I: Array, sum_IQ: Array) -> Votes:
        """π: the mean over the cluster's occurrences, at most 1."""
        type_E = np.searchsorted(self.token_T, key_I // self.clusters.count)
        mean_E = sum_IQ[:, 2] / 2**_CHANCE_BITS / sum_IQ[:, 0]
        factor_E = self._made_of["factor_E"][np.searchsorted(self._made_of["key_E"], key_I)]
        chance_E = np.minimum(1.0, mean_E * factor_E)
        cluster_E = key_I % self.clusters.count
        return Votes(self.token_T, type_E, cluster_E, sum_IQ[:, 0], sum_IQ[:, 1], chance_E)


class OccurrenceSums:
    """Accumulates votes, from all rows or (`add`) from some."""

    needs = NEEDS

    def __init__(self, choice: Choice, expected: Expected, *, compiled: bool = False) -> None:
        self.choice, self.compiled = choice, compiled
        self.expected: Expected | None = expected
        self.tally = Tally(expected.columns, compiled=compiled)

    def update(self, batch: Batch) -> None:
        """Add all rows of a joined batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        if self.compiled and isinstance(self.expected, TwoPassExpected):
            sums = self.expected.all_sums(batch, self.choice.chosen(batch))
            self.tally.add(*sums, distinct=True)
            return
        self.add(batch, np.arange(len(batch["token_id"])), self.choice.chosen(batch))

    def add(self, batch: Batch, rows_M: Array, hard_N: Array) -> None:
        """Add some rows of a batch; `hard_N`: which of all its rows are persistent."""
        assert self.expected is not None
        sums = self.expected.sums(batch, rows_M, hard_N)
        self.tally.add(*sums, distinct=self.expected.ascending)

    def close(self) -> None:
        """Each key once; let go of what was expected."""
        self.tally.settle()
        self.expected = None

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.tally.merge(other.tally)

    def votes(self) -> Votes:
        """From the occurrences added; of a second pass over all rows, see `with_all` instead."""
        assert self.expected is not None
        return self.expected.votes(*self.tally.settle())
