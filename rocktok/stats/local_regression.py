"""What types predict for others of like covariates: local linear regression with a ridge.

A type's prediction is the intercept of a weighted least squares on the covariates' differences from
its own. All weights of a pair are made a few types at a time, and summed at once; where there are
many, by a compiled loop.

Array suffixes: S spans of the types A; B replicates; R types that are predicted for; A types that
predict; C covariates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rocktok._types import Array

#: Widths of the weights: of the logarithm of the first loss, and of that of the frequency.
WIDTHS = 0.5, 1.0

#: Of the sum of the weights, on the two slopes.
RIDGE = 0.05

#: Pairs of a type of the group and another type, in as many replicates as are worked out together:
#: what is made of them fits into a processor's cache.
AT_ONCE = 1 << 17

#: Such pairs, over all replicates, from which on the compiled loop is worth its loading.
COMPILED = 1 << 26

#: A covariate of what is undefined in a replicate, so far from all others that its weight is 0.
_FAR = 1e100


class PairWeights:
    """exp(−Σ_c ((x_R − x_A) / width_c)² / 2) of pairs of types, (B, A, R), made when asked for.

    The exponent as one product of matrices: u·v − u²/2 − v²/2.
    """

    def __init__(self, x_BRC: Array, x_BAC: Array) -> None:
        width_C = np.array(WIDTHS)
        # Near 0, where little is lost of the difference of u·v and squares.
        centre_C = x_BAC.mean(axis=-2, keepdims=True)
        u_BRC, v_BAC = (x_BRC - centre_C) / width_C, (x_BAC - centre_C) / width_C
        half_R, half_A = (-0.5 * (z**2).sum(axis=-1, keepdims=True) for z in (u_BRC, v_BAC))
        left_BR4 = np.concatenate([u_BRC, half_R, np.ones_like(half_R)], axis=-1)
        self._left_B4R = np.swapaxes(left_BR4, -1, -2).copy()
        self._right_BA4 = np.concatenate([v_BAC, np.ones_like(half_A), half_A], axis=-1)

    def of(self, part: slice, rows: slice) -> Array:
        """Those of some of the replicates, and of some of the types R."""
        with np.errstate(invalid="ignore"):
            exponent_BAR = self._right_BA4[part] @ self._left_B4R[part, :, rows]
        weight_BAR: Array = np.exp(exponent_BAR, out=exponent_BAR)
        return weight_BAR

    def sums(self, features_B9A: Array, spans: Sequence[slice]) -> list[Array]:
        """For each span of the types A the weighted sums of their features, (B, 9, R)."""
        (replicates, _, first), others = self._left_B4R.shape, self._right_BA4.shape[1]
        sums = [np.empty((replicates, 9, first)) for _ in spans]
        many = max(1, AT_ONCE // max(1, first * others))
        for part in parts_of(replicates, many):
            for rows in parts_of(first, max(1, AT_ONCE // (many * others))):
                weight_BAR = self.of(part, rows)
                for sums_B9R, span in zip(sums, spans, strict=True):
                    sums_B9R[part, :, rows] = features_B9A[part, :, span] @ weight_BAR[:, span]
        return sums


def weighted_sums(
    x_BRC: Array,
    x_BAC: Array,
    y_BA: Array,
    counts_BA: Array,
    spans: Sequence[slice],
    *,
    compiled: bool,
) -> Sequence[Array]:
    """For each span of the types A the weighted sums of their `features`, (B, 9, R).

    Args:
        counts_BA: which types count, of which the others have zeros in x and y.
        spans: side by side, from 0 on.
        compiled: use the compiled loop. The same sums as without, but for their rounding.
    """
    if not compiled:
        return PairWeights(x_BRC, x_BAC).sums(features(x_BAC, y_BA, counts_BA), spans)
    from rocktok.stats import local_regression_loops

    # So that the exponent of 2 is minus the sum of squared differences.
    scale_C = math.sqrt(math.log2(math.e) / 2) / np.array(WIDTHS)
    ours_CBR, others_CBA = (
        np.ascontiguousarray(np.moveaxis(x * scale_C, -1, 0))
        for x in (x_BRC, np.where(counts_BA[..., None], x_BAC, _FAR))
    )
    edge_S = np.array([0, *(span.stop for span in spans)])
    sum_SB9R = np.empty((len(spans), len(x_BRC), 9, x_BRC.shape[1]))
    local_regression_loops.weighted_sums(
        *ours_CBR, *others_CBA, np.ascontiguousarray(y_BA), edge_S, sum_SB9R
    )
    a, b = scale_C
    sum_SB9R /= np.array([1, a, b, 1, a * a, a * b, b * b, a, b])[:, None]
    return list(sum_SB9R)


def features(x_AC: Array, y_A: Array, counts_A: Array | None = None) -> Array:
    """What the regression sums over types: 1, a, b, y, and their products, (…, 9, A).

    `counts_A`: which types count, of which the others have zeros in x and y; None: all.
    """
    a, b = x_AC[..., 0], x_AC[..., 1]
    one = np.ones(y_A.shape) if counts_A is None else counts_A.astype(np.float64)
    return np.stack([one, a, b, y_A, a * a, a * b, b * b, a * y_A, b * y_A], axis=-2)


def intercepts(sums_9R: Array, x_RC: Array) -> Array:
    """Weighted ridge regression of y on x − x of each type: its intercepts, (…, R).

    `sums_9R`: weighted sums of `features`, (…, 9, R). The intercept is free, so that slopes are
    those of centred values, whatever the type.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b, y, aa, ab, bb, ay, by = np.moveaxis(sums_9R[..., 1:, :] / sums_9R[..., :1, :], -2, 0)
        aa, ab, bb = aa - a * a + RIDGE, ab - a * b, bb - b * b + RIDGE
        ay, by = ay - a * y, by - b * y
        slope_a, slope_b = bb * ay - ab * by, aa * by - ab * ay
        away = slope_a * (a - x_RC[..., 0]) + slope_b * (b - x_RC[..., 1])
        intercept_R: Array = y - away / (aa * bb - ab * ab)
    return intercept_R


def parts_of(length: int, step: int) -> list[slice]:
    """Slices of so many each; the last may reach beyond the end."""
    return [slice(start, start + step) for start in range(0, length, step)]
