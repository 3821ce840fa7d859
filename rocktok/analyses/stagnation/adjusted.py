"""A group against all other types of like first loss and frequency, at several cutoffs."""

from __future__ import annotations

import numpy as np

from rocktok.analyses.stagnation.choose import by_rock_score
from rocktok.analyses.stagnation.loss_curves import QUANTITIES
from rocktok.analyses.stagnation.result import StagnationParams
from rocktok.stats.adjusted import (
    TypesByCutoff,
    loss_and_count,
    type_values,
    types_to_measure,
)
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.groups import TypeFacts
from rocktok.stats.halves import OfHalf
from rocktok.stats.verdicts import LEARNING, AdjustedComparison, compare_at_cutoffs


def high_loss_by_size(facts: TypeFacts, size: int, half: int) -> TypesByCutoff:
    """The largest Rock Scores on one half of the prompts: so many, half and twice as many."""
    ranked = by_rock_score(facts, half)
    return {
        most: np.sort(facts.token_T[ranked[:most]])
        for most in (size, (size + 1) // 2, min(2 * size, len(ranked)))
    }


class AdjustedSums:
    """Sums of the types that are compared at the pre and the post step, and the comparison.

    Args:
        facts: of all types, at the pre step.
        first: name of the group.
        group: chosen on one half of the prompts.
        params: seed and replicates.
        half: that half; changes are measured on the other.
        compiled: use compiled loops, as in large logs.
        threads: that work on replicates.
    """

    def __init__(
        self,
        facts: TypeFacts,
        first: str,
        group: TypesByCutoff,
        params: StagnationParams,
        half: int,
        *,
        compiled: bool,
        threads: int,
    ) -> None:
        self.first, self.group, self.seed, self.half = first, group, params.seed, half
        self.threads = threads
        types = types_to_measure(facts, group, params.seed)
        self.pre_other, self.pre, self.post = (
            PromptBootstrap(types, QUANTITIES, *params.draws, compiled=compiled, threads=threads)
            for _ in range(3)
        )

    def accumulators(self, *, pre: bool, post: bool) -> list[OfHalf]:
        """What the pass of a step feeds."""
        other, measured = [self.pre_other] * pre, [self.pre] * pre + [self.post] * post
        sides = (self.half, other), (1 - self.half, measured)
        return [OfHalf(half, self.seed, sums) for half, sums in sides if sums]

    def result(self) -> AdjustedComparison:
        """The contrast at each cutoff and the verdict, after the passes."""
        # All others together are no type.
        other_2TW = self.pre_other.by_type(2, loss_and_count)[:, :-1]
        pre_TW, count_TW = self.pre.by_type(2, loss_and_count)[:, :-1]
        (change_TW,) = self.post.by_type(1, lambda sums: loss_and_count(sums)[:1])[:, :-1]
        change_TW -= pre_TW
        changes = type_values(self.pre.types, other_2TW, count_TW, change_TW)
        return compare_at_cutoffs(
            changes, self.group, self.first, LEARNING, self.seed, self.threads
        )


def compared(sums: AdjustedSums | None) -> AdjustedComparison | None:
    """The result of what was summed, if anything was."""
    return None if sums is None else sums.result()
