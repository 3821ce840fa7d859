"""Which tokens are rocks: Rock Score, persistence, context consistency.

What the numbers mean is in the docs/definitions.md; the source is arXiv 2605.09253. This
module holds the arithmetic per token type, and the ranking. It opens no file:
`rocktok.analyses.detect.passes` feeds it from a log.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import Context
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import HardTests, Recurrence, TestedTypes, judge_types

LOW_POWER_PERSISTENT = 20
LOW_POWER_PROMPTS = 5


@dataclass(frozen=True)
class TypeTable:
    """Numbers of every type seen, as equally long arrays.

    Attributes:
        token_T: ids, ascending. frequency_T: rows. loss_T: sums at post, nats; loss_pre_T: at pre.
        persistent_T, hard_pre_T, hard_post_T: rows that are persistent, hard at pre, hard at post;
            None without persistence.
        context: index into the arrays → what its contexts came to, of the types judged.
        tested: what the tested rule says; None by the other, and without persistence.
        extra_T: column of the result → values that only some logs have.
    """

    token_T: Array
    frequency_T: Array
    loss_T: Array
    loss_pre_T: Array | None = None
    persistent_T: Array | None = None
    hard_pre_T: Array | None = None
    hard_post_T: Array | None = None
    context: Mapping[int, Context] = field(default_factory=dict)
    tested: TestedTypes | None = None
    extra_T: Mapping[str, Array] = field(default_factory=dict)

    def bound_T(self) -> Array:
        """R_ctx(v) ≤ ℓ̄_v · |O_PH(v)|: no type can score more than this."""
        assert self.persistent_T is not None
        bound: Array = self.loss_T / self.frequency_T * self.persistent_T
        return bound

    def excluded_T(self, params: DetectParams) -> Array:
        """Types that the options keep out of the ranking."""
        out_T: Array = self.frequency_T < params.min_frequency
        order = np.lexsort((self.token_T, -self.frequency_T))
        out_T = out_T.copy()
        out_T[order[: params.exclude_most_frequent]] = True
        return out_T


def scores(types: TypeTable) -> Array:
    """What types are ranked by: the score of the tested rule, R_ctx by the other, or R."""
    if types.tested is not None:
        return types.tested.score
    return types.loss_T.astype(np.float64) if types.persistent_T is None else context_scores(types)


def context_scores(types: TypeTable) -> Array:
    """R_ctx = R · CCR by type; NaN where it was not computed."""
    assert types.persistent_T is not None
    score_T = np.where(types.persistent_T == 0, 0.0, np.nan)
    for index, context in types.context.items():
        if context.judgeable:
            score_T[index] = context_score(types, index, context)
    return score_T


def context_score(types: TypeTable, index: int, context: Context) -> float:
    """R_ctx of one type whose contexts were judged."""
    ccr = context.retained / int(types.frequency_T[index])
    return float(types.loss_T[index] * ccr)


def ranking(types: TypeTable, params: DetectParams, score_T: Array) -> tuple[Array, Array]:
    """(order of the types, best first; which of them are rocks, in that order).

    Ties go to the more frequent, then to the smaller id. Types without a score come after those
    with one, by Rock Score; types that the options exclude come last. Rocks that were tested come
    first, whatever other types score: their ranks do not hang on which others were judged.
    """
    excluded_T = types.excluded_T(params)
    scored_T = np.isfinite(score_T)
    key_T = np.where(scored_T, score_T, types.loss_T)
    rock_T = np.zeros(len(excluded_T), dtype=bool)
    if types.tested is not None:
        # Types may have been judged at a larger rate than the options have.
        passed_T = types.tested.is_rock & (types.tested.q_value <= params.fdr)
        rock_T = passed_T & ~excluded_T
    order = np.lexsort((types.token_T, -types.frequency_T, -key_T, ~scored_T, ~rock_T, excluded_T))
    if params.tests:
        return order, rock_T[order]
    scores = np.where(scored_T & ~excluded_T, score_T, 0.0)[order]
    if params.tau_r is not None:
        return order, scores >= params.tau_r
    rank = np.arange(len(order))
    return order, (rank < params.most_rocks) & (scores > 0)


def candidates(types: TypeTable, params: DetectParams) -> list[int]:
    """Types with persistent occurrences, down the bound on R_ctx; with `all_types` also those
    that the options exclude, at the end.
    """
    assert types.persistent_T is not None
    allowed_T, excluded_T = types.persistent_T > 0, types.excluded_T(params)
    order = np.argsort(-types.bound_T(), kind="stable")
    first = [int(i) for i in order if allowed_T[i] and not excluded_T[i]]
    if not params.all_types:
        return first
    return first + np.flatnonzero(allowed_T & excluded_T).tolist()


def testable(types: TypeTable, params: DetectParams, hard: HardTests) -> list[int]:
    """Types whose contexts decide whether they are rocks, down the bound on R_ctx; with
    `all_types` all others with persistent occurrences after them.
    """
    assert types.persistent_T is not None
    worth_T = hard.worth_judging(params.fdr)
    order = np.argsort(-types.bound_T(), kind="stable")
    first: list[int] = order[worth_T[order]].tolist()
    if not params.all_types:
        return first
    others: list[int] = order[~worth_T[order] & (types.persistent_T[order] > 0)].tolist()
    return first + others


def with_tests(
    types: TypeTable, params: DetectParams, hard: HardTests, contexts: Iterator[Context]
) -> TypeTable:
    """The types with what the tested rule says. `contexts`: of the `testable`, in their order."""
    assert types.persistent_T is not None
    worth_T = hard.worth_judging(params.fdr)
    # What cannot be a rock need not be remembered row by row.
    by_index = {
        index: context if worth_T[index] else context.summary()
        for index, context in zip(testable(types, params, hard), contexts, strict=True)
    }
    recurrence = {
        index: Recurrence(
            context.judged,
            context.hits,
            context.voters,
            context.votes,
            context.judgeable,
            context.retained,
        )
        for index, context in by_index.items()
    }
    mean_T = types.loss_T / types.frequency_T
    tested = judge_types(
        hard, recurrence, mean_T, types.persistent_T, params.fdr, params.min_hardness
    )
    return replace(types, context=by_index, tested=tested)


def walk(types: TypeTable, params: DetectParams, contexts: Iterator[Context]) -> dict[int, Context]:
    """Judge the candidates in order, until no other type can be a rock.

    Args:
        contexts: of the candidates in their order, each made when it is asked for.

    Returns:
        Index into the types → context. With `all_types` every candidate is judged.
    """
    excluded_T, bound_T = types.excluded_T(params), types.bound_T()
    best: list[float] = []
    by_index: dict[int, Context] = {}
    passed = False
    for index in candidates(types, params):
        passed = passed or bool(excluded_T[index]) or _cannot_enter(bound_T[index], best, params)
        if passed and not params.all_types:
            break
        context = next(contexts)
        # What cannot be a rock need not be remembered row by row.
        by_index[index] = context.summary() if passed else context
        if context.judgeable and not excluded_T[index]:
            insort(best, -context_score(types, index, context))
    return by_index


def _cannot_enter(bound: float, best: list[float], params: DetectParams) -> bool:
    # Rounding must not shut out a type whose score equals its bound.
    bound *= 1 + 1e-12
    if params.tau_r is not None:
        return bool(bound < params.tau_r)
    if len(best) < params.most_rocks:
        return False
    return bool(bound < -best[params.most_rocks - 1])
