"""What `compiled_kernel` computes of single tokens, in float32.

The compiler turns these functions into instructions for many tokens at once. Where exp() is needed
it is

    exp(x) = 2ⁿ·(1 + r + r²·c(r)),  n = round(x / log 2),  r = x - n·log 2,  |r| ≤ log(2) / 2,

c the Taylor polynomial of degree 5: cut off, exp(x) is wrong by 1.5e-8 of itself, and by 8e-8 with
all rounding. The parts of it give expm1(x) - x = r²·c(r) where n = 0, without cancellation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import rocktok.kernel as kernel
from rocktok.hooks.statistics import tiles

ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_QUARTER = np.float32(0.25)
FLOOR = np.float32(tiles.FLOOR)
EXCLUDED = np.float32(-math.inf)
_FAR = np.float32(-tiles.EXCLUDED)
# Below, exp() is as good as 0 in every sum, and soon a slow denormal number.
_LEAST = np.float32(-87.0)
_LOG2 = np.float32(math.log(2))
_PER_LOG2 = np.float32(1 / math.log(2))
# log 2 in two parts, the first so short that its product with n is exact.
_LOG2_HIGH, _LOG2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187e-06)
# Added to a number below 2²², it leaves the nearest integer in the lowest bits.
_ROUND = np.float32(1.5 * 2**23)
_EXPONENT, _BIAS = np.int64(23), np.int64(127 << 23)
_SIGN, _MAGNITUDE = np.int32(31), np.int32(0x7FFFFFFF)
LOWEST = np.int32(-(2**31))
_E2, _E3, _E4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_E5, _E6, _E7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)
# log cosh(d / 2) by powers of d², and atanh(z) / z by powers of z².
_C1, _C2 = np.float32(1 / 8), np.float32(-1 / 192)
_C3, _C4 = np.float32(1 / 2880), np.float32(-17 / 645120)
_A1, _A2, _A3 = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)
_A4, _A5 = np.float32(1 / 9), np.float32(1 / 11)


@kernel.fused_part
def _reduced(x: Any) -> Any:
    """n, r and 2ⁿ of x, which is at least -87 and at most 87."""
    rounded = x * _PER_LOG2 + _ROUND
    n = rounded - _ROUND
    r = (x - n * _LOG2_HIGH) - n * _LOG2_LOW
    bits = np.int64(np.float32(rounded).view(np.int32))
    return n, r, np.int32((bits << _EXPONENT) + _BIAS).view(np.float32)


@kernel.fused_part
def _beyond_linear(r: Any) -> Any:
    """expm1(r) - r, |r| ≤ log(2) / 2."""
    c = _E4 + r * (_E5 + r * (_E6 + r * _E7))
    return r * r * (_E2 + r * (_E3 + r * c))


@kernel.fused_part
def exp(x: Any) -> Any:
    """exp(x) of x up to 87; 0 below -87."""
    low = x < _LEAST
    # Written so, and not as a maximum, NaN stays NaN.
    x = _LEAST if low else x
    _, r, power = _reduced(x)
    y = power + power * (r + _beyond_linear(r))
    return ZERO if low else y


@kernel.part
def key(x: Any) -> Any:
    """An integer in the order of the numbers; -0.0 and 0.0 have the same."""
    bits = np.float32(x + ZERO).view(np.int32)
    return np.int32(bits ^ ((bits >> _SIGN) & _MAGNITUDE))


@kernel.part
def differences(student: Any, teacher: Any) -> Any:
    """The student's logit but not below FLOOR, and how far the teacher's lies above it.

    Logits count from their row's largest. Of tokens that both models mask nothing is to remain.
    """
    low = student < FLOOR
    teacher = _FAR if teacher == EXCLUDED else teacher
    teacher = FLOOR if low & (teacher < FLOOR) else teacher
    student = FLOOR if low else student
    return student, teacher - student


@kernel.fused_part
def divergences(d: Any) -> Any:
    """What a token adds to KL(p‖q), KL(q‖p) and the Jensen-Shannon divergence, over its p.

    With d = log q - log p and E = expm1(d): E - d, (1 + E)·d - E, and ½·(E·d/2 - (2 + E)·log
    cosh(d/2)). None is ever negative; as p and q sum to one, the sums over tokens are the same as
    those of p·log(p/q) and so on.
    """
    kept = _LEAST if d < _LEAST else d
    n, r, power = _reduced(kept)
    near = n == ZERO
    beyond = _beyond_linear(r)
    e = power * (r + beyond) + (power - _ONE)
    grown = power + power * (r + beyond)  # q/p
    backward = beyond if near else e - d
    forward = d * e - beyond if near else grown * kept - e
    # Where d is small, log cosh by its series. Elsewhere, u = exp(-|d|), by log1p(u): multiplied
    # out, ½·((1 + u)·(log 2 - log1p(u)) - u·|d|), times q/p where that is above 1.
    square = kept * kept
    log_cosh = square * (_C1 + square * (_C2 + square * (_C3 + square * _C4)))
    above = kept > ZERO
    size = kept if above else -kept
    part = _ONE if above else grown
    z = part / (part + (_TWO * grown if above else _TWO))  # u / (2 + u)
    zz = z * z
    log1p = _TWO * z * (_ONE + zz * (_A1 + zz * (_A2 + zz * (_A3 + zz * (_A4 + zz * _A5)))))
    nearby = _QUARTER * kept * e - _HALF * (_TWO + e) * log_cosh
    far = _HALF * ((_ONE + grown) * (_LOG2 - log1p) - size * part)
    return backward, forward, nearby if near else far


@kernel.fused_part
def reverse(d: Any) -> Any:
    """The first of `divergences`."""
    kept = _LEAST if d < _LEAST else d
    n, r, power = _reduced(kept)
    beyond = _beyond_linear(r)
    return beyond if n == ZERO else power * (r + beyond) + (power - _ONE) - d
