"""What a finished `detect` leaves behind for those who look further, `report` among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rocktok._types import Array
from rocktok.analyses.detect.density import DensityHistogram
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams, DetectResult

if TYPE_CHECKING:
    from rocktok.analyses.detect.context_passes import Contexts
    from rocktok.analyses.run import Run
    from rocktok.engine.choose import PrePost
    from rocktok.engine.source import Source


@dataclass(frozen=True)
class Detection:
    """One `detect`, done: its result, and what that rests on.

    Attributes:
        run: log, table and engine.
        params: options.
        steps: pre and post, or why there is no pre.
        source: rows that were read.
        embeddings: matrix by token id, for similarity "embedding".
        types: all types seen.
        thresholds, contexts: who is persistent, and how contexts are judged; None without
            persistence.
        density: sequences by their share of rocks.
        result: what `detect` returns.
    """

    run: Run
    params: DetectParams
    steps: PrePost
    source: Source
    embeddings: Array | None
    types: TypeTable
    thresholds: Thresholds | None
    contexts: Contexts | None
    density: DensityHistogram
    result: DetectResult

    @cached_property
    def rocks(self) -> frozenset[int]:
        """Token ids of the rocks."""
        return frozenset(row["token_id"] for row in self.result.rocks)
