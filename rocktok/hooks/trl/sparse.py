"""Losses of a token where only some of the teacher's log-probabilities are known.

A support is a few tokens, the realised one among them; all others are one term, the tail. Summing
terms of both models into one can only lower a divergence: the reverse KL over support and tail is a
lower bound of that over the vocabulary.

Array suffixes: N positions; S tokens of a support; V vocabulary; K the teacher's likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: A tail's probability is at least this, as a served distribution may sum to 1 or a little more.
LEAST_TAIL = 1e-7

#: Columns that such a loss leaves known: those of the student alone, and of the realised token.
COLUMNS = frozenset(("log_ratio", "student_logprob", "teacher_logprob", "student_entropy"))


@dataclass(frozen=True)
class Support:
    """Log-probabilities of both models on each position's support, float64; −inf where none.

    Attributes:
        student, teacher: (N, S).
        valid: (N, S) which entries count; a token counts once.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor

    def part(self, valid: Tensor) -> Support:
        """Of these entries alone."""
        both = self.valid & valid
        out = torch.full_like(self.student, -torch.inf)
        return Support(
            torch.where(both, self.student, out), torch.where(both, self.teacher, out), both
        )

    def with_tail(self) -> Support:
        """And the rest of the vocabulary as one entry more."""
        tails = [_tail(values) for values in (self.student, self.teacher)]
        student, teacher = (
            torch.cat([values, tail[:, None]], dim=1)
            for values, tail in zip((self.student, self.teacher), tails, strict=True)
        )
        there = torch.ones_like(self.valid[:, :1])
        return Support(student, teacher, torch.cat([self.valid, there], dim=1))

    def renormalized(self) -> Support:
        """Divided by what the support has of each model's probability."""
        student, teacher = (
            values - values.logsumexp(1, keepdim=True) for values in (self.student, self.teacher)
        )
        return Support(student, teacher, self.valid)

    def divergence(self, beta: float) -> Tensor:
        """(N,) generalized Jensen-Shannon divergence: β = 1 reverse KL, 0 forward."""
        p, q = (torch.where(self.valid, x.exp(), 0.0) for x in (self.student, self.teacher))
        log_p, log_q = (torch.where(self.valid, x, 0.0) for x in (self.student, self.teacher))
        if beta == 1:
            return (p * (log_p - log_q)).sum(1)
        if beta == 0:
            return (q * (log_q - log_p)).sum(1)
        mixed = (1 - beta) * p + beta * q
        log_m = torch.where(mixed > 0, mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log(), 0.0)
        return (beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)).sum(1)


def _tail(values: Tensor) -> Tensor:
    rest = 1 - values.exp().sum(1)
    return rest.clamp_min(LEAST_TAIL).log()


@dataclass(frozen=True)
class Served:
    """What a server said of the teacher at N positions.

    Attributes:
        token: (N,) realised tokens.
        logprob: (N,) of these; −inf where the server has none.
        likeliest: (N, K) the teacher's likeliest tokens, likeliest first; below 0 where none.
        logprobs: (N, K) of these.
    """

    token: Tensor
    logprob: Tensor
    likeliest: Tensor
    logprobs: Tensor

    def rows(self, here: slice) -> Served:
        """Some positions of it."""
        return Served(
            self.token[here], self.logprob[here], self.likeliest[here], self.logprobs[here]
        )

    def support(self, student_logprobs: Tensor, student_token: Tensor) -> Support:
        """The realised token first, then the likeliest others.

        Args:
            student_logprobs: (N, K) the student's, of `likeliest`.
            student_token: (N,) the student's, of `token`.
        """
        there = (self.likeliest >= 0) & self.logprobs.isfinite()
        there &= self.likeliest != self.token[:, None]
        valid = torch.cat([self.logprob.isfinite()[:, None], there], dim=1)
        student = torch.cat([student_token[:, None], student_logprobs], dim=1).double()
        teacher = torch.cat([self.logprob[:, None], self.logprobs], dim=1).double()
        out = torch.full_like(student, -torch.inf)
        return Support(torch.where(valid, student, out), torch.where(valid, teacher, out), valid)

    def support_of(self, beta: float, support: Support) -> Support:
        """The part of a support that TRL's served losses are over.

        At β = 0 the teacher's likeliest tokens, at β = 1 the realised one, else that and the
        teacher's first.
        """
        count = support.valid.shape[1]
        place = torch.arange(count, device=support.valid.device)[None]
        if beta == 1:
            return support.part((place == 0).expand_as(support.valid))
        if beta == 0:
            # The realised token counts if it is among the likeliest.
            among = (self.likeliest == self.token[:, None]).any(1, keepdim=True)
            return support.part(((place > 0) | among).expand_as(support.valid))
        return support.part((place <= 1).expand_as(support.valid))


def sparse_columns(served: Served, support: Support, entropy: Tensor) -> dict[str, Tensor]:
    """The loss, a lower bound, and what is known exactly, each (N,) float32."""
    student, teacher = support.student[:, 0], support.teacher[:, 0]
    return {
        "loss": support.with_tail().divergence(1.0).float(),
        "log_ratio": (student - teacher).float(),
        "student_logprob": student.float(),
        "teacher_logprob": teacher.float(),
        "student_entropy": entropy.float(),
    }
