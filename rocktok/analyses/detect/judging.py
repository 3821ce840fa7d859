"""Judging the contexts of many types whose windows are at hand: those with few of them together.

Array suffixes: T types; N windows, sorted by token; E picks of draws, one type after another; H
retained windows; C pairs of a type and a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.clusters import Clusters
from rocktok.analyses.detect.context import Context, ContextRule, Partners
from rocktok.analyses.detect.null import DRAWS, Null, null_thresholds_by_type
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.similarity import MANY
from rocktok.analyses.detect.tested import ClusterCounts
from rocktok.pairs.few import PartnersByType
from rocktok.stats.arrays import distinct
from rocktok.stats.tally import run_starts

#: Windows of a type from which it is judged by itself: an index of its own then pays, or without
#: compiled loops a product of its own.
ALONE = 4_000
ALONE_SPARSE = 48

#: Windows that are made ready at once, of some 500 bytes each; of those that come first, if types
#: are judged only until no other can be a rock.
TOGETHER = 1 << 13
FIRST = 1 << 8

NOTHING: Array = np.zeros(0, dtype=np.int64)


def compiled_pays(size_T: Array) -> bool:
    """Whether to load compiled loops for types with so many windows (int64)."""
    few_T = size_T[size_T < ALONE]
    return int((few_T * (few_T + DRAWS)).sum()) >= 10 * MANY


def cut(tokens: list[int], size_T: Array, *, first: int | None = None) -> Iterator[list[int]]:
    """Types that are judged in one call each, in their order.

    `first`: windows of the first call; those of the others double.
    """
    ready: list[int] = []
    held, most = 0, TOGETHER if first is None else first
    for v, size in zip(tokens, size_T.tolist(), strict=True):
        if ready and held + size > most:
            yield ready
            ready, held, most = [], 0, min(2 * most, TOGETHER)
        ready.append(v)
        held += size
    if ready:
        yield ready


def longest_first(parts: list[list[int]], size_T: Array) -> list[int]:
    """Places of the parts, those with the most pairs of windows first.

    Args:
        parts: from `cut`. size_T: windows of the types, in the order of the parts.
    """
    ends = np.cumsum([0, *map(len, parts)])
    pairs_T = np.cumsum(np.concatenate(([0.0], size_T.astype(np.float64) ** 2)))
    order: list[int] = np.argsort(-np.diff(pairs_T[ends]), kind="stable").tolist()
    return order


def judge(
    rule: ContextRule, null: Null | None, windows: dict[str, Array], tokens: list[int]
) -> list[Context]:
    """Contexts of some types, in their order. `null`: what is drawn from; None: η is a number.

    Compiled loops are used if the similarity has them loaded; they change nothing.
    """
    types = [of_type(windows, v) for v in tokens]
    alone = ALONE if rule.similarity.loaded else ALONE_SPARSE
    few: dict[int, tuple[dict[str, Array], Array]] = {}
    for v, rows in zip(tokens, types, strict=True):
        picked = NOTHING if null is None else null.picks(v)
        if picked is not None and len(rows["loss"]) < alone and rule.similarity.by_type:
            few[v] = rows, picked
    found = dict(zip(few, judge_together(rule, list(few.values()), null), strict=True))
    return [
        found.get(v) or rule.judge(rows, None if null is None else null.nearest(v))
        for v, rows in zip(tokens, types, strict=True)
    ]


def judge_together(
    rule: ContextRule, types: list[tuple[dict[str, Array], Array]], null: Null | None
) -> list[Context]:
    """`ContextRule.judge` of many types with few occurrences each.

    Args:
        types: the rows of each, and which rows of the front of the null's pool are its draws.
        null: None: η is a number.
    """
    if not types:
        return []
    ours = [rule.windows(rows) for rows, _ in types]
    draws = ours[0].rows(slice(0, 0)) if null is None else null.front.windows
    picks = [picked for _, picked in types]
    counted = rule.similarity.count_by_type(ours, draws, picks)
    size_T, draws_T = (np.array([len(each) for each in side]) for side in (ours, picks))
    type_N = np.repeat(np.arange(len(types)), size_T)
    retained_N, eta_T, count_T = _retained(rule, counted, type_N, draws_T)
    prompt_N = _joined(types, "prompt")
    prompts_T = _prompts(type_N, prompt_N, len(types))
    votes: list[tuple[float, ClusterCounts | None]] = [(0.0, None)] * len(types)
    if rule.clusters is not None:
        votes = _votes(rule.clusters, type_N, prompt_N, retained_N, len(types))
    loss_H, sequence_H, position_H = (
        _joined(types, name)[retained_N] for name in ("loss", "sequence", "position")
    )
    hits_T = np.bincount(type_N[retained_N], minlength=len(types))
    contexts, hits = [], slice(0, 0)
    for t, (size, hit, prompts, eta, count) in enumerate(
        zip(size_T.tolist(), hits_T.tolist(), prompts_T.tolist(), eta_T, count_T, strict=True)
    ):
        hits = slice(hits.stop, hits.stop + hit)
        of_votes, by_cluster = votes[t]
        contexts.append(
            Context(
                size,
                size,
                prompts,
                judgeable=True,
                hits=hit,
                hit_loss=float(loss_H[hits].sum(dtype=np.float64)),
                hit_sequences=sequence_H[hits],
                hit_positions=position_H[hits],
                eta=eta,
                eta_count=count,
                null_distance=None if null is None else 2 * null.window,
                voters=0 if by_cluster is None else len(by_cluster.cluster_C),
                votes=of_votes,
                by_cluster=by_cluster,
            )
        )
    return contexts


def _retained(
    rule: ContextRule, counted: PartnersByType, type_N: Array, draws_T: Array
) -> tuple[Array, list[float], list[int] | list[None]]:
    """`context.retention` of all types at once: which rows, and the rates and counts to exceed."""
    own = Partners(counted.similar_N, counted.partners_N)
    if rule.eta != "auto":
        types = len(draws_T)
        retained_N = (own.rate_M >= rule.eta) & (own.rate_M > 0)
        return retained_N, [float(rule.eta)] * types, [None] * types
    rate_E = Partners(counted.similar_E, counted.partners_E).rate_M
    count_T, rate_T = (
        null_thresholds_by_type(values_E, draws_T) for values_E in (counted.similar_E, rate_E)
    )
    retained_N = (own.similar_M > count_T[type_N]) & (own.rate_M > rate_T[type_N])
    return retained_N, rate_T.tolist(), count_T.tolist()


def _joined(types: list[tuple[dict[str, Array], Array]], name: str) -> Array:
    return np.concatenate([rows[name] for rows, _ in types])


def _prompts(type_N: Array, prompt_N: Array, types: int) -> Array:
    """(T,) distinct prompts of each type."""
    prompt_P = distinct(prompt_N)
    width = max(1, len(prompt_P))
    pairs = distinct(type_N * width + np.searchsorted(prompt_P, prompt_N))
    prompts_T: Array = np.bincount(pairs // width, minlength=types)
    return prompts_T


def _votes(
    clusters: Clusters, type_N: Array, prompt_N: Array, retained_N: Array, types: int
) -> list[tuple[float, ClusterCounts | None]]:
    """`tested.context_counts` of all types at once, each with the sum of its votes."""
    key_N = type_N * clusters.count + clusters.of(prompt_N)
    order = np.argsort(key_N, kind="stable")
    starts = run_starts(key_N[order])
    key_C = key_N[order[starts]]
    judged_C = np.diff(np.append(starts, len(order)))
    retained_C = judged_C
    if len(starts):
        retained_C = np.add.reduceat(retained_N[order].astype(np.int64), starts)
    type_C, cluster_C = np.divmod(key_C, clusters.count)
    # `bincount` adds one after another, in the order of the clusters, as `ClusterCounts.votes`.
    votes_T = np.bincount(type_C, retained_C / judged_C, types)
    edges = np.searchsorted(type_C, np.arange(types + 1)).tolist()
    return [
        (vote, ClusterCounts(cluster_C[a:b], judged_C[a:b], retained_C[a:b]))
        for vote, a, b in zip(votes_T.tolist(), edges, edges[1:], strict=False)
    ]
