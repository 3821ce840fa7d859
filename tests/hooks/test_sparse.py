"""Losses on a few known tokens and a tail: bounds from below, against sums over the vocabulary."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rocktok.hooks.trl.sparse import LEAST_TAIL, Served, Support, sparse_columns


def models(seed: int, rows: int, vocabulary: int, scale: float) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        (scale * torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64)).log_softmax(-1)
        for _ in range(2)
    )


def served(logq: Any, token: Any, count: int) -> Served:
    best = logq.topk(count, dim=-1)
    return Served(token, logq.gather(1, token[:, None])[:, 0], best.indices, best.values)


def of(logp: Any, told: Served) -> Support:
    return told.support(logp.gather(1, told.likeliest), logp.gather(1, told.token[:, None])[:, 0])


@settings(deadline=None, max_examples=60)
@example(1, 3, 2, 8.0)  # a tail of the teacher's far below the least
@given(
    st.integers(0, 10_000),
    st.integers(2, 12),
    st.integers(1, 6),
    st.sampled_from([0.3, 2.0, 8.0]),
)
def test_the_loss_is_a_lower_bound_that_more_tokens_raise(
    seed: int, vocabulary: int, count: int, scale: float
) -> None:
    logp, logq = models(seed, 7, vocabulary, scale)
    exact = (logp.exp() * (logp - logq)).sum(-1)
    token = torch.randint(0, vocabulary, (7,), generator=torch.Generator().manual_seed(seed))
    bounds, rests = [], []
    for k in sorted({1, min(count, vocabulary), vocabulary}):
        told = served(logq, token, k)
        support = of(logp, told)
        bounds.append(sparse_columns(told, support, exact)["loss"].double())
        rests.append([1 - x.exp().sum(1) for x in (support.student, support.teacher)])
    slack = 1e-5 + 1e-6 * exact
    for (lower, higher), ((p, q), (_, q_less)) in zip(
        pairwise(bounds), pairwise(rests), strict=True
    ):
        # The log-sum inequality, with tails that count as `LEAST_TAIL` where they are smaller: then
        # what leaves a tail and the tail that remains are together more than it was.
        before, after = q.clamp_min(LEAST_TAIL), q_less.clamp_min(LEAST_TAIL)
        more = ((q - q_less + after) / before).log().clamp_min(0.0)
        assert (lower <= higher + p.clamp_min(0.0) * more + slack).all()
    assert (bounds[-1] <= exact + slack).all()
    assert (bounds[0] >= -1e-6).all()
    # All tokens known, the tail is nothing: what is left of its least probability is below 1e-5.
    assert (exact - bounds[-1] <= slack).all()


def brute(p: list[float], q: list[float], beta: float) -> float:
    from math import log

    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (1 - beta) * a + beta * b
        if beta == 1:
            total += a * log(a / b)
        elif beta == 0:
            total += b * log(b / a)
        else:
            total += beta * b * log(b / m) + (1 - beta) * a * log(a / m)
    return total


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_divergences_term_by_term(beta: float) -> None:
    """Three tokens of five, the realised one not among the two likeliest; by hand."""
    p, q = [0.1, 0.2, 0.3, 0.15, 0.25], [0.4, 0.3, 0.05, 0.15, 0.1]
    logp, logq = (torch.tensor([x], dtype=torch.float64).log() for x in (p, q))
    told = served(logq, torch.tensor([3]), 2)
    support = of(logp, told)
    assert told.likeliest.tolist() == [[0, 1]]
    for part, tokens in (
        (support, [3, 0, 1]),
        (told.support_of(1.0, support), [3]),
        (told.support_of(0.0, support), [0, 1]),
        (told.support_of(0.5, support), [3, 0]),
    ):
        mine = [[x[t] for t in tokens] for x in (p, q)]
        tails = [[*x, 1 - sum(x)] for x in mine]
        assert float(part.with_tail().divergence(beta)) == pytest.approx(brute(*tails, beta))
        shares = [[y / sum(x) for y in x] for x in mine]
        assert float(part.renormalized().divergence(beta)) == pytest.approx(brute(*shares, beta))


def test_the_realised_token_counts_once() -> None:
    logp, logq = models(3, 1, 6, 1.0)
    token = logq.argmax(1)
    told = served(logq, token, 3)
    support = of(logp, told)
    assert support.valid.tolist() == [[True, False, True, True]]
    assert told.support_of(0.0, support).valid.tolist() == [[True, False, True, True]]
    assert told.support_of(0.5, support).valid.tolist() == [[True, False, False, False]]


def test_what_a_server_does_not_say_does_not_count() -> None:
    logp, logq = models(4, 1, 6, 1.0)
    told = served(logq, torch.tensor([2]), 3)
    gaps = Served(told.token, told.logprob, torch.tensor([[-1, 1, 4]]), told.logprobs)
    support = gaps.support(logp.gather(1, gaps.likeliest.clamp(min=0)), logp[:, 2])
    assert support.valid.tolist() == [[True, False, True, True]]
    assert support.with_tail().divergence(1.0).isfinite().all()
    assert gaps.rows(slice(0, 1)).token.tolist() == [2]
