"""Weighted sums of the local regression: the compiled loop against NumPy and against the text."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from rocktok.stats import adjusted, local_regression_loops
from rocktok.stats.adjusted import adjusted_contrasts
from rocktok.stats.local_regression import WIDTHS, weighted_sums
from tests.stats.test_adjusted import drawn_changes, twin_contrast


def weights(apart_N: np.ndarray) -> np.ndarray:
    """2^−Δ² of each difference from eight types at 0, whose weights add up without rounding."""
    ours_BR, others_BA = apart_N[None], np.zeros((1, 8))
    sum_SB9R = np.empty((1, 1, 9, len(apart_N)))
    local_regression_loops.weighted_sums(
        ours_BR, np.zeros_like(ours_BR), others_BA, others_BA, others_BA, np.array([0, 8]), sum_SB9R
    )
    weight_N: np.ndarray = sum_SB9R[0, 0, 0] / 8
    return weight_N


def test_weights_are_right_to_the_last_digits() -> None:
    rng = np.random.default_rng(0)
    halves = np.sqrt(np.maximum(0, rng.integers(0, 160, 20_000) / 2 + rng.normal(0, 1e-12, 20_000)))
    far, near = rng.uniform(0, math.sqrt(1021), 200_000), rng.uniform(0, 1.5, 200_000)
    apart_N = np.concatenate([far, near, halves])
    assert np.abs(weights(apart_N) / np.exp2(-(apart_N**2)) - 1).max() < 1e-15
    whole = np.arange(32.0)
    np.testing.assert_array_equal(weights(whole), np.exp2(-(whole**2)))


def test_weights_that_are_too_small_are_zero() -> None:
    edge = math.sqrt(1021.0001)
    far = np.array([edge, math.sqrt(1074), math.sqrt(1075), 100.0, 1e9, 1e100, 1e150])
    np.testing.assert_array_equal(weights(far), 0.0)
    assert np.isnan(weights(np.array([np.nan]))).all()
    assert np.exp2(-(edge**2)) < 1e-307


def drawn(seed: int, first: int, others: int) -> tuple[np.ndarray, ...]:
    """Three replicates, of types some of which are undefined in one."""
    rng = np.random.default_rng(seed)
    x_BRC, x_BAC = rng.normal(4, 3, (3, first, 2)), rng.normal(4, 3, (3, others, 2))
    y_BA, counts_BA = rng.normal(0, 1, (3, others)), rng.random((3, others)) < 0.8
    x_BRC[1, 0], x_BAC[~counts_BA], y_BA[~counts_BA] = np.nan, 0.0, 0.0
    return x_BRC, x_BAC, y_BA, counts_BA


@pytest.mark.parametrize(("first", "others"), [(1, 1), (2, 3), (7, 16), (5, 37), (40, 101)])
def test_weighted_sums_are_those_of_numpy_and_of_the_definition(first: int, others: int) -> None:
    x_BRC, x_BAC, y_BA, counts_BA = drawn(first, first, others)
    edges = sorted({0, others // 3, others // 2, others})
    spans = [slice(a, b) for a, b in pairwise(edges)]
    with np.errstate(invalid="ignore"):
        ours, twin = (
            np.stack(weighted_sums(x_BRC, x_BAC, y_BA, counts_BA, spans, compiled=compiled))
            for compiled in (True, False)
        )
    fine = np.ones((3, first), dtype=bool)
    fine[1, 0] = False
    # A replicate's types that are undefined give no number, and leave all others alone.
    assert np.isfinite(ours[:, :, 0][:, fine]).all() and np.isnan(ours[:, 1, 1:, 0]).all()
    for s, span in enumerate(spans):
        for b, r in zip(*np.nonzero(fine), strict=True):
            expected, sizes = np.zeros(9), np.zeros(9)
            for at in np.flatnonzero(counts_BA[b, span]) + span.start:
                (v, w), y = x_BAC[b, at], y_BA[b, at]
                apart = (x_BRC[b, r] - x_BAC[b, at]) / WIDTHS
                weight = math.exp(-0.5 * float(apart @ apart))
                terms = weight * np.array([1, v, w, y, v * v, v * w, w * w, v * y, w * y])
                expected, sizes = expected + terms, sizes + np.abs(terms)
            # Exponents of some hundreds are themselves rounded.
            for made in (ours, twin):
                assert (np.abs(made[s, b, :, r] - expected) <= 1e-12 * sizes + 1e-300).all()


def test_contrasts_by_the_compiled_loop_are_those_of_the_twin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = drawn_changes(11)
    groups = [changes.token_T[:16], changes.token_T[4:12], changes.token_T[10:25]]
    plain = adjusted_contrasts(changes, groups, 11)
    monkeypatch.setattr(adjusted, "COMPILED", 1)
    compiled = adjusted_contrasts(changes, groups, 11)
    assert adjusted_contrasts(changes, groups, 11, threads=3) == compiled
    for ours, before, group in zip(compiled, plain, groups, strict=True):
        assert ours.keys() == before.keys()
        for name, value in twin_contrast(changes, {*group}, 11).items():
            expected = pytest.approx(value, abs=1e-9)
            assert ours[name] == expected, name  # type: ignore[literal-required]
            nearly = pytest.approx(before[name], rel=1e-11)  # type: ignore[literal-required]
            assert ours[name] == nearly, name  # type: ignore[literal-required]
