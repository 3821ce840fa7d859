"""Accumulators that see one half of the prompts, in a pass in which others see all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import halves
from rocktok.stats.accumulator import Accumulator, Batch, Closing


def half_of_rows(prompt_N: Array, seed: int) -> Array:
    """`hashing.halves` of the rows of whole sequences: hashed once for each run of a prompt."""
    if len(prompt_N) == 0:
        return halves(prompt_N, seed)
    start_R = np.flatnonzero(np.concatenate(([True], prompt_N[1:] != prompt_N[:-1])))
    half_N: Array = np.repeat(
        halves(prompt_N[start_R], seed), np.diff(np.append(start_R, len(prompt_N)))
    )
    return half_N


class OfHalf:
    """Gives accumulators the rows of one half of the prompts, while others see all of them."""

    def __init__(self, half: int, seed: int, accumulators: Sequence[Accumulator]) -> None:
        self.half, self.seed = half, seed
        self.accumulators = accumulators
        self.needs = tuple(sorted({"prompt", *(n for a in accumulators for n in a.needs)}))

    def update(self, batch: Batch) -> None:
        """Add a batch's rows of the half."""
        kept = half_of_rows(batch["prompt"], self.seed) == self.half
        rows = {name: batch[name][kept] for name in self.needs}
        for accumulator in self.accumulators:
            accumulator.update(rows)

    def merge(self, other: Self) -> None:
        """Add another's."""
        for ours, theirs in zip(self.accumulators, other.accumulators, strict=True):
            ours.merge(theirs)

    def close(self) -> None:
        """Drop what partial results need not carry."""
        for accumulator in self.accumulators:
            if isinstance(accumulator, Closing):
                accumulator.close()
