"""The Triton kernel of `fused`: what a row's statistics are made of, in two sweeps over it.

Importing this imports Triton. Shape suffixes: N rows (scored positions), V vocabulary, B columns of
a row in work at once, C sums of a row, M terminal ids, D blocks of a row.
"""

import triton
import triton.language as tl

from rocktok.hooks.statistics import tiles
from rocktok.hooks.statistics.fused_terms import (
    EXCLUDED,
    beyond_linear,
    count_likelier,
    divergences,
    logit_of,
    logits_of,
    row_of,
)

# Columns in work at once, by WARPS warps: eight per thread, so that bfloat16 comes in loads of 16
# bytes, while what a thread holds of each fits its registers. STAGES blocks are on their way.
BLOCK = 1024
WARPS = 4
STAGES = 3
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
    "student_end",  # Σ w of the terminal ids
    "teacher_end",
    "likelier",  # how many tokens the teacher holds likelier than the token id
    "forward",  # Σ w·((1 + E)·d - E), d = log q - log p, E = expm1(d)
    "between",  # Σ w·½·(E·d/2 - (2 + E)·log cosh(d/2))
    "lost",  # Σ of the teacher's weight times what FLOOR takes from d
)

_FLOOR = tl.constexpr(tiles.FLOOR)
# Below every logit that is meant to be one: where the search for the largest starts.
_LOWEST = tl.constexpr(-1e38)
_LARGEST = tl.constexpr(3.4e38)
_INFINITE = tl.constexpr(float("inf"))


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
    highest_D,
    block,
    blocks,
    TOP: tl.constexpr,
):
    """Add a block to the sums that count from the largest logits, which it may move."""
    if TOP:
        student_most, teacher_most = tl.max(student_B), tl.max(teacher_B)
        tl.store(highest_D + block, student_most)
        tl.store(highest_D + blocks + block, teacher_most)
        higher = (student_most > student_high) | (teacher_most > teacher_high)
    else:
        # One question for both models, as asking all lanes costs more than all else here.
        higher = tl.max(tl.maximum(student_B - student_high, teacher_B - teacher_high)) > 0
    if higher:
        high = tl.maximum(student_high, tl.max(student_B))
        new_peak = tl.max(tl.where(student_B == high, teacher_B, EXCLUDED))
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
def _second_sweep(
    student_B,
    teacher_B,
    slope_B,
    peak,
    shift,
    mean,
    divergence_B,
    gradient_B,
    forward_B,
    between_B,
    lost_B,
    DIVERGENCES: tl.constexpr,
):
    """Add a block, of logits that count from their row's largest, to the sums that need others."""
    low_B = student_B < _FLOOR
    if DIVERGENCES:  # noqa: SIM102 (what is constant leaves no code)
        if tl.max(low_B.to(tl.int32)) > 0:
            below_B = tl.where(low_B, tl.exp(teacher_B) * (_FLOOR - student_B), 0.0)
            absent_B = student_B == EXCLUDED
            below_B = tl.where(absent_B, _INFINITE, below_B)
            lost_B += tl.where(absent_B & (teacher_B == EXCLUDED), 0.0, below_B)
    # Written so, and not as maxima, NaN stays NaN.
    student_B = tl.where(low_B, _FLOOR, student_B)
    teacher_B = tl.where(low_B & (teacher_B < _FLOOR), _FLOOR, teacher_B)
    weight_B = tl.exp(student_B)
    away_B = teacher_B - student_B
    divergence_B = tl.fma(weight_B, beyond_linear(away_B + shift), divergence_B)
    pull_B = weight_B * slope_B * ((away_B - peak) - mean)
    gradient_B = tl.fma(pull_B, pull_B, gradient_B)
    if DIVERGENCES:
        adds_forward_B, adds_between_B = divergences(away_B + shift)
        forward_B = tl.fma(weight_B, adds_forward_B, forward_B)
        between_B = tl.fma(weight_B, adds_between_B, between_B)
    return divergence_B, gradient_B, forward_B, between_B, lost_B


@triton.jit
def token_sums(
    student_logits,
    teacher_logits,
    student_row_N,
    teacher_row_N,
    token_N,
    end_M,
    sums_CN,
    highest_ND,
    rows,
    vocabulary,
    ends,
    student_scale,
    student_cap,
    teacher_scale,
    teacher_cap,
    STUDENT: tl.constexpr,
    TEACHER: tl.constexpr,
    STUDENT_ALIGNED: tl.constexpr,
    TEACHER_ALIGNED: tl.constexpr,
    RANK: tl.constexpr,
    DIVERGENCES: tl.constexpr,
    TOP: tl.constexpr,
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
        end_M: int64 terminal ids, in the vocabulary.
        sums_CN: float32, contiguous; where the sums go.
        highest_ND: float32, contiguous (N, 2, D); where each block's largest logit goes, of the
            student and of the teacher.
        rows: N.
        vocabulary: V.
        ends: M.
        student_scale: factor on the raw logits; under a soft cap, of the tangent's argument.
        student_cap: factor on the hyperbolic tangent.
        teacher_scale: the same of the teacher.
        teacher_cap: the same of the teacher.
        STUDENT: RAW, SCALED or CAPPED.
        TEACHER: the same of the teacher.
        STUDENT_ALIGNED: whether all of `student_row_N` are multiples of ALIGNMENT.
        TEACHER_ALIGNED: the same of the teacher.
        RANK: whether `likelier` is wanted; else it is 0.
        DIVERGENCES: whether `forward`, `between` and `lost` are wanted; else they are 0.
        TOP: whether `highest_ND` is wanted; else it is not touched.
        WIDTH: columns in work at once, a power of two.
        DEPTH: blocks of columns on their way from memory.
    """
    row = tl.program_id(0)
    student_V = row_of(student_logits, student_row_N, row, STUDENT_ALIGNED)
    teacher_V = row_of(teacher_logits, teacher_row_N, row, TEACHER_ALIGNED)
    whole = vocabulary // WIDTH
    lane_B = tl.arange(0, WIDTH)
    last_B = whole * WIDTH + lane_B
    blocks = whole + 1
    highest_D = highest_ND + row.to(tl.int64) * 2 * blocks
    if RANK:
        token = tl.load(token_N + row)
        own = logit_of(teacher_V, token, vocabulary, teacher_scale, teacher_cap, TEACHER)

    student_high = tl.full((), _LOWEST, tl.float32)
    teacher_high = tl.full((), _LOWEST, tl.float32)
    # The teacher's logit where the student's is largest.
    peak = tl.full((), _LOWEST, tl.float32)
    student_sum_B = tl.zeros((WIDTH,), tl.float32)
    teacher_sum_B = tl.zeros((WIDTH,), tl.float32)
    student_moment_B = tl.zeros((WIDTH,), tl.float32)
    teacher_moment_B = tl.zeros((WIDTH,), tl.float32)
    drift_B = tl.zeros((WIDTH,), tl.float32)
    likelier_B = tl.zeros((WIDTH,), tl.int32)
    for block in tl.range(whole, num_stages=DEPTH):
        column_B = block * WIDTH + lane_B
        student_B, _ = logits_of(
            student_V, column_B, vocabulary, student_scale, student_cap, STUDENT, True
        )
        teacher_B, _ = logits_of(
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
            highest_D,
            block,
            blocks,
            TOP,
        )
        if RANK:
            likelier_B = count_likelier(teacher_B, own, column_B, token, likelier_B)
    student_B, _ = logits_of(
        student_V, last_B, vocabulary, student_scale, student_cap, STUDENT, False
    )
    teacher_B, _ = logits_of(
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
        highest_D,
        whole,
        blocks,
        TOP,
    )
    if RANK:
        likelier_B = count_likelier(teacher_B, own, last_B, token, likelier_B)

    # A model that excludes every token has no distribution.
    student_sum = tl.where(student_high > _LOWEST, tl.sum(student_sum_B), float("nan"))
    teacher_sum = tl.where(teacher_high > _LOWEST, tl.sum(teacher_sum_B), float("nan"))
    drift = tl.sum(drift_B)
    mean = drift / student_sum
    peak -= teacher_high
    # What turns differences of logits that count from the largest into log q - log p.
    shift = tl.log(student_sum) - tl.log(teacher_sum)

    # Backwards, as this first meets what the first sweep left in the cache.
    divergence_B = tl.zeros((WIDTH,), tl.float32)
    gradient_B = tl.zeros((WIDTH,), tl.float32)
    forward_B = tl.zeros((WIDTH,), tl.float32)
    between_B = tl.zeros((WIDTH,), tl.float32)
    lost_B = tl.zeros((WIDTH,), tl.float32)
    student_B, slope_B = logits_of(
        student_V, last_B, vocabulary, student_scale, student_cap, STUDENT, False
    )
    teacher_B, _ = logits_of(
        teacher_V, last_B, vocabulary, teacher_scale, teacher_cap, TEACHER, False
    )
    divergence_B, gradient_B, forward_B, between_B, lost_B = _second_sweep(
        student_B - student_high,
        teacher_B - teacher_high,
        slope_B,
        peak,
        shift,
        mean,
        divergence_B,
        gradient_B,
        forward_B,
        between_B,
        lost_B,
        DIVERGENCES,
    )
    for block in tl.range(whole, num_stages=DEPTH):
        column_B = (whole - 1 - block) * WIDTH + lane_B
        student_B, slope_B = logits_of(
            student_V, column_B, vocabulary, student_scale, student_cap, STUDENT, True
        )
        teacher_B, _ = logits_of(
            teacher_V, column_B, vocabulary, teacher_scale, teacher_cap, TEACHER, True
        )
        divergence_B, gradient_B, forward_B, between_B, lost_B = _second_sweep(
            student_B - student_high,
            teacher_B - teacher_high,
            slope_B,
            peak,
            shift,
            mean,
            divergence_B,
            gradient_B,
            forward_B,
            between_B,
            lost_B,
            DIVERGENCES,
        )

    student_end = tl.full((), 0.0, tl.float32)
    teacher_end = tl.full((), 0.0, tl.float32)
    for m in range(ends):
        end = tl.load(end_M + m)
        logit = logit_of(student_V, end, vocabulary, student_scale, student_cap, STUDENT)
        student_end += tl.exp(logit - student_high)
        logit = logit_of(teacher_V, end, vocabulary, teacher_scale, teacher_cap, TEACHER)
        teacher_end += tl.exp(logit - teacher_high)
    token = tl.load(token_N + row)
    student = logit_of(student_V, token, vocabulary, student_scale, student_cap, STUDENT)
    teacher = logit_of(teacher_V, token, vocabulary, teacher_scale, teacher_cap, TEACHER)
    # In the order of SUMS.
    sum_N = sums_CN + row
    tl.store(sum_N, student_sum)
    tl.store(sum_N + rows, teacher_sum)
    tl.store(sum_N + 2 * rows, tl.sum(student_moment_B))
    tl.store(sum_N + 3 * rows, tl.sum(teacher_moment_B))
    tl.store(sum_N + 4 * rows, student - student_high)
    tl.store(sum_N + 5 * rows, teacher - teacher_high)
    tl.store(sum_N + 6 * rows, tl.sum(divergence_B))
    tl.store(sum_N + 7 * rows, tl.sum(gradient_B))
    tl.store(sum_N + 8 * rows, drift)
    tl.store(sum_N + 9 * rows, student_end)
    tl.store(sum_N + 10 * rows, teacher_end)
    # Exact: vocabularies are smaller than 2²⁴.
    tl.store(sum_N + 11 * rows, tl.sum(likelier_B).to(tl.float32))
    tl.store(sum_N + 12 * rows, tl.sum(forward_B))
    tl.store(sum_N + 13 * rows, tl.sum(between_B))
    tl.store(sum_N + 14 * rows, tl.sum(lost_B))
