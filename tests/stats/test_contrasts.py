"""Medians of groups of types in each replicate."""

from __future__ import annotations

import numpy as np
import pytest

from rocktok.stats.contrasts import contrast


def test_replicates_take_the_medians_of_the_types_that_are_defined() -> None:
    """Whole replicates, some without a type, one in which a group has none at all."""
    rng = np.random.default_rng(0)
    values_BT = rng.normal(size=(200, 9))
    values_BT[rng.random(values_BT.shape) < 0.1] = np.nan
    values_BT[7, :4], values_BT[8] = np.nan, np.arange(9.0)
    values_T = np.array([3.0, 5.0, 9.0, 1.0, 2.0, 2.0, 8.0, 0.0, 4.0])
    found = contrast(values_T, values_BT, np.arange(4), np.arange(4, 9))
    assert found["difference_of_medians"] == 4.0 - 2.0
    # Of 20 pairs the first group has the larger value in 13, and the smaller in 7.
    assert found["rank_biserial"] == pytest.approx((13 - 7) / 20)
    apart = []
    for row in values_BT:
        first, second = (sorted(x[np.isfinite(x)].tolist()) for x in (row[:4], row[4:]))
        if first and second:
            apart.append(_median(first) - _median(second))
    assert found["undefined_replicates"] == 200 - len(apart) == 1
    fewer = min(sum(d <= 0 for d in apart), sum(d >= 0 for d in apart))
    assert found["p"] == min(1.0, 2 * (1 + fewer) / (len(apart) + 1))


def _median(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
