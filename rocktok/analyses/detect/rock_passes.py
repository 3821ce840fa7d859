"""The rocks of a log alone: `detect` without what it says of them.

For what compares rocks with others. Leaves out `detect`'s passes for density, prompts, what the
teacher wrote instead, rollouts, replication and lifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.log_passes import LogPasses
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.run import Run


@dataclass(frozen=True)
class Rocks:
    """Token ids, ascending; `similarity`: how contexts were compared, None: they were not."""

    ids: Array
    similarity: str | None

    @classmethod
    def of(cls, result: DetectResult) -> Rocks:
        """Those of a result of `detect`."""
        ids = sorted(row["token_id"] for row in result.rocks)
        return cls(np.array(ids, dtype=np.int64), result.similarity)


def find_rocks(run: Run, params: DetectParams, told: Callable[[str], None] | None = None) -> Rocks:
    """The rocks that `detect` finds by these options, without embeddings.

    Args:
        run: log, table and engine.
        told: is given the similarity of contexts as soon as it is known; not where they are not
            compared. What it starts on half of the prompts has the later passes in common.

    Raises as `detect` does, and `ZeroThresholdError` where thresholds cannot be had.
    """
    steps = run.view.pre_post(params.pre, params.post, params.context)
    source = run.source(steps.post, steps.pre)
    types, similarity = LogPasses(run, params, steps, source).judged(None, told)
    order, is_rock = analysis.ranking(types, params, analysis.scores(types))
    return Rocks(np.sort(types.token_T[order[is_rock]]).astype(np.int64), similarity)
