"""Near pairs of sketches: the compiled loops against the bits themselves."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.pairs import sketches
from tests.planted import Array

seeds = st.integers(0, 2**32 - 1)
slow_ok = settings(max_examples=40, deadline=None)


def some_sketches(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Sketches, many of them a few bits from one another, and the labels of their prompts."""
    centre_CW = np.random.default_rng(0).integers(0, 2**64, (1 + count // 6, 4), dtype=np.uint64)
    near_MW = centre_CW[rng.integers(0, len(centre_CW), count)]
    for _ in range(20):
        flipped = rng.random(count) < 0.5
        bit = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        near_MW[np.arange(count), rng.integers(0, 4, count)] ^= np.where(flipped, bit, 0)
    return near_MW, rng.integers(0, 7, count).astype(np.uint64) + np.uint64(2**63)


def bits(sketch_NW: Array) -> list[int]:
    """Each sketch as one whole number."""
    return [int.from_bytes(row.tobytes(), "little") for row in sketch_NW]


def near_by_hand(ours: tuple[Array, Array], theirs: tuple[Array, Array], most: int) -> list[int]:
    them = list(zip(bits(theirs[0]), theirs[1].tolist(), strict=True))
    return [
        sum((x ^ y).bit_count() <= most and label != other for y, other in them)
        for x, label in zip(bits(ours[0]), ours[1].tolist(), strict=True)
    ]


@slow_ok
@given(seed=seeds, most=st.sampled_from([-1, 0, 3, 18, 30, 115, 256]))
def test_counts_are_those_of_the_bits(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = (some_sketches(rng, int(rng.integers(0, 40))) for _ in range(2))
    expected = near_by_hand(ours, theirs, most)
    assert sketches.count_near(ours, theirs, most).tolist() == expected
    alone = sketches.count_near(theirs, None, most)
    assert alone.tolist() == near_by_hand(theirs, theirs, most)
    counts_M = np.zeros(len(ours[0]), np.int64)
    for row_E, other_E, different_E in sketches.near_pairs(ours[0], theirs[0], most):
        assert (different_E <= most).all()
        counts_M += np.bincount(
            row_E[ours[1][row_E] != theirs[1][other_E]], minlength=len(counts_M)
        )
    assert counts_M.tolist() == expected


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_more_than_a_block_and_any_number_of_threads(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketches, "_SMALL", 0)
    rng = np.random.default_rng(3)
    ours, theirs = some_sketches(rng, 2_500), some_sketches(rng, 1_100)
    near_MT = sketches.bits_different(ours[0], theirs[0]) <= 18
    expected = (near_MT & (ours[1][:, None] != theirs[1][None, :])).sum(axis=1)
    assert 0 < expected.sum() < near_MT.size / 2
    assert sketches.count_near(ours, theirs, 18, jobs).tolist() == expected.tolist()
    near_MM = sketches.bits_different(ours[0], ours[0]) <= 18
    expected = (near_MM & (ours[1][:, None] != ours[1][None, :])).sum(axis=1)
    assert sketches.count_near(ours, None, 18, jobs).tolist() == expected.tolist()


@slow_ok
@given(seed=seeds, most=st.sampled_from([-1, 0, 18, 115]))
def test_counts_by_type_are_those_of_each_type(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    types = [some_sketches(rng, int(size)) for size in rng.integers(0, 30, rng.integers(1, 5))]
    draws = some_sketches(rng, 25)
    picks = [np.flatnonzero(rng.random(25) < rng.choice([0, 0.6])) for _ in types]
    found = sketches.count_near_by_type(
        [sketch for sketch, _ in types], [label for _, label in types], *draws, picks, most
    )
    drawn = [(draws[0][at], draws[1][at]) for at in picks]
    for which, least in (("similar", most), ("partners", 256)):
        own = [near_by_hand(of_type, of_type, least) for of_type in types]
        picked = [near_by_hand(*pair, least) for pair in zip(drawn, types, strict=True)]
        assert getattr(found, f"{which}_N").tolist() == list(chain.from_iterable(own))
        assert getattr(found, f"{which}_E").tolist() == list(chain.from_iterable(picked))


def test_bits_are_counted_without_numpy_2_too() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 1_000, dtype=np.uint64)
    words = np.append(words, np.array([0, 2**64 - 1, 2**63], dtype=np.uint64))
    expected = [int(word).bit_count() for word in words]
    assert sketches._ones_by_sums(words).tolist() == expected
    assert sketches._ones(words).tolist() == expected


@given(different=st.integers(0, 256))
def test_a_similarity_is_reached_by_its_own_bits(different: int) -> None:
    gamma = math.cos(math.pi * different / 256)
    assert sketches.most_different(gamma - 1e-9) == different
    assert sketches.most_different(gamma + 1e-6) == different - 1
    assert sketches.SIMILARITY[different] == pytest.approx(gamma, abs=1e-15)
