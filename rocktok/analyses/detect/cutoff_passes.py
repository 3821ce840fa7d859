"""Rocks of one half of the prompts, at several cutoffs, from one search.

Where rocks are chosen apart from where they are measured: what is compared may rest neither on the
losses that chose them nor on one cutoff.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.log_passes import LogPasses
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.run import Run
from rocktok.engine.kept import KeptRows
from rocktok.stats.verdicts import FDRS


@dataclass(frozen=True)
class RocksAtCutoffs:
    """Rocks of one half of the prompts.

    Attributes:
        rocks: cutoff → token ids, ascending; the first cutoff is that of the options.
        tests: how many types were tested; None by another rule than "tested".
        similarity: how contexts were compared; None: they were not.
    """

    rocks: Mapping[float, Array]
    tests: int | None
    similarity: str | None = None

    @property
    def shown(self) -> Array:
        """Token ids of the rocks at the cutoff of the options."""
        return next(iter(self.rocks.values()))


def params_of(result: DetectResult) -> DetectParams:
    """The options that a result was found with."""
    names = {field.name for field in fields(DetectParams)}
    given = {name: value for name, value in result.params.items() if name in names}
    if result.params["similarity"] == "auto":
        # Nothing was compared. The default, filled in, would say that windows are.
        del given["window"]
    return DetectParams(**given)  # type: ignore[arg-type]


def cutoffs_of(params: DetectParams) -> dict[float, DetectParams]:
    """Cutoff → the options with it, those given first.

    False discovery rates; by the rule "top-k" numbers of rocks, or least scores, half and twice as
    large.
    """
    if params.tests:
        return {rate: replace(params, fdr=rate) for rate in dict.fromkeys((params.fdr, *FDRS))}
    if params.tau_r is not None:
        least = params.tau_r
        return {tau: replace(params, tau_r=tau) for tau in (least, 2 * least, least / 2)}
    most = params.most_rocks
    sizes = dict.fromkeys((most, (most + 1) // 2, 2 * most))
    return {size: replace(params, top_k=size) for size in sizes}


def rocks_at_cutoffs(
    run: Run,
    params: DetectParams,
    *,
    half: int,
    only: Array | None = None,
    embeddings: Array | None = None,
) -> RocksAtCutoffs:
    """What `detect` finds on a half of the prompts by these options, and at other cutoffs.

    Args:
        run: log, table and engine.
        half: 0 or 1, cut by the seed of the run.
        only: ascending ids of the sequences to look at; None: all.
        embeddings: as in `detect`.

    Raises as `detect` does, and `ZeroThresholdError` where thresholds cannot be had.
    """
    if only is not None or embeddings is not None:
        return _search(run, params, half, only, embeddings)
    # In a report the gradient and the course of the losses are of the same rocks.
    key = rocks_at_cutoffs, run.table, run.seed, replace(params.filled, all_types=False), half
    return run.engine.once(run.log, key, lambda: _search(run, params, half, None, None))


def _search(
    run: Run, params: DetectParams, half: int, only: Array | None, embeddings: Array | None
) -> RocksAtCutoffs:
    by_cutoff = cutoffs_of(params)
    loosest = max(by_cutoff.values(), key=lambda one: (one.fdr, one.most_rocks, -(one.tau_r or 0)))
    steps = run.view.pre_post(params.pre, params.post, params.context)
    source = replace(run.source(steps.post, steps.pre, half=half, only=only), kept=KeptRows())
    types, similarity = LogPasses(run, loosest, steps, source).judged(embeddings)
    score_T = analysis.scores(types)
    rocks = {}
    for cutoff, options in by_cutoff.items():
        order, is_rock = analysis.ranking(types, options, score_T)
        rocks[cutoff] = np.sort(types.token_T[order[is_rock]])
    tests = None if types.tested is None else int(types.tested.tested.sum())
    return RocksAtCutoffs(rocks, tests, similarity)
