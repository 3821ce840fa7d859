"""The adjusted contrast: against a twin from the text, by hand, and the rule of the verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from rocktok.stats import adjusted, local_regression
from rocktok.stats.adjusted import (
    AdjustedContrast,
    TypeValues,
    _draws,
    adjusted_contrast,
    adjusted_contrasts,
    loss_and_count,
    type_values,
)
from rocktok.stats.verdicts import GRADIENT, verdicts


def twin_difference(
    y: list[float], x1: list[float], x2: list[float], rocks: list[int], others: list[int]
) -> float:
    """Mean over rocks of y less the intercept of a weighted ridge regression, by its definition.

    Types may stand several times. Those without a number are left out.
    """
    excess = []
    fine = [v for v in others if all(math.isfinite(z[v]) for z in (y, x1, x2))]
    for v in rocks:
        if not all(math.isfinite(z[v]) for z in (y, x1, x2)):
            continue
        left, right, total = np.zeros((3, 3)), np.zeros(3), 0.0
        for u in fine:
            row = np.array([1.0, x1[u] - x1[v], x2[u] - x2[v]])
            w = math.exp(-0.5 * (row[1] / 0.5) ** 2 - 0.5 * (row[2] / 1.0) ** 2)
            left += w * np.outer(row, row)
            right += w * row * y[u]
            total += w
        left[1, 1] += 0.05 * total
        left[2, 2] += 0.05 * total
        excess.append(y[v] - float(np.linalg.solve(left, right)[0]))
    return sum(excess) / len(excess) if excess else math.nan


def twin_contrast(changes: TypeValues, rocks: set[int], seed: int) -> dict[str, Any]:
    def lists(change: np.ndarray, covariate: np.ndarray) -> tuple[list[float], ...]:
        return change.tolist(), covariate[:, 0].tolist(), covariate[:, 1].tolist()

    y, x1, x2 = lists(changes.value_T, changes.covariate_TC)
    fine = [t for t in range(len(y)) if all(math.isfinite(z[t]) for z in (y, x1, x2))]
    ours = [t for t in fine if changes.token_T[t] in rocks]
    others = [t for t in fine if changes.token_T[t] not in rocks]
    backed = [v for v in ours if sum(abs(x1[v] - x1[u]) <= 0.5 for u in others) >= 5]
    difference = twin_difference(y, x1, x2, backed, others)
    over_prompts = [
        twin_difference(*lists(y_T, x_TC), backed, others)
        for y_T, x_TC in zip(changes.value_BT, changes.covariate_BTC, strict=True)
    ]
    over_types = []
    size = len(changes.value_BT)
    draws = zip(_draws(seed, 0, size, len(ours)), _draws(seed, 1, size, len(others)), strict=True)
    for ours_drawn, others_drawn in draws:
        drawn_rocks = [v for v, n in zip(ours, ours_drawn, strict=True) for _ in range(n)]
        drawn_others = [v for v, n in zip(others, others_drawn, strict=True) for _ in range(n)]
        kept = [v for v in drawn_rocks if v in backed]
        over_types.append(twin_difference(y, x1, x2, kept, drawn_others))
    variance = sum(float(np.var([d for d in draws if math.isfinite(d)], ddof=1))
                   for draws in (over_prompts, over_types))  # fmt: skip
    error = variance**0.5
    return {
        "difference": difference,
        "low": difference - 1.96 * error,
        "high": difference + 1.96 * error,
        "p": 2 * float(norm.sf(abs(difference) / error)),
        "measured": len(ours),
        "supported": len(backed),
        "comparable": len(backed) >= 10 and len(backed) / len(ours) >= 0.5,
        "loss_first": sum(math.exp(x1[v]) for v in ours) / len(ours),
        "loss_second": sum(math.exp(x1[v]) for v in others) / len(others),
    }


def drawn_changes(seed: int, types: int = 40, replicates: int = 40) -> TypeValues:
    """Types some of which lack a number, in the data and in single replicates."""
    rng = np.random.default_rng(seed)
    change_T, covariate_TC = rng.normal(0, 0.3, types), rng.normal(0, 1, (types, 2))
    change_BT = change_T + rng.normal(0, 0.1, (replicates, types))
    covariate_BTC = covariate_TC + rng.normal(0, 0.1, (replicates, types, 2))
    change_BT[rng.random(change_BT.shape) < 0.05] = np.nan
    covariate_BTC[rng.random(covariate_BTC.shape) < 0.02] = np.nan
    change_T[3], covariate_TC[5, 0] = np.nan, np.nan
    return TypeValues(np.arange(types) * 7, change_T, change_BT, covariate_TC, covariate_BTC)


@pytest.mark.parametrize("seed", range(6))
def test_the_contrast_is_that_of_the_twin(seed: int) -> None:
    changes = drawn_changes(seed)
    rocks = np.random.default_rng(seed).choice(changes.token_T, 16, replace=False)
    ours, theirs = adjusted_contrast(changes, rocks, seed), twin_contrast(changes, {*rocks}, seed)
    assert adjusted_contrast(changes, rocks, seed, threads=3) == ours
    assert ours["p_holm"] is None
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name  # type: ignore[literal-required]


@pytest.mark.parametrize("threads", [1, 2])
def test_several_groups_at_once_have_the_contrasts_of_each(threads: int) -> None:
    """Nested as rocks at several cutoffs are, overlapping, apart, and without a supported type."""
    changes, token_T = drawn_changes(7), drawn_changes(7).token_T
    changes.covariate_TC[39, 0] = 99.0
    groups = [token_T[:16], token_T[4:12], token_T[10:25], token_T[26:31], token_T[39:]]
    together = adjusted_contrasts(changes, groups, 7, threads)
    assert together[-1]["supported"] == 0
    for row, group in zip(together, groups, strict=True):
        for name, value in adjusted_contrast(changes, group, 7).items():
            assert row[name] == pytest.approx(value, abs=1e-11), name  # type: ignore[literal-required]


def test_pairs_are_weighted_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = drawn_changes(8)
    rocks = changes.token_T[5:20]
    whole = adjusted_contrast(changes, rocks, 8)
    for at_once, replicates, rows in ((1, 3, 2), (100, 1, 100), (900, 64, 5)):
        for module in (local_regression, adjusted):
            monkeypatch.setattr(module, "AT_ONCE", at_once)
        monkeypatch.setattr(adjusted, "_REPLICATES", replicates)
        monkeypatch.setattr(adjusted, "_ROWS", rows)
        for name, value in adjusted_contrast(changes, rocks, 8).items():
            expected = whole[name]  # type: ignore[literal-required]
            assert value == pytest.approx(expected, abs=1e-11), name


def constant(types: int, replicates: int = 50) -> TypeValues:
    """Types all of the same first loss and frequency, of no change."""
    zero_TC = np.zeros((types, 2))
    return TypeValues(
        np.arange(types),
        np.zeros(types),
        np.zeros((replicates, types)),
        zero_TC,
        np.zeros((replicates, types, 2)),
    )


def test_among_types_alike_it_is_the_difference_of_means_with_both_variances() -> None:
    changes = constant(30, 4000)
    changes.value_T[:10] = 0.5
    changes.value_T[10:] = np.tile([0.1, 0.3], 10)
    noise_B = np.random.default_rng(1).normal(0, 0.1, 4000)
    changes.value_BT[:] = changes.value_T
    changes.value_BT[:, :10] += noise_B[:, None]
    row = adjusted_contrast(changes, np.arange(10), 0)
    assert row["difference"] == pytest.approx(0.3, abs=1e-12)
    # Over prompts 0.1²; over types that of the mean of 20 values, each 0.1 from it.
    assert row["low"] is not None and row["high"] is not None
    error = (row["high"] - row["low"]) / 2 / 1.96
    assert error == pytest.approx((0.1**2 + 0.1**2 / 20) ** 0.5, rel=0.03)
    assert (row["supported"], row["measured"], row["comparable"]) == (10, 10, True)
    assert row["loss_first"] == row["loss_second"] == 1.0


def test_a_straight_line_is_followed_but_for_the_ridge() -> None:
    """Others on y = x at −0.5 and 0.5, weights exp(−½) to a rock at 0: symmetric, so no bias; at
    0.5 the slope is that of a ridge, 0.25 / (0.25 + 0.05) with equal weights in place of these."""
    changes = constant(11)
    changes.covariate_TC[:5, 0], changes.covariate_TC[5:10, 0] = -0.5, 0.5
    changes.value_T[:] = changes.covariate_TC[:, 0]
    changes.value_BT[:], changes.covariate_BTC[:] = changes.value_T, changes.covariate_TC
    centre = adjusted_contrast(changes, np.array([10]), 0)
    assert centre["difference"] == pytest.approx(0.0, abs=1e-12)
    changes.covariate_TC[10, 0] = changes.value_T[10] = 0.5
    w = math.exp(-2.0)
    mean = 0.5 * (1 - w) / (1 + w)
    spread = 0.25 - mean**2
    slope = spread / (spread + 0.05)
    edge = adjusted_contrast(changes, np.array([10]), 0)
    assert edge["difference"] == pytest.approx(0.5 - (mean + slope * (0.5 - mean)), abs=1e-12)


def test_support_needs_five_types_within_half_a_nat_of_log_loss() -> None:
    changes = constant(14)
    changes.covariate_TC[:4, 0], changes.covariate_TC[4, 0] = 2.0, 2.5
    changes.covariate_TC[13, 0] = 2.0
    assert adjusted_contrast(changes, np.array([13]), 0)["supported"] == 1
    changes.covariate_TC[4, 0] = 2.501
    row = adjusted_contrast(changes, np.array([13]), 0)
    assert (row["supported"], row["measured"], row["comparable"]) == (0, 1, False)
    assert row["difference"] is None and row["p"] is None
    assert row["loss_first"] == pytest.approx(math.exp(2.0))


@pytest.mark.parametrize(
    ("near", "far", "comparable"), [(9, 0, False), (10, 0, True), (10, 10, True), (10, 11, False)]
)
def test_comparable_needs_ten_rocks_and_half_of_them(near: int, far: int, comparable: bool) -> None:
    changes = constant(10 + near + far)
    changes.covariate_TC[10 + near :, 0] = 3.0
    row = adjusted_contrast(changes, np.arange(10, 10 + near + far), 0)
    assert (row["supported"], row["measured"]) == (near, near + far)
    assert row["comparable"] is comparable


def test_no_rocks_and_no_others_have_no_contrast() -> None:
    for rocks in (np.array([], dtype=np.int64), np.arange(12)):
        row = adjusted_contrast(constant(12), rocks, 0)
        assert row["difference"] is None and not row["comparable"]


def test_changes_are_taken_from_sums() -> None:
    """A type of mean loss 2 → 1 on one half, 3 on the other at first; one that is lost to zero."""
    pre_other = [[4.0, 4.0], [12.0, 4.0]]
    pre, post = [[6.0, 1.0], [12.0, 1.0]], [[5.0, 1.0], [5.0, 0.0]]
    # Plain, and in two replicates: as many, and twice as many.
    other_2TW, pre_2TW, (post_TW, _) = (
        np.stack(loss_and_count(np.array(sums)[:, :, None] * [1, 1, 2]))
        for sums in (pre_other, pre, post)
    )
    changes = type_values(np.array([3, 8]), other_2TW, pre_2TW[1], post_TW - pre_2TW[0])
    assert changes.value_T[0] == pytest.approx(math.log(0.5))
    assert changes.covariate_TC[0] == pytest.approx([math.log(3), math.log(10)])
    assert changes.covariate_BTC[1, 0] == pytest.approx([math.log(3), math.log(20)])
    assert changes.value_BT[:, 0] == pytest.approx([math.log(0.5)] * 2)
    assert changes.measured_T().tolist() == [True, False]


def test_draws_are_with_replacement_seeded_and_of_each_side_by_itself() -> None:
    drawn_BA = _draws(3, 0, 2000, 8)
    assert (drawn_BA.sum(axis=1) == 8).all()
    # Of a binomial with 8 draws of 1 in 8: mean 1, variance 7/8.
    assert drawn_BA.mean(axis=0) == pytest.approx(1.0, abs=0.1)
    assert drawn_BA.var(axis=0) == pytest.approx(7 / 8, abs=0.15)
    assert (drawn_BA == _draws(3, 0, 2000, 8)).all()
    assert abs(np.corrcoef(drawn_BA[:, 0], _draws(3, 1, 2000, 8)[:, 0])[0, 1]) < 0.1
    assert abs(np.corrcoef(drawn_BA[:, 0], _draws(4, 0, 2000, 8)[:, 0])[0, 1]) < 0.1


def test_draws_are_the_same_some_replicates_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _draws(5, 1, 50, 7)
    monkeypatch.setattr(adjusted, "AT_ONCE", 21)
    assert np.array_equal(_draws(5, 1, 50, 7, threads=2), whole)
    assert _draws(5, 1, 50, 0).shape == (50, 0)


def row(difference: float, error: float, *, comparable: bool = True) -> AdjustedContrast:
    return {
        "difference": difference,
        "low": difference - 1.96 * error,
        "high": difference + 1.96 * error,
        "p": 2 * float(norm.sf(abs(difference) / error)),
        "p_holm": None,
        "measured": 20,
        "supported": 12,
        "comparable": comparable,
        "loss_first": 2.0,
        "loss_second": 1.0,
    }


LESS, MORE, WIDE, SAME = (0.3, 0.1), (-0.3, 0.1), (0.1, 0.1), (0.0, 0.02)


@pytest.mark.parametrize(
    ("cutoffs", "verdict"),
    [
        ((LESS, LESS, LESS), "improve less"),
        ((MORE, MORE, MORE), "improve more"),
        ((SAME, SAME, SAME), "no difference"),
        ((WIDE, WIDE, WIDE), "inconclusive"),
        ((WIDE, SAME, SAME), "inconclusive"),
        ((LESS, WIDE, LESS), "depends on the cutoff"),
        ((WIDE, WIDE, MORE), "depends on the cutoff"),
        ((LESS, MORE, LESS), "depends on the cutoff"),
        ((None, None, None), "not comparable"),
        ((None, LESS, LESS), "not comparable"),
        ((LESS, None, LESS), "depends on the cutoff"),
        ((WIDE, None, WIDE), "inconclusive"),
    ],
)
def test_a_verdict_holds_at_every_cutoff_or_is_none(
    cutoffs: tuple[tuple[float, float] | None, ...], verdict: str
) -> None:
    rows = [row(0.3, 0.1, comparable=False) if pair is None else row(*pair) for pair in cutoffs]
    by_cutoff = {fdr: [one] for fdr, one in zip((0.05, 0.01, 0.2), rows, strict=True)}
    assert verdicts(by_cutoff) == [verdict]
    of_gradient = {"improve less": "larger", "improve more": "smaller"}
    assert verdicts(by_cutoff, GRADIENT) == [of_gradient.get(verdict, verdict)]


def test_several_contrasts_are_corrected_within_a_cutoff() -> None:
    """p 0.03 by itself rejects, and beside another 0.03 does not."""
    error = 0.3 / float(norm.isf(0.015))
    alone = {fdr: [row(0.3, error)] for fdr in (0.05, 0.01)}
    assert verdicts(alone) == ["improve less"]
    beside = {fdr: [row(0.3, error), row(0.3, error)] for fdr in (0.05, 0.01)}
    assert verdicts(beside) == ["inconclusive"] * 2
    assert beside[0.05][0]["p_holm"] == pytest.approx(0.06)
