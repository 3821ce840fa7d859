"""Accumulators: statistics that are fed batch by batch and merge exactly.

A batch is a mapping of equally long arrays (rows of whole sequences). Memory depends on the
vocabulary, never on the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from rocktok.hashing import hash_rows

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]


class Accumulator(Protocol):
    """What the engine runs over a log."""

    def update(self, batch: Batch) -> None:
        """Add a batch of rows."""

    def merge(self, other: Self) -> None:
        """Add what another one has seen, as if its batches followed."""


class TypeSums:
    """Per token type: the number of rows, and the sum of each named column (float64).

    Attributes:
        count_V: int64, indexed by token id, as long as the largest id seen needs.
        sum_V: column → float64 array of the same length.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.count_V: Array = np.zeros(0, dtype=np.int64)
        self.sum_V: dict[str, Array] = {c: np.zeros(0) for c in columns}

    def update(self, batch: Batch) -> None:
        """Add the batch's token_id and columns."""
        token_N = batch["token_id"]
        self.count_V = add_counts(self.count_V, np.bincount(token_N))
        for name in self.sum_V:
            sums_V = np.bincount(token_N, weights=batch[name])
            self.sum_V[name] = add_counts(self.sum_V[name], sums_V)

    def merge(self, other: Self) -> None:
        """Add another's counts and sums."""
        self.count_V = add_counts(self.count_V, other.count_V)
        for name, sums_V in other.sum_V.items():
            self.sum_V[name] = add_counts(self.sum_V[name], sums_V)


def add_counts(total_V: Array, part_V: Array) -> Array:
    """Sum of two arrays by token id, of any lengths; `total_V` may be changed in place."""
    if len(part_V) > len(total_V):
        total_V = np.concatenate((total_V, np.zeros(len(part_V) - len(total_V), total_V.dtype)))
    total_V[: len(part_V)] += part_V
    return total_V


def distinct(values_N: Array) -> Array:
    """Distinct values, ascending. NumPy's own `unique` hashes integers: tens of times slower."""
    sorted_N = np.sort(values_N)
    if len(sorted_N) == 0:
        return sorted_N
    kept: Array = sorted_N[np.concatenate(([True], sorted_N[1:] != sorted_N[:-1]))]
    return kept


def padded(values_V: Array, length: int) -> Array:
    """An array by token id, filled with zeros up to a length."""
    return np.concatenate((values_V, np.zeros(max(0, length - len(values_V)), values_V.dtype)))


def ordered_bits(values_N: Array) -> Array:
    """float32 values as uint32 that sort the same way; −0 counts as 0.

    The bit pattern of a positive float is monotone in its value; negatives run backwards.
    """
    bits_N = (np.ascontiguousarray(values_N, dtype=np.float32) + np.float32(0)).view(np.uint32)
    sign = np.uint32(0x80000000)
    ordered: Array = np.where(bits_N & sign, ~bits_N, bits_N | sign)
    return ordered


class Histogram:
    """Half of an exact quantile: counts of the upper or, given the upper half, lower 16 bits.

    Two passes give the exact order statistic of any number of float32 values in 512 KB.
    """

    def __init__(self, column: str, prefix: int | None = None) -> None:
        self.column = column
        self.prefix = prefix
        self.count_B: Array = np.zeros(1 << 16, dtype=np.int64)

    def update(self, batch: Batch) -> None:
        """Count the batch's values of the column."""
        bits_N = ordered_bits(batch[self.column])
        upper_N = bits_N >> np.uint32(16)
        if self.prefix is None:
            self.count_B += np.bincount(upper_N, minlength=1 << 16)
        else:
            lower_N = bits_N[upper_N == self.prefix] & np.uint32(0xFFFF)
            self.count_B += np.bincount(lower_N, minlength=1 << 16)

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        self.count_B += other.count_B

    def locate(self, rank: int) -> tuple[int, int]:
        """(bin that holds the rank-th smallest, its rank within the bin); ranks start at 1."""
        cumulative_B = np.cumsum(self.count_B)
        at = int(np.searchsorted(cumulative_B, rank))
        before = int(cumulative_B[at - 1]) if at else 0
        return at, rank - before


def value_of(upper: int, lower: int) -> np.float32:
    """The float32 whose ordered bits have these halves."""
    bits = (upper << 16) | lower
    raw = bits ^ 0x80000000 if bits & 0x80000000 else bits ^ 0xFFFFFFFF
    return np.float32(np.uint32(raw).view(np.float32))


def quantile_rank(q: float, n: int) -> int:
    """⌈q·n⌉, q read as the decimal that it prints as (0.1 + 0.2 is not 0.3): rank from 1."""
    exact = Fraction(repr(float(q))) * n
    return max(1, -(-exact.numerator // exact.denominator))


def quantile(values_N: Array, q: float) -> float | None:
    """The smallest value with at least a share q of values at or below it; None if empty."""
    if len(values_N) == 0:
        return None
    index = quantile_rank(q, len(values_N)) - 1
    return float(np.partition(values_N, index)[index])


class PromptCounts:
    """Per token type, the number of distinct prompts that hold it."""

    def __init__(self) -> None:
        self._hash_P: Array = np.zeros(0, dtype=np.uint64)
        self._token_P: Array = np.zeros(0, dtype=np.int64)

    def update(self, batch: Batch) -> None:
        """Add the batch's (prompt, token_id) pairs."""
        token_N = batch["token_id"].astype(np.int64)
        self._add(hash_rows(0, batch["prompt"], token_N), token_N)

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        self._add(other._hash_P, other._token_P)

    def _add(self, hash_N: Array, token_N: Array) -> None:
        # Two pairs share a hash once in 10^19: a set of 64-bit hashes is a set of pairs.
        unique_U, first_U = np.unique(hash_N, return_index=True)
        hash_P = np.concatenate((self._hash_P, unique_U))
        token_P = np.concatenate((self._token_P, token_N[first_U]))
        self._hash_P, first_P = np.unique(hash_P, return_index=True)
        self._token_P = token_P[first_P]

    def result(self, length: int) -> Array:
        """int64 counts by token id."""
        return np.bincount(self._token_P, minlength=length)


class SequenceCounts:
    """Number of sequences and of rows."""

    def __init__(self) -> None:
        self.sequences = 0
        self.rows = 0

    def update(self, batch: Batch) -> None:
        """Count the batch's sequences (a batch holds whole ones)."""
        sequence_N = batch["sequence_id"]
        self.rows += len(sequence_N)
        if len(sequence_N):
            self.sequences += 1 + int(np.count_nonzero(sequence_N[1:] != sequence_N[:-1]))

    def merge(self, other: Self) -> None:
        """Add another's numbers."""
        self.sequences += other.sequences
        self.rows += other.rows
