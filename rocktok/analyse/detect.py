"""Which tokens are rocks: Rock Score, persistence, context consistency.

What the numbers mean is in the docs/definitions.md; the source is arXiv 2605.09253. This
module holds the parameters, the arithmetic per token type, and the ranking. It opens no file:
`rocktok.engine.detect` feeds it from a log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rocktok.analyse.similarity import (
    PARTNERS,
    SIMILARITIES,
    Similarity,
    Windows,
    partner_counts,
)
from rocktok.errors import UsageError

Array = npt.NDArray[Any]

#: Positions drawn for the null of `eta="auto"`, the fewest that will do, and the share of them
#: that may lie at or below the threshold: 951st of 1,000.
DRAWS = 1_000
MIN_DRAWS = 200
NULL_SHARE = 0.95

LOW_POWER_PERSISTENT = 20
LOW_POWER_PROMPTS = 5

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


@dataclass(frozen=True)
class Thresholds:
    """Thresholds in nats: of the loss at pre and at post, or (recalcitrant) of the change."""

    pre: float
    post: float | None = None
    change: float | None = None

    def persistent(self, pre_N: Array, post_N: Array) -> Array:
        """Which rows (float32 losses) belong to O_PH."""
        hard_N: Array = pre_N.astype(np.float64) >= self.pre
        if self.change is not None:
            return hard_N & ((pre_N - post_N).astype(np.float64) < self.change)
        assert self.post is not None
        return hard_N & (post_N.astype(np.float64) >= self.post)


@dataclass(frozen=True)
class Context:
    """What context consistency came to for one type; None where it could not be computed."""

    retained_M: Array | None
    eta: float | None = None
    eta_count: int | None = None
    null_distance: int | None = None


def surprisal(count_V: Array) -> Array:
    """−ln(n_u / n) by token id; 0 for an id that does not occur."""
    total = count_V.sum()
    weight_V = np.zeros(len(count_V))
    seen = count_V > 0
    weight_V[seen] = -np.log(count_V[seen] / total)
    return weight_V


def null_threshold(values_D: Array) -> float:
    """The value that an occurrence must strictly exceed: the 951st smallest of 1,000 draws."""
    index = int(np.floor(NULL_SHARE * len(values_D) + 1e-9))
    return float(np.sort(values_D)[min(index, len(values_D) - 1)])


def distances(window: int) -> tuple[int, ...]:
    """How far from v the null is drawn: 2w, or nearer where too few positions are that far."""
    return (2 * window, window, window // 2)


#: Gives, for a type, the draws for its null: windows and the distance; None if there are too few.
Draws = Callable[[int], "tuple[Windows, int] | None"]


@dataclass(frozen=True)
class ContextRule:
    """How occurrences are retained: similarity, partners, η."""

    similarity: Similarity
    partners: str
    eta: float | Literal["auto"]

    def judge(self, v: int, persistent: Windows, draws: Draws) -> Context:
        """Which persistent occurrences of v recur in contexts like those of their partners."""
        count_M, rate_M = self._rates(persistent, persistent, same=True)
        if self.eta != "auto":
            return Context((rate_M >= self.eta) & (rate_M > 0), eta=self.eta)
        drawn = draws(v)
        if drawn is None:
            return Context(None)
        windows, distance = drawn
        null_count_D, null_rate_D = self._rates(windows, persistent, same=False)
        count, rate = null_threshold(null_count_D), null_threshold(null_rate_D)
        return Context((count_M > count) & (rate_M > rate), rate, int(count), distance)

    def _rates(self, ours: Windows, theirs: Windows, *, same: bool) -> tuple[Array, Array]:
        similar = self.similarity.count_similar(ours, theirs, self.partners, same=same)
        partners = partner_counts(ours, theirs, self.partners, same=same)
        rate = np.divide(similar, partners, out=np.zeros(len(ours)), where=partners > 0)
        return similar, rate


@dataclass
class TypeTable:
    """Numbers of every type seen, as equally long arrays; what was not computed is NaN or −1.

    `count_pre_T`, `count_post_T`: rows of the type that are hard at pre, at post.
    """

    token_T: Array
    frequency_T: Array
    prompts_T: Array
    loss_T: Array
    persistent_T: Array | None = None
    hard_pre_T: Array | None = None
    hard_post_T: Array | None = None
    persistent_prompts_T: Array | None = None
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
        if context.retained_M is not None:
            retained = int(context.retained_M.sum())
            ccr = retained / types.frequency_T[index]
            score_T[index] = types.loss_T[index] * ccr
    return score_T


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


def walk(types: TypeTable, params: DetectParams, judge: Callable[[int], Context]) -> None:
    """Judge contexts type by type down the bound, until no other type can be a rock.

    Fills `types.context`. With `all_types` every type is judged.
    """
    assert types.persistent_T is not None
    bound_T = types.bound_T()
    allowed_T = (types.persistent_T > 0) & ~types.excluded_T(params)
    order = [int(i) for i in np.argsort(-bound_T, kind="stable") if allowed_T[i]]
    best: list[float] = []
    for index in order:
        if not params.all_types and _cannot_enter(bound_T[index], best, params):
            return
        context = types.context[index] = judge(index)
        if context.retained_M is not None:
            ccr = int(context.retained_M.sum()) / types.frequency_T[index]
            best.append(float(types.loss_T[index] * ccr))
    if params.all_types:
        for index in np.flatnonzero((types.persistent_T > 0) & ~allowed_T).tolist():
            types.context[index] = judge(index)


def _cannot_enter(bound: float, best: list[float], params: DetectParams) -> bool:
    # Rounding must not shut out a type whose score equals its bound.
    bound *= 1 + 1e-12
    if params.tau_r is not None:
        return bool(bound < params.tau_r)
    if len(best) < params.top_k:
        return False
    return bool(bound < sorted(best, reverse=True)[params.top_k - 1])
