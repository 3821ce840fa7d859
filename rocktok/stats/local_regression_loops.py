"""Compiled loop of the weights and weighted sums of `local_regression`.

Importing this module imports numba. The weight of a pair is 2^t, t = −(Δv² + Δw²), v and w the
covariates in units that make it the weight of `PairWeights`. With n = round(t) and r = t − n, which
are exact,

    2^t = 2ⁿ·p(r),  |r| ≤ ½,

p the polynomial of degree 11 that is 1 at 0 and 2^r at the Chebyshev points of degree 11: it is
wrong by 2·10⁻¹⁷ of itself, and by 2.1·10⁻¹⁶ with all rounding, where products are fused.

Products and sums may be rounded once, and sums are in any order: the last digits depend on the
processor, as those of the libraries that multiply matrices do.

Array suffixes: S spans of the types A; B replicates; R types that are predicted for; A types that
predict.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import rocktok.kernel as kernel
from rocktok._types import Array

_ZERO, _ONE = np.float64(0.0), np.float64(1.0)
# Below, the weight is as good as 0 in every sum, and soon a slow denormal number.
_LEAST = np.float64(-1021.0)
# Added to a number below 2⁵¹, it leaves the nearest integer in the lowest bits.
_ROUND = np.float64(1.5 * 2**52)
_EXPONENT = np.int64(52)
_P1, _P2 = np.float64(0.6931471805599453), np.float64(0.24022650695910097)
_P3, _P4 = np.float64(0.0555041086648216), np.float64(0.009618129107606888)
_P5, _P6 = np.float64(0.0013333558146416936), np.float64(0.0001540353044173605)
_P7, _P8 = np.float64(1.525273382983612e-05), np.float64(1.321544258792169e-06)
_P9, _P10 = np.float64(1.0178062445845774e-07), np.float64(7.072585949269223e-09)
_P11 = np.float64(4.4549605981865186e-10)


@kernel.fused_part
def _power(t: Any) -> Any:
    """2^t of t that is not above 0; 0 below -1021."""
    rounded = t + _ROUND
    r = t - (rounded - _ROUND)
    q = r * r
    # Two short chains of products, not one of twice the length.
    odd = _P1 + q * (_P3 + q * (_P5 + q * (_P7 + q * (_P9 + q * _P11))))
    p = _ONE + (q * (_P2 + q * (_P4 + q * (_P6 + q * (_P8 + q * _P10)))) + r * odd)
    bits = np.int64(np.float64(rounded).view(np.int64) << _EXPONENT)
    y = np.int64(np.float64(p).view(np.int64) + bits).view(np.float64)
    # Written so, NaN does not become 0.
    return _ZERO if t < _LEAST else y


@kernel.fused_sums
def _sums(v_A: Any, w_A: Any, y_A: Any, at_v: Any, at_w: Any) -> Any:
    """Weighted sums of 1, v, w, y, v², v·w, w², v·y and w·y."""
    one, sum_v, sum_w, sum_y = _ZERO, _ZERO, _ZERO, _ZERO
    vv, vw, ww, vy, wy = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for a in range(len(v_A)):
        v, w, y = v_A[a], w_A[a], y_A[a]
        apart_v, apart_w = v - at_v, w - at_w
        weight = _power(-(apart_v * apart_v + apart_w * apart_w))
        weighted_v, weighted_w = weight * v, weight * w
        one += weight
        sum_v += weighted_v
        sum_w += weighted_w
        sum_y += weight * y
        vv += weighted_v * v
        vw += weighted_v * w
        ww += weighted_w * w
        vy += weighted_v * y
        wy += weighted_w * y
    return one, sum_v, sum_w, sum_y, vv, vw, ww, vy, wy


@kernel.Kernel
def weighted_sums(
    v_BR: Array, w_BR: Array, v_BA: Array, w_BA: Array, y_BA: Array, edge_S: Array, sum_SB9R: Array
) -> None:
    """Fill the sums of each span of the types A around each of the types R.

    `edge_S`: (S + 1,), where each span begins, and where the last one ends.
    """
    for b in range(len(v_BR)):
        for s in range(len(edge_S) - 1):
            begin, end = edge_S[s], edge_S[s + 1]
            for r in range(v_BR.shape[1]):
                made = _sums(
                    v_BA[b, begin:end], w_BA[b, begin:end], y_BA[b, begin:end], v_BR[b, r],
                    w_BR[b, r],
                )  # fmt: skip
                for k in range(9):
                    sum_SB9R[s, b, k, r] = made[k]
