"""Similar windows at several thresholds: the same counts as at each threshold alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.similarity import Similarity
from rocktok.pairs.levels import by_level
from rocktok.pairs.rows import KINDS
from tests.pairs.test_count import seeds, slow_ok, windows

GAMMAS = np.array([1e-10, 0.2, 1 / 3, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
@slow_ok
@given(seed=seeds, reach=st.integers(1, 4), first=st.integers(0, 4))
def test_counts_by_level_are_those_at_each_gamma(
    kind: str, compiled: bool, seed: int, reach: int, first: int
) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([3, 12, 200]))
    weight_V = rng.choice([np.log(2), 1.0, 3.5, 0.0], vocabulary)
    sizes = rng.integers(0, 90, rng.integers(1, 5)).tolist()
    types = [windows(rng, size, 2 * reach, vocabulary) for size in sizes]
    draws = windows(rng, 40, 2 * reach, vocabulary)
    check(Similarity(kind, 0.9, 2 * reach, weight_V, loaded=compiled), types, draws, rng, first)


@pytest.mark.parametrize("kind", ["hidden", "embedding"])
@pytest.mark.parametrize("seed", range(3))
def test_counts_by_level_of_other_kinds(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    types, draws = [windows(rng, 30, 4, 12) for _ in range(3)], windows(rng, 20, 4, 12)
    if kind == "hidden":
        types, draws = [sketched(of_type, rng) for of_type in types], sketched(draws, rng)
    matrix = rng.normal(size=(12, 5))
    check(Similarity(kind, 0.9, 4, np.ones(12), matrix), types, draws, rng, 1)


def sketched(given_windows: Windows, rng: np.random.Generator) -> Windows:
    words = rng.choice(rng.integers(0, 2**63, 5).astype(np.uint64), (len(given_windows), 4))
    return Windows(words, given_windows.label_M)


def check(
    similarity: Similarity,
    types: list[Windows],
    draws: Windows,
    rng: np.random.Generator,
    first: int,
) -> None:
    picks = [np.flatnonzero(rng.random(len(draws)) < rng.choice([0, 0.6])) for _ in types]
    drawn = [Windows(draws.window_MK[at], draws.label_M[at]) for at in picks]
    similar_NG, similar_EG = similarity.count_levels(types, draws, picks, GAMMAS[first:])
    for level, gamma in enumerate(GAMMAS[first:].tolist()):
        at = similarity.at(gamma)
        ours = [at.count_similar_scipy(of_type, of_type) for of_type in types]
        theirs = [at.count_similar_scipy(*pair) for pair in zip(drawn, types, strict=True)]
        assert similar_NG[:, level].tolist() == np.concatenate(ours).tolist()
        assert similar_EG[:, level].tolist() == np.concatenate(theirs).tolist()


def test_pairs_count_at_every_threshold_that_they_reach() -> None:
    row_P, alike_P = np.array([0, 0, 2, 2, 2]), np.array([0.3, 0.5, 0.29, 0.49, 1.0])
    counts = by_level(row_P, alike_P, np.array([0.3, 0.5]), 4)
    assert counts.tolist() == [[2, 1], [0, 0], [2, 1], [0, 0]]
    assert by_level(row_P[:0], alike_P[:0], np.array([0.3]), 2).tolist() == [[0], [0]]
