"""Sums of whole numbers by an integer key: sparse, and the same in whatever order they are added.

Array suffixes: N rows; E distinct keys; Q sums of a key.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array

#: Keys that wait, at least, before equal ones are added up.
_LOOSE = 1 << 21


class Tally:
    """Sums by key, 8 bytes each and 8 for the key.

    Args:
        sums: of each key.
        compiled: merge by a compiled loop. The same sums as without, faster where keys are many.
    """

    def __init__(self, sums: int, *, compiled: bool = False) -> None:
        self.sums, self.compiled = sums, compiled
        #: Keys of a part that ascend, each once.
        self._ascending: list[bool] = []
        self._parts: list[tuple[Array, Array]] = []
        self._loose = 0

    def add(self, key_E: Array, sum_EQ: Array, *, distinct: bool = False) -> None:
        """Add (E, Q) int64 sums to their keys; `distinct`: these ascend and none repeats."""
        if distinct and not self._parts:
            self._parts, self._ascending = [(key_E, sum_EQ)], [True]
            return
        self._parts.append((key_E, sum_EQ))
        self._ascending.append(distinct)
        self._loose += len(key_E)
        # In proportion to what has settled: adding up costs a constant for each key then.
        if self._loose > max(_LOOSE, len(self._parts[0][0])):
            self.settle()

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        for (key_E, sum_EQ), ascending in zip(other._parts, other._ascending, strict=True):
            self.add(key_E, sum_EQ, distinct=ascending)

    def settle(self) -> tuple[Array, Array]:
        """Distinct keys, ascending, and the (E, Q) sums of each."""
        if self._loose and self.compiled and all(self._ascending):
            self._merge_parts()
        if len(self._parts) != 1 or self._loose:
            key_N = np.concatenate([np.zeros(0, np.int64), *(key_E for key_E, _ in self._parts)])
            # Parts ascend mostly: a stable sort merges their runs.
            order = np.argsort(key_N, kind="stable")
            key_N = key_N[order]
            starts = run_starts(key_N)
            sum_EQ = np.empty((len(starts), self.sums), np.int64)
            for q in range(self.sums if len(starts) else 0):
                # One at a time, for the memory that copies take.
                sum_N = np.concatenate([sum_EQ[:, q] for _, sum_EQ in self._parts])[order]
                sum_EQ[:, q] = run_sums(sum_N, starts)
            self._parts, self._loose = [(key_N[starts], sum_EQ)], 0
            self._ascending = [True]
        return self._parts[0]

    def _merge_parts(self) -> None:
        """One part of all, each of which ascends: neighbours first, so that both are as long."""
        while len(self._parts) > 1:
            parts, self._parts = self._parts, []
            while len(parts) > 1:
                one, other = parts.pop(0), parts.pop(0)
                self._parts.append(_merged(one, other))
            self._parts += parts
        self._loose, self._ascending = 0, [True]


def _merged(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    from rocktok.stats import tally_loops

    (key_A, sum_AQ), (key_B, sum_BQ) = one, other
    key_E = np.empty(len(key_A) + len(key_B), dtype=np.int64)
    sum_EQ = np.empty((len(key_E), sum_AQ.shape[1]), dtype=np.int64)
    keys = tally_loops.merge(key_A, sum_AQ, key_B, sum_BQ, key_E, sum_EQ)
    return cut(key_E, sum_EQ, keys)


def cut(key_E: Array, sum_EQ: Array, keys: int) -> tuple[Array, Array]:
    """The first keys and their sums, where they are: what is behind them is given back.

    Nothing else may look at the arrays.
    """
    key_E.resize(keys, refcheck=False)
    sum_EQ.resize((keys, sum_EQ.shape[1]), refcheck=False)
    return key_E, sum_EQ


def run_starts(sorted_N: Array) -> Array:
    """Where the runs of equal values begin."""
    new_N = np.ones(len(sorted_N), dtype=bool)
    np.not_equal(sorted_N[1:], sorted_N[:-1], out=new_N[1:])
    return np.flatnonzero(new_N)


def run_sums(sum_N: Array, starts: Array) -> Array:
    """Sums (int64) of runs of rows, which begin at `starts`, the first of them at 0."""
    if len(starts) == len(sum_N):
        return sum_N
    # Differences of running totals: several times as fast as `reduceat` where runs are short.
    total_N = np.cumsum(sum_N)
    total_E = total_N[np.append(starts[1:], len(sum_N)) - 1]
    sum_E: Array = np.diff(total_E, prepend=0)
    return sum_E


def counted(key_N: Array, hard_N: Array) -> tuple[Array, Array]:
    """Distinct keys of rows, ascending, and how many rows, and hard rows, each has."""
    coded_N = np.sort(key_N * 2 + hard_N)
    starts = run_starts(coded_N >> 1)
    rows_E = np.diff(np.append(starts, len(coded_N)))
    hard_E = np.add.reduceat(coded_N & 1, starts) if len(starts) else rows_E
    return coded_N[starts] >> 1, np.stack([rows_E, hard_E], axis=1)
