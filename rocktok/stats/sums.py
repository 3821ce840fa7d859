"""Sums by token type, numbers of rows and sequences, distinct values."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.runs import run_starts
from rocktok.stats import kernels
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import distinct, longer


class TypeSums:
    """Per token type: the number of rows, and the sum of each column and of its square.

    Sums are float64, rounded at each row, in their order. Those of `exact_types.ExactTypeSums` do
    not depend on the order, and take longer.

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
        if not len(self._tables[0]):
            self._tables, self._seen = other._tables, other._seen
            return
        seen = other._seen
        self._reach(len(other._tables[0]) if seen is None else int(seen.max(initial=-1)) + 1)
        for ours, theirs in zip(self._tables, other._tables, strict=True):
            if seen is None:
                ours[: len(theirs)] += theirs
            else:
                ours[seen] += theirs

    def _reach(self, length: int) -> None:
        self._spread()
        self._tables = [longer(table_VS, length) for table_VS in self._tables]

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
        seen, tables, self._seen = self._seen, self._tables, None
        self._tables = [np.zeros((0, table.shape[1])) for table in tables]
        self._reach(int(seen.max(initial=-1)) + 1)
        for table_VS, rows in zip(self._tables, tables, strict=True):
            table_VS[seen] = rows


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
        self.sequences += len(run_starts(sequence_N))

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
