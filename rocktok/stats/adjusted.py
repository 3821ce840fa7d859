"""Do rocks improve less than other types of like first loss and frequency: the adjusted contrast.

The change of each rock is held against what a local regression over the other types predicts at the
rock's own first loss and frequency. Its variance is that over prompts, types fixed, and that over
types, prompts fixed: intervals from prompts alone say what these types did, not what others of
their kind would do. First losses come from the half of the prompts on which the change is not
measured, or noise in the first loss would be in both. Ours.

Array suffixes: B replicates; T types; R supported rocks; A other types; C covariates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.bootstrap import holm
from rocktok.stats.contrasts import ratio

#: Widths of the weights: of the logarithm of the first loss, and of that of the frequency.
WIDTHS = 0.5, 1.0

#: Of the sum of the weights, on the two slopes.
RIDGE = 0.05

#: A rock is supported with this many other types within this distance of its log first loss.
MIN_NEAR = 5
REACH = 0.5

#: Supported rocks that a comparison needs, and their least share of the measured rocks.
MIN_SUPPORTED = 10
MIN_SUPPORT = 0.5

#: Level of the tests after Holm's correction.
LEVEL = 0.05

#: Changes within this factor of each other count as the same.
MARGIN = 1.1

LESS, MORE, SAME = "improve less", "improve more", "no difference"
NOT_COMPARABLE, DEPENDS = "not comparable", "depends on the cutoff"
INCONCLUSIVE = "inconclusive"

#: Replicates that are worked out together.
_AT_ONCE = 32

#: Count and sum of the loss by type: plain (T, 2), and under the weights of each replicate
#: (B, T, 2).
Sums = tuple[Array, Array]


@dataclass(frozen=True)
class TypeChanges:
    """What is compared, and adjusted for; NaN where a type has none.

    change_T, change_BT: logarithm of the mean loss at the last step over that at the first.
    covariate_TC, covariate_BTC: logarithms of the first loss, on other prompts, and of the count.
    """

    token_T: Array
    change_T: Array
    change_BT: Array
    covariate_TC: Array
    covariate_BTC: Array

    def measured_T(self) -> Array:
        """Types that have a change and both covariates."""
        measured_T: Array = np.isfinite(self.change_T) & np.isfinite(self.covariate_TC).all(axis=1)
        return measured_T


class AdjustedContrast(TypedDict):
    """Mean excess of the rocks' change over what other types like them do; above 0: improve less.

    `difference` is of logarithms, with a 95% interval, over the `supported` of the `measured`
    rocks. `loss_pre_rocks`, `loss_pre_others`: mean over types of the first loss.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    measured: int
    supported: int
    comparable: bool
    loss_pre_rocks: float | None
    loss_pre_others: float | None


def type_changes(token_T: Array, pre_other: Sums, pre: Sums, post: Sums) -> TypeChanges:
    """Changes of types, from sums at the first step on both halves and at the last on one.

    Args:
        token_T: the types of the sums, ascending.
        pre_other: first step, on the half of the prompts that the rocks were chosen on.
        pre, post: first and last step, on the half that is measured. The replicates of both have
            the same weights.
    """
    change_T, change_BT = (
        _log(_mean(after)) - _log(_mean(before)) for before, after in zip(pre, post, strict=True)
    )
    covariate_TC, covariate_BTC = (
        np.stack([_log(_mean(there)), _log(there[..., 0] + here[..., 0])], axis=-1)
        for there, here in zip(pre_other, pre, strict=True)
    )
    return TypeChanges(token_T, change_T, change_BT, covariate_TC, covariate_BTC)


def adjusted_contrast(changes: TypeChanges, rocks: Array, seed: int) -> AdjustedContrast:
    """Rocks against all other measured types; `p_holm` is None until `verdicts`.

    Args:
        changes: of types that stand often enough on both halves of the prompts.
        rocks: token ids, chosen on the half that is not measured.
        seed: of the resamples of types, as many as there are of prompts.
    """
    measured_T, rock_T = changes.measured_T(), np.isin(changes.token_T, rocks)
    rock_R, other_A = np.flatnonzero(measured_T & rock_T), np.flatnonzero(measured_T & ~rock_T)
    level_T = changes.covariate_TC[:, 0]
    near_R = (np.abs(level_T[rock_R, None] - level_T[other_A]) <= REACH).sum(axis=1)
    supported_R = near_R >= MIN_NEAR
    measured, supported = len(rock_R), int(supported_R.sum())
    row: AdjustedContrast = {
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        "measured": measured,
        "supported": supported,
        "comparable": supported >= max(MIN_SUPPORTED, MIN_SUPPORT * measured),
        "loss_pre_rocks": _mean_loss(level_T[rock_R]),
        "loss_pre_others": _mean_loss(level_T[other_A]),
    }
    if not supported:
        return row
    at = rock_R[supported_R]
    excess_R = _excess(changes.change_T, changes.covariate_TC, at, other_A)
    difference = float(excess_R.mean())
    over_prompts_B = np.concatenate([
        _mean_of_finite(_excess(change_BT, covariate_BTC, at, other_A))
        for change_BT, covariate_BTC in _parts(changes)
    ])  # fmt: skip
    over_types_B = _over_types(changes, rock_R, supported_R, other_A, seed)
    variance = _variance(over_prompts_B) + _variance(over_types_B)
    row["difference"] = difference
    if math.isfinite(variance) and variance > 0:
        error = math.sqrt(variance)
        row["low"], row["high"] = difference - 1.96 * error, difference + 1.96 * error
        row["p"] = math.erfc(abs(difference) / error / math.sqrt(2))
    return row


def _over_types(
    changes: TypeChanges, rock_R: Array, supported_R: Array, other_A: Array, seed: int
) -> Array:
    """(B,) differences of resampled rocks and resampled others; prompts, and so support, fixed."""
    replicates = len(changes.change_BT)
    at = rock_R[supported_R]
    x_RC, x_AC = changes.covariate_TC[at], changes.covariate_TC[other_A]
    weight_RA, y_A = _weights(x_RC, x_AC), changes.change_T[other_A]
    drawn_BR = _draws(seed, 0, replicates, len(rock_R))[:, supported_R]
    drawn_BA = _draws(seed, 1, replicates, len(other_A)).astype(np.float64)
    # All replicates in one product: only how often each type counts differs between them.
    terms_AR9 = weight_RA.T[:, :, None] * _features(x_AC, y_A)[:, None, :]
    sums_BR9 = (drawn_BA @ terms_AR9.reshape(len(y_A), -1)).reshape(replicates, len(at), -1)
    excess_BR = changes.change_T[at] - _intercepts(sums_BR9, x_RC)
    return ratio((drawn_BR * excess_BR).sum(axis=1), drawn_BR.sum(axis=1))


def _parts(changes: TypeChanges) -> Iterator[tuple[Array, Array]]:
    """The replicates, some at a time: all their weights at once would fill the memory."""
    for start in range(0, len(changes.change_BT), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        yield changes.change_BT[part], changes.covariate_BTC[part]


def _excess(change_T: Array, covariate_TC: Array, rock_R: Array, other_A: Array) -> Array:
    """Change of each rock less what the others predict for it: (…, R), NaN where undefined.

    `change_T` (…, T) and `covariate_TC` (…, T, C) may have replicates in front.
    """
    defined_T = np.isfinite(change_T) & np.isfinite(covariate_TC).all(axis=-1)
    defined_A = defined_T[..., other_A]
    # What is undefined weighs nothing; its numbers must be finite all the same.
    y_A = np.where(defined_A, change_T[..., other_A], 0.0)
    x_AC = np.where(defined_A[..., None], covariate_TC[..., other_A, :], 0.0)
    x_RC = covariate_TC[..., rock_R, :]
    weight_RA = _weights(x_RC, x_AC) * defined_A[..., None, :]
    excess_R = change_T[..., rock_R] - _intercepts(weight_RA @ _features(x_AC, y_A), x_RC)
    return np.where(defined_T[..., rock_R], excess_R, np.nan)


def _weights(x_RC: Array, x_AC: Array) -> Array:
    exponent_RA: Array = np.zeros((*x_RC.shape[:-1], x_AC.shape[-2]))
    with np.errstate(invalid="ignore"):
        for c, width in enumerate(WIDTHS):
            apart_RA = (x_RC[..., :, None, c] - x_AC[..., None, :, c]) / width
            exponent_RA -= apart_RA * apart_RA / 2
    return np.exp(exponent_RA, out=exponent_RA)


def _features(x_AC: Array, y_A: Array) -> Array:
    """What the regression sums over types: 1, a, b, y, and their products, (…, A, 9)."""
    a, b, one = x_AC[..., 0], x_AC[..., 1], np.ones(y_A.shape)
    return np.stack([one, a, b, y_A, a * a, a * b, b * b, a * y_A, b * y_A], axis=-1)


def _intercepts(sums_R9: Array, x_RC: Array) -> Array:
    """Weighted ridge regression of y on x − x of each rock: its intercepts, (…, R).

    `sums_R9`: weighted sums of `_features`, (…, R, 9). The intercept is free, so that slopes are
    those of centred values, whatever the rock.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b, y, aa, ab, bb, ay, by = np.moveaxis(sums_R9[..., 1:] / sums_R9[..., :1], -1, 0)
        aa, ab, bb = aa - a * a + RIDGE, ab - a * b, bb - b * b + RIDGE
        ay, by = ay - a * y, by - b * y
        slope_a, slope_b = bb * ay - ab * by, aa * by - ab * ay
        away = slope_a * (a - x_RC[..., 0]) + slope_b * (b - x_RC[..., 1])
        intercept_R: Array = y - away / (aa * bb - ab * ab)
    return intercept_R


def _draws(seed: int, side: int, replicates: int, size: int) -> Array:
    """How often each of `size` types is drawn, with replacement, in each replicate: (B, size)."""
    replicate, place = np.divmod(np.arange(replicates * size), max(1, size))
    hashed = hash_rows(seed, np.array([-2 - side]), replicate, place)
    uniform = (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    cell = replicate * size + (uniform * size).astype(np.int64)
    drawn_BA: Array = np.bincount(cell, minlength=replicates * size).reshape(replicates, size)
    return drawn_BA


def _mean(sums: Array) -> Array:
    return ratio(sums[..., 1], sums[..., 0])


def _log(values: Array) -> Array:
    """Natural logarithm; NaN of what is not above 0."""
    logs: Array = np.full(values.shape, np.nan)
    np.log(values, out=logs, where=values > 0)
    return logs


def _mean_loss(level: Array) -> float | None:
    return float(np.exp(level).mean()) if len(level) else None


def _mean_of_finite(values_BR: Array) -> Array:
    """Mean of the defined values of each replicate; NaN where none is."""
    finite_BR = np.isfinite(values_BR)
    return ratio(np.where(finite_BR, values_BR, 0.0).sum(axis=1), finite_BR.sum(axis=1))


def _variance(values_B: Array) -> float:
    """Of the defined replicates; NaN where more than a twentieth are not."""
    finite = values_B[np.isfinite(values_B)]
    enough = len(finite) >= max(2.0, 0.95 * len(values_B))
    return float(finite.var(ddof=1)) if enough else float("nan")


def verdicts(cutoffs: Mapping[float, Sequence[AdjustedContrast]]) -> list[str]:
    """A verdict for each contrast, from the same contrasts with rocks at several cutoffs.

    `improve less` and `improve more` need a rejection of that sign at every cutoff, and groups that
    are comparable at each; `no difference` needs every 90% interval within a factor of 1.1. Sets
    `p_holm`, over the contrasts of a cutoff.

    Args:
        cutoffs: cutoff → contrasts, the same in each. The first cutoff is the one that is shown.
    """
    for rows in cutoffs.values():
        tested = [(row, row["p"]) for row in rows if row["p"] is not None]
        corrected = holm([p for _, p in tested])
        for (row, _), p_holm in zip(tested, corrected, strict=True):
            row["p_holm"] = p_holm
    return [
        _verdict([_outcome(row) for row in same]) for same in zip(*cutoffs.values(), strict=True)
    ]


def _verdict(outcomes: list[str]) -> str:
    if len(set(outcomes)) == 1 or outcomes[0] == NOT_COMPARABLE:
        return outcomes[0]
    decided = {LESS, MORE} & set(outcomes)
    return DEPENDS if decided else INCONCLUSIVE


def _outcome(row: AdjustedContrast) -> str:
    """At one cutoff."""
    difference, high, p = row["difference"], row["high"], row["p_holm"]
    if not row["comparable"]:
        return NOT_COMPARABLE
    if difference is None or high is None or p is None:
        return INCONCLUSIVE
    if p <= LEVEL:
        return LESS if difference > 0 else MORE
    reach90 = (high - difference) * 1.645 / 1.96
    return SAME if abs(difference) + reach90 <= math.log(MARGIN) else INCONCLUSIVE
