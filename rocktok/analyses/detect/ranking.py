"""Which tokens are rocks: Rock Score, persistence, context consistency.

What the numbers mean is in the docs/definitions.md; the source is arXiv 2605.09253. This
module holds the parameters, the arithmetic per token type, and the ranking. It opens no file:
`rocktok.analyses.detect.passes` feeds it from a log.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import Context
from rocktok.analyses.detect.similarity import PARTNERS, SIMILARITIES
from rocktok.errors import UsageError

LOW_POWER_PERSISTENT = 20
LOW_POWER_PROMPTS = 5

#: The smallest sample of persistent occurrences.
MIN_CAP = 100

CONTEXTS = ("auto", "required", "off")
TABLES = ("auto", "fixed", "rollout")
CRITERIA = ("high", "recalcitrant")


@dataclass(frozen=True)
class DetectParams:
    """Options of `detect`; docs/definitions.md explains each.

    `quantile_post` None: 0.8 for persistence "high"; 0.2, of the change, for "recalcitrant".
    """

    pre: int | None = None
    post: int | None = None
    table: str = "auto"
    context: str = "auto"
    quantile_pre: float = 0.8
    quantile_post: float | None = None
    tau_pre: float | None = None
    tau_post: float | Literal["same"] | None = None
    persistence: str = "high"
    window: int = 8
    similarity: str = "surprisal"
    partners: str = "other-prompt"
    gamma: float = 0.5
    eta: float | Literal["auto"] = "auto"
    top_k: int = 100
    tau_r: float | None = None
    min_frequency: int = 1
    exclude_most_frequent: int = 0
    cap: int = 50_000
    exact: bool = False
    seed: int = 0
    all_types: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("table", TABLES),
            ("context", CONTEXTS),
            ("persistence", CRITERIA),
            ("similarity", SIMILARITIES),
            ("partners", PARTNERS),
        ):
            _demand(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}", self)
        _demand(0 < self.quantile_pre < 1, "quantile_pre", "between 0 and 1", self)
        post = self.quantile_post
        _demand(post is None or 0 < post < 1, "quantile_post", "between 0 and 1", self)
        _demand(_positive(self.tau_pre), "tau_pre", "above 0, and finite", self)
        tau = self.tau_post
        good = tau == "same" or (not isinstance(tau, str) and _positive(tau))
        _demand(good, "tau_post", "above 0, and finite, or 'same'", self)
        _demand(self.window >= 1, "window", "1 or more", self)
        _demand(0 < self.gamma <= 1, "gamma", "above 0 and at most 1", self)
        eta = self.eta
        good = eta == "auto" or (not isinstance(eta, str) and 0 <= eta <= 1)
        _demand(good, "eta", "'auto', or from 0 to 1", self)
        _demand(self.top_k >= 1, "top_k", "1 or more", self)
        _demand(_positive(self.tau_r), "tau_r", "above 0, and finite", self)
        _demand(self.cap >= MIN_CAP, "cap", f"{MIN_CAP} or more", self)
        _demand(self.min_frequency >= 1, "min_frequency", "1 or more", self)
        _demand(self.exclude_most_frequent >= 0, "exclude_most_frequent", "0 or more", self)
        if self.persistence == "recalcitrant" and self.tau_post is not None:
            raise UsageError(
                "tau_post has no meaning with persistence 'recalcitrant'; leave it out",
                parameter="tau_post",
            )

    @property
    def second_quantile(self) -> float:
        """`quantile_post` with its default filled in."""
        if self.quantile_post is not None:
            return self.quantile_post
        return 0.8 if self.persistence == "high" else 0.2


def _positive(value: float | None) -> bool:
    return value is None or (0 < value < float("inf"))


def _demand(good: bool, name: str, allowed: str, params: DetectParams) -> None:
    if not good:
        message = f"{name} is {getattr(params, name)!r}; it must be {allowed}"
        raise UsageError(message, parameter=name)


@dataclass
class TypeTable:
    """Numbers of every type seen, as equally long arrays; what was not computed is NaN or −1.

    `count_pre_T`, `count_post_T`: rows of the type that are hard at pre, at post.
    """

    token_T: Array
    frequency_T: Array
    loss_T: Array
    persistent_T: Array | None = None
    hard_pre_T: Array | None = None
    hard_post_T: Array | None = None
    context: dict[int, Context] = field(default_factory=dict)
    extra_T: dict[str, Array] = field(default_factory=dict)

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
    with one, by Rock Score; types that the options exclude come last.
    """
    excluded_T = types.excluded_T(params)
    known_T = np.isfinite(score_T)
    key_T = np.where(known_T, score_T, types.loss_T)
    order = np.lexsort((types.token_T, -types.frequency_T, -key_T, ~known_T, excluded_T))
    scores = np.where(known_T & ~excluded_T, score_T, 0.0)[order]
    if params.tau_r is not None:
        return order, scores >= params.tau_r
    rank = np.arange(len(order))
    return order, (rank < params.top_k) & (scores > 0)


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


def walk(types: TypeTable, params: DetectParams, judge: Callable[[int], Context]) -> None:
    """Judge the candidates in order, until no other type can be a rock.

    Fills `types.context`. With `all_types` every type is judged.
    """
    excluded_T, bound_T = types.excluded_T(params), types.bound_T()
    best: list[float] = []
    passed = False
    for index in candidates(types, params):
        passed = passed or bool(excluded_T[index]) or _cannot_enter(bound_T[index], best, params)
        if passed and not params.all_types:
            return
        context = judge(index)
        # What cannot be a rock need not be remembered row by row.
        types.context[index] = context.summary() if passed else context
        if context.judgeable and not excluded_T[index]:
            insort(best, -context_score(types, index, context))


def _cannot_enter(bound: float, best: list[float], params: DetectParams) -> bool:
    # Rounding must not shut out a type whose score equals its bound.
    bound *= 1 + 1e-12
    if params.tau_r is not None:
        return bool(bound < params.tau_r)
    if len(best) < params.top_k:
        return False
    return bool(bound < -best[params.top_k - 1])
