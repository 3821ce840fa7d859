"""Bounds of the reverse KL from each model's likeliest tokens, against whole distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.importers.bounds import reverse_kl_bounds
from tests.importers.files import distributions, likeliest


def exact(logp_NV: np.ndarray, logq_NV: np.ndarray) -> np.ndarray:
    return (np.exp(logp_NV) * (logp_NV - logq_NV)).sum(axis=1)


def test_a_case_by_hand() -> None:
    # p = (.5, .3, .2), q = (.6, .1, .3); of p the ids 0, 1 are known, of q 0, 2.
    lower, upper = reverse_kl_bounds(
        np.array([[0, 1]]),
        np.log([[0.5, 0.3]]),
        np.array([[0, 2]]),
        np.log([[0.6, 0.3]]),
        math.log(0.1),
    )
    assert lower[0] == pytest.approx(0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4))
    assert upper is not None
    assert upper[0] == pytest.approx(
        0.5 * math.log(0.5 / 0.6) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2) - 0.5 * math.log(0.1)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 40),
    k=st.integers(1, 12),
    spread=st.floats(0.1, 8),
)
def test_the_whole_sum_lies_between(seed: int, size: int, k: int, spread: float) -> None:
    logp_NV, logq_NV = distributions(20, size, seed, spread)
    floor = float(logq_NV.min())
    known = [*likeliest(logp_NV, min(k, size)), *likeliest(logq_NV, min(k, size))]
    lower, upper = reverse_kl_bounds(*known, floor - 1e-9)
    whole = exact(logp_NV, logq_NV)
    assert upper is not None
    assert (lower <= whole + 1e-6).all()
    assert (upper >= whole - 1e-9).all()
    if k >= size:
        np.testing.assert_allclose(lower, whole, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 6))
def test_the_lower_bound_is_attained_and_grows_with_k(seed: int, k: int) -> None:
    """Where p/q is one number outside the known tokens, the bound is the sum."""
    logp_NV, logq_NV = distributions(8, 30, seed)
    ids_p, known_p = likeliest(logp_NV, k)
    ids_q, known_q = likeliest(logq_NV, k)
    less, _ = reverse_kl_bounds(ids_p, known_p, ids_q, known_q)
    more, _ = reverse_kl_bounds(*likeliest(logp_NV, 2 * k), *likeliest(logq_NV, 2 * k))
    assert (more >= less - 1e-9).all()
    p_NV, q_NV = np.exp(logp_NV), np.exp(logq_NV)
    for row in range(8):
        both = np.intersect1d(ids_p[row], ids_q[row])
        outside = np.setdiff1d(np.arange(30), both)
        proportional = q_NV[row].copy()
        share = p_NV[row, outside] / p_NV[row, outside].sum()
        proportional[outside] = q_NV[row, outside].sum() * share
        attained = (p_NV[row] * np.log(p_NV[row] / proportional)).sum()
        assert less[row] == pytest.approx(attained, abs=1e-6)


def test_a_teacher_below_its_floor_has_no_upper_bound() -> None:
    known = np.array([[0, 1]]), np.log([[0.5, 0.3]])
    _, upper = reverse_kl_bounds(*known, np.array([[0, 2]]), np.log([[0.6, 0.3]]), math.log(0.5))
    assert upper is not None
    assert np.isinf(upper[0])
    assert reverse_kl_bounds(*known, *known)[1] is None


def test_rows_may_list_fewer_tokens() -> None:
    logp_NV, logq_NV = distributions(1, 20, 3)
    (ids_p, p), (ids_q, q) = likeliest(logp_NV, 4), likeliest(logq_NV, 4)
    padded = [np.pad(ids, ((0, 0), (0, 3)), constant_values=-1) for ids in (ids_p, ids_q)]
    values = [np.pad(v, ((0, 0), (0, 3)), constant_values=-np.inf) for v in (p, q)]
    whole = reverse_kl_bounds(ids_p, p, ids_q, q, -30.0)
    found = reverse_kl_bounds(padded[0], values[0], padded[1], values[1], -30.0)
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_allclose(one, other)


def test_rounded_logits_whose_masses_exceed_one_stay_finite() -> None:
    ids = np.array([[0, 1]])
    lower, _ = reverse_kl_bounds(ids, np.log([[0.7, 0.4]]), ids, np.log([[0.7, 0.4]]))
    assert np.isfinite(lower).all()
    assert abs(lower[0]) < 0.2
