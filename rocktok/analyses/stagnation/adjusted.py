"""Rocks against all other types of like first loss and frequency, at several cutoffs of rocks.

Array suffixes: T types; A other types.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.choose import ComparedGroups, by_rock_score
from rocktok.analyses.stagnation.loss_curves import QUANTITIES
from rocktok.analyses.stagnation.result import (
    AdjustedComparison,
    CutoffContrast,
    StagnationParams,
)
from rocktok.analyses.stagnation.same_text import OfHalf
from rocktok.hashing import hash_rows
from rocktok.stats.adjusted import Sums, adjusted_contrast, type_changes, verdicts
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.groups import TypeFacts

#: Other types at most, a seeded draw: what bounds the memory of their replicates.
MOST_OTHERS = 1_000

#: Cutoff → token ids of the rocks, ascending; the first is the one that is shown.
RocksByCutoff = Mapping[float, Array]


def rocks_by_cutoff(facts: TypeFacts, groups: ComparedGroups, half: int) -> RocksByCutoff:
    """The largest Rock Scores on one half: as many as there are rocks, half and twice as many."""
    size, ranked = len(groups.members["rocks"]), by_rock_score(facts, half)
    return {
        most: np.sort(facts.token_T[ranked[:most]])
        for most in (size, (size + 1) // 2, min(2 * size, len(ranked)))
    }


def types_to_measure(facts: TypeFacts, rocks: RocksByCutoff, seed: int) -> Array:
    """Rocks of any cutoff that stand often enough on both halves, and a draw of other types."""
    token_T = facts.token_T[facts.common_T()]
    rock_T = np.isin(token_T, np.concatenate(list(rocks.values())))
    other_A = token_T[~rock_T]
    drawn_A = other_A[np.argsort(hash_rows(seed, other_A), kind="stable")[:MOST_OTHERS]]
    return np.union1d(token_T[rock_T], drawn_A)


class AdjustedSums:
    """Sums of the types that are compared at the first and the last step, and the comparison.

    Args:
        facts: of all types, at the first step.
        rocks: chosen on one half of the prompts.
        params: seed and replicates.
        half: that half; changes are measured on the other.
    """

    def __init__(
        self, facts: TypeFacts, rocks: RocksByCutoff, params: StagnationParams, half: int
    ) -> None:
        self.rocks, self.seed, self.half = rocks, params.seed, half
        types = types_to_measure(facts, rocks, params.seed)
        self.pre_other, self.pre, self.post = (
            PromptBootstrap(types, QUANTITIES, params.seed, params.replicates) for _ in range(3)
        )

    def accumulators(self, *, first: bool, last: bool) -> list[OfHalf]:
        """What the pass of a step feeds."""
        other, measured = [self.pre_other] * first, [self.pre] * first + [self.post] * last
        sides = (self.half, other), (1 - self.half, measured)
        return [OfHalf(half, self.seed, sums) for half, sums in sides if sums]

    def result(self) -> AdjustedComparison:
        """The contrast at each cutoff and the verdict, after the passes."""
        steps = (self.pre_other, self.pre, self.post)
        changes = type_changes(self.pre.types, *map(_sums, steps))
        rows = {
            cutoff: [adjusted_contrast(changes, ids, self.seed)]
            for cutoff, ids in self.rocks.items()
        }
        (verdict,) = verdicts(rows)
        cutoffs: list[CutoffContrast] = [
            {"cutoff": cutoff, "rocks": len(self.rocks[cutoff]), **row}
            for cutoff, (row,) in rows.items()
        ]
        (shown,) = next(iter(rows.values()))
        return {
            "first": "rocks", "second": "others", **shown, "verdict": verdict, "cutoffs": cutoffs
        }  # fmt: skip


def _sums(bootstrap: PromptBootstrap) -> Sums:
    return bootstrap.sum_TM[:-1], bootstrap.sum_BTM[:, :-1]
