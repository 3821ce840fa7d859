"""Similar pairs of sketches, counted exactly: bits that differ, at most so many.

A sketch has 256 bits, the signs of as many random projections of a vector; the share of them that
differ estimates the angle of two vectors (SimHash: Charikar 2002).

Importing this module imports neither numba nor SciPy.

Array suffixes: N sketches; M of ours; T of theirs; W words of a sketch (4, uint64).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.pairs.few import PartnersByType

#: Bits of a sketch, and its words of 64.
BITS = 256
WORDS = 4

#: cos(π·h/256) by the number h of bits that differ: the similarity of two sketches.
SIMILARITY: Array = np.cos(np.pi * np.arange(BITS + 1) / BITS)

#: Pairs below which threads cost more than they save.
_SMALL = 20_000_000

#: Pairs held at once by the NumPy twin.
_BLOCK = 2_000_000


def most_different(threshold: float) -> int:
    """The largest number of differing bits at which two sketches are this similar; −1: none."""
    return int((threshold <= SIMILARITY).sum()) - 1


def bits_different(ours_MW: Array, theirs_TW: Array) -> Array:
    """(M, T) int16: differing bits of every pair."""
    different_MT = np.zeros((len(ours_MW), len(theirs_TW)), dtype=np.int16)
    for word in range(WORDS):
        different_MT += _ones(ours_MW[:, word, None] ^ theirs_TW[None, :, word])
    return different_MT


def bits_of_pairs(ours_NW: Array, theirs_NW: Array) -> Array:
    """(N,) int64: differing bits of row i of ours and row i of theirs."""
    different_N: Array = _ones(ours_NW ^ theirs_NW).sum(axis=1, dtype=np.int64)
    return different_N


def _ones(words: Array) -> Array:
    """Bits that are set, elementwise on uint64."""
    if hasattr(np, "bitwise_count"):
        ones: Array = np.bitwise_count(words)
        return ones
    return _ones_by_sums(words)


def _ones_by_sums(words: Array) -> Array:
    """The same without NumPy 2: sums of neighbouring bits, pairs, and halves of bytes."""
    one, two, four = (
        np.uint64(m) for m in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    )
    words = words - ((words >> np.uint64(1)) & one)
    words = (words & two) + ((words >> np.uint64(2)) & two)
    words = (words + (words >> np.uint64(4))) & four
    with np.errstate(over="ignore"):
        ones: Array = ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)
    return ones


def near_pairs(ours_MW: Array, theirs_TW: Array, most: int) -> Iterator[tuple[Array, Array, Array]]:
    """(row of ours, row of theirs, differing bits) of pairs that differ in at most so many bits.

    Block by block of our rows, in NumPy.
    """
    block = max(1, _BLOCK // max(1, len(theirs_TW)))
    for start in range(0, len(ours_MW), block):
        different_MT = bits_different(ours_MW[start : start + block], theirs_TW)
        row_E, other_E = np.nonzero(different_MT <= most)
        yield row_E + start, other_E, different_MT[row_E, other_E]


def count_near(
    ours: tuple[Array, Array],
    theirs: tuple[Array, Array] | None,
    most: int,
    jobs: int = 1,
) -> Array:
    """For each of our sketches, how many of theirs under other labels are near.

    Args:
        ours: (M, 4) uint64, and their labels, (M,) uint64.
        theirs: the same of T sketches; None: ours again.
        most: bits in which near sketches may differ; below 0: none is near.
        jobs: threads.

    Returns:
        (M,) int64. Twin: `near_pairs`.
    """
    from rocktok.pairs import sketch_loops

    mirrored = theirs is None
    our_WM, label_M = words_apart(ours[0]), _labels(ours[1])
    their_WT, label_T = our_WM, label_M
    if theirs is not None:
        their_WT, label_T = words_apart(theirs[0]), _labels(theirs[1])
    rows = len(label_M)

    if most < 0:
        return np.zeros(rows, dtype=np.int64)
    if rows * len(label_T) < _SMALL:
        jobs = 1
    share = np.linspace(0, 1, (16 * jobs if jobs > 1 else 1) + 1)
    edges = (rows * (np.sqrt(share) if mirrored else share)).astype(int).tolist()
    # The ranges are handed out one by one: whoever is done takes the next.
    ranges = iter([(a, b) for a, b in pairwise(edges) if a < b])

    def work() -> Array:
        near_M = np.zeros(rows, dtype=np.int64)
        for begin, end in ranges:
            sketch_loops.count_near(
                our_WM, label_M, their_WT, label_T, begin, end, most, mirrored, near_M
            )
        return near_M

    if jobs == 1:
        return work()
    with ThreadPoolExecutor(jobs) as pool:
        parts = [pool.submit(work) for _ in range(jobs)]
        total_M: Array = np.sum([part.result() for part in parts], axis=0)
    return total_M


def count_near_by_type(
    types: Sequence[Array],
    labels: Sequence[Array],
    draws_DW: Array,
    label_D: Array,
    picks: Sequence[Array],
    most: int,
) -> PartnersByType:
    """Compare the sketches of each type with one another, and some draws with those of the type.

    Args:
        types: of each its sketches; labels: theirs (uint64). Under one label none are partners.
        draws_DW: (D, 4) uint64; label_D: theirs.
        picks: of each type, which draws are compared with it.
        most: bits in which near sketches may differ.

    Returns:
        Of all rows and all picks, one type after another, near partners and all of them (int64).
    """
    from rocktok.pairs import sketch_loops

    ours_NW = np.concatenate(types) if types else np.zeros((0, WORDS), np.uint64)
    label_N, pick_E = np.concatenate(labels), np.concatenate(picks)
    counts = [np.zeros(len(rows), dtype=np.int64) for rows in (label_N, label_N, pick_E, pick_E)]
    sketch_loops.count_types(
        words_apart(ours_NW),
        _labels(label_N),
        np.cumsum([0, *map(len, types)]),
        words_apart(draws_DW),
        _labels(label_D),
        np.ascontiguousarray(pick_E, dtype=np.int64),
        np.cumsum([0, *map(len, picks)]),
        most,
        *counts,
    )
    return PartnersByType(*counts)


def words_apart(sketch_NW: Array) -> Any:
    """(W, N), contiguous: a word of neighbouring sketches side by side, as loops vectorise."""
    return np.ascontiguousarray(sketch_NW.T, dtype=np.uint64)


def _labels(label_N: Array) -> Array:
    return np.ascontiguousarray(label_N, dtype=np.uint64)
