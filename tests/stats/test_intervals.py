"""Estimates over prompts: exact cases, invariants, and how often their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.hashing import hash_rows
from rocktok.stats.bootstrap import PromptBootstrap, poisson_weights
from rocktok.stats.intervals import (
    MIN_EFFECTIVE,
    Estimate,
    GroupedEstimate,
    effective_prompts,
    mean_of_means,
)
from tests.stats.interval_twin import interval, same
from tests.stats.interval_worlds import coverage

REPLICATES = 4_000


def total(
    part_P: np.ndarray, seed: int = 0, largest: float = 0.0, replicates: int = REPLICATES
) -> Estimate:
    """A sum over prompts under Poisson weights."""
    weight_PB = poisson_weights(seed, replicates, np.arange(len(part_P), dtype=np.uint64))
    return Estimate.total(part_P.sum(), part_P @ weight_PB - part_P.sum(), largest)


def test_effective_prompts_are_kishs() -> None:
    even = np.ones(50)
    assert total(even).prompts == pytest.approx(50, rel=0.1)
    # One prompt with half of the sum: 100² / (50² + 50).
    assert total(np.append(even, 50.0)).prompts == pytest.approx(100**2 / 2550, rel=0.1)
    # With even chances another row of 10: 50² / (50 + 10²/2).
    assert total(even, largest=10.0).prompts == pytest.approx(25, rel=0.1)
    assert effective_prompts(np.array([3, 0, 1])) == 16 / 10.5
    assert total(np.zeros(50)).prompts == 0


def test_no_interval_below_the_floor() -> None:
    few, enough = total(np.ones(MIN_EFFECTIVE - 3)), total(np.ones(MIN_EFFECTIVE + 5))
    assert few.few_prompts and not enough.few_prompts
    assert np.isnan(few.interval()).all() and np.isfinite(enough.interval()).all()
    # What is undefined has no interval, and not because prompts are few.
    undefined = enough / total(np.zeros(MIN_EFFECTIVE + 5))
    assert np.isnan(undefined.value) and not undefined.few_prompts
    assert np.isnan(undefined.interval()).all()


def test_effects_are_derivatives() -> None:
    rng = np.random.default_rng(1)
    a_P, b_P, c_P, d_P = rng.exponential(1.0, (4, 60))
    a, b, c, d = (total(part_P) for part_P in (a_P, b_P, c_P, d_P))
    weights = poisson_weights(0, REPLICATES, np.arange(60, dtype=np.uint64)).T
    parts = [(part_P, 0.0) for part_P in (a_P, b_P, c_P, d_P)]
    for estimate, statistic, positive in (
        (a / b, lambda w: w @ a_P / (w @ b_P), True),
        (a / b / (c / d), lambda w: w @ a_P * (w @ d_P) / (w @ b_P) / (w @ c_P), True),
        (a / b - c / d, lambda w: w @ a_P / (w @ b_P) - w @ c_P / (w @ d_P), False),
        ((a / b).log(), lambda w: np.log(w @ a_P / (w @ b_P)), False),
    ):
        assert float(estimate.value) == pytest.approx(statistic(np.ones(60)))
        low, high = estimate.interval(positive=positive)
        used = parts if estimate.prompts == min(p.prompts for p in (a, b, c, d)) else parts[:2]
        assert same(
            (float(low), float(high)), interval(statistic, used, weights, positive=positive)
        )


def test_random_groups_estimate_sums_over_prompts() -> None:
    """Variance, third moment and effective prompts, on average over ways to group."""
    rng = np.random.default_rng(2)
    part_P = rng.exponential(1.0, 400)
    found = []
    for seed in range(300):
        group_P = np.random.default_rng(seed).integers(0, 64, 400)
        part_G = np.bincount(group_P, part_P, minlength=64)
        estimate = GroupedEstimate.total(part_G.sum(), part_G - part_G.mean(), 0.0)
        found.append((estimate._power(2), estimate._power(3), 1 / estimate.prompts))
    true = [(part_P**2).sum(), (part_P**3).sum(), (part_P**2).sum() / part_P.sum() ** 2]
    error = np.std(found, axis=0) / 300**0.5
    assert (np.abs(np.mean(found, axis=0) - true) <= 3.5 * error).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    prompts=st.integers(1, 80),
    scale=st.floats(1e-3, 1e3),
    level=st.floats(0.5, 0.99),
)
def test_intervals_hold_the_value_and_scale_with_it(
    seed: int, prompts: int, scale: float, level: float
) -> None:
    part_P = np.random.default_rng(seed).lognormal(0, 1, prompts)
    small, large, other = (
        total(of_P, seed, replicates=400) for of_P in (part_P, part_P * scale, part_P[::-1])
    )
    assert small.prompts <= prompts * 1.5
    for estimate in (small, small - other):
        low, high = estimate.interval(level, positive=False)
        wide_low, wide_high = estimate.interval(0.995, positive=False)
        if not np.isfinite(low):
            continue
        assert wide_low <= low <= estimate.value <= high <= wide_high
    np.testing.assert_allclose(
        np.array(small.interval(level)) * scale, large.interval(level), rtol=1e-9
    )
    low, high = small.interval(level, most=float(small.value))
    assert not low < 0 and not high > small.value


def test_a_mean_of_means_counts_each_type_the_same() -> None:
    rng = np.random.default_rng(3)
    count_PT = rng.poisson(3.0, (100, 3)) * np.array([1, 5, 20]) + 1
    loss_PT = count_PT * rng.lognormal(0, 0.3, (100, 3))
    weight_BP = poisson_weights(7, REPLICATES, np.arange(100, dtype=np.uint64)).T
    count_T, loss_T = (
        Estimate.total(part.sum(axis=0), weight_BP @ part - part.sum(axis=0), size)
        for part, size in ((count_PT, 1.0), (loss_PT, 2.0))
    )
    found = mean_of_means(count_T, loss_T, 2.0)
    means_T = loss_PT.sum(axis=0) / count_PT.sum(axis=0)
    assert float(found.value) == pytest.approx(means_T.mean())
    drawn = ((weight_BP @ loss_PT) / (weight_BP @ count_PT)).mean(axis=1)
    assert found.effect.std() == pytest.approx(drawn.std(), rel=0.05)
    part_P = (loss_PT / count_PT.sum(axis=0)).sum(axis=1) / 3
    most = 2.0 * np.mean((1 / (3 * count_PT.sum(axis=0))) ** 2) ** 0.5
    square = ((weight_BP - 1) @ part_P) ** 2
    assert float(found.prompts) == pytest.approx(part_P.sum() ** 2 / (square.mean() + most**2 / 2))


def test_the_largest_row_is_of_all_batches_and_types() -> None:
    rows = {
        "token_id": np.array([1, 1, 2, 9]),
        "sequence_id": np.array([0, 0, 1, 2]),
        "prompt": hash_rows(0, np.array([0, 0, 1, 2])),
        "loss": np.array([1.0, -2.0, 0.5, 1.5]),
    }
    whole = PromptBootstrap(np.array([1]), ("", "loss", "loss²"), 0, 100)
    whole.update(rows)
    parts = [PromptBootstrap(np.array([1]), ("", "loss", "loss²"), 0, 100) for _ in range(2)]
    parts[0].update({name: values[:3] for name, values in rows.items()})
    parts[1].update({name: values[3:] for name, values in rows.items()})
    parts[1].merge(parts[0])
    assert whole.largest_M.tolist() == parts[1].largest_M.tolist() == [1.0, 2.0, 4.0]
    assert whole.of("loss").value == 1.0 and whole.each("loss").value.tolist() == [-1.0]


def covered(counts: dict[str, tuple[int, int, int]], least_given: int) -> dict[str, float]:
    return {
        name: covers / given for name, (_, given, covers) in counts.items() if given >= least_given
    }


def test_intervals_cover_at_64_prompts() -> None:
    """A few runs of the table in docs/statistics.md; intervals of a run depend on each other."""
    rates = covered(coverage("light", 64, range(4), 200), 100)
    assert set(rates) == {"a type's position_share"}
    assert rates["a type's position_share"] >= 0.93
    heavy = coverage("heavy", 64, range(4), 200)
    # Next to none of them has an interval, where the bootstrap's would cover 72 to 80%.
    assert heavy["a type's loss_share"][1] <= 2


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize("tail", ["light", "heavy", "sample"])
def test_intervals_cover_as_often_as_said(tail: str) -> None:
    """12 of 300 runs: 92% less two standard errors; a run's intervals depend on each other."""
    counts = coverage(tail, 200, range(12), 200)
    rates = covered(counts, 12)
    assert len(rates) >= 10
    for name, rate in rates.items():
        runs = 12 if "a type's" not in name else min(12 * 4, counts[name][1])
        assert rate >= 0.92 - 2 * (0.92 * 0.08 / runs) ** 0.5, name
