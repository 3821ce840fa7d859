"""The statistics of one arm against another, by brute force, by hand and by their invariants."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, rankdata

from rocktok.analyses.pillars.asymmetry import rank_sum_p
from rocktok.analyses.pillars.paired import flips_p, interval, percentile_p, resampled
from rocktok.analyses.pillars.power import discordance_bound, minimum_effect, problems_needed

# Whoever shares the machine decides how long an example takes to draw.
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

differences = st.lists(st.integers(-3, 3), min_size=1, max_size=9)


@given(differences)
@SETTINGS
def test_flips_are_all_flips(values: list[int]) -> None:
    flipped = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
               for signs in product((1, -1), repeat=len(values))]  # fmt: skip
    expected = np.mean([one >= abs(sum(values)) for one in flipped])
    assert flips_p(np.array(values)) == pytest.approx(expected, abs=1e-12)


@given(differences)
@SETTINGS
def test_flips_heed_neither_sign_nor_order_nor_zeros(values: list[int]) -> None:
    p = flips_p(np.array(values))
    assert 0 < p <= 1
    assert flips_p(-np.array(values[::-1])) == pytest.approx(p, abs=1e-12)
    assert flips_p(np.array([*values, 0, 0])) == pytest.approx(p, abs=1e-12)


def test_flips_of_single_draws_are_mcnemar() -> None:
    values = np.array([1] * 30 + [-1] * 55 + [0] * 400)
    assert flips_p(values) == pytest.approx(binomtest(30, 85).pvalue, rel=1e-12)


def test_flips_of_many_problems_stay_above_zero() -> None:
    assert 0 < flips_p(np.ones(5_000, np.int64)) < 1e-300
    assert flips_p(np.zeros(9, np.int64)) == 1


def test_resampled_means_have_the_moments_of_the_bootstrap() -> None:
    values = np.array([2] * 10 + [-1] * 20 + [0] * 70)
    whole = np.concatenate((values, [2, -2]))
    means = resampled(values, 50_000, (1,))
    assert means.mean() == pytest.approx(whole.mean(), abs=4e-3)
    assert means.std() == pytest.approx(whole.std() / np.sqrt(len(whole)), rel=0.02)
    assert (resampled(values[::-1], 500, (1,)) == resampled(values, 500, (1,))).all()
    assert (resampled(values, 500, (2,)) != resampled(values, 500, (1,))).any()


def test_an_interval_of_no_change_is_no_point() -> None:
    few, many = (interval(resampled(np.zeros(n, np.int64), 10_000, (0,)), 0.9) for n in (50, 500))
    assert few[0] < -0.01 and few[1] > 0.01
    assert -0.01 < many[0] < 0 < many[1] < 0.01


def naive_percentile(values: np.ndarray) -> float:
    generator = np.random.default_rng(42)
    sums = np.array([values[generator.integers(0, len(values), len(values))].sum()
                     for _ in range(10_000)])  # fmt: skip
    return float(2 * min((sums >= 0).mean(), (sums <= 0).mean()))


def test_the_percentile_p_is_that_of_resampled_indices() -> None:
    generator = np.random.default_rng(3)
    values = generator.choice([-1, 0, 1], size=(40, 3), p=[0.15, 0.8, 0.05])
    values[:, 2] = [1, -1] * 3 + [0] * 34
    found = percentile_p(values)
    assert found.tolist() == [naive_percentile(column) for column in values.T]
    assert found[2] > 1


def test_the_percentile_p_does_not_depend_on_its_chunks() -> None:
    """300 problems are more than one chunk of indices."""
    values = np.random.default_rng(1).choice([-1, 0, 1], size=300, p=[0.1, 0.82, 0.08])
    assert percentile_p(values[:, None])[0] == naive_percentile(values)


accuracies = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(accuracies, st.lists(st.integers(0, 4), min_size=1, max_size=3))
@SETTINGS
def test_rank_sums_are_those_of_all_subsets(arms: list[int], baselines: list[int]) -> None:
    ranks = rankdata([*baselines, *arms])
    size = len(baselines)
    sums = np.array([sum(subset) for subset in combinations(ranks, size)])
    own = ranks[:size].sum()
    expected = min(1, 2 * min((sums <= own + 1e-9).mean(), (sums >= own - 1e-9).mean()))
    found = rank_sum_p(np.array(baselines), np.array(arms))
    assert found == pytest.approx(expected, abs=1e-12)
    assert rank_sum_p(np.array(arms), np.array(baselines)) == pytest.approx(expected, abs=1e-12)


@given(accuracies, st.integers(0, 4))
@SETTINGS
def test_one_baseline_is_counted(arms: list[int], baseline: int) -> None:
    above = 1 + sum(arm >= baseline for arm in arms)
    below = 1 + sum(arm <= baseline for arm in arms)
    expected = min(1, 2 * min(above, below) / (len(arms) + 1))
    assert rank_sum_p(np.array([baseline]), np.array(arms)) == pytest.approx(expected)


def test_large_groups_are_approximated_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    from rocktok.analyses.pillars import asymmetry

    generator = np.random.default_rng(5)
    first, second = generator.integers(0, 90, 40), generator.integers(8, 98, 45)
    exact = rank_sum_p(first, second)
    monkeypatch.setattr(asymmetry, "MOST_WORK", 0)
    assert rank_sum_p(first, second) == pytest.approx(exact, rel=0.05)
    assert rank_sum_p(np.ones(30), np.ones(40)) == 1


def test_the_bound_is_clopper_and_pearsons() -> None:
    values = np.array([1] * 3 + [-1] * 4 + [0] * 93)
    expected = binomtest(7, 100, alternative="less").proportion_ci(0.95).high
    assert discordance_bound(values, 1) == pytest.approx(expected)
    # Half of the draws of four times as many problems: as many squares.
    halves = np.array([2] * 28 + [0] * 72)
    assert discordance_bound(halves, 4) == pytest.approx(expected)
    assert discordance_bound(np.ones(5, np.int64), 1) == 1


def test_the_minimum_effect_solves_its_formula() -> None:
    effect = minimum_effect(0.1, 500, 40, 0.05)
    assert effect is not None
    z = norm.isf(0.05 / 80), norm.isf(0.2)
    right = z[0] * np.sqrt(0.1) + z[1] * np.sqrt(0.1 - effect**2)
    assert effect * np.sqrt(500) == pytest.approx(right)
    single = minimum_effect(0.1, 500, 1, 0.05)
    assert single is not None and single < effect
    needed = problems_needed(0.1, effect, 40, 0.05)
    assert needed in (500, 501)


def test_no_effect_exceeds_the_share_of_problems_that_change() -> None:
    effect = minimum_effect(0.006, 500, 1, 0.05)
    assert effect is not None and effect > 0.006
    z = norm.isf(0.025), norm.isf(0.2)
    right = z[0] * np.sqrt(effect) + z[1] * np.sqrt(effect - effect**2)
    assert effect * np.sqrt(500) == pytest.approx(right)
    assert minimum_effect(0.5, 5, 40, 0.05) is None


def test_the_power_at_the_minimum_effect_is_eighty_percent() -> None:
    effect = minimum_effect(0.1, 500, 1, 0.05)
    assert effect is not None
    generator = np.random.default_rng(0)
    up, down = (0.1 - effect) / 2, (0.1 + effect) / 2
    counts = generator.multinomial(500, [up, down, 1 - up - down], size=1_000)
    told = [flips_p(np.repeat([1, -1], [one, two])) <= 0.05 for one, two, _ in counts]
    # The exact test of a discrete sum is a little conservative.
    assert 0.72 < np.mean(told) < 0.84
