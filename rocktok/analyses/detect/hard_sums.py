"""Rows and persistent rows by type, place and prompt: what a test of hardness rests on.

Array suffixes: N rows; S sequences; E, I distinct keys; M persistent rows; T types; B strata; C
clusters; P prompts; Q rows, and persistent rows.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.clusters import Clusters
from rocktok.analyses.detect.persistence import Choice
from rocktok.analyses.detect.strata import (
    STRATA,
    place_ratios,
    position_bound,
    sequence_starts,
    strata_of,
)
from rocktok.analyses.detect.votes import (
    NEEDS,
    OnePassExpected,
    TwoPassExpected,
    Votes,
    pairs_of,
    readonly,
)
from rocktok.stats.accumulator import Batch
from rocktok.stats.tally import Tally, counted, cut, run_starts

#: Losses are summed in units of 2⁻³² nats, in an upper and a lower half: exactly, in any order.
_LOSS_BITS = 32

#: Nats above which a loss counts as so many: the sums of 2³² rows fit into 64 bits.
_MOST_LOSS = 2.0**30


def place_sums(
    batch: Batch, hard_N: Array, cluster_S: Array, clusters: int, *, compiled: bool
) -> tuple[Array, Array]:
    """Keys (type · clusters + cluster) · STRATA + stratum, ascending; rows and persistent rows."""
    starts = sequence_starts(batch["sequence_id"])
    if not compiled:
        sizes = np.diff(np.append(starts, len(hard_N)))
        token_N = batch["token_id"].astype(np.int64)
        pair_N = token_N * clusters + np.repeat(cluster_S, sizes)
        return counted(pair_N * STRATA + strata_of(batch), hard_N)
    from rocktok.analyses.detect import vote_loops

    key_E, sum_EQ = np.empty(len(hard_N), np.int64), np.empty((len(hard_N), 2), np.int64)
    token_N, position_N = readonly(batch["token_id"]), readonly(batch["position"])
    types = int(token_N.max()) + 1
    keys = vote_loops.place_sums(
        token_N, position_N, starts, cluster_S, hard_N, types, clusters, STRATA, key_E, sum_EQ
    )
    return cut(key_E, sum_EQ, keys)


def loss_sums(batch: Batch, hard_N: Array, *, compiled: bool) -> tuple[Array, Array]:
    """Types, and of their persistent rows the number and both halves of the losses at post.

    `compiled`: types that ascend, each once; else one for each persistent row.
    """
    if compiled:
        from rocktok.analyses.detect import vote_loops

        token_N = readonly(batch["token_id"])
        sum_VQ = np.zeros((int(token_N.max()) + 1, 3), np.int64)
        loss_N = np.ascontiguousarray(batch["loss_post"]).view()
        loss_N.setflags(write=False)
        vote_loops.loss_sums(token_N, loss_N, hard_N, _MOST_LOSS, 2.0**_LOSS_BITS, sum_VQ)
        token_T = np.flatnonzero(sum_VQ[:, 0])
        return token_T, sum_VQ[token_T]
    loss_M = np.minimum(batch["loss_post"][hard_N].astype(np.float64), _MOST_LOSS)
    loss_M = np.rint(loss_M * 2**_LOSS_BITS)
    upper_M = np.floor(loss_M / 2**_LOSS_BITS)
    sums = [np.ones(len(loss_M)), upper_M, loss_M - upper_M * 2**_LOSS_BITS]
    token_M = batch["token_id"][hard_N].astype(np.int64)
    return token_M, np.stack(sums, axis=1).astype(np.int64)


def type_sums(key_I: Array, sum_IQ: Array, clusters: int, *, compiled: bool) -> tuple[Array, Array]:
    """Types of the keys of `place_sums`, and their sums by stratum, (T, B, Q)."""
    if compiled:
        from rocktok.analyses.detect import vote_loops

        width = clusters * STRATA
        types = vote_loops.count_types(key_I, width)
        token_T, sum_TBQ = np.empty(types, np.int64), np.zeros((types, STRATA, 2), np.int64)
        vote_loops.type_sums(key_I, sum_IQ, width, token_T, sum_TBQ)
        return token_T, sum_TBQ
    token_I = key_I // (clusters * STRATA)
    starts = run_starts(token_I)
    type_I = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(token_I))))
    sum_TBQ = np.zeros((len(starts), STRATA, 2), np.int64)
    for q in range(2):
        # Whole numbers below 2⁵³: exact as floats.
        at_I = type_I * STRATA + key_I % STRATA
        sums = np.bincount(at_I, sum_IQ[:, q], len(starts) * STRATA)
        sum_TBQ[..., q] = sums.reshape(-1, STRATA)
    return token_I[starts], sum_TBQ


class HardSums:
    """Rows, and persistent rows, by type, stratum and (where one pass is all) prompt.

    Memory: 24 bytes for each of these triples; for two passes, for each type and stratum, and for
    each prompt.
    """

    needs = NEEDS

    def __init__(self, choice: Choice, clusters: Clusters, *, compiled: bool = False) -> None:
        self.choice, self.clusters, self.compiled = choice, clusters, compiled
        self.places = Tally(2, compiled=compiled)
        self.prompts, self.losses = Tally(2), Tally(3, compiled=compiled)

    def update(self, batch: Batch) -> None:
        """Add a joined batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        hard_N, clusters = self.choice.chosen(batch), self.clusters
        starts = sequence_starts(batch["sequence_id"])
        place_S = clusters.places(batch["prompt"][starts])
        if clusters.one_pass:
            places = place_sums(batch, hard_N, place_S, clusters.count, compiled=self.compiled)
        else:
            none_S = np.zeros_like(place_S)
            places = place_sums(batch, hard_N, none_S, 1, compiled=self.compiled)
            rows_S = np.diff(np.append(starts, len(hard_N)))
            hard_S = np.add.reduceat(hard_N.astype(np.int64), starts)
            self.prompts.add(place_S, np.stack([rows_S, hard_S], axis=1))
        self.places.add(*places, distinct=True)
        self.losses.add(*loss_sums(batch, hard_N, compiled=self.compiled), distinct=self.compiled)

    def close(self) -> None:
        """Each key once."""
        for tally in (self.places, self.prompts, self.losses):
            tally.settle()

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.places.merge(other.places)
        self.prompts.merge(other.prompts)
        self.losses.merge(other.losses)

    def expected(self, among_C: Array | None = None) -> OnePassExpected | TwoPassExpected:
        """From all rows; with `among_C` (bool) from those of some prompts, where one pass is all
        (`loss_T` is of all rows anyway).
        """
        key_I, sum_IQ = self.places.settle()
        if among_C is not None:
            chosen_I = among_C[key_I // STRATA % self._width]
            key_I, sum_IQ = key_I[chosen_I], sum_IQ[chosen_I]
        facts = self._facts(key_I, sum_IQ)
        if self.clusters.one_pass:
            return OnePassExpected(self.clusters, *facts, key_I, sum_IQ, compiled=self.compiled)
        place_I, sum_IQ = self.prompts.settle()
        sum_PQ = np.zeros((len(self.clusters.prompt_P), 2), np.int64)
        sum_PQ[place_I] = sum_IQ
        return TwoPassExpected(self.clusters, *facts, sum_PQ)

    def one_pass(self) -> tuple[OnePassExpected, Votes]:
        """`expected` and all votes, where one pass is all: what both rest on is summed once."""
        key_I, sum_IQ = self.places.settle()
        facts = self._facts(key_I, sum_IQ)
        token_T, ratio_TB, _, _ = facts
        count, compiled = self.clusters.count, self.compiled
        pairs = pairs_of(key_I, sum_IQ, count, token_T, ratio_TB, compiled=compiled)
        expected = OnePassExpected(
            self.clusters, *facts, key_I, sum_IQ, compiled=compiled, pairs=pairs
        )
        return expected, expected.all_votes(pairs)

    @property
    def _width(self) -> int:
        """Clusters that the keys of places tell apart."""
        return self.clusters.count if self.clusters.one_pass else 1

    def _facts(self, key_I: Array, sum_IQ: Array) -> tuple[Array, Array, Array, Array]:
        """Types of some places, ratios of places, mean losses, and who is bound to a place."""
        token_T, sum_TBQ = type_sums(key_I, sum_IQ, self._width, compiled=self.compiled)
        ratio_TB = place_ratios(sum_TBQ[..., 0], sum_TBQ[..., 1])
        return token_T, ratio_TB, self._losses(token_T), position_bound(sum_TBQ[..., 0])

    def _losses(self, token_T: Array) -> Array:
        token_I, sum_IQ = self.losses.settle()
        # As whole numbers of Python: the sum may need more than 64 bits.
        mean_I = [
            ((upper << _LOSS_BITS) + lower) / (rows << _LOSS_BITS)
            for rows, upper, lower in sum_IQ.tolist()
        ]
        loss_T = np.full(len(token_T), np.nan)
        here_I = np.isin(token_I, token_T)
        loss_T[np.searchsorted(token_T, token_I[here_I])] = np.array(mean_I)[here_I]
        return loss_T
