"""The Triton kernel of `fused`: everything a row's statistics are made of, in two sweeps over it.

Importing this imports Triton. Shape suffixes: N rows (scored positions), V vocabulary, B columns of
a row in work at once, C sums of a row.
"""

import triton
import triton.language as tl

from rocktok.hooks.statistics import tiles

# Columns in work at once, by WARPS warps: eight per thread, so that bfloat16 comes in loads of 16
# bytes, while what a thread holds of each fits its registers. STAGES blocks are on their way.
BLOCK = 1024
WARPS = 4
STAGES = 3
# Elements that the starts of all rows must be a multiple of for such loads.
ALIGNMENT = 16
# What each row yields, in the order in which it is stored. Weights are exp(logit - row's largest).
SUMS = (
    "student_sum",  # Σ w, w the student's weight
    "teacher_sum",  # Σ of the teacher's
    "student_moment",  # Σ w·log w
    "teacher_moment",
    "student_token",  # log w of the token id
    "teacher_token",
    "divergence",  # Σ w·(expm1(log q - log p) - (log q - log p))
    "gradient",  # Σ (w·slope·(log q - log p + loss))², slope that of a soft cap
    "drift",  # Σ w·(log q - log p, counted from its value at the student's largest)
)

# How a model's logits come about: as they are, times a scale, or by a soft cap.
RAW, SCALED, CAPPED = 0, 1, 2

_RAW = tl.constexpr(RAW)
_CAPPED = tl.constexpr(CAPPED)
_FLOOR = tl.constexpr(tiles.FLOOR)
# Below every logit that is meant to be one: where the search for the largest starts.
_LOWEST = tl.constexpr(-1e38)
_LARGEST = tl.constexpr(3.4e38)
_EXCLUDED = tl.constexpr(-float("inf"))
_ALIGNMENT = tl.constexpr(ALIGNMENT)


@triton.jit
def _beyond_linear(x):
    """expm1(x) - x, which cancels near zero if it is computed so; off by less than 1e-5 of it."""
    y = tl.fma(x, 1.0 / 720, 1.0 / 120)
    y = tl.fma(x, y, 1.0 / 24)
    y = tl.fma(x, y, 1.0 / 6)
    y = tl.fma(x, y, 0.5)
    return tl.where(tl.abs(x) < 0.25, x * x * y, tl.exp(x) - 1.0 - x)


@triton.jit
def _tanh(x):
    """tanh(x) and its derivative, neither of which cancels, near zero or far from it."""
    twice = -2.0 * tl.abs(x)
    falling = tl.exp(twice)
    fallen = tl.where(twice > -0.25, twice + _beyond_linear(twice), falling - 1.0)
    size = -fallen / (1.0 + falling)
    return tl.where(x < 0, -size, size), 4.0 * falling / ((1.0 + falling) * (1.0 + falling))


@triton.jit
def _logits(row_V, column_B, vocabulary, scale, cap, SHAPE: tl.constexpr, WHOLE: tl.constexpr):
    """Float32 logits at the loss temperature, -inf past the row's end, and a soft cap's slope."""
    if WHOLE:
        logit_B = tl.load(row_V + column_B).to(tl.float32)
    else:
        inside_B = column_B < vocabulary
        logit_B = tl.load(row_V + column_B, mask=inside_B, other=_EXCLUDED).to(tl.float32)
    slope_B = 1.0
    if SHAPE != _RAW:
        logit_B *= scale
    if SHAPE == _CAPPED:
        logit_B, slope_B = _tanh(logit_B)
        logit_B *= cap
        if not WHOLE:
            logit_B = tl.where(inside_B, logit_B, _EXCLUDED)
    return logit_B, slope_B


@triton.jit
def _first_sweep(
    student_B,
    teacher_B,
    student_high,
    teacher_high,
    peak,
    student_sum_B,
    teacher_sum_B,
    student_moment_B,
    teacher_moment_B,
    drift_B,
):
    """Add a block to the sums that count from the largest logits, which it may move."""
    # One question for both models, as asking all lanes costs more than all else here.
    if tl.max(tl.maximum(student_B - student_high, teacher_B - teacher_high)) > 0:
        high = tl.maximum(student_high, tl.max(student_B))
        new_peak = tl.max(tl.where(student_B == high, teacher_B, _EXCLUDED))
        new_peak = tl.where(high > student_high, new_peak, peak)
        step = student_high - high
        fall = tl.exp(step)
        moved = (peak - student_high) - (new_peak - high)
        drift_B = tl.fma(student_sum_B, moved, drift_B) * fall
        student_moment_B = tl.fma(student_sum_B, step, student_moment_B) * fall
        student_sum_B *= fall
        student_high = high
        peak = new_peak
        high = tl.maximum(teacher_high, tl.max(teacher_B))
        step = teacher_high - high
        fall = tl.exp(step)
        teacher_moment_B = tl.fma(teacher_sum_B, step, teacher_moment_B) * fall
        teacher_sum_B *= fall
        teacher_high = high
    # What the student excludes has weight 0, which must not meet infinity, or NaN where the teacher
    # excludes it too. What the teacher alone excludes leaves its mark: an infinite drift, or NaN.
    away_B = (teacher_B - student_B) - (peak - student_high)
    away_B = tl.where(away_B < _LARGEST, away_B, 0.0)
    student_B -= student_high
    weight_B = tl.exp(student_B)
    student_sum_B += weight_B
    student_moment_B = tl.fma(weight_B, tl.maximum(student_B, _FLOOR), student_moment_B)
    drift_B = tl.fma(weight_B, away_B, drift_B)
    teacher_B -= teacher_high
    weight_B = tl.exp(teacher_B)
    teacher_sum_B += weight_B
    teacher_moment_B = tl.fma(weight_B, tl.maximum(teacher_B, _FLOOR), teacher_moment_B)
    return (
        student_high,
        teacher_high,
        peak,
        student_sum_B,
        teacher_sum_B,
        student_moment_B,
        teacher_moment_B,
        drift_B,
    )


@triton.jit
def _second_sweep(student_B, teacher_B, slope_B, peak, shift, mean, divergence_B, gradient_B):
    """Add a block, of logits that count from their row's largest, to divergence and gradient."""
    low_B = student_B < _FLOOR
    # Written so, and not as maxima, NaN stays NaN.
    student_B = tl.where(low_B, _FLOOR, student_B)
    teacher_B = tl.where(low_B & (teacher_B < _FLOOR), _FLOOR, teacher_B)
    weight_B = tl.exp(student_B)
    away_B = (teacher_B - student_B) - peak
    divergence_B = tl.fma(weight_B, _beyond_linear(away_B + shift), divergence_B)
    pull_B = weight_B * slope_B * (away_B - mean)
    return divergence_B, tl.fma(pull_B, pull_B, gradient_B)


@triton.jit
def _row(logits, row_N, row, ALIGNED: tl.constexpr):
    start = tl.load(row_N + row)
    if ALIGNED:
        start = tl.multiple_of(start, _ALIGNMENT)
    return logits + start


@triton.jit
def token_sums(
    student_logits,
    teacher_logits,
    student_row_N,
    teacher_row_N,
    token_N,
    sums_CN,
    rows,
    vocabulary,
    student_scale,
    student_cap,
    teacher_scale,
    teacher_cap,
    STUDENT: tl.constexpr,
    TEACHER: tl.constexpr,
    STUDENT_ALIGNED: tl.constexpr,
    TEACHER_ALIGNED: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Store the `SUMS` of row `program_id(0)` of both models; `fused` says why they are accurate.

    Args:
        student_logits: raw logits, of any floating dtype; those of a row lie side by side.
        teacher_logits: the same of the teacher.
        student_row_N: int64, the element of `student_logits` with which each row begins.
        teacher_row_N: the same of the teacher.
        token_N: int64 token ids, in the vocabulary.
        sums_CN: float32, contiguous; where the sums go.
        rows: N.
        vocabulary: V.
        student_scale: factor on the raw logits; under a soft cap, of the tangent's argument.
        student_cap: factor on the hyperbolic tangent.
        teacher_scale: the same of the teacher.
        teacher_cap: the same of the teacher.
        STUDENT: RAW, SCALED or CAPPED.
        TEACHER: the same of the teacher.
        STUDENT_ALIGNED: whether all of `student_row_N` are multiples of ALIGNMENT.
        TEACHER_ALIGNED: the same of the teacher.
        WIDTH: columns in work at once, a power of two.
        DEPTH: blocks of columns on their way from memory.
    """
    row = tl.program_id(0)
    student_V = _row(student_logits, student_row_N, row, STUDENT_ALIGNED)
    teacher_V = _row(teacher_logits, teacher_row_N, row, TEACHER_ALIGNED)
    whole = vocabulary // WIDTH
    lane_B = tl.arange(0, WIDTH)
    last_B = whole * WIDTH + lane_B

    student_high = tl.full((), _LOWEST, tl.float32)
    teacher_high = tl.full((), _LOWEST, tl.float32)
    # The teacher's logit where the student's is largest.
    peak = tl.full((), _LOWEST, tl.float32)
    student_sum_B = tl.zeros((WIDTH,), tl.float32)
    teacher_sum_B = tl.zeros((WIDTH,), tl.float32)
    student_moment_B = tl.zeros((WIDTH,), tl.float32)
    teacher_moment_B = tl.zeros((WIDTH,), tl.float32)
    drift_B = tl.zeros((WIDTH,), tl.float32)
    for block in tl.range(whole, num_stages=DEPTH):
        column_B = block * WIDTH + lane_B
        student_B, _ = _logits(
            student_V, column_B, vocabulary, student_scale, student_cap, STUDENT, True
        )
        teacher_B, _ = _logits(
            teacher_V, column_B, vocabulary, teacher_scale, teacher_cap, TEACHER, True
        )
        (
            student_high,
            teacher_high,
            peak,
            student_sum_B,
            teacher_sum_B,
            student_moment_B,
            teacher_moment_B,
            drift_B,
        ) = _first_sweep(
            student_B,
            teacher_B,
            student_high,
            teacher_high,
            peak,
            student_sum_B,
            teacher_sum_B,
            student_moment_B,
            teacher_moment_B,
            drift_B,
        )
    student_B, _ = _logits(
        student_V, last_B, vocabulary, student_scale, student_cap, STUDENT, False
    )
    teacher_B, _ = _logits(
        teacher_V, last_B, vocabulary, teacher_scale, teacher_cap, TEACHER, False
    )
    (
        student_high,
        teacher_high,
        peak,
        student_sum_B,
        teacher_sum_B,
        student_moment_B,
        teacher_moment_B,
        drift_B,
    ) = _first_sweep(
        student_B,
        teacher_B,
        student_high,
        teacher_high,
        peak,
        student_sum_B,
        teacher_sum_B,
        student_moment_B,
        teacher_moment_B,
        drift_B,
    )

    # A model that excludes every token has no distribution.
    student_sum = tl.where(student_high > _LOWEST, tl.sum(student_sum_B), float("nan"))
    teacher_sum = tl.where(teacher_high > _LOWEST, tl.sum(teacher_sum_B), float("nan"))
    drift = tl.sum(drift_B)
    mean = drift / student_sum
    peak -= teacher_high
    # What turns log-ratios counted from that at the peak into log q - log p.
    shift = tl.log(student_sum) - tl.log(teacher_sum) + peak

    # Backwards, as this first meets what the first sweep left in the cache.
    divergence_B = tl.zeros((WIDTH,), tl.float32)
    gradient_B = tl.zeros((WIDTH,), tl.float32)
    student_B, slope_B = _logits(
        student_V, last_B, vocabulary, student_scale, student_cap, STUDENT, False
    )
    teacher_B, _ = _logits(
        teacher_V, last_B, vocabulary, teacher_scale, teacher_cap, TEACHER, False
    )
    divergence_B, gradient_B = _second_sweep(
        student_B - student_high,
        teacher_B - teacher_high,
        slope_B,
        peak,
        shift,
        mean,
        divergence_B,
        gradient_B,
    )
    for block in tl.range(whole, num_stages=DEPTH):
        column_B = (whole - 1 - block) * WIDTH + lane_B
        student_B, slope_B = _logits(
            student_V, column_B, vocabulary, student_scale, student_cap, STUDENT, True
        )
        teacher_B, _ = _logits(
            teacher_V, column_B, vocabulary, teacher_scale, teacher_cap, TEACHER, True
        )
        divergence_B, gradient_B = _second_sweep(
            student_B - student_high,
            teacher_B - teacher_high,
            slope_B,
            peak,
            shift,
            mean,
            divergence_B,
            gradient_B,
        )

    token = tl.load(token_N + row)
    student_B, _ = _logits(student_V, token, vocabulary, student_scale, student_cap, STUDENT, True)
    teacher_B, _ = _logits(teacher_V, token, vocabulary, teacher_scale, teacher_cap, TEACHER, True)
    # In the order of SUMS.
    sum_N = sums_CN + row
    tl.store(sum_N, student_sum)
    tl.store(sum_N + rows, teacher_sum)
    tl.store(sum_N + 2 * rows, tl.sum(student_moment_B))
    tl.store(sum_N + 3 * rows, tl.sum(teacher_moment_B))
    tl.store(sum_N + 4 * rows, student_B - student_high)
    tl.store(sum_N + 5 * rows, teacher_B - teacher_high)
    tl.store(sum_N + 6 * rows, tl.sum(divergence_B))
    tl.store(sum_N + 7 * rows, tl.sum(gradient_B))
    tl.store(sum_N + 8 * rows, drift)
