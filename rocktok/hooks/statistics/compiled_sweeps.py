"""The loops of `compiled_kernel` over a block of a row, and the search for the likeliest tokens.

Shape suffixes: V vocabulary, B columns of a row in work at once, C chunks of a row, K likeliest
tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import rocktok.kernel as kernel
from rocktok.hooks.statistics import compiled_terms as terms

# Columns whose terms are summed in float32; sums of such blocks are float64.
BLOCK = 1024
# Columns of a chunk, whose largest logit tells whether the likeliest tokens may lie in it.
CHUNK = 128


@kernel.sums
def _highest(logit_B: Any) -> Any:
    """The largest key."""
    highest = terms.LOWEST
    for b in range(len(logit_B)):
        highest = max(highest, terms.key(logit_B[b]))
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
def likeliest(logit_V: Any, highest_C: Any, key_K: Any, id_K: Any) -> None:
    """Put the ids of the K largest logits into `id_K`, largest first, ties by the smaller id."""
    vocabulary, count = len(logit_V), len(id_K)
    held = 0
    for c in range(len(highest_C)):
        highest_C[c] = _highest(logit_V[c * CHUNK : min((c + 1) * CHUNK, vocabulary)])
        if held < count or highest_C[c] > key_K[count - 1]:
            held = _insert(highest_C[c], c, key_K, id_K, held)
    # K tokens at least are as large as this.
    least = key_K[count - 1] if held == count else terms.LOWEST
    held = 0
    for c in range(len(highest_C)):
        if highest_C[c] < least or (held == count and highest_C[c] <= key_K[count - 1]):
            continue
        for v in range(c * CHUNK, min((c + 1) * CHUNK, vocabulary)):
            key = terms.key(logit_V[v])
            if held < count or key > key_K[count - 1]:
                held = _insert(key, v, key_K, id_K, held)


@kernel.fused_sums
def first_sweep(
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
    student_sum, teacher_sum = terms.ZERO, terms.ZERO
    student_moment, teacher_moment = terms.ZERO, terms.ZERO
    drift, lost = terms.ZERO, terms.ZERO
    likelier, teacher_only, student_only = np.int32(0), np.int32(0), np.int32(0)
    for b in range(len(student_B)):
        teacher = teacher_B[b]
        ahead = (teacher > own) | ((teacher == own) & (np.int32(b) < token))
        likelier = np.int32(likelier + np.int32(ahead))
        student = student_B[b] - student_high
        teacher = teacher - teacher_high
        student_out, teacher_out = student == terms.EXCLUDED, teacher == terms.EXCLUDED
        teacher_only = np.int32(teacher_only | np.int32(teacher_out & (not student_out)))
        student_only = np.int32(student_only | np.int32(student_out & (not teacher_out)))
        student_weight, teacher_weight = terms.exp(student), terms.exp(teacher)
        floored, difference = terms.differences(student, teacher)
        low = student < terms.FLOOR
        below = terms.ZERO if student_out else terms.FLOOR - student
        lost += teacher_weight * below if low else terms.ZERO
        student_sum += student_weight
        teacher_sum += teacher_weight
        student_moment += student_weight * floored
        teacher_moment += teacher_weight * (terms.FLOOR if teacher < terms.FLOOR else teacher)
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


@kernel.fused_sums
def second_sweep(
    student_B: Any,
    teacher_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    shift: Any,
    mean: Any,
) -> Any:
    """Sums of a block for the loss and for the square of the gradient's norm."""
    divergence, gradient = terms.ZERO, terms.ZERO
    for b in range(len(student_B)):
        student, difference = terms.differences(
            student_B[b] - student_high, teacher_B[b] - teacher_high
        )
        weight = terms.exp(student)
        divergence += weight * terms.reverse(difference + shift)
        pull = weight * ((difference - peak) - mean)
        gradient += pull * pull
    return divergence, gradient, terms.ZERO, terms.ZERO


@kernel.fused_sums
def second_sweep_of_all(
    student_B: Any,
    teacher_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    shift: Any,
    mean: Any,
) -> Any:
    """As `second_sweep`, and the sums for the two other divergences."""
    divergence, gradient, forward, between = terms.ZERO, terms.ZERO, terms.ZERO, terms.ZERO
    for b in range(len(student_B)):
        student, difference = terms.differences(
            student_B[b] - student_high, teacher_B[b] - teacher_high
        )
        weight = terms.exp(student)
        adds, adds_forward, adds_between = terms.divergences(difference + shift)
        divergence += weight * adds
        forward += weight * adds_forward
        between += weight * adds_between
        pull = weight * ((difference - peak) - mean)
        gradient += pull * pull
    return divergence, gradient, forward, between


@kernel.fused_sums
def capped_gradient(
    student_B: Any,
    teacher_B: Any,
    slope_B: Any,
    student_high: Any,
    teacher_high: Any,
    peak: Any,
    mean: Any,
) -> Any:
    """The gradient's sum of `second_sweep` under a soft cap, whose slope each token has."""
    gradient = terms.ZERO
    for b in range(len(student_B)):
        student, difference = terms.differences(
            student_B[b] - student_high, teacher_B[b] - teacher_high
        )
        pull = slope_B[b] * terms.exp(student) * ((difference - peak) - mean)
        gradient += pull * pull
    return gradient


@kernel.fused_part
def write_gradient(
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
        student, difference = terms.differences(
            student_V[v] - student_high, teacher_V[v] - teacher_high
        )
        gradient_V[v] = scale * (terms.exp(student) * ((difference - peak) - mean))
    if len(slope_V):
        for v in range(len(gradient_V)):
            gradient_V[v] *= slope_V[v]
