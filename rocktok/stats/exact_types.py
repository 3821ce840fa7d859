"""Sums by token type that have the same bits however the rows are cut and ordered.

Array suffixes: N rows of a log; B rows of a block; V token ids; S columns of a table, or as many as
there are sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.stats import fixed_point
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import longer
from rocktok.stats.kernels import readonly

#: Rows, of a batch or of a table, that fit into a cache with what is made of them.
_BLOCK = 1 << 12


class ExactTypeSums:
    """Per token type: the number of rows, and the sum of each column, if asked for of its square.

    Fixed-point sums (`fixed_point`): their bits depend on the rows alone, not on their order or on
    how they are cut into parts. `sums.TypeSums` is faster, and rounds at every row. Values must be
    finite; those of 2²⁷ or more in absolute value, or with such a square, are slow. A type may have
    up to 2³² rows.

    Args:
        columns: names, one or more.
        squares: sum the squares as well.
        compiled: use the compiled loops. The same bits as without, faster from a million rows on.
    """

    def __init__(
        self, columns: tuple[str, ...], *, squares: bool = False, compiled: bool = False
    ) -> None:
        self.columns = columns
        self.needs = ("token_id", *columns)
        self.squares = squares
        self.compiled = compiled
        # Two columns to a loop, a table each, as `sums_compiled` fills it.
        self._pairs = [columns[i : i + 2] for i in range(0, len(columns), 2)]
        sums = [len(pair) * (1 + squares) for pair in self._pairs]
        words = len(fixed_point.BITS)
        self._tables: list[Array] = [np.zeros((0, 1 + words * n), dtype=np.int64) for n in sums]
        # Of rows with values that do not fit into words: sums by token id, in units of the last.
        self._beyond: list[list[Counter[int]]] = [[Counter() for _ in range(n)] for n in sums]
        # Largest id seen, plus 1: tables are longer.
        self._length = 0
        # Rows added since the words were carried.
        self._loose = 0
        # Of each table its sums in float64, until more is added.
        self._values: list[Array] | None = None
        # Of a partial result that came from a worker: the ids of its rows.
        self._seen: Array | None = None

    @property
    def count_V(self) -> Array:
        """int64, indexed by token id, as long as the largest id seen needs."""
        self._spread()
        return self._tables[0][: self._length, -1].copy()

    @property
    def sum_V(self) -> dict[str, Array]:
        """Column → float64 array as long as `count_V`."""
        return self._named(0)

    @property
    def square_V(self) -> dict[str, Array]:
        """Column → float64 array of the sums of squares, where they were asked for."""
        assert self.squares
        return self._named(1)

    def _named(self, square: int) -> dict[str, Array]:
        self._spread()
        if self._values is None:
            self._values = [self._values_of(number) for number in range(len(self._pairs))]
        return {
            name: values_SV[len(pair) * square + i]
            for pair, values_SV in zip(self._pairs, self._values, strict=True)
            for i, name in enumerate(pair)
        }

    def _values_of(self, number: int) -> Array:
        table_VS, beyond = self._tables[number], self._beyond[number]
        values_SV = np.empty((len(beyond), self._length))
        for rows in _blocks(self._length):
            values_SV[:, rows] = fixed_point.value(*_words(table_VS[rows]))
        for s, sums in enumerate(beyond):
            for v, more in sums.items():
                parts = zip(_words(table_VS[v : v + 1]), fixed_point.BITS, strict=True)
                whole = more + sum(
                    int(w[s, 0]) << (fixed_point.BITS[-1] - bits) for w, bits in parts
                )
                values_SV[s, v] = whole / (1 << fixed_point.BITS[-1])
        return values_SV

    def update(self, batch: Batch) -> None:
        """Add the batch's token_id and columns. Raises `ValueError` on an infinite value or NaN."""
        most = fixed_point.LOOSE // 2
        for start in range(0, len(batch["token_id"]), most):
            part = slice(start, start + most)
            self._add({name: batch[name][part] for name in self.needs})

    def _add(self, batch: Batch) -> None:
        token_N = batch["token_id"]
        self._reach(int(token_N.max()) + 1)
        self._loosen(len(token_N))
        add = sums_compiled if self.compiled else sums_numpy
        for number, (pair, table_VS) in enumerate(zip(self._pairs, self._tables, strict=True)):
            values = [batch[name] for name in pair]
            rows = add(token_N, values, table_VS, squares=self.squares)
            if len(rows):
                self._add_beyond(number, token_N[rows], [x_N[rows] for x_N in values])

    def _add_beyond(self, number: int, token_N: Array, values: list[Array]) -> None:
        np.add.at(self._tables[number][:, -1], token_N, 1)
        terms = summed(values, squares=self.squares)
        for sums, x_N in zip(self._beyond[number], terms, strict=True):
            for v, x in zip(token_N.tolist(), x_N.tolist(), strict=True):
                sums[v] += fixed_point.units(x)

    def merge(self, other: Self) -> None:
        """Add another's counts and sums."""
        if not self._length:
            self._tables, self._beyond, self._values = other._tables, other._beyond, None
            self._length, self._loose, self._seen = other._length, other._loose, other._seen
            return
        seen, length = other._seen, other._length
        self._reach(length)
        if self._loose + other._loose > fixed_point.LOOSE:
            other._carry()
        self._loosen(other._loose)
        for ours, theirs in zip(self._tables, other._tables, strict=True):
            if seen is None:
                ours[:length] += theirs[:length]
            else:
                ours[seen] += theirs
        for mine, others in zip(self._beyond, other._beyond, strict=True):
            for sums, more in zip(mine, others, strict=True):
                sums.update(more)

    def _loosen(self, rows: int) -> None:
        """Carry if the lower words could not take as many more rows."""
        if self._loose + rows > fixed_point.LOOSE:
            self._carry()
        self._loose += rows

    def _carry(self) -> None:
        for table_VS in self._tables:
            for rows in _blocks(len(table_VS)):
                words = fixed_point.carried(*_words(table_VS[rows]))
                table_VS[rows, :-1] = np.concatenate(words).T
        # What is left in the lower words is no more than that of one row.
        self._loose = min(1, self._loose)

    def _reach(self, length: int) -> None:
        self._spread()
        self._values = None
        self._length = max(self._length, length)
        self._tables = [longer(table_VS, length) for table_VS in self._tables]

    def __getstate__(self) -> dict[str, Any]:
        """Only the types seen: a worker's partial of 150,000 types would be 16 MB otherwise."""
        self._spread()
        seen = np.flatnonzero(self._tables[0][:, -1])
        tables = [table_VS[seen] for table_VS in self._tables]
        return {**self.__dict__, "_tables": tables, "_seen": seen, "_values": None}

    def _spread(self) -> None:
        """Rows in their places by token id."""
        if self._seen is None:
            return
        seen, tables, self._seen = self._seen, self._tables, None
        self._tables = [np.zeros((0, table.shape[1]), dtype=np.int64) for table in tables]
        self._reach(self._length)
        for table_VS, rows in zip(self._tables, tables, strict=True):
            table_VS[seen] = rows


def _words(rows_VS: Array) -> Array:
    """Copies of the first, second and third words of rows of a table: (3, sums, rows)."""
    words = len(fixed_point.BITS)
    flat = np.ascontiguousarray(rows_VS[:, :-1].T)
    return flat.reshape(words, len(flat) // words, len(rows_VS))


def _blocks(length: int) -> Iterator[slice]:
    """Rows, of a batch or of a table, in turn."""
    return (slice(at, min(length, at + _BLOCK)) for at in range(0, length, _BLOCK))


def sums_compiled(
    token_N: Array, values: Sequence[Array], table_VS: Array, *, squares: bool = False
) -> Array:
    """Add, by token id, 1 and the words of x and x² (`fixed_point.words`) of one or two columns.

    Args:
        token_N: int32 ids, all from 0 to len(table_VS) − 1: **not checked**.
        values: one or two float arrays as long as token_N.
        table_VS: int64, changed in place: the first words of all sums, the second and the third;
            then the number of rows. The sums are those of the columns, and then of their squares.
            Side by side: two or three cache lines a row, not thirteen.
        squares: add the squares too.

    Returns the rows, ascending, that were left out: one of their terms is not below
    `fixed_point.LIMIT` in absolute value.
    """
    from rocktok.stats import exact_loops

    # One type for all columns, so that few variants are compiled.
    single = all(x_N.dtype == np.float32 for x_N in values)
    columns = [readonly(x_N, np.float32 if single else np.float64) for x_N in values]
    tokens = readonly(token_N, np.int32)
    sums = len(columns) * (1 + squares)
    if len(columns) not in (1, 2) or table_VS.shape[1] != 1 + len(fixed_point.BITS) * sums:
        raise ValueError("sums_compiled takes one or two columns, and a table that fits them")
    if any(len(x_N) != len(tokens) for x_N in columns):
        raise ValueError("columns differ in length")
    loop = {
        (1, False): exact_loops.sum_one,
        (1, True): exact_loops.sum_one_squared,
        (2, False): exact_loops.sum_two,
        (2, True): exact_loops.sum_two_squared,
    }[len(columns), squares]
    beyond, at = [], 0
    while (at := loop(tokens, *columns, table_VS, at)) < len(tokens):
        beyond.append(at)
        at += 1
    return np.array(beyond, dtype=np.int64)


def sums_numpy(
    token_N: Array, values: Sequence[Array], table_VS: Array, *, squares: bool = False
) -> Array:
    """Twin of `sums_compiled`: the same bits, without compiled code."""
    beyond = [np.zeros(0, dtype=np.int64)]
    for rows in _blocks(len(token_N)):
        terms = summed([x_N[rows] for x_N in values], squares=squares)
        fits_B = np.all([np.abs(x_B) < fixed_point.LIMIT for x_B in terms], axis=0)
        token_B = token_N[rows].astype(np.intp)
        if not fits_B.all():
            beyond.append(rows.start + np.flatnonzero(~fits_B))
            token_B, terms = token_B[fits_B], [x_B[fits_B] for x_B in terms]
        np.add.at(table_VS[:, -1], token_B, 1)
        for s, x_B in enumerate(terms):
            for w, word_B in enumerate(fixed_point.words(x_B)):
                np.add.at(table_VS[:, w * len(terms) + s], token_B, word_B)
    return np.concatenate(beyond)


def summed(values: Sequence[Array], *, squares: bool) -> list[Array]:
    """What is added up, in the order of its sums: columns as float64, then their squares."""
    columns = [x_N.astype(np.float64) for x_N in values]
    with np.errstate(over="ignore"):
        return [*columns, *(x_N * x_N for x_N in columns)] if squares else columns
