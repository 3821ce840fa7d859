"""Accumulators: statistics that are fed batch by batch and merge exactly.

A batch is a mapping of equally long arrays (rows of whole sequences). Memory depends on the
vocabulary, never on the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from rocktok.analyse import kernels
from rocktok.hashing import hash_rows

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]


#: Rows from which a log is large: compiled loops are then worth the second that loading them takes.
LARGE = 1_000_000


class Accumulator(Protocol):
    """What the engine runs over a log."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of a batch that it looks at."""

    def update(self, batch: Batch) -> None:
        """Add a batch of rows."""

    def merge(self, other: Self) -> None:
        """Add what another one has seen, as if its batches followed."""


@runtime_checkable
class Closing(Protocol):
    """An accumulator that holds something large for `update` alone."""

    def close(self) -> None:
        """All rows of a task were seen: drop what its partial result need not carry."""


class TypeSums:
    """Per token type: the number of rows, and the sum of each column and of its square.

    Sums are float64, in the order of the rows.

    Args:
        columns: names, one or more.
        compiled: use the compiled loops. The same bits as without, faster from a million rows on.
    """

    def __init__(self, columns: tuple[str, ...], *, compiled: bool = False) -> None:
        self.columns = columns
        self.needs = ("token_id", *columns)
        self.compiled = compiled
        # Two columns to a loop, a table each: rows, then sum and sum of squares of each column.
        self._pairs = [columns[i : i + 2] for i in range(0, len(columns), 2)]
        self._tables: list[Array] = [np.zeros((0, 1 + 2 * len(pair))) for pair in self._pairs]
        # Of a partial result that came from a worker: the ids of its rows.
        self._seen: Array | None = None

    @property
    def count_V(self) -> Array:
        """int64, indexed by token id, as long as the largest id seen needs, or longer."""
        self._spread()
        return self._tables[0][:, 0].astype(np.int64)

    @property
    def sum_V(self) -> dict[str, Array]:
        """Column → float64 array as long as `count_V`."""
        return self._named(1)

    @property
    def square_V(self) -> dict[str, Array]:
        """Column → float64 array of the sums of squares."""
        return self._named(2)

    def _named(self, first: int) -> dict[str, Array]:
        self._spread()
        pairs = zip(self._pairs, self._tables, strict=True)
        return {
            name: table_VS[:, first + 2 * i]
            for pair, table_VS in pairs
            for i, name in enumerate(pair)
        }

    def update(self, batch: Batch) -> None:
        """Add the batch's token_id and columns."""
        token_N = batch["token_id"]
        if len(token_N) == 0:
            return
        self._reach(int(token_N.max()) + 1)
        add = kernels.type_sums if self.compiled else kernels.type_sums_numpy
        for pair, table_VS in zip(self._pairs, self._tables, strict=True):
            add(token_N, [batch[name] for name in pair], table_VS)

    def merge(self, other: Self) -> None:
        """Add another's counts and sums."""
        seen = other._seen
        self._reach(len(other._tables[0]) if seen is None else int(seen.max(initial=-1)) + 1)
        for ours, theirs in zip(self._tables, other._tables, strict=True):
            if seen is None:
                ours[: len(theirs)] += theirs
            else:
                ours[seen] += theirs

    def _reach(self, length: int) -> None:
        self._spread()
        if length > len(self._tables[0]):
            # Powers of two: seldom, however the ids come.
            length = 1 << (length - 1).bit_length()
            self._tables = [_longer(table_VS, length) for table_VS in self._tables]

    def __getstate__(self) -> dict[str, Any]:
        """Only the types seen: a worker's partial of 150,000 types would be 6 MB otherwise."""
        self._spread()
        seen = np.flatnonzero(self._tables[0][:, 0])
        return {**self.__dict__, "_tables": [table_VS[seen] for table_VS in self._tables],
                "_seen": seen}  # fmt: skip

    def _spread(self) -> None:
        """Rows in their places by token id."""
        if self._seen is None:
            return
        seen, held, self._seen = self._seen, self._tables, None
        self._tables = [np.zeros((0, table.shape[1])) for table in held]
        self._reach(int(seen.max(initial=-1)) + 1)
        for table_VS, rows in zip(self._tables, held, strict=True):
            table_VS[seen] = rows


def _longer(table_VS: Array, length: int) -> Array:
    longer = np.zeros((length, table_VS.shape[1]))
    longer[: len(table_VS)] = table_VS
    return longer


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


class PromptCounts:
    """Of some token types, the number of distinct prompts that hold each.

    Exact up to `most` prompts of a type; above, estimated from the `most` smallest of their
    hashes (k minimum values: Bar-Yossef et al. 2002) with a standard error of 1/√most, 0.4%.
    """

    def __init__(self, types: Array, most: int = 1 << 16) -> None:
        self.needs = ("token_id", "prompt")
        self.most = most
        self._types = np.sort(types)
        self._token_P: Array = np.zeros(0, dtype=np.int64)
        self._hash_P: Array = np.zeros(0, dtype=np.uint64)

    def update(self, batch: Batch) -> None:
        """Add the batch's (prompt, token_id) pairs."""
        rows_M = np.flatnonzero(is_among(batch["token_id"], self._types))
        token_M = batch["token_id"][rows_M].astype(np.int64)
        # Two prompts of a type share a hash once in 10^19: a set of hashes is a set of prompts.
        self._add(token_M, hash_rows(0, batch["prompt"][rows_M], token_M))

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        self._add(other._token_P, other._hash_P)

    def _add(self, token_M: Array, hash_M: Array) -> None:
        token_P = np.concatenate((self._token_P, token_M))
        hash_P = np.concatenate((self._hash_P, hash_M))
        order = np.lexsort((hash_P, token_P))
        token_P, hash_P = token_P[order], hash_P[order]
        new_P = np.ones(len(order), dtype=bool)
        new_P[1:] = (token_P[1:] != token_P[:-1]) | (hash_P[1:] != hash_P[:-1])
        token_P, hash_P = token_P[new_P], hash_P[new_P]
        rank_P = np.arange(len(token_P)) - np.searchsorted(token_P, token_P)
        kept = rank_P < self.most
        self._token_P, self._hash_P = token_P[kept], hash_P[kept]

    def result(self) -> dict[int, int]:
        """Token id → distinct prompts."""
        starts, stops = (np.searchsorted(self._token_P, self._types, side=s) for s in _SIDES)
        found = {}
        for v, start, stop in zip(self._types.tolist(), starts, stops, strict=True):
            found[v] = int(stop - start)
            if stop - start == self.most:
                largest = int(self._hash_P[stop - 1]) / 2**64
                found[v] = max(self.most, round((self.most - 1) / largest))
        return found


class PromptFloor:
    """Per token type, the number of distinct prompts that hold it, counted no further than `most`.

    Types that have reached it cost nothing more: rows are taken in slices, of which each leaves
    fewer types to look at.
    """

    needs = ("token_id", "prompt")

    def __init__(self, most: int) -> None:
        self.most = most
        self._pairs: Array = np.zeros((0, 2), dtype=np.uint64)
        self._done_V: Array = np.zeros(0, dtype=bool)

    def update(self, batch: Batch) -> None:
        """Add the batch's (token_id, prompt) pairs."""
        token_N, prompt_N = batch["token_id"], batch["prompt"]
        start, size = 0, 1 << 12
        while start < len(token_N):
            part = slice(start, start + size)
            self._add(token_N[part].astype(np.uint64), prompt_N[part])
            start, size = start + size, size * 2

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        self._add(other._pairs[:, 0], other._pairs[:, 1])

    def _add(self, token_M: Array, prompt_M: Array) -> None:
        if len(self._done_V):
            open_M = ~self._done_V[np.minimum(token_M, np.uint64(len(self._done_V) - 1))]
            token_M, prompt_M = token_M[open_M], prompt_M[open_M]
        pairs = np.concatenate((self._pairs, np.stack([token_M, prompt_M], axis=1)))
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        pairs = pairs[np.concatenate(([True], (pairs[1:] != pairs[:-1]).any(axis=1)))[: len(pairs)]]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
        self._pairs = pairs[rank < self.most]
        if len(self._pairs):
            count_V = self.result(int(self._pairs[-1, 0]) + 2)
            self._done_V = count_V >= self.most

    def result(self, length: int) -> Array:
        """int64 counts by token id, none above `most`."""
        return np.bincount(self._pairs[:, 0].astype(np.int64), minlength=length)


_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


def is_among(values_N: Array, sorted_U: Array) -> Array:
    """Which values are among ascending, distinct ones. (NumPy's `isin` sorts anew each time.)"""
    if len(sorted_U) == 0:
        return np.zeros(len(values_N), dtype=bool)
    table = np.zeros(int(sorted_U[-1]) + 2, dtype=bool)
    table[sorted_U] = True
    found: Array = table[np.minimum(values_N, len(table) - 1)]
    return found


class SequenceCounts:
    """Number of sequences and of rows."""

    needs = ("sequence_id",)

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


class DistinctValues:
    """Distinct values of a column: 8 bytes each."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.needs = (column,) if column == "sequence_id" else ("sequence_id", column)
        self._parts: list[Array] = []

    def update(self, batch: Batch) -> None:
        """Add the batch's."""
        self._parts.append(distinct(batch[self.column]))

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._parts += other._parts

    def close(self) -> None:
        """Each value once."""
        self._parts = [self.result()]

    def result(self) -> Array:
        """Ascending."""
        return distinct(np.concatenate(self._parts)) if self._parts else np.zeros(0, np.int64)
