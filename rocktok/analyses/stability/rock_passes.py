"""The tested rocks of a log, named again by half-samples of its prompts.

One `detect` on all prompts, or one that was made already; then a pass over the windows of types
that are hard enough in some half-sample, but not in all prompts together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.result import ReplicationRow
from rocktok.analyses.detect.tested import ClusterCounts, Replication
from rocktok.analyses.stability.half_samples import (
    HardSamples,
    half_samples,
    hard_samples,
    rock_samples,
)
from rocktok.analyses.stability.result import OFTEN, STABLE, RocksAgain


@dataclass(frozen=True)
class Again:
    """What half-samples make of the rocks.

    Attributes:
        inclusion: token id → share of the half-samples that name it a rock; others are never named.
        testable: token id → share of those that can test it; others are never tested.
    """

    summary: RocksAgain
    rocks: frozenset[int]
    inclusion: dict[int, float]
    testable: dict[int, float]

    @property
    def shown(self) -> set[int]:
        """Rocks, and types that half-samples often name."""
        return {*self.rocks, *(v for v, share in self.inclusion.items() if share >= OFTEN)}


def why_not(detection: Detection) -> str | None:
    """Why no rocks can be named again; None: they can."""
    if detection.steps.pre is None:
        return detection.result.log["no_context"]
    if not detection.params.tests:
        return "rocks follow the rule 'top-k', a ranking without a test of each type"
    return None


def named_again(detection: Detection, samples: int) -> Again:
    """The rocks of half-samples, by the options of a `detect` that tested them."""
    params, types, contexts = detection.params, detection.types, detection.contexts
    engine = detection.run.engine
    assert types.tested is not None
    assert contexts is not None
    assert contexts.hardness is not None
    expected = contexts.hardness.expected
    clusters = expected.clusters
    grouped = clusters.groups is not None
    key_C = np.arange(clusters.count) if grouped else clusters.prompt_P
    member_CH = engine.aside(lambda: half_samples(params.seed, samples, key_C))
    votes = expected.all_votes()
    # The last who asks for them; in a large log they are a fifth of a report's memory.
    expected.release()
    hard = hard_samples(
        votes, types.tested.hard.testable, member_CH, params.fdr,
        params.min_hardness, compiled=detection.source.large,
        each=partial(engine.asides, ahead=engine.jobs + 1),
    )  # fmt: skip
    del votes
    counts = _context_counts(detection, hard)
    drawn = engine.aside(
        lambda: rock_samples(hard, counts, types.excluded_T(params), member_CH, params.fdr)
    )
    token_V = types.token_T[hard.place_V].tolist()
    inclusion, testable = (
        {v: share for v, share in zip(token_V, share_V.tolist(), strict=True) if share}
        for share_V in (drawn.inclusion_V, hard.able_VH.mean(axis=1))
    )
    rocks = detection.rocks
    stable = {v for v in rocks if inclusion.get(v, 0.0) >= STABLE}
    return Again(
        {
            "rocks": len(rocks),
            "tests": types.tested.tests,
            "samples": member_CH.shape[1],
            "prompts": clusters.count // 2,
            "grouped": grouped,
            "mean_rocks": drawn.mean_rocks,
            "stable": len(stable),
            "rare": sum(testable.get(v, 0.0) < STABLE for v in rocks - stable),
            "others": sum(v not in rocks and share >= OFTEN for v, share in inclusion.items()),
            "replication": _row(drawn.replication),
            "halves": detection.result.totals["replication"],
        },
        rocks,
        inclusion,
        testable,
    )


def _context_counts(detection: Detection, hard: HardSamples) -> dict[int, ClusterCounts | None]:
    """Of the types that some half-sample must judge; None: no null to judge by."""
    types, contexts = detection.types, detection.contexts
    assert contexts is not None
    worth_V = detection.run.engine.aside(lambda: hard.worth_judging(detection.params.fdr))
    places = hard.place_V[worth_V].tolist()
    judged = {place: types.context[place] for place in places if place in types.context}
    # Summaries, which have no counts left, are of types that all prompts together do not judge.
    again = [p for p in places if p not in judged
             or (judged[p].judgeable and judged[p].by_cluster is None)]  # fmt: skip
    judged |= contexts.of_types(types, again)
    return {place: judged[place].by_cluster for place in places}


def _row(replication: Replication) -> ReplicationRow:
    return {
        "rocks": replication.rocks,
        "held": replication.held,
        "hard": replication.hard,
        "share": replication.share,
    }
