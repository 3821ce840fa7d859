"""What stands beside a rock: a harder rock that casts its shadow, or a stretch that is hard anyway.

Array suffixes: N rows; R rocks; M occurrences of rocks; K places beside one; I keys of a tally.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Choice
from rocktok.analyses.detect.tested import MIN_PROMPTS, HardTests, hard_tests
from rocktok.analyses.detect.votes import NEEDS, Expected, OccurrenceSums
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.tally import Tally

#: Positions on each side that are beside an occurrence.
REACH = 3

#: A rock is no harder than what stands beside it below this ratio, and no harder than expected
#: where no other rock casts its shadow below this hardness or above this p.
MIN_RATIO = 1.25
MAX_P = 0.05

#: Occurrences that are looked at together, of some 400 bytes each.
_SLICE = 1 << 15

#: Any share of 1 to 6 places is a whole number of these.
_SHARES = 60


@dataclass(frozen=True)
class RockFlags:
    """What takes nothing away from a rock, but must be said: by rock, ascending token ids.

    Attributes:
        token_R: token ids.
        shadowed_by: token id of the rock that shades most of its persistent occurrences, where
            half of them are shaded and the rest are not hard; else −1.
        stretch: no harder than what stands beside it.
        position_bound: type and place cannot be told apart.
    """

    token_R: Array
    shadowed_by: Array
    stretch: Array
    position_bound: Array


class Neighbours:
    """Accumulates what stands beside the occurrences of rocks.

    Args:
        choice: which rows are persistent.
        expected: of all rows.
        rocks: token ids.
        compiled: the same bits, faster in large logs.
    """

    needs = NEEDS

    def __init__(
        self, choice: Choice, expected: Expected, rocks: Array, *, compiled: bool = False
    ) -> None:
        self.choice, self.compiled = choice, compiled
        self.token_R = np.sort(np.asarray(rocks, dtype=np.int64))
        at_R = np.searchsorted(expected.token_T, self.token_R)
        self.bound_R = expected.bound_T[at_R]
        # The harder one shades; equally hard, the one with the smaller id.
        self.rank_R = np.empty(len(self.token_R), np.int64)
        order = np.lexsort((self.token_R, -expected.loss_T[at_R]))
        self.rank_R[order] = np.arange(len(order))
        self.unshaded = OccurrenceSums(choice, expected)
        #: By rock: persistent occurrences, shaded ones; of those with neighbours the persistent
        #: ones, and the persistent share beside each.
        self.beside = Tally(4)
        #: By pair of rocks: persistent occurrences of the one that the other shades.
        self.shades = Tally(1)

    def update(self, batch: Batch) -> None:
        """Add a joined batch of whole sequences."""
        rows_M = np.flatnonzero(is_among(batch["token_id"], self.token_R))
        if len(rows_M) == 0:
            return
        hard_N = self.choice.chosen(batch)
        if self.compiled:
            shaded_M = self._look_compiled(batch, rows_M, hard_N)
            self.unshaded.add(batch, rows_M[~shaded_M], hard_N)
            return
        slices = [rows_M[at : at + _SLICE] for at in range(0, len(rows_M), _SLICE)]
        shaded_M = np.concatenate([self._look(batch, some_M, hard_N) for some_M in slices])
        self.unshaded.add(batch, rows_M[~shaded_M], hard_N)

    def _look(self, batch: Batch, rows_M: Array, hard_N: Array) -> Array:
        """Add what stands beside some occurrences of rocks; which of these are shaded."""
        token_N = batch["token_id"]
        token_M = token_N[rows_M]
        rock_M = np.searchsorted(self.token_R, token_M)
        near_MK, there_MK = _beside(batch, rows_M)
        token_MK = token_N[near_MK]
        other_MK = there_MK & (token_MK != token_M[:, None])
        hard_MK = other_MK & hard_N[near_MK]
        rock_MK = np.minimum(np.searchsorted(self.token_R, token_MK), len(self.token_R) - 1)
        shades_MK = hard_MK & (self.token_R[rock_MK] == token_MK)
        shades_MK &= self.rank_R[rock_MK] < self.rank_R[rock_M][:, None]
        shaded_M: Array = shades_MK.any(axis=1)
        hard_M = hard_N[rows_M]

        others_M = other_MK.sum(axis=1)
        share_M = _SHARES * hard_MK.sum(axis=1) // np.maximum(others_M, 1)
        sums = [hard_M, hard_M & shaded_M, hard_M & (others_M > 0), share_M]
        self.beside.add(rock_M, np.stack(sums, axis=1).astype(np.int64))
        occurrence_MK = np.broadcast_to(np.arange(len(rows_M))[:, None], rock_MK.shape)
        pairs = shades_MK & hard_M[:, None]
        # Once for an occurrence, however often the other stands beside it.
        key_I = np.unique(occurrence_MK[pairs] * len(self.token_R) + rock_MK[pairs])
        by_I = key_I % len(self.token_R)
        of_I = rock_M[key_I // len(self.token_R)]
        self.shades.add(of_I * len(self.token_R) + by_I, np.ones((len(key_I), 1), np.int64))
        return shaded_M

    def _look_compiled(self, batch: Batch, rows_M: Array, hard_N: Array) -> Array:
        """`_look` at all occurrences."""
        from rocktok.analyses.detect import window_loops

        sequence_N, position_N, token_N = window_loops.columns_of(batch)
        rocks = len(self.token_R)
        most = max(int(token_N.max()), int(self.token_R[-1]))
        rock_V = np.full(most + 1, -1, dtype=np.int32)
        rock_V[self.token_R] = np.arange(rocks)
        sum_R4, shaded_M = np.zeros((rocks, 4), np.int64), np.empty(len(rows_M), dtype=bool)
        pair_P = np.empty(2 * REACH * len(rows_M), np.int64)
        pairs = window_loops.look_beside(
            sequence_N, position_N, token_N, hard_N, rows_M, rock_V, self.rank_R, REACH, _SHARES,
            sum_R4, shaded_M, pair_P,
        )  # fmt: skip
        seen = np.unique(rock_V[token_N[rows_M]]).astype(np.int64)
        self.beside.add(seen, sum_R4[seen])
        self.shades.add(pair_P[:pairs].copy(), np.ones((pairs, 1), np.int64))
        return shaded_M

    def close(self) -> None:
        """Each key once."""
        self.unshaded.close()
        self.beside.settle()
        self.shades.settle()

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.unshaded.merge(other.unshaded)
        self.beside.merge(other.beside)
        self.shades.merge(other.shades)

    def result(self) -> RockFlags:
        """The flags of each rock."""
        rocks = len(self.token_R)
        at_I, sum_IQ = self.beside.settle()
        sum_RQ = np.zeros((rocks, 4), np.int64)
        sum_RQ[at_I] = sum_IQ
        persistent_R, shaded_R, hard_R, share_R = sum_RQ.T
        candidates_R = (2 * shaded_R >= persistent_R) & (shaded_R > 0)
        shadowed_R = candidates_R & ~self._hard_alone(
            hard_tests(self.unshaded.votes(), all_types=True, compiled=self.compiled)
        )
        # h̄ / c̄ < MIN_RATIO; nothing hard beside it: never.
        stretch_R = _SHARES * hard_R < MIN_RATIO * share_R
        return RockFlags(
            self.token_R,
            np.where(shadowed_R, self._shaders(), -1),
            stretch_R,
            self.bound_R,
        )

    def _hard_alone(self, tests: HardTests) -> Array:
        at_R = np.searchsorted(tests.token_T, self.token_R)
        hard_R: Array = (
            (tests.prompts_held[at_R] >= MIN_PROMPTS)
            & (tests.p_hard[at_R] <= MAX_P)
            & (tests.hardness[at_R] >= MIN_RATIO)
        )
        return hard_R

    def _shaders(self) -> Array:
        """Token id of the rock that shades most of each; the smaller of equals, −1 for none."""
        rocks = len(self.token_R)
        key_I, count_I1 = self.shades.settle()
        order = np.lexsort((key_I, -count_I1[:, 0]))[::-1]
        by_R = np.full(rocks, -1, np.int64)
        # What is written last stays: the largest count.
        by_R[key_I[order] // max(1, rocks)] = self.token_R[key_I[order] % max(1, rocks)]
        return by_R


def _beside(batch: Batch, rows_M: Array) -> tuple[Array, Array]:
    """Rows (M, K) on both sides of some rows, and which of these are near, in the same sequence."""
    offsets = np.array([d for d in range(-REACH, REACH + 1) if d])
    near_MK = np.clip(rows_M[:, None] + offsets, 0, len(batch["position"]) - 1)
    position_N, sequence_N = batch["position"], batch["sequence_id"]
    apart_MK = position_N[near_MK].astype(np.int64) - position_N[rows_M].astype(np.int64)[:, None]
    there_MK = (sequence_N[near_MK] == sequence_N[rows_M][:, None]) & (np.abs(apart_MK) <= REACH)
    # Clipped rows at the ends of a batch are the row itself, or would count twice.
    there_MK &= near_MK == rows_M[:, None] + offsets
    return near_MK, there_MK
