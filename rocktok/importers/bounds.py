"""The reverse KL of which only each model's likeliest tokens are known, between two bounds.

Let p be the student, q the teacher, A the tokens of which both probabilities are known, P_A and Q_A
their masses.

**Lower.** By the log-sum inequality Σ_{v∉A} p log(p/q) ≥ (1 − P_A)·log((1 − P_A)/(1 − Q_A)), so

    KL(p‖q) ≥ Σ_A p log(p/q) + (1 − P_A)·log((1 − P_A)/(1 − Q_A)).

It is attained where p/q is the same for all tokens outside A: without more knowledge none is
larger.

**Upper.** None exists from these alone: q of a token outside A may be as small as one likes. One
exists where q(v) ≥ f > 0 is assumed of every token. Let B be the tokens outside A whose p is known,
and R the rest, of mass P_R; no p in R is above c, the K-th likeliest, nor above P_R. With
−log q ≤ −log f, and p log p ≤ p·log min(c, P_R) in R,

    KL(p‖q) ≤ Σ_A p log(p/q) + Σ_B p log p + P_R·log min(c, P_R) − (1 − P_A)·log f.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array

#: Mass that the teacher leaves for the tokens outside A, at least: below that it is rounding.
_LEAST_REST = 1e-7


def reverse_kl_bounds(
    student_ids_NK: Array,
    student_logprob_NK: Array,
    teacher_ids_NL: Array,
    teacher_logprob_NL: Array,
    min_teacher_logprob: float | None = None,
) -> tuple[Array, Array | None]:
    """Lower bounds of KL(p‖q) at N positions, and upper ones where the teacher has a floor.

    Args:
        student_ids_NK, teacher_ids_NL: (N, K) and (N, L) distinct ids in each row, in any order;
            -1 where there are fewer. For an upper bound the student's must be its likeliest ones.
        student_logprob_NK, teacher_logprob_NL: their log-probabilities over the whole vocabulary,
            nats.
        min_teacher_logprob: log f, nats; None: no upper bound.

    Returns:
        (N,) float64 nats, and the same or None. A row whose teacher falls below the floor has no
        upper bound: infinity. Source: ours; the proof is in the module's docstring.
    """
    here_NK = student_ids_NK >= 0
    # log q of the student's tokens, where it is known.
    logq_NK = np.full(student_logprob_NK.shape, np.nan)
    for place in range(teacher_ids_NL.shape[1]):
        same_NK = (student_ids_NK == teacher_ids_NL[:, place : place + 1]) & here_NK
        logq_NK = np.where(same_NK, teacher_logprob_NL[:, place : place + 1], logq_NK)
    both_NK = ~np.isnan(logq_NK)
    logp_NK = np.where(here_NK, np.minimum(student_logprob_NK, 0.0), -np.inf)
    p_NK = np.exp(logp_NK)
    p_NK /= np.maximum(p_NK.sum(axis=1, keepdims=True), 1.0)  # rounded logits may sum above 1
    with np.errstate(divide="ignore", invalid="ignore"):
        logp_NK = np.log(p_NK)
        known_NK = np.where(both_NK & (p_NK > 0), p_NK * (logp_NK - logq_NK), 0.0)
    head_N = known_NK.sum(axis=1)
    p_A_N = np.where(both_NK, p_NK, 0.0).sum(axis=1)
    q_A_N = np.where(both_NK, np.exp(np.where(both_NK, logq_NK, 0.0)), 0.0).sum(axis=1)
    rest_N = np.clip(1.0 - p_A_N, 0.0, 1.0)
    q_rest_N = np.clip(1.0 - q_A_N, _LEAST_REST, 1.0)
    lower_N = head_N + _xlogy(rest_N, rest_N / q_rest_N)
    if min_teacher_logprob is None:
        return lower_N, None
    only_NK = here_NK & ~both_NK
    listed_N = np.where(only_NK, _xlogy(p_NK, p_NK), 0.0).sum(axis=1)
    unlisted_N = np.clip(1.0 - p_NK.sum(axis=1), 0.0, 1.0)
    smallest_N = np.where(here_NK, p_NK, np.inf).min(axis=1)
    upper_N = head_N + listed_N + _xlogy(unlisted_N, np.minimum(smallest_N, unlisted_N))
    upper_N -= rest_N * min_teacher_logprob
    below_N = (np.where(teacher_ids_NL >= 0, teacher_logprob_NL, 0.0)).min(axis=1)
    upper_N = np.where(below_N < min_teacher_logprob - 1e-6, np.inf, upper_N)
    # Both are bounds of the same number: rounding must not cross them.
    return lower_N, np.maximum(lower_N, upper_N)


def _xlogy(x_N: Array, y_N: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(x_N > 0, x_N * np.log(np.where(x_N > 0, y_N, 1.0)), 0.0)
    return found
