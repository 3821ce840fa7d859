"""What the Triton kernels compute of single tokens, in float32.

Importing this imports Triton. Shape suffixes: V vocabulary, B columns of a row in work at once.
"""

import math

import triton
import triton.language as tl

# Elements that the starts of all rows must be a multiple of for loads of 16 bytes.
ALIGNMENT = 16
# How a model's logits come about: as they are, times a scale, or by a soft cap.
RAW, SCALED, CAPPED = 0, 1, 2

_ALIGNMENT = tl.constexpr(ALIGNMENT)
_RAW = tl.constexpr(RAW)
_CAPPED = tl.constexpr(CAPPED)
EXCLUDED = tl.constexpr(-float("inf"))
# Below, what a token adds to a divergence no longer changes.
_LEAST = tl.constexpr(-87.0)
_LOG2 = tl.constexpr(math.log(2))


@triton.jit
def beyond_linear(x):
    """expm1(x) - x, which cancels near zero if it is computed so; off by less than 1e-5 of it."""
    y = tl.fma(x, 1.0 / 720, 1.0 / 120)
    y = tl.fma(x, y, 1.0 / 24)
    y = tl.fma(x, y, 1.0 / 6)
    y = tl.fma(x, y, 0.5)
    return tl.where(tl.abs(x) < 0.25, x * x * y, tl.exp(x) - 1.0 - x)


@triton.jit
def divergences(d):
    """What a token adds to KL(q‖p) and the Jensen-Shannon divergence, over its p.

    `compiled_kernel` says why these formulas: where d is large, u = exp(-|d|) has the place of E.
    """
    d = tl.where(d < _LEAST, _LEAST, d)
    near = tl.abs(d) < 0.25
    beyond = beyond_linear(d)
    grown = tl.exp(d)
    e = tl.where(near, d + beyond, grown - 1.0)
    forward = tl.where(near, d * e - beyond, grown * d - e)
    square = d * d
    y = tl.fma(square, -17.0 / 645120, 1.0 / 2880)
    y = tl.fma(square, y, -1.0 / 192)
    log_cosh = square * tl.fma(square, y, 1.0 / 8)
    above = d > 0
    part = tl.where(above, 1.0, grown)
    z = part / (part + tl.where(above, 2.0 * grown, 2.0))
    zz = z * z
    y = tl.fma(zz, 1.0 / 11, 1.0 / 9)
    y = tl.fma(zz, y, 1.0 / 7)
    y = tl.fma(zz, y, 1.0 / 5)
    y = tl.fma(zz, y, 1.0 / 3)
    log1p = 2.0 * z * tl.fma(zz, y, 1.0)
    nearby = 0.25 * d * e - 0.5 * (2.0 + e) * log_cosh
    far = 0.5 * ((1.0 + grown) * (_LOG2 - log1p) - tl.abs(d) * part)
    return forward, tl.where(near, nearby, far)


@triton.jit
def key(x):
    """An integer in the order of the numbers; -0.0 and 0.0 have the same."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _tanh(x):
    """tanh(x) and its derivative, neither of which cancels, near zero or far from it."""
    twice = -2.0 * tl.abs(x)
    falling = tl.exp(twice)
    fallen = tl.where(twice > -0.25, twice + beyond_linear(twice), falling - 1.0)
    size = -fallen / (1.0 + falling)
    return tl.where(x < 0, -size, size), 4.0 * falling / ((1.0 + falling) * (1.0 + falling))


@triton.jit
def logits_of(row_V, column_B, vocabulary, scale, cap, SHAPE: tl.constexpr, WHOLE: tl.constexpr):
    """Float32 logits at the loss temperature, -inf past the row's end, and a soft cap's slope."""
    if WHOLE:
        logit_B = tl.load(row_V + column_B).to(tl.float32)
    else:
        inside_B = column_B < vocabulary
        logit_B = tl.load(row_V + column_B, mask=inside_B, other=EXCLUDED).to(tl.float32)
    slope_B = 1.0
    if SHAPE != _RAW:
        logit_B *= scale
    if SHAPE == _CAPPED:
        logit_B, slope_B = _tanh(logit_B)
        logit_B *= cap
        if not WHOLE:
            logit_B = tl.where(inside_B, logit_B, EXCLUDED)
    return logit_B, slope_B


@triton.jit
def count_likelier(teacher_B, own, column_B, token, likelier_B):
    """Count the tokens that come before `token` in the teacher's order."""
    ahead_B = (teacher_B > own) | ((teacher_B == own) & (column_B < token))
    return likelier_B + ahead_B.to(tl.int32)


@triton.jit
def row_of(logits, row_N, row, ALIGNED: tl.constexpr):
    """Where the row's logits begin."""
    start = tl.load(row_N + row)
    if ALIGNED:
        start = tl.multiple_of(start, _ALIGNMENT)
    return logits + start


@triton.jit
def logit_of(row_V, token, vocabulary, scale, cap, SHAPE: tl.constexpr):
    """One token's float32 logit at the loss temperature."""
    logit, _ = logits_of(row_V, token, vocabulary, scale, cap, SHAPE, True)
    return logit
