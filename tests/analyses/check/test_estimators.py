"""Cheaper estimates of the loss: by hand, by brute force, and never outside what must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import rankdata, spearmanr

from rocktok.analyses.check.estimator_sums import mid_ranks
from rocktok.analyses.check.estimators import KINDS, Alternatives, k1, k3
from rocktok.stats.ranks import spearman

Array = np.ndarray[Any, Any]


def told(p: Array, q: Array, k: int, token: int, *, logprob: bool, half: bool = False) -> Any:
    """What a log holds of one position."""
    ids = [np.argsort(-x, kind="stable")[:k][None] for x in (p, q)]
    probs = [x[at] for x, at in zip((p, q), ids, strict=True)]
    if half:
        probs = [values.astype(np.float16) for values in probs]
    loss = (p * np.log(p / q)).sum()
    return Alternatives(
        ids[0], probs[0], ids[1], probs[1], np.array([token]),
        np.array([q[token]]) if logprob else None, np.array([loss]), rounded=half,
    )  # fmt: skip


def exact(p: Array, q: Array, chosen: Array, kind: str) -> float:
    """A top-K estimate by its definition."""
    a, b = p[chosen], q[chosen]
    if kind == "renormalised":
        a, b = a / a.sum(), b / b.sum()
        return float((a * np.log(a / b)).sum())
    rest = np.array([1 - a.sum()]), np.array([1 - b.sum()])
    return float((a * np.log(a / b)).sum() + (rest[0] * np.log(rest[0] / rest[1])).sum())


def test_one_sample_by_hand() -> None:
    ratio = np.array([0.0, np.log(2.0), -np.log(4.0)])
    assert k1(ratio).tolist() == ratio.tolist()
    # 1/2 − 1 + log 2; 4 − 1 − log 4.
    np.testing.assert_allclose(k3(ratio), [0.0, np.log(2) - 0.5, 3 - np.log(4)], rtol=1e-14)


def test_both_are_right_on_average_where_tokens_are_drawn_from_the_student() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50), 2)
    ratio = np.log(p / q)
    loss = (p * ratio).sum()
    assert (p * k1(ratio)).sum() == pytest.approx(loss, abs=1e-12)
    assert (p * k3(ratio)).sum() == pytest.approx(loss, abs=1e-12)
    assert k3(ratio).min() >= 0
    # Of text that another student wrote neither is.
    other = rng.dirichlet(np.ones(50))
    assert abs((other * k1(ratio)).sum() - loss) > 0.1


def test_top_k_by_hand() -> None:
    p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.4, 0.1, 0.3, 0.2])
    # The teacher's two likeliest are 0 and 2: q of 1, the student's second, is not known.
    alone = told(p, q, 2, token=3, logprob=False)
    first = alone.top_k(1, "tail")
    assert first.known_N.tolist() == [True]
    want = 0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(0.5 / 0.6)
    np.testing.assert_allclose([first.least_N[0], first.most_N[0]], [want, want], rtol=1e-12)
    second = alone.top_k(2, "tail")
    assert second.known_N.tolist() == [False]
    assert second.most_N[0] == pytest.approx(alone.loss_N[0])
    # q(1) may be no more than 0.3, both it and the tail: the tail holds q(2) = 0.3 already.
    assert second.least_N[0] == pytest.approx(
        exact(p, np.array([0.4, 0.3, 0.3, 0.0]), np.arange(2), "tail")
    )
    # The text's own token tells it.
    both = told(p, q, 2, token=1, logprob=True).top_k(2, "tail")
    assert both.known_N.tolist() == [True]
    assert both.least_N[0] == pytest.approx(exact(p, q, np.arange(2), "tail"))
    of_one = alone.top_k(1, "renormalised")
    assert (of_one.least_N[0], of_one.most_N[0]) == (0.0, 0.0)


def test_a_wrong_kind_or_k_is_refused() -> None:
    one = told(np.full(4, 0.25), np.full(4, 0.25), 2, 0, logprob=False)
    with pytest.raises(ValueError, match="kind is 'sum'; it must be one of renormalised, tail"):
        one.top_k(1, "sum")
    with pytest.raises(ValueError, match="k is 3; it must be from 1 to 2"):
        one.top_k(3, "tail")


@pytest.mark.parametrize("seed", range(12))
def test_bounds_are_the_best_there_are(seed: int) -> None:
    """The least value over all q that agree with what is told, found by a general optimiser."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(6, 12))
    p, q = rng.dirichlet(np.full(width, 0.5), 2)
    k, token, logprob = int(rng.integers(2, 5)), int(rng.integers(width)), bool(seed % 2)
    log = told(p, q, k, token, logprob=logprob)
    likely = set(log.teacher_ids_NT[0].tolist())
    for kind in KINDS:
        for size in range(1, k + 1):
            found = log.top_k(size, kind)
            chosen = log.student_ids_NK[0, :size]
            hidden = [
                i for i, v in enumerate(chosen) if v not in likely and not (logprob and v == token)
            ]
            true = exact(p, q, chosen, kind)
            assert found.least_N[0] - 1e-9 <= true <= found.most_N[0] + 1e-9
            assert bool(found.known_N[0]) == (not hidden)
            if not hidden:
                assert found.least_N[0] == pytest.approx(true, abs=1e-9)
                continue
            left = 1 - q[log.teacher_ids_NT[0]].sum()
            left -= q[token] if logprob and token not in likely else 0
            cap = q[log.teacher_ids_NT[0]].min()
            best = _least(p, q, chosen, hidden, kind, cap, left, rng)
            assert found.least_N[0] == pytest.approx(max(0.0, best), abs=1e-5)


def _least(p: Array, q: Array, chosen: Array, hidden: list[int], kind: str, cap: float,
           left: float, rng: np.random.Generator) -> float:  # fmt: skip
    def value(values: Array) -> float:
        mine = q[chosen].copy()
        mine[hidden] = values
        a, b = p[chosen], mine
        if kind == "renormalised":
            a, b = a / a.sum(), b / b.sum()
            return float((a * np.log(a / b)).sum())
        return float(
            (a * np.log(a / b)).sum() + (1 - a.sum()) * np.log((1 - a.sum()) / (1 - b.sum()))
        )

    best = np.inf
    for _ in range(4):
        start = rng.dirichlet(np.ones(len(hidden) + 1))[:-1] * left
        start = np.minimum(start, cap) * 0.9 + 1e-6 * min(left, cap)
        found = minimize(
            value, start, bounds=[(1e-12, cap)] * len(hidden), method="SLSQP",
            constraints=[{"type": "ineq", "fun": lambda x: left - x.sum()}],
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        best = min(best, float(found.fun))
    return best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), width=st.integers(3, 40), k=st.integers(1, 8),
    sharp=st.floats(0.02, 3.0), logprob=st.booleans(),
)  # fmt: skip
def test_what_is_true_lies_within_though_probabilities_were_rounded(
    seed: int, width: int, k: int, sharp: float, logprob: bool
) -> None:
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.full(width, sharp)) + 1e-12 for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    k = min(k, width - 1)
    log = told(p, q, k, int(rng.integers(width)), logprob=logprob, half=True)
    for size in range(1, k + 1):
        chosen = log.student_ids_NK[0, :size]
        for kind in KINDS:
            found = log.top_k(size, kind)
            true = exact(p, q, chosen, kind)
            assert 0 <= found.least_N[0] <= true + 1e-9
            assert true <= found.most_N[0] + 1e-9
            if kind == "tail":
                assert found.most_N[0] <= max(0.0, log.loss_N[0])


def test_rounding_costs_little_where_mass_is_left() -> None:
    rng = np.random.default_rng(4)
    p, q = rng.dirichlet(np.ones(12), 2)
    order = np.argsort(-p)
    # Both have the same five likeliest.
    q = np.sort(q)[::-1][np.argsort(order)]
    for kind in KINDS:
        whole, half = (
            told(p, q, 5, 0, logprob=False, half=half).top_k(5, kind) for half in (False, True)
        )
        assert whole.known_N.all()
        assert whole.least_N[0] == whole.most_N[0]
        assert half.least_N[0] == pytest.approx(whole.least_N[0], abs=4e-3)
        assert half.most_N[0] == pytest.approx(whole.most_N[0], abs=4e-3)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30))
def test_ranks_are_those_of_scipy(values: list[int]) -> None:
    array = np.array(values, dtype=float)
    assert mid_ranks(array).tolist() == rankdata(array).tolist()
    other = np.cos(np.arange(len(array)))
    if len(set(values)) > 1:
        ours = spearman(mid_ranks(array), mid_ranks(other))
        assert ours == pytest.approx(spearmanr(array, other).statistic)
