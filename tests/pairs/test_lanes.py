"""Groups of lanes: the vector instructions against NumPy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.kernel import Kernel
from rocktok.pairs.lanes import LANES, above, above_sloped, add_columns, lowest_bit
from tests.planted import Array

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


@Kernel
def compared(score_T: Array, slope_T: Array, at: int, slope: Any, cut: Any) -> Any:
    return above(score_T, at, cut), above_sloped(score_T, slope_T, at, slope, cut)


@Kernel
def added(score_T: Array, at: int, head_H: Array, first: int, slot_E: Array, value_E: Array) -> int:
    add_columns(score_T, at, head_H, first, slot_E, value_E, 1, len(slot_E))
    return 0


@Kernel
def lowest(word: np.uint64) -> Any:
    return lowest_bit(word)


def word_of(bits: Array) -> int:
    return sum(1 << place for place, bit in enumerate(bits.tolist()) if bit)


@few
@given(seed=seeds, cut=st.sampled_from([-1.0, 0.0, 0.5, 3.0, np.inf]))
def test_words_tell_which_lanes_are_above_the_cut(seed: int, cut: float) -> None:
    rng = np.random.default_rng(seed)
    # Whole and half ones: many lie at the cut itself.
    score_T, slope_T = (rng.integers(-4, 8, 5 * LANES).astype(np.float32) / 2 for _ in range(2))
    score_T[rng.random(len(score_T)) < 0.1] = np.nan
    at, slope, least = int(rng.integers(0, 4 * LANES)), np.float32(0.5), np.float32(cut)
    lanes = slice(at, at + LANES)
    plain, sloped = compared(score_T, slope_T, at, slope, least)
    assert plain == word_of(score_T[lanes] > least)
    assert sloped == word_of(score_T[lanes] - slope * slope_T[lanes] > least)


@few
@given(seed=seeds, entries=st.integers(0, 6))
def test_columns_are_added_in_their_order_with_each_product_rounded(
    seed: int, entries: int
) -> None:
    rng = np.random.default_rng(seed)
    score_T, head_H = (rng.random(7 * LANES).astype(np.float32) for _ in range(2))
    slot_E = rng.integers(0, 5, 1 + entries).astype(np.int32)
    value_E = rng.random(1 + entries).astype(np.float32)
    at, first = int(rng.integers(0, 6 * LANES)), int(rng.integers(0, 2 * LANES))
    expected_T = score_T.copy()
    # The first entry is before those that are asked for.
    for slot, value in zip(slot_E[1:].tolist(), value_E[1:], strict=True):
        begin = first + slot * LANES
        expected_T[at : at + LANES] += value * head_H[begin : begin + LANES]
    added(score_T, at, head_H, first, slot_E, value_E)
    assert score_T.tolist() == expected_T.tolist()


@given(word=st.integers(1, 2**64 - 1))
def test_the_lowest_bit(word: int) -> None:
    assert lowest(np.uint64(word)) == (word & -word).bit_length() - 1
