"""Running accumulators over a log: each pass reads the rows once, for all accumulators in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocktok.analyse.accumulate import Accumulator, Batch


class Passes:
    """Counts the passes that a command makes, so that it can say how many."""

    def __init__(self) -> None:
        self.count = 0

    def run(self, batches: Iterable[Batch], *accumulators: Accumulator) -> None:
        """Feed every batch to every accumulator, in order."""
        self.count += 1
        for batch in batches:
            for accumulator in accumulators:
                accumulator.update(batch)
