"""The loops of `compiled`: all statistics of a row, from logits that stay in the cache.

Importing this imports numba. What a token adds to a sum is computed by functions of single numbers,
which the compiler turns into instructions for many tokens at once. Where exp() is needed it is

    exp(x) = 2ⁿ·(1 + r + r²·c(r)),  n = round(x / log 2),  r = x - n·log 2,  |r| ≤ log(2) / 2,

c the Taylor polynomial of degree 5: cut off, exp(x) is wrong by 1.5e-8 of itself, and by 8e-8 with
all rounding. The parts of it give expm1(x) - x = r²·c(r) where n = 0, without cancellation.

Shape suffixes: N rows (scored positions), V vocabulary, B columns of a row in work at once, C
chunks of a row, K likeliest tokens, M terminal ids, S statistics of a row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rocktok import kernel
from rocktok.hooks.statistics import tiles

# What is computed of each row, in the order in which it is stored.
STATISTICS = (
    "loss",
    "log_ratio",
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "teacher_entropy",
    "grad_norm",
    "forward_kl",
    "jsd",
    "teacher_rank",
    "student_end",
    "teacher_end",
)

# Columns whose terms are summed in float32; sums of such blocks are float64.
BLOCK = 1024
# Columns of a chunk, whose largest logit tells whether the likeliest tokens may lie in it.
CHUNK = 128

_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_QUARTER = np.float32(0.25)
_FLOOR = np.float32(tiles.FLOOR)
_EXCLUDED = np.float32(-math.inf)
_FAR = np.float32(-tiles.EXCLUDED)
# Below, exp() is as good as 0 in every sum, and soon a slow denormal number.
_LEAST = np.float32(-87.0)
_LOG2 = np.float32(math.log(2))
_MOST = math.log(2)
_PER_LOG2 = np.float32(1 / math.log(2))
# log 2 in two parts, the first so short that its product with n is exact.
_LOG2_HIGH, _LOG2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187e-06)
# Added to a number below 2²², it leaves the nearest integer in the lowest bits.
_ROUND = np.float32(1.5 * 2**23)
_EXPONENT, _BIAS = np.int64(23), np.int64(127 << 23)
_SIGN, _MAGNITUDE = np.int32(31), np.int32(0x7FFFFFFF)
_LOWEST = np.int32(-(2**31))
_E2, _E3, _E4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_E5, _E6, _E7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)
# log cosh(d / 2) by powers of d², and atanh(z) / z by powers of z².
_C1, _C2 = np.float32(1 / 8), np.float32(-1 / 192)
_C3, _C4 = np.float32(1 / 2880), np.float32(-17 / 645120)
_A1, _A2, _A3 = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)
_A4, _A5 = np.float32(1 / 9), np.float32(1 / 11)


@kernel.part
def _reduced(x: Any) -> Any:
    """n, r and 2ⁿ of x, which is at least -87 and at most 87."""
    rounded = x * _PER_LOG2 + _ROUND
    n = rounded - _ROUND
    r = (x - n * _LOG2_HIGH) - n * _LOG2_LOW
    bits = np.int64(np.float32(rounded).view(np.int32))
    return n, r, np.int32((bits << _EXPONENT) + _BIAS).view(np.float32)


@kernel.part
def _beyond_linear(r: Any) -> Any:
    """expm1(r) - r, |r| ≤ log(2) / 2."""
    c = _E4 + r * (_E5 + r * (_E6 + r * _E7))
    return r * r * (_E2 + r * (_E3 + r * c))


@kernel.part
def _exp(x: Any) -> Any:
    """exp(x) of x up to 87; 0 below -87."""
    low = x < _LEAST
    # Written so, and not as a maximum, NaN stays NaN.
    x = _LEAST if low else x
    _, r, power = _reduced(x)
    y = power + power * (r + _beyond_linear(r))
    return _ZERO if low else y


@kernel.part
def _key(x: Any) -> Any:
    """An integer in the order of the numbers; -0.0 and 0.0 have the same."""
    bits = np.float32(x + _ZERO).view(np.int32)
    return np.int32(bits ^ ((bits >> _SIGN) & _MAGNITUDE))


@kernel.part
def _differences(student: Any, teacher: Any) -> Any:
    """The student's logit but not below FLOOR, and how far the teacher's lies above it.

    Logits count from their row's largest. Of tokens that both models mask nothing is to remain.
    """
    low = student < _FLOOR
    teacher = _FAR if teacher == _EXCLUDED else teacher
    teacher = _FLOOR if low & (teacher < _FLOOR) else teacher
    student = _FLOOR if low else student
    return student, teacher - student


@kernel.part
def _divergences(d: Any) -> Any:
    """What a token adds to KL(p‖q), KL(q‖p) and the Jensen-Shannon divergence, over its p.

    With d = log q - log p and E = expm1(d): E - d, (1 + E)·d - E, and ½·(E·d/2 - (2 + E)·log
    cosh(d/2)). None is ever negative; as p and q sum to one, the sums over tokens are the same as
    those of p·log(p/q) and so on.
    """
    kept = _LEAST if d < _LEAST else d
    n, r, power = _reduced(kept)
    near = n == _ZERO
    beyond = _beyond_linear(r)
    e = power * (r + beyond) + (power - _ONE)
    grown = power + power * (r + beyond)  # q/p
    reverse = beyond if near else e - d
    forward = d * e - beyond if near else grown * kept - e
    # Where d is small, log cosh by its series. Elsewhere, u = exp(-|d|), by log1p(u): multiplied
    # out, ½·((1 + u)·(log 2 - log1p(u)) - u·|d|), times q/p where that is above 1.
    square = kept * kept
    log_cosh = square * (_C1 + square * (_C2 + square * (_C3 + square * _C4)))
    above = kept > _ZERO
    size = kept if above else -kept
    part = _ONE if above else grown
    z = part / (part + (_TWO * grown if above else _TWO))  # u / (2 + u)
    zz = z * z
    log1p = _TWO * z * (_ONE + zz * (_A1 + zz * (_A2 + zz * (_A3 + zz * (_A4 + zz * _A5)))))
    nearby = _QUARTER * kept * e - _HALF * (_TWO + e) * log_cosh
    far = _HALF * ((_ONE + grown) * (_LOG2 - log1p) - size * part)
    return reverse, forward, nearby if near else far


@kernel.part
def _reverse(d: Any) -> Any:
    """The first of `_divergences`."""
    kept = _LEAST if d < _LEAST else d
    n, r, power = _reduced(kept)
    beyond = _beyond_linear(r)
    return beyond if n == _ZERO else power * (r + beyond) + (power - _ONE) - d


@kernel.sums
def _highest(logit_B: Any) -> Any:
    """The largest key."""
    highest = _LOWEST
    for b in range(len(logit_B)):
        highest = max(highest, _key(logit_B[b]))
    return highest


@kernel.part
def _insert(key: Any, token: Any, key_K: Any, id_K: Any, held: Any) -> Any:
    """Add to the `held` largest, behind those as large; how many are held then."""
    place = min(held, len(key_K) - 1)
    while place > 0 and key_K[place - 1] < key:
        key_K[place] = key_K[place - 1]
        id_K[place] = id_K[place - 1]
        place -= 1
    key_K[place] = key
    id_K[place] = token
    return min(held + 1, len(key_K))


@kernel.part
def _likeliest(logit_V: Any, highest_C: Any, key_K: Any, id_K: Any) -> None:
    """Put the ids of the K largest logits into `id_K`, largest first, ties by the smaller id."""
    vocabulary, count = len(logit_V), len(id_K)
    held = 0
    for c in range(len(highest_C)):
        highest_C[c] = _highest(logit_V[c * CHUNK : min((c + 1) * CHUNK, vocabulary)])
        if held < count or highest_C[c] > key_K[count - 1]:
            held = _insert(highest_C[c], c, key_K, id_K, held)
    # K tokens at least are as large as this.
    least = key_K[count - 1] if held == count else _LOWEST
    held = 0
    for c in range(len(highest_C)):
        if highest_C[c] < least or (held == count and highest_C[c] <= key_K[count - 1]):
            continue
        for v in range(c * CHUNK, min((c + 1) * CHUNK, vocabulary)):
            key = _key(logit_V[v])
            if held < count or key > key_K[count - 1]:
                held = _insert(key, v, key_K, id_K, held)


@kernel.sums
def _first_sweep(
    student_B: Any,
    teacher_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    own: Any,
    token: Any,
) -> Any:
    """Sums of a block that need no other sum.

    Σ of both models' weights and of weight times logit, Σ of the student's weight times how far the
    teacher's logit lies above its own (counted from `peak`), what FLOOR takes from the forward KL;
    how many tokens are likelier than `token`, whether the teacher alone excludes a token, and
    whether the student alone does.
    """
    student_sum, teacher_sum = _ZERO, _ZERO
    student_moment, teacher_moment = _ZERO, _ZERO
    drift, lost = _ZERO, _ZERO
    likelier, teacher_only, student_only = np.int32(0), np.int32(0), np.int32(0)
    for b in range(len(student_B)):
        teacher = teacher_B[b]
        ahead = (teacher > own) | ((teacher == own) & (np.int32(b) < token))
        likelier = np.int32(likelier + np.int32(ahead))
        student = student_B[b] - student_high
        teacher = teacher - teacher_high
        student_out, teacher_out = student == _EXCLUDED, teacher == _EXCLUDED
        teacher_only = np.int32(teacher_only | np.int32(teacher_out & (not student_out)))
        student_only = np.int32(student_only | np.int32(student_out & (not teacher_out)))
        student_weight, teacher_weight = _exp(student), _exp(teacher)
        floored, difference = _differences(student, teacher)
        low = student < _FLOOR
        below = _ZERO if student_out else _FLOOR - student
        lost += teacher_weight * below if low else _ZERO
        student_sum += student_weight
        teacher_sum += teacher_weight
        student_moment += student_weight * floored
        teacher_moment += teacher_weight * (_FLOOR if teacher < _FLOOR else teacher)
        drift += student_weight * (difference - peak)
    return (
        student_sum,
        teacher_sum,
        student_moment,
        teacher_moment,
        drift,
        lost,
        likelier,
        teacher_only,
        student_only,
    )


@kernel.sums
def _second_sweep(
    student_B: Any,
    teacher_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    shift: Any,
    mean: Any,
) -> Any:
    """Sums of a block for the loss and for the square of the gradient's norm."""
    divergence, gradient = _ZERO, _ZERO
    for b in range(len(student_B)):
        student, difference = _differences(student_B[b] - student_high, teacher_B[b] - teacher_high)
        weight = _exp(student)
        divergence += weight * _reverse(difference + shift)
        pull = weight * ((difference - peak) - mean)
        gradient += pull * pull
    return divergence, gradient, _ZERO, _ZERO


@kernel.sums
def _second_sweep_of_all(
    student_B: Any,
    teacher_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    shift: Any,
    mean: Any,
) -> Any:
    """As `_second_sweep`, and the sums for the two other divergences."""
    divergence, gradient, forward, between = _ZERO, _ZERO, _ZERO, _ZERO
    for b in range(len(student_B)):
        student, difference = _differences(student_B[b] - student_high, teacher_B[b] - teacher_high)
        weight = _exp(student)
        adds, adds_forward, adds_between = _divergences(difference + shift)
        divergence += weight * adds
        forward += weight * adds_forward
        between += weight * adds_between
        pull = weight * ((difference - peak) - mean)
        gradient += pull * pull
    return divergence, gradient, forward, between


@kernel.sums
def _capped_gradient(
    student_B: Any,
    teacher_B: Any,
    slope_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    mean: Any,
) -> Any:
    """The gradient's sum of `_second_sweep` under a soft cap, whose slope each token has."""
    gradient = _ZERO
    for b in range(len(student_B)):
        student, difference = _differences(student_B[b] - student_high, teacher_B[b] - teacher_high)
        pull = slope_B[b] * _exp(student) * ((difference - peak) - mean)
        gradient += pull * pull
    return gradient


@kernel.part
def _write_gradient(
    student_V: Any,
    teacher_V: Any,
    slope_V: Any,
    gradient_V: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    mean: Any,
    scale: Any,
) -> None:
    """Put the gradient with respect to the student's raw logits into `gradient_V`."""
    for v in range(len(gradient_V)):
        student, difference = _differences(student_V[v] - student_high, teacher_V[v] - teacher_high)
        gradient_V[v] = scale * (_exp(student) * ((difference - peak) - mean))
    if len(slope_V):
        for v in range(len(gradient_V)):
            gradient_V[v] *= slope_V[v]


@kernel.part
def _entropy(moment: Any, total: Any) -> Any:
    entropy = math.log(total) - moment / total
    return 0.0 if entropy < 0 else entropy


@kernel.part
def _end(logit_V: Any, high: Any, end_M: Any, total: Any) -> Any:
    """The probability of the terminal ids."""
    weight = 0.0
    for m in range(len(end_M)):
        weight += math.exp(logit_V[end_M[m]] - high)
    return 1.0 if weight > total else weight / total


@kernel.Kernel
def rows(
    student_NV: Any,
    teacher_NV: Any,
    slope_NV: Any,
    slope: Any,
    token_N: Any,
    end_M: Any,
    divergences: Any,
    statistic_NS: Any,
    student_id_NK: Any,
    teacher_id_NK: Any,
    student_prob_NK: Any,
    teacher_prob_NK: Any,
    teacher_prob_of_student_NK: Any,
    gradient_NV: Any,
) -> None:
    """Compute the `STATISTICS` and the likeliest tokens of some rows.

    Args:
        student_NV: float32 logits of the student at the loss temperature.
        teacher_NV: the same of the teacher.
        slope_NV: how fast the student's logits change with the raw ones, under a soft cap; else
            of width 0.
        slope: the same where it is one number; 1 beside `slope_NV`.
        token_N: int64 token ids, in the vocabulary.
        end_M: int64 terminal ids, in the vocabulary.
        divergences: whether `forward_kl` and `jsd` are wanted; else they are 0.
        statistic_NS: float32; where the statistics go.
        student_id_NK: int64; where the student's likeliest tokens go. K is at least 1.
        teacher_id_NK: the same of the teacher.
        student_prob_NK: float32; where p of the student's likeliest tokens goes.
        teacher_prob_NK: q of the teacher's.
        teacher_prob_of_student_NK: q of the student's.
        gradient_NV: float32; where the gradients of the loss with respect to the student's raw
            logits go, if it is not of width 0. Rows whose loss is not finite are 0.
    """
    vocabulary, count = student_NV.shape[1], student_id_NK.shape[1]
    highest_C = np.empty((vocabulary + CHUNK - 1) // CHUNK, np.int32)
    key_K = np.empty(count, np.int32)
    for n in range(len(student_NV)):
        student_V, teacher_V = student_NV[n], teacher_NV[n]
        _likeliest(student_V, highest_C, key_K, student_id_NK[n])
        _likeliest(teacher_V, highest_C, key_K, teacher_id_NK[n])
        student_high, teacher_high = student_V[student_id_NK[n, 0]], teacher_V[teacher_id_NK[n, 0]]
        # The teacher's logit where the student's is largest: there the gradient's term is exact.
        _, peak = _differences(np.float32(0), teacher_V[student_id_NK[n, 0]] - teacher_high)
        token = token_N[n]
        own = teacher_V[token]

        total_p, total_q, moment_p, moment_q, drift, lost = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        rank = 1
        teacher_only, student_only = False, False
        for begin in range(0, vocabulary, BLOCK):
            end = min(begin + BLOCK, vocabulary)
            sums = _first_sweep(
                student_V[begin:end],
                teacher_V[begin:end],
                student_high,
                teacher_high,
                peak,
                own,
                np.int32(token - begin),
            )
            total_p += sums[0]
            total_q += sums[1]
            moment_p += sums[2]
            moment_q += sums[3]
            drift += sums[4]
            lost += sums[5]
            rank += sums[6]
            teacher_only |= sums[7] != 0
            student_only |= sums[8] != 0

        log_p, log_q = math.log(total_p), math.log(total_q)
        shift = np.float32(log_p - log_q)
        mean = np.float32(drift / total_p)
        loss, square, forward, between = 0.0, 0.0, 0.0, 0.0
        for begin in range(0, vocabulary, BLOCK):
            end = min(begin + BLOCK, vocabulary)
            student_B, teacher_B = student_V[begin:end], teacher_V[begin:end]
            if divergences:
                more = _second_sweep_of_all(
                    student_B, teacher_B, student_high, teacher_high, peak, shift, mean
                )
            else:
                more = _second_sweep(
                    student_B, teacher_B, student_high, teacher_high, peak, shift, mean
                )
            loss += more[0]
            forward += more[2]
            between += more[3]
            if slope_NV.shape[1]:
                square += _capped_gradient(
                    student_B,
                    teacher_B,
                    slope_NV[n, begin:end],
                    student_high,
                    teacher_high,
                    peak,
                    mean,
                )
            else:
                square += more[1]

        loss /= total_p
        norm = math.sqrt(square) * slope / total_p
        forward = forward / total_p + lost / total_q
        between /= total_p
        between = _MOST if between > _MOST else between  # NaN stays NaN
        both = math.isfinite(total_p) and math.isfinite(total_q)
        if both and teacher_only:
            loss, norm = math.inf, math.inf
        if both and student_only:
            forward = math.inf
        student_logprob = student_V[token] - student_high - log_p
        teacher_logprob = own - teacher_high - log_q
        statistic_NS[n, 0] = loss
        statistic_NS[n, 1] = student_logprob - teacher_logprob
        statistic_NS[n, 2] = student_logprob
        statistic_NS[n, 3] = teacher_logprob
        statistic_NS[n, 4] = _entropy(moment_p, total_p)
        statistic_NS[n, 5] = _entropy(moment_q, total_q)
        statistic_NS[n, 6] = norm
        statistic_NS[n, 7] = forward
        statistic_NS[n, 8] = between
        statistic_NS[n, 9] = rank if math.isfinite(total_q) else 0
        statistic_NS[n, 10] = _end(student_V, student_high, end_M, total_p)
        statistic_NS[n, 11] = _end(teacher_V, teacher_high, end_M, total_q)
        for k in range(count):
            student, teacher = student_id_NK[n, k], teacher_id_NK[n, k]
            student_prob_NK[n, k] = math.exp(student_V[student] - student_high) / total_p
            teacher_prob_NK[n, k] = math.exp(teacher_V[teacher] - teacher_high) / total_q
            teacher_prob_of_student_NK[n, k] = math.exp(teacher_V[student] - teacher_high) / total_q
        if gradient_NV.shape[1] and math.isfinite(loss):
            scale = np.float32(-slope / total_p)
            _write_gradient(
                student_V,
                teacher_V,
                slope_NV[n],
                gradient_NV[n],
                student_high,
                teacher_high,
                peak,
                mean,
                scale,
            )
        else:
            gradient_NV[n] = 0
