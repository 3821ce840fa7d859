"""What cheaper estimates of the reverse KL would have said, against the exact loss.

p student, q teacher, at a position whose token is x; r = log p(x) − log q(x).

- `k1` = r and `k3` = exp(−r) − 1 + r (Schulman 2020, "Approximating KL divergence"): from one
  sample. Unbiased where x was drawn from p: on rollouts, not on text of an earlier student.
- *Top-K* sums over S, the K likeliest tokens of the student. `renormalised`: KL(p|S ‖ q|S), both
  renormalised over S. `tail`: Σ_S p·log(p/q) + p̄·log(p̄/q̄), what is outside S taken together
  (p̄ = 1 − Σ_S p, q̄ likewise).

Top-K needs q at the student's tokens. A log tells it for those that are among the teacher's
likeliest, and for x. Of any other it is at most the smallest that is told, and all of them
together have no more than what is left. The estimate then lies in an interval, and no smaller one
holds whatever these q may be, but for its upper end: without the exact loss ℓ there would be none.
With it, tail ≤ ℓ (taking outcomes together loses divergence) and renormalised ≤ ℓ/Σ_S p (chain
rule).

Shape suffixes: N positions; K student's tokens; T teacher's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array

KINDS = ("renormalised", "tail")

#: By how much float16, as a log holds probabilities, may be off: of a number, and in any case.
RELATIVE, ABSOLUTE = 2.0**-11, 2.0**-25

#: Least probability that is told apart from 0: the smallest float16 above it.
TINY = 2.0**-24
_SMALLEST = float(np.finfo(np.float64).tiny)


def k1(log_ratio_N: Array) -> Array:
    """(N,) float64, the log ratio itself. In nats; of either sign."""
    return np.asarray(log_ratio_N, dtype=np.float64)


def k3(log_ratio_N: Array) -> Array:
    """(N,) float64, exp(−r) − 1 + r. In nats; never negative."""
    r_N = np.asarray(log_ratio_N, dtype=np.float64)
    with np.errstate(over="ignore"):
        estimate_N: Array = np.expm1(-r_N) + r_N
    return estimate_N


@dataclass(frozen=True)
class TopK:
    """A top-K estimate at each position, as an interval: `least_N` to `most_N`, in nats.

    `known_N`: whether q is known at all K tokens; both ends are then the same, but for rounding.
    """

    least_N: Array
    most_N: Array
    known_N: Array


@dataclass(frozen=True)
class Alternatives:
    """The likeliest tokens of each model at N positions, and the token that stands there.

    Attributes:
        student_ids_NK, student_probs_NK: the student's, likeliest first.
        teacher_ids_NT, teacher_probs_NT: the teacher's.
        token_N: token ids of the text.
        teacher_probability_N: q of these; None: not known.
        loss_N: exact reverse KL, in nats; what bounds an estimate from above.
        rounded: whether the probabilities have been through float16, as in a log. The ends then
            leave room for that: where almost all mass is told, what is outside is lost in it.
    """

    student_ids_NK: Array
    student_probs_NK: Array
    teacher_ids_NT: Array
    teacher_probs_NT: Array
    token_N: Array
    teacher_probability_N: Array | None
    loss_N: Array
    rounded: bool = True

    @property
    def most(self) -> int:
        """The largest K."""
        return int(self.student_ids_NK.shape[1])

    def top_k(self, k: int, kind: str) -> TopK:
        """The estimate with the student's k likeliest tokens; `kind`: renormalised or tail.

        Raises `ValueError` for another kind, or a k that is not from 1 to `most`.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        if not 1 <= k <= self.most:
            raise ValueError(f"k is {k}; it must be from 1 to {self.most}")
        p_NK = self.student_probs_NK[:, :k].astype(np.float64)
        q_NK = self._teacher_at(self.student_ids_NK[:, :k])
        known_N: Array = np.logical_not(np.isnan(q_NK).any(axis=1))
        cap_N = np.maximum(self.loss_N.astype(np.float64), 0.0)
        if kind == "renormalised":
            cap_N = cap_N / np.maximum((p_NK - self._off(p_NK)).sum(axis=1), TINY)
        filled_NK = self._least_favourable(p_NK, q_NK, tail=kind == "tail")
        off = (self._off(p_NK), self._off(filled_NK))
        least_N, most_N = (_with_tail if kind == "tail" else _renormalised)(p_NK, filled_NK, *off)
        least_N = np.clip(least_N, 0.0, cap_N)
        most_N = np.where(known_N, np.clip(most_N, least_N, cap_N), cap_N)
        return TopK(least_N, most_N, known_N)

    def _off(self, probs_NK: Array) -> Array:
        """By how much stored probabilities may be off."""
        off_NK: Array = (probs_NK * RELATIVE + ABSOLUTE) * self.rounded
        return off_NK

    def _teacher_at(self, ids_NK: Array) -> Array:
        """q at some tokens (N, K); NaN where it is not known, or too small for what stores it."""
        same_NKT = ids_NK[:, :, None] == self.teacher_ids_NT[:, None, :]
        told_NK = same_NKT.any(axis=2)
        q_NT = self.teacher_probs_NT.astype(np.float64)
        q_NK = np.where(told_NK, (same_NKT * q_NT[:, None, :]).sum(axis=2), np.nan)
        if self.teacher_probability_N is not None:
            of_text_NK = (q_NK == 0) | ~told_NK
            of_text_NK &= ids_NK == self.token_N[:, None]
            q_NK = np.where(of_text_NK, self.teacher_probability_N[:, None], q_NK)
        return np.where(q_NK > 0, q_NK, np.nan)

    def _least_favourable(self, p_NK: Array, q_NK: Array, *, tail: bool) -> Array:
        """q (N, K) with what is not known filled in so that the estimate is least.

        There every unknown q is proportional to p, as far as it may be: min(cap, λ·p). λ is found
        by giving the cap to what is above it, one token after another, the likeliest first. With a
        tail λ is as in it; the teacher's other tokens that are known keep their place there.
        """
        unknown_NK = np.isnan(q_NK)
        fixed_NK = np.where(unknown_NK, 0.0, q_NK)
        cap_N, left_N = self._limits()
        p_tail_N = np.maximum(0.0, 1.0 - p_NK.sum(axis=1))
        free_NK, capped_NK = unknown_NK, np.zeros_like(unknown_NK)
        filled_NK = fixed_NK
        for _ in range(p_NK.shape[1] + 1):
            p_free_N = np.where(free_NK, p_NK, 0.0).sum(axis=1)
            capped_N = capped_NK.sum(axis=1) * cap_N
            if tail:
                rest_N = np.maximum(0.0, 1.0 - fixed_NK.sum(axis=1) - capped_N)
                scale_N = _ratio(rest_N, p_free_N + p_tail_N)
            else:
                p_fixed_N = np.where(free_NK, 0.0, p_NK).sum(axis=1)
                scale_N = _ratio(fixed_NK.sum(axis=1) + capped_N, p_fixed_N)
                # Where nothing is fixed any scale is as good.
                scale_N = np.where(p_fixed_N > 0, scale_N, TINY)
            room_N = np.maximum(0.0, left_N - capped_N)
            scale_N = np.minimum(scale_N, _ratio(room_N, p_free_N))
            scale_N = np.where(p_free_N > 0, scale_N, 0.0)
            filled_NK = np.where(free_NK, scale_N[:, None] * p_NK, fixed_NK)
            filled_NK = np.where(capped_NK, cap_N[:, None], filled_NK)
            above_NK = free_NK & (filled_NK > cap_N[:, None])
            if not above_NK.any():
                break
            likeliest_N1 = np.where(above_NK, p_NK, -1.0).argmax(axis=1)[:, None]
            first_NK = above_NK & (np.arange(p_NK.shape[1]) == likeliest_N1)
            free_NK, capped_NK = free_NK & ~first_NK, capped_NK | first_NK
        return filled_NK

    def _limits(self) -> tuple[Array, Array]:
        """What any q that is not known may be, and all of them together, (N,) each.

        With as much more as rounding can have taken away.
        """
        told_NT = self.teacher_probs_NT.astype(np.float64)
        told_N, smallest_N = told_NT.sum(axis=1), told_NT[:, -1]
        if self.teacher_probability_N is not None:
            among_N = (self.teacher_ids_NT == self.token_N[:, None]).any(axis=1)
            told_N = told_N + np.where(among_N, 0.0, self.teacher_probability_N)
        left_N = np.maximum(0.0, 1.0 - told_N)
        if self.rounded:
            smallest_N = smallest_N * (1 + RELATIVE) + ABSOLUTE
            left_N = left_N + told_N * RELATIVE + told_NT.shape[1] * ABSOLUTE
        return smallest_N, left_N


Ends = tuple[Array, Array]


def _with_tail(p_NK: Array, q_NK: Array, p_off_NK: Array, q_off_NK: Array) -> Ends:
    """Least and largest KL with a tail, of probabilities that are off by so much at most."""
    low_N, high_N = _terms_within(p_NK, q_NK, p_off_NK, q_off_NK)
    p_N, q_N = (np.maximum(0.0, 1.0 - x_NK.sum(axis=1)) for x_NK in (p_NK, q_NK))
    p_off_N, q_off_N = p_off_NK.sum(axis=1), q_off_NK.sum(axis=1)
    p_low_N, p_high_N = np.maximum(0.0, p_N - p_off_N), p_N + p_off_N
    q_low_N, q_high_N = np.maximum(0.0, q_N - q_off_N), q_N + q_off_N
    # x·log(x/c) is convex, and least at c/e.
    at_N = np.clip(q_high_N / np.e, p_low_N, p_high_N)
    most_N = np.maximum(_terms(p_low_N, q_low_N), _terms(p_high_N, q_low_N))
    return low_N + _terms(at_N, q_high_N), high_N + most_N


def _renormalised(p_NK: Array, q_NK: Array, p_off_NK: Array, q_off_NK: Array) -> Ends:
    """The same of a KL in which both are renormalised."""
    low_N, high_N = _terms_within(p_NK, q_NK, p_off_NK, q_off_NK)
    p_N, q_N = p_NK.sum(axis=1), q_NK.sum(axis=1)
    p_off_N, q_off_N = p_off_NK.sum(axis=1), q_off_NK.sum(axis=1)
    # Σ p·log(p/q) / Σp − log(Σp/Σq), each part at its ends.
    scale_low_N, scale_high_N = (
        np.log(_ratio(p_N + sign * p_off_N, np.maximum(q_N - sign * q_off_N, _SMALLEST), 1.0))
        for sign in (1, -1)
    )
    quotients = [
        _ratio(x_N, p_N + sign * p_off_N, 0.0) for x_N in (low_N, high_N) for sign in (1, -1)
    ]
    least_N = np.minimum(quotients[0], quotients[1]) - scale_low_N
    return least_N, np.maximum(quotients[2], quotients[3]) - scale_high_N


def _terms_within(p_NK: Array, q_NK: Array, p_off_NK: Array, q_off_NK: Array) -> Ends:
    """Least and largest Σ p·log(p/q), (N,) each."""
    q_low_NK, q_high_NK = np.maximum(0.0, q_NK - q_off_NK), q_NK + q_off_NK
    ends_of_p = np.maximum(0.0, p_NK - p_off_NK), p_NK + p_off_NK
    at_NK = np.clip(q_high_NK / np.e, *ends_of_p)
    most_NK = np.maximum(*(_terms(x_NK, q_low_NK) for x_NK in ends_of_p))
    return _terms(at_NK, q_high_NK).sum(axis=1), most_NK.sum(axis=1)


def _terms(p: Array, q: Array) -> Array:
    """p·log(p/q); 0 where p is."""
    positive = p > 0
    ratio = np.divide(p, np.maximum(q, _SMALLEST), out=np.ones_like(p), where=positive)
    terms: Array = p * np.log(ratio)
    return terms


def _ratio(over_N: Array, under_N: Array, default: float = np.inf) -> Array:
    """Quotient; `default` where the second is 0."""
    out = np.full(np.shape(over_N), default)
    quotient_N: Array = np.divide(over_N, under_N, out=out, where=under_N > 0)
    return quotient_N
