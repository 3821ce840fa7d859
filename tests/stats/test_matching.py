"""Matching: the compiled loop, its NumPy twin and SciPy's assignment of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rocktok.stats import matching
from rocktok.stats.matching import match


def twin(rock_RC: np.ndarray, other_AC: np.ndarray, caliper_C: np.ndarray) -> list[list[int]]:
    """All costs as one matrix, for SciPy."""
    cost_RA = np.zeros((len(rock_RC), len(other_AC)))
    within_RA = np.ones(cost_RA.shape, dtype=bool)
    for c, caliper in enumerate(caliper_C):
        with np.errstate(invalid="ignore"):
            apart_RA = np.abs(rock_RC[:, c, None] - other_AC[None, :, c])
        within_RA &= apart_RA <= caliper
        cost_RA += apart_RA / caliper
    cost_RA[~within_RA] = 1.0 + len(caliper_C) * len(rock_RC)
    pairs = zip(*linear_sum_assignment(cost_RA), strict=True)
    return [[int(r), int(a)] for r, a in pairs if within_RA[r, a]]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_pairs_are_those_of_scipy_where_many_are_equally_near(
    seed: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "COMPILED", 0 if compiled else 1 << 40)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        rocks, others, covariates = rng.integers(1, [40, 60, 4])
        values = rng.integers(2, 30)
        ours, theirs = (rng.integers(0, values, (size, covariates)) / 7 for size in (rocks, others))
        for side in (ours, theirs):
            side[rng.random(side.shape) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
        caliper = rng.choice([0.2, 0.3, 2 / 7, 1.0, 5.0], covariates)
        pairs, left = match(ours, theirs, caliper)
        assert pairs.tolist() == twin(ours, theirs, caliper)
        assert left.tolist() == sorted(set(range(rocks)) - {*pairs[:, 0].tolist()})


def test_many_pairs_are_matched_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (np.log10(rng.integers(20, 500, (size, 1))) for size in (300, 700))
    caliper = np.array([0.1])
    assert len(ours) * len(theirs) >= matching.COMPILED
    pairs, left = match(ours, theirs, caliper)
    assert pairs.tolist() == twin(ours, theirs, caliper)
    monkeypatch.setattr(matching, "COMPILED", 1 << 40)
    for made, expected in zip(match(ours, theirs, caliper), (pairs, left), strict=True):
        np.testing.assert_array_equal(made, expected)
