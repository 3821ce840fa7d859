"""Rocks and other groups chosen on one half of the prompts, compared on the other: the passes.

One pass over the reference step feeds both halves, beside what else reads it; another, over the
half that is measured, needs the first one's mean norm by loss.
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
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.adjusted import TypeValues, type_ratios, types_to_measure
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


class HalfContrasts:
    """Sums of the groups, and of the types that rocks are adjusted by, and the comparison.

    Args:
        source: rows of the reference step.
        facts: of all types, at that step.
        found: rocks of the half that chooses.
        group_size: of the groups beside the rocks.
        replicates: of the bootstrap.
        threads: that work on replicates.
    """

    def __init__(
        self,
        source: Source,
        facts: TypeFacts,
        found: RocksAtCutoffs,
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
        self._norms = NormByLoss(np.unique(np.concatenate(list(found.rocks.values()))))

    def accumulators(self) -> list[Accumulator]:
        """What a pass over the reference step feeds."""
        seed = self.source.seed
        return [
            OfHalf(CHOSEN_ON, seed, [self._loss_other, self._norms]),
            OfHalf(1 - CHOSEN_ON, seed, [self._groups]),
        ]

    def result(self, engine: Engine) -> tuple[list[GroupContrast], AdjustedComparison | None]:
        """The contrasts, after that pass; another one where there are rocks to adjust for."""
        # First: its replicates are freed before those of the others are made.
        tests = contrasts(self._groups, self.groups, "half 0", "half 1")
        curve, adjusted = self._norms.curve(), None
        if len(self.found.shown) and len(curve[0]):
            measured = replace(self.source, half=1 - CHOSEN_ON)
            engine.run(measured, WithExpected(curve, self._gradient))
            ratios = self._ratios()
            seed = self.source.seed
            adjusted = compare_at_cutoffs(
                ratios, self.found.rocks, ROCKS.name, GRADIENT, seed, self.threads
            )
        return tests, adjusted

    def _ratios(self) -> TypeValues:
        plain_TM, drawn_BTM = self._gradient.of_types
        under, over = (
            (plain_TM[..., columns], drawn_BTM[..., columns])
            for columns in (slice(0, 2), slice(0, 3, 2))
        )
        return type_ratios(self.types, self._loss_other.of_types, under, over)
