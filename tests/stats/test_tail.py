"""Tails of sums of votes: the binomial's agrees with the recursion."""

from __future__ import annotations

import numpy as np
import pytest

from rocktok.stats.tail import binomial_tails, tails


def test_by_hand() -> None:
    """Two votes at ½: P(≥ 0, 1, 2) = 1, ¾, ¼; between them geometric means."""
    sums, votes = np.array([0.0, 1.0, 1.5, 2.0]), np.full(4, 2)
    expected = [1.0, 0.75, (0.75 * 0.25) ** 0.5, 0.25]
    assert binomial_tails(0.5, votes, sums) == pytest.approx(expected)
    assert tails(np.full(8, 0.5), votes, sums) == pytest.approx(expected)


@pytest.mark.parametrize("chance", [0.05, 0.5])
def test_the_binomial_is_the_recursion(chance: float) -> None:
    rng = np.random.default_rng(7)
    votes = rng.integers(0, 300, 400)
    sums = np.minimum(votes, rng.random(400) * votes * rng.choice([0.05, 0.2, 1.0], 400))
    sums[:100], sums[100:120] = np.floor(sums[:100]), votes[100:120]
    expected = tails(np.full(votes.sum(), chance), votes, sums)
    # Subnormal numbers have fewer digits.
    tiny = np.finfo(np.float64).tiny
    np.testing.assert_allclose(binomial_tails(chance, votes, sums), expected, rtol=1e-10, atol=tiny)
