"""Exact quantiles of any number of float32 values, from two histograms of 16 bits each."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.stats import kernels
from rocktok.stats.accumulator import Batch


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

    def __init__(self, column: str, prefix: int | None = None, *, compiled: bool = False) -> None:
        self.column = column
        self.needs = (column,)
        self.prefix = prefix
        self.compiled = compiled
        self.count_B: Array = np.zeros(1 << 16, dtype=np.int64)

    def update(self, batch: Batch) -> None:
        """Count the batch's values of the column."""
        if self.compiled:
            kernels.histogram16(batch[self.column], self.prefix, self.count_B)
            return
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

    def __getstate__(self) -> dict[str, Any]:
        """Only the bins in use."""
        used = np.flatnonzero(self.count_B)
        return {**self.__dict__, "count_B": self.count_B[used], "used": used}

    def __setstate__(self, state: dict[str, Any]) -> None:
        used, counts = state.pop("used"), state["count_B"]
        self.__dict__.update(state)
        self.count_B = np.zeros(1 << 16, dtype=np.int64)
        self.count_B[used] = counts

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
