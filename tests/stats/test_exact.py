"""Sums whose bits do not depend on order or parts, against rational arithmetic."""

from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.exact import BITS, DIGITS, ExactSums

numbers = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40)


def sums_of(parts: list[list[float]]) -> float:
    """Each part on its own, then merged in their order."""
    whole = ExactSums()
    for part in parts:
        one = ExactSums()
        for number, digit in enumerate(one.split(np.array(part, dtype=np.float64))):
            if digit is not None:
                one.add(number, np.array([digit.sum()]))
        whole.merge(pickle.loads(pickle.dumps(one)))
    result = whole.result()
    return 0.0 if result is None else float(result[0])


@given(numbers, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=5))
def test_order_and_parts_do_not_matter(
    values: list[float], chance: object, cuts: list[int]
) -> None:
    alone = sums_of([values])
    shuffled = list(values)
    chance.shuffle(shuffled)
    at = [0, *sorted(cuts), len(shuffled)]
    parts = [shuffled[a:b] for a, b in pairwise(at)]
    assert sums_of(parts) == alone
    assert sums_of([[value] for value in shuffled]) == alone
    # Of each value the digits below the third grid of the largest are lost, and no more.
    exact = sum(map(Fraction, values))
    most = Fraction(max(map(abs, values)))
    bound = len(values) * most / 2 ** (BITS * (DIGITS - 1)) + abs(exact) / 2**51
    assert abs(Fraction(alone) - exact) <= bound


def test_by_hand() -> None:
    assert sums_of([[1.0, 2.0**-30], [2.0**-30, -1.0]]) == 2.0**-29
    assert sums_of([[0.0], [0.0]]) == 0.0
    # In float64 ten of them, one after another, are 0.9999999999999999.
    assert sums_of([[0.1] * 10]) == sums_of([[0.1]] * 10) == pytest.approx(1.0, abs=2.0**-40)
    # A value that is alone is itself, to 2⁻⁴⁴.
    assert sums_of([[0.1]]) == pytest.approx(0.1, rel=2.0**-43)


@pytest.mark.parametrize("cuts", [[20], [1, 2, 3], [7, 19, 33], list(range(1, 40))])
def test_a_bootstrap_does_not_depend_on_the_batches(cuts: list[int]) -> None:
    rng = np.random.default_rng(4)
    sequence_N = np.repeat(np.arange(40), 25)
    rows = {
        "sequence_id": sequence_N,
        "prompt": (sequence_N % 13).astype(np.uint64),
        "token_id": rng.integers(0, 9, 1000),
        "loss": (10.0 ** rng.uniform(-20, 3, 1000)).astype(np.float32),
    }

    def of(*parts: np.ndarray) -> PromptBootstrap:
        whole = PromptBootstrap(np.arange(5), ("", "loss", "loss²"), 1, 20)
        for part in parts:
            one = PromptBootstrap(np.arange(5), ("", "loss", "loss²"), 1, 20)
            one.update({name: values[part] for name, values in rows.items()})
            whole.merge(one)
        return whole

    everything = of(np.arange(1000))
    order = rng.permutation(40)
    parts = [np.flatnonzero(np.isin(sequence_N, ids)) for ids in np.split(order, cuts)]
    cut = of(*parts)
    assert np.array_equal(cut.sum_TM, everything.sum_TM)
    assert np.array_equal(cut.sum_BTM, everything.sum_BTM)
    plain = np.bincount(np.minimum(rows["token_id"], 5), rows["loss"].astype(np.float64))
    np.testing.assert_allclose(everything.sum_TM[:, 1], plain, rtol=1e-12)
