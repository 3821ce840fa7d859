"""The passes that say who is persistent, how hard types are, and what contexts are held against.

With what they find, contexts are judged (`context_passes.Contexts`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rocktok._types import Array
from rocktok.analyses.detect import context as contexts
from rocktok.analyses.detect import context_passes
from rocktok.analyses.detect.clusters import Clusters
from rocktok.analyses.detect.context import ContextRule
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.gamma import gamma_of, random_pairs
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.hardness import Hardness, hardness_of, votes_of
from rocktok.analyses.detect.null import DRAWS, Null, distances, scarce_types
from rocktok.analyses.detect.persistence import HardCounts, PersistentWindows, Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.detect.votes import OccurrenceSums
from rocktok.analyses.detect.windows import FreePools, Pool, SketchCount, contents_of
from rocktok.engine.passes import Engine
from rocktok.engine.source import REMEDIES, Source
from rocktok.errors import LogError
from rocktok.stats.arrays import padded


def judge_contexts(
    source: Source,
    engine: Engine,
    params: DetectParams,
    thresholds: Thresholds,
    types: TypeTable,
    *,
    count_V: Array,
    clusters: Clusters | None,
    embeddings: Array | None,
    null: bool,
    permuted: bool = False,
) -> tuple[TypeTable, Contexts]:
    """The types with what persistence and contexts came to, and how these were judged.

    One pass for the hard rows of each type, and a pool for the null; in a small log it collects all
    windows, too. For a test in a large log another, where the occurrences vote. Then those of the
    rounds.

    Args:
        source: rows of both steps.
        types: of all rows; count_V: rows by token id.
        clusters: prompts that vote on each type, where rocks are tested; None: they are not.
        null: whether positions are drawn for the null, whatever η is.
        permuted: whether `Contexts.permuted` will be asked for.
    """
    rows, sketched = int(count_V.sum()), params.similarity == "hidden"
    draw = null or params.eta == "auto"
    hard = HardCounts(thresholds)
    reach, compiled = params.window_size, source.large
    pool = Pool(params.seed, 2 * reach, total=rows, sketched=sketched, compiled=compiled)
    contents = (contents_of(params.similarity),)
    collect = PersistentWindows(
        thresholds, reach, params.seed, contents=contents, compiled=compiled
    )
    sketches = SketchCount()
    small = rows <= context_passes.ROUND_WINDOWS
    sums = None if clusters is None else HardSums(thresholds, clusters, compiled=source.large)
    engine.run(
        source,
        hard,
        *([pool] if draw or params.min_similarity is None else []),
        *([collect] if small else []),
        *([] if sums is None else [sums]),
        *([sketches] if sketched else []),
    )
    if sketched and sketches.missing == sketches.rows:
        raise LogError(
            f"{source.log.name}: contexts/ has no rows for the positions in "
            f"{source.table}/; {REMEDIES['contexts']}"
        )
    length = len(count_V)
    both, pre, post = (
        padded(hard.count_V[name], length)[types.token_T] for name in ("both", "pre", "post")
    )
    types = replace(types, persistent_T=both, hard_pre_T=pre, hard_post_T=post)
    free = None
    if draw and not pool.complete:
        free = engine.aside(partial(_free_pools, types, params, pool, source.large))
    votes = None if sums is None else votes_of(sums)
    # A test must know which types leave a null to draw from, whether these are judged or not.
    if votes is not None or (free is not None and (small or sums is not None)):
        fill = [] if free is None else [free]
        engine.run(source, *fill, *([] if votes is None else [votes]))
        unfilled = None
    else:
        unfilled = free
    gamma = params.min_similarity
    if gamma is None:
        gamma = gamma_of(random_pairs(pool.result(), params.partners))
    similarity = Similarity(
        params.similarity,
        gamma,
        2 * params.window_size,
        contexts.surprisal(count_V),
        embeddings,
        engine.jobs,
    )
    null_pool = Null(pool.result(), free, params.window_size, params.partners) if draw else None
    hardness = None
    if sums is not None:
        hardness = engine.aside(partial(_hardness, sums, votes, null_pool))
    judged = Contexts(
        source,
        engine,
        replace(params, gamma=gamma),
        thresholds,
        ContextRule(similarity, params.partners, params.eta, clusters),
        null_pool,
        hardness,
        sketches.missing,
    )
    if permuted:
        # Beside the windows: who is drawn is then known by the time that these are judged.
        judged = replace(judged, drawing=engine.start(partial(judged.draw_limits, types)))
    if small:
        return judged.judged(types, thresholds, engine.aside(collect.result)), judged
    return judged.judged(types, thresholds, unfilled=unfilled), judged


def _hardness(sums: HardSums, votes: OccurrenceSums | None, null: Null | None) -> Hardness:
    """How hard types are; those that leave a null too little to draw from are not tested."""
    hardness = hardness_of(sums, votes)
    if null is None:
        return hardness
    return hardness.where(null.judgeable(hardness.tests.token_T))


def _free_pools(
    types: TypeTable, params: DetectParams, pool: Pool, compiled: bool
) -> FreePools | None:
    """Pools yet to be filled, for types too frequent for the shared one; None: none is."""
    assert types.persistent_T is not None
    scarce_T = scarce_types(pool.result(), types.token_T) & (types.persistent_T > 0)
    if not scarce_T.any():
        return None
    near = distances(params.window_size)
    return FreePools(
        params.seed,
        2 * params.window_size,
        types.token_T[scarce_T].tolist(),
        near,
        DRAWS,
        sketched=params.similarity == "hidden",
        compiled=compiled,
    )
