"""All statistics of a row on the CPU, from logits that stay in the cache.

Importing this imports numba. Shape suffixes: N rows (scored positions), V vocabulary, B columns of
a row in work at once, C chunks of a row, K likeliest tokens, M terminal ids, S statistics of a row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import rocktok.kernel as kernel
from rocktok.hooks.statistics import compiled_sweeps as sweeps
from rocktok.hooks.statistics import compiled_terms as terms

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
    "overlap",
    "student_mass",
    "teacher_mass",
    "teachability",
)

_MOST = math.log(2)


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


@kernel.part
def _agreement(
    student_id_K: Any,
    teacher_id_K: Any,
    student_prob_K: Any,
    teacher_prob_K: Any,
    teacher_prob_of_student_K: Any,
    count: Any,
) -> Any:
    """The overlap, both masses and the teachability of the first `count` tokens of each model."""
    shared, student_mass, teacher_mass, teachability = 0, 0.0, 0.0, 0.0
    for k in range(count):
        teachability += teacher_prob_of_student_K[k]
        for j in range(count):
            if student_id_K[k] == teacher_id_K[j]:
                shared += 1
                student_mass += student_prob_K[k]
                teacher_mass += teacher_prob_K[j]
    # A row without one of the distributions has NaN here, as in every other column.
    nothing = 0.0 * (student_prob_K[0] + teacher_prob_K[0])
    return (
        shared / count + nothing,
        _share(student_mass) + nothing,
        _share(teacher_mass) + nothing,
        _share(teachability) + nothing,
    )


@kernel.part
def _share(mass: Any) -> Any:
    return 1.0 if mass > 1 else mass


@kernel.Kernel
def rows(
    student_NV: Any,
    teacher_NV: Any,
    slope_NV: Any,
    slope: Any,
    token_N: Any,
    end_M: Any,
    divergences: Any,
    agree: Any,
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
        agree: how many of each model's likeliest tokens overlap and masses are about, at most K.
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
    highest_C = np.empty((vocabulary + sweeps.CHUNK - 1) // sweeps.CHUNK, np.int32)
    key_K = np.empty(count, np.int32)
    for n in range(len(student_NV)):
        student_V, teacher_V = student_NV[n], teacher_NV[n]
        sweeps.likeliest(student_V, highest_C, key_K, student_id_NK[n])
        sweeps.likeliest(teacher_V, highest_C, key_K, teacher_id_NK[n])
        student_high, teacher_high = student_V[student_id_NK[n, 0]], teacher_V[teacher_id_NK[n, 0]]
        # The teacher's logit where the student's is largest: there the gradient's term is exact.
        _, peak = terms.differences(np.float32(0), teacher_V[student_id_NK[n, 0]] - teacher_high)
        token = token_N[n]
        own = teacher_V[token]

        total_p, total_q, moment_p, moment_q, drift, lost = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        rank = 1
        teacher_only, student_only = False, False
        for begin in range(0, vocabulary, sweeps.BLOCK):
            end = min(begin + sweeps.BLOCK, vocabulary)
            sums = sweeps.first_sweep(
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
        for begin in range(0, vocabulary, sweeps.BLOCK):
            end = min(begin + sweeps.BLOCK, vocabulary)
            student_B, teacher_B = student_V[begin:end], teacher_V[begin:end]
            if divergences:
                more = sweeps.second_sweep_of_all(
                    student_B, teacher_B, student_high, teacher_high, peak, shift, mean
                )
            else:
                more = sweeps.second_sweep(
                    student_B, teacher_B, student_high, teacher_high, peak, shift, mean
                )
            loss += more[0]
            forward += more[2]
            between += more[3]
            if slope_NV.shape[1]:
                square += sweeps.capped_gradient(
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
        agreement = _agreement(
            student_id_NK[n],
            teacher_id_NK[n],
            student_prob_NK[n],
            teacher_prob_NK[n],
            teacher_prob_of_student_NK[n],
            agree,
        )
        statistic_NS[n, 12] = agreement[0]
        statistic_NS[n, 13] = agreement[1]
        statistic_NS[n, 14] = agreement[2]
        statistic_NS[n, 15] = agreement[3]
        if gradient_NV.shape[1] and math.isfinite(loss):
            scale = np.float32(-slope / total_p)
            sweeps.write_gradient(
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
