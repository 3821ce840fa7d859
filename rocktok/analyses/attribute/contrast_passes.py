"""Rocks and other groups chosen on one half of the prompts, compared on the other.

One pass over the reference step gives the mean norm by loss on the half that chooses; another, in
which both halves are summed, needs it. Both feed what else reads that step, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.expected import NormByLoss, WithExpected
from rocktok.analyses.attribute.result import GroupContrast
from rocktok.analyses.attribute.shares import CONTRASTED, contrasts
from rocktok.analyses.detect.cutoff_passes import RocksAtCutoffs, rocks_at_cutoffs
from rocktok.analyses.detect.log_passes import ZeroThresholdError
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.run import Run
from rocktok.engine.source import Source
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.adjusted import (
    TypeValues,
    log_mean,
    loss_and_count,
    type_values,
    types_to_measure,
)
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.group_names import ROCKS
from rocktok.stats.groups import TypeFacts, choose_groups
from rocktok.stats.halves import OfHalf
from rocktok.stats.verdicts import GRADIENT, AdjustedComparison, compare_at_cutoffs

#: Half of the prompts on which groups are chosen; they are compared on the other.
CHOSEN_ON = 0


def rocks_of_half(
    run: Run,
    options: DetectParams,
    steps: Sequence[int],
    similarity: str | None,
    embeddings: Array | None,
) -> RocksAtCutoffs:
    """Rocks of the half that chooses, at two steps, or without persistence at one.

    `similarity`: of contexts, as on all prompts, whatever the log has of this half; None: open.
    """
    options = replace(options, pre=steps[0], post=steps[-1])
    if similarity is not None:
        options = replace(options, similarity=similarity)
    if len(steps) < 2:
        options = replace(options, pre=None, context="off")
    try:
        return rocks_at_cutoffs(run, options, half=CHOSEN_ON, embeddings=embeddings)
    except ZeroThresholdError:
        return RocksAtCutoffs({options.fdr: np.zeros(0, dtype=np.int64)}, None)


def norms_beside(found: RocksAtCutoffs) -> NormByLoss | None:
    """What gives the mean norm by loss of all types but the rocks; None: there are no rocks."""
    if not len(found.shown):
        return None
    return NormByLoss(np.unique(np.concatenate(list(found.rocks.values()))))


def notes_on_choice(
    adjusted: AdjustedComparison | None, chosen_at: Sequence[int], step: int
) -> list[str]:
    """What the contrasts at a step rest on, where it is not what one would think.

    Args:
        adjusted: None: there are no rocks. chosen_at: steps at which rocks are chosen.
    """
    if len(chosen_at) < 2:
        return []
    pre, post = chosen_at
    if adjusted is None:
        return [f"no rocks for the contrasts on half of the prompts at steps {pre} and {post}"]
    if step not in chosen_at:
        return []
    return [
        f"contrasts: rocks are chosen on half of the prompts at steps {pre} and {post} and "
        f"measured on the other half at one of these steps, {step}; record later steps of fixed "
        "text to measure them after more training"
    ]


class HalfContrasts:
    """Sums of the groups, and of the types that rocks are adjusted by, and the comparison.

    Args:
        source: rows of the reference step.
        facts: of all types, at that step.
        found: rocks of the half that chooses.
        norms: of that half, after its pass; None: there are no rocks to adjust for.
        group_size: of the groups beside the rocks.
        replicates: of the bootstrap.
        threads: that work on replicates.
    """

    def __init__(
        self,
        source: Source,
        facts: TypeFacts,
        found: RocksAtCutoffs,
        norms: NormByLoss | None,
        *,
        group_size: int | None,
        replicates: int,
        threads: int,
    ) -> None:
        seed = source.seed
        self.source, self.found, self.threads = source, found, threads
        self.groups = choose_groups(facts, found.shown, seed, group_size, half=CHOSEN_ON)
        self.types = types_to_measure(facts, found.rocks, seed)

        def sums(types: np.ndarray, names: tuple[str, ...]) -> PromptBootstrap:
            return PromptBootstrap(
                types, names, seed, replicates, compiled=source.large, threads=threads
            )

        self._groups = sums(self.groups.all_ids, CONTRASTED)
        self._loss_other = sums(self.types, ("", "loss"))
        self._gradient = sums(self.types, ("", "expected_norm", "grad_norm"))
        curve = None if norms is None else norms.curve()
        self._expected = None
        if curve is not None and len(curve[0]):
            self._expected = WithExpected(curve, self._gradient)

    def accumulators(self) -> list[Accumulator]:
        """What a pass over the reference step feeds."""
        seed = self.source.seed
        if self._expected is None:
            return [OfHalf(1 - CHOSEN_ON, seed, [self._groups])]
        return [
            OfHalf(CHOSEN_ON, seed, [self._loss_other]),
            OfHalf(1 - CHOSEN_ON, seed, [self._groups, self._expected]),
        ]

    def result(self) -> tuple[list[GroupContrast], AdjustedComparison | None]:
        """The contrasts, after that pass."""
        # First: its replicates are freed before those of the others are made.
        tests = contrasts(self._groups, self.groups, "half 0", "half 1")
        if self._expected is None:
            return tests, None
        return tests, compare_at_cutoffs(
            self._values(), self.found.rocks, ROCKS.name, GRADIENT, self.source.seed, self.threads
        )

    def _values(self) -> TypeValues:
        """Mean norm over the mean norm that losses let expect, of each type."""

        def count_and_value(sums: Sequence[Array]) -> tuple[Array, Array]:
            count_TW, expected_TW, norm_TW = sums
            return count_TW, log_mean(norm_TW, count_TW) - log_mean(expected_TW, count_TW)

        # All others together are no type.
        count_TW, value_TW = self._gradient.by_type(2, count_and_value)[:, :-1]
        other_2TW = self._loss_other.by_type(2, loss_and_count)[:, :-1]
        return type_values(self.types, other_2TW, count_TW, value_TW)
