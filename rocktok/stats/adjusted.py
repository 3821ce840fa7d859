"""Do rocks differ from other types of like loss and frequency: the adjusted contrast.

The value of each type of a group, such as the change of its loss, is held against what a local
regression over the other types predicts at the type's own loss and frequency. Its variance is that
over prompts, types fixed, and that over types, prompts fixed: intervals from prompts alone say what
these types did, not what others of their kind would do. Losses that are adjusted for come from the
half of the prompts on which the value is not measured, or their noise would be in both. Ours.

Array suffixes: B replicates; T types; R supported types of the group; A other types; C covariates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.contrasts import ratio
from rocktok.stats.groups import TypeFacts

#: Widths of the weights: of the logarithm of the first loss, and of that of the frequency.
WIDTHS = 0.5, 1.0

#: Of the sum of the weights, on the two slopes.
RIDGE = 0.05

#: Other types at most, a seeded draw: what bounds the memory of their replicates.
MOST_OTHERS = 1_000

#: A type is supported with this many other types within this distance of its log loss.
MIN_NEAR = 5
REACH = 0.5

#: Supported types that a comparison needs, and their least share of the measured ones.
MIN_SUPPORTED = 10
MIN_SUPPORT = 0.5

#: Pairs of a type of the group and another type, in as many replicates as are worked out together:
#: what is made of them fits into a processor's cache.
_AT_ONCE = 1 << 17

#: Count and sum of a quantity by type: plain (T, 2), and under the weights of each replicate
#: (B, T, 2).
Sums = tuple[Array, Array]


@dataclass(frozen=True)
class TypeValues:
    """What is compared, and adjusted for; NaN where a type has none.

    value_T, value_BT: a logarithm, such as that of the last mean loss over the first.
    covariate_TC, covariate_BTC: logarithms of the mean loss, and of the count.
    """

    token_T: Array
    value_T: Array
    value_BT: Array
    covariate_TC: Array
    covariate_BTC: Array

    def measured_T(self) -> Array:
        """Types that have a value and both covariates."""
        measured_T: Array = np.isfinite(self.value_T) & np.isfinite(self.covariate_TC).all(axis=1)
        return measured_T


class AdjustedContrast(TypedDict):
    """Mean excess of a group's values over those of other types like its own.

    `difference` is of logarithms, with a 95% interval, over the `supported` of the `measured`
    types. `loss_first`, `loss_second`: mean over the types of the group, and over the others, of
    the mean loss that is adjusted for.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    measured: int
    supported: int
    comparable: bool
    loss_first: float | None
    loss_second: float | None


#: Cutoff → token ids of a group, ascending; the first cutoff is the one that is shown.
TypesByCutoff = Mapping[float, Array]


def types_to_measure(facts: TypeFacts, group: TypesByCutoff, seed: int) -> Array:
    """Types of any cutoff that stand often enough on both halves, and a draw of other types."""
    token_T = facts.token_T[facts.common_T()]
    group_T = np.isin(token_T, np.concatenate(list(group.values())))
    other_A = token_T[~group_T]
    drawn_A = other_A[np.argsort(hash_rows(seed, other_A), kind="stable")[:MOST_OTHERS]]
    return np.union1d(token_T[group_T], drawn_A)


def type_ratios(token_T: Array, loss_other: Sums, under: Sums, over: Sums) -> TypeValues:
    """Logarithms of the ratio of two means, given the loss.

    The loss is that of other prompts: its noise may be in the ratio, too.

    Args:
        token_T: the types of the sums, ascending.
        loss_other: losses, on the half of the prompts that the group was chosen on.
        under, over: what is divided by and what is divided, on the half that is measured, such as
            losses at two steps. The replicates of both have the same weights.
    """
    value_T, value_BT = (
        _log(_mean(above)) - _log(_mean(below)) for below, above in zip(under, over, strict=True)
    )
    covariate_TC, covariate_BTC = (
        np.stack([_log(_mean(there)), _log(there[..., 0] + here[..., 0])], axis=-1)
        for there, here in zip(loss_other, under, strict=True)
    )
    return TypeValues(token_T, value_T, value_BT, covariate_TC, covariate_BTC)


def adjusted_contrast(
    values: TypeValues, group: Array, seed: int, threads: int = 1
) -> AdjustedContrast:
    """A group against all other measured types; `p_holm` is None until `verdicts`.

    Args:
        values: of types that stand often enough on both halves of the prompts.
        group: token ids, chosen on the half that is not measured.
        seed: of the resamples of types, as many as there are of prompts.
        threads: that compute replicates; the same bits with any number.
    """
    measured_T, group_T = values.measured_T(), np.isin(values.token_T, group)
    first_R, other_A = np.flatnonzero(measured_T & group_T), np.flatnonzero(measured_T & ~group_T)
    level_T = values.covariate_TC[:, 0]
    near_R = (np.abs(level_T[first_R, None] - level_T[other_A]) <= REACH).sum(axis=1)
    supported_R = near_R >= MIN_NEAR
    measured, supported = len(first_R), int(supported_R.sum())
    row: AdjustedContrast = {
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        "measured": measured,
        "supported": supported,
        "comparable": supported >= max(MIN_SUPPORTED, MIN_SUPPORT * measured),
        "loss_first": _mean_loss(level_T[first_R]),
        "loss_second": _mean_loss(level_T[other_A]),
    }
    if not supported:
        return row
    at = first_R[supported_R]
    excess_R = _excess(values.value_T, values.covariate_TC, at, other_A)
    difference = float(excess_R.mean())
    over_prompts_B = _over_prompts(values, at, other_A, threads)
    over_types_B = _over_types(values, first_R, supported_R, other_A, seed)
    variance = _variance(over_prompts_B) + _variance(over_types_B)
    row["difference"] = difference
    if math.isfinite(variance) and variance > 0:
        error = math.sqrt(variance)
        row["low"], row["high"] = difference - 1.96 * error, difference + 1.96 * error
        row["p"] = math.erfc(abs(difference) / error / math.sqrt(2))
    return row


def _over_prompts(values: TypeValues, at: Array, other_A: Array, threads: int) -> Array:
    """(B,) differences between the types at `at` and the others, with resampled prompts."""

    def difference_B(part: tuple[Array, Array]) -> Array:
        return _mean_of_finite(_excess(*part, at, other_A))

    parts = _parts(values, len(at) * len(other_A))
    if threads == 1:
        return np.concatenate([*map(difference_B, parts)])
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate([*pool.map(difference_B, parts)])


def _over_types(
    values: TypeValues, first_R: Array, supported_R: Array, other_A: Array, seed: int
) -> Array:
    """(B,) differences of resampled group and resampled others; prompts, and so support, fixed."""
    replicates = len(values.value_BT)
    at = first_R[supported_R]
    x_RC, x_AC = values.covariate_TC[at], values.covariate_TC[other_A]
    weight_RA, y_A = _weights(x_RC, x_AC), values.value_T[other_A]
    drawn_BR = _draws(seed, 0, replicates, len(first_R))[:, supported_R]
    drawn_BA = _draws(seed, 1, replicates, len(other_A)).astype(np.float64)
    # All replicates in one product: only how often each type counts differs between them.
    terms_AR9 = weight_RA.T[:, :, None] * _features(x_AC, y_A)[:, None, :]
    sums_BR9 = (drawn_BA @ terms_AR9.reshape(len(y_A), -1)).reshape(replicates, len(at), -1)
    excess_BR = values.value_T[at] - _intercepts(sums_BR9, x_RC)
    return ratio((drawn_BR * excess_BR).sum(axis=1), drawn_BR.sum(axis=1))


def _parts(values: TypeValues, pairs: int) -> Iterator[tuple[Array, Array]]:
    """The replicates, some at a time: all their weights at once would fill the memory."""
    step = max(1, _AT_ONCE // max(1, pairs))
    for start in range(0, len(values.value_BT), step):
        part = slice(start, start + step)
        yield values.value_BT[part], values.covariate_BTC[part]


def _excess(value_T: Array, covariate_TC: Array, first_R: Array, other_A: Array) -> Array:
    """Value of each type less what the others predict for it: (…, R), NaN where undefined.

    `value_T` (…, T) and `covariate_TC` (…, T, C) may have replicates in front.
    """
    defined_T = np.isfinite(value_T) & np.isfinite(covariate_TC).all(axis=-1)
    defined_A = defined_T[..., other_A]
    # What is undefined adds nothing; its numbers must be finite all the same.
    y_A = np.where(defined_A, value_T[..., other_A], 0.0)
    x_AC = np.where(defined_A[..., None], covariate_TC[..., other_A, :], 0.0)
    x_RC = covariate_TC[..., first_R, :]
    sums_R9 = _weights(x_RC, x_AC) @ _features(x_AC, y_A, defined_A)
    excess_R = value_T[..., first_R] - _intercepts(sums_R9, x_RC)
    return np.where(defined_T[..., first_R], excess_R, np.nan)


def _weights(x_RC: Array, x_AC: Array) -> Array:
    """exp(−Σ_c ((x_R − x_A) / width_c)² / 2), (…, R, A)."""
    exponent_RA: Array | None = None
    with np.errstate(invalid="ignore"):
        for c, width in enumerate(WIDTHS):
            # Widths are powers of two, so that to divide here rounds nothing. In place: there are
            # as many numbers as pairs of types.
            apart_RA = x_RC[..., :, None, c] / width - x_AC[..., None, :, c] / width
            apart_RA *= apart_RA
            apart_RA *= -0.5
            if exponent_RA is None:
                exponent_RA = apart_RA
            else:
                exponent_RA += apart_RA
    assert exponent_RA is not None
    return np.exp(exponent_RA, out=exponent_RA)


def _features(x_AC: Array, y_A: Array, counts_A: Array | None = None) -> Array:
    """What the regression sums over types: 1, a, b, y, and their products, (…, A, 9).

    `counts_A`: which types count, of which the others have zeros in x and y; None: all.
    """
    a, b = x_AC[..., 0], x_AC[..., 1]
    one = np.ones(y_A.shape) if counts_A is None else counts_A.astype(np.float64)
    return np.stack([one, a, b, y_A, a * a, a * b, b * b, a * y_A, b * y_A], axis=-1)


def _intercepts(sums_R9: Array, x_RC: Array) -> Array:
    """Weighted ridge regression of y on x − x of each type: its intercepts, (…, R).

    `sums_R9`: weighted sums of `_features`, (…, R, 9). The intercept is free, so that slopes are
    those of centred values, whatever the type.
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
