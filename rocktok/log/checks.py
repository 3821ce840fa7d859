"""The rules that rows must keep, checked in every batch that is read.

What breaks a rule is an error that names file, row group, row and column: nothing is skipped in
silence, and no statistic is computed from a value that cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DataError
from rocktok.log.lists import byte_matrix, flat
from rocktok.log.ranges import bounds_of, wrong_lists
from rocktok.log.shard import sequence_starts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocktok._types import Array

_TYPES = {c.name: c.type for table in schema.TABLES for c in schema.columns_of(table)}
#: Probabilities are float16 on disk alone: sums of them are not.
_NUMPY = {
    "int32": np.int32,
    "int64": np.int64,
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float32,
}
_LISTS = tuple(c.name for c in schema.ALTERNATIVES_COLUMNS if c.type.startswith("list"))


@dataclass(frozen=True)
class Where:
    """Where rows come from: for messages."""

    name: str
    group: int
    first: int = 0  # row within the row group

    def at(self, row: int, column: str) -> str:
        """The start of a message about one value."""
        return f"{self.name}: row group {self.group}, row {self.first + row}, column {column}"


@dataclass(frozen=True)
class Rules:
    """What a log promises of its values. `vocab_size` is None where run.json does not say."""

    exactness: str
    vocab_size: int | None


def to_numpy(column: Any, name: str, where: Where) -> Array:
    """A column in the format's own type; nulls, and values that do not fit, are a `DataError`.

    (N,), or (N, K) of a column whose rows are lists of K numbers (float16 as float32), or (N, B)
    uint8 of one of B bytes a row.
    """
    wanted = _TYPES[name]
    array = column
    if isinstance(column, pa.ChunkedArray):
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where.at(row, name)}: null or NaN; every row must have a value")
    if pa.types.is_null(array.type):
        raise DataError(f"{where.name}: has no rows, and columns without a type; remove it")
    if wanted.startswith("binary"):
        return byte_matrix(array, schema.CONTEXT_BYTES, name, wanted, where)
    if not wanted.startswith("list"):
        return _cast(_numbers(array, name, where), wanted, name, where)
    values, width = flat(array, name, wanted, where)
    matrix_NK = _numbers(values, name, where).reshape(len(array), width)
    return _cast(matrix_NK, wanted.removeprefix("list<").removesuffix(">"), name, where)


def _numbers(array: Any, name: str, where: Where) -> Array:
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise DataError(
            f"{where.name}: column {name}: type {array.type}; it must be {_TYPES[name]}"
        )
    return numpy_view(array)


def _cast(values: Array, wanted: str, name: str, where: Where) -> Array:
    dtype = _NUMPY[wanted]
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
    if np.issubdtype(dtype, np.integer):
        _refuse(cast != values, values, name, where, f"does not fit {wanted}")
    else:
        _refuse(~np.isfinite(cast) & np.isfinite(values), values, name, where, "overflows float32")
    return cast


def numpy_view(array: Any) -> Array:
    """A primitive Arrow array without nulls as NumPy, not copied, read-only.

    Not `to_numpy`: that imports pandas, which a small log can do without (0.2 s).
    """
    view: Array = np.from_dlpack(array)
    return view


def _refuse(bad: Array, values: Array, name: str, where: Where, why: str) -> None:
    """`bad` and `values`: by row, or by row and place in a list."""
    if bad.any():
        at = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise DataError(f"{where.at(int(at[0]), name)}: {values[at]} {why}")


def check_values(columns: Mapping[str, Array], rules: Rules, where: Where) -> None:
    """Finiteness and ranges of every column that was read. Raises `DataError`."""
    for name, values in columns.items():
        if len(values) == 0:
            continue
        bounds = bounds_of(name, rules.exactness, rules.vocab_size)
        if bounds or values.dtype == np.float32:
            # Extremes are cheap to find, and NaN is both; what is wrong is looked for after.
            low, high = values.min(), values.max()
            if not np.isfinite(low) or not np.isfinite(high):
                _refuse(~np.isfinite(values), values, name, where, "is not a finite number")
            for bound in bounds:
                if low < bound.low:
                    _refuse(values < bound.low, values, name, where, bound.below)
                if high > bound.high:
                    _refuse(values > bound.high, values, name, where, bound.above)
        if values.ndim == 2 and name in _LISTS:
            _check_lists(name, values, rules, where)


def _check_lists(name: str, values_NK: Array, rules: Rules, where: Where) -> None:
    width, size = values_NK.shape[1], rules.vocab_size
    if size is not None and width > size:
        raise DataError(
            f"{where.at(0, name)}: {width} values, more than the vocabulary of {size} (run.json)"
        )
    wrong = wrong_lists(name, values_NK)
    if wrong is not None:
        row = int(np.argmax(wrong[0]))
        shown = np.array2string(values_NK[row], separator=", ", threshold=8, edgeitems=4)
        raise DataError(f"{where.at(row, name)}: {' '.join(shown.split())} {wrong[1]}")


class ListCheck:
    """The lists of a shard are equally long, in all its columns and row groups.

    So are those of a step, in all its shards; `within` says what is checked.
    """

    def __init__(self, within: str = "shard") -> None:
        self._within = within
        self._first: tuple[str, int] | None = None

    def check(self, rows: Mapping[str, Array], where: Where) -> None:
        """Check more rows. Raises `DataError`."""
        for name, values in rows.items():
            if name not in _LISTS or not len(values):
                continue
            first, width = self._first = self._first or (f"{where.name}, {name},", values.shape[1])
            if values.shape[1] != width:
                raise DataError(
                    f"{where.name}: column {name}: {values.shape[1]} values in a row where "
                    f"{first} has {width}; the lists of a {self._within} must be equally long"
                )


class OrderCheck:
    """Rows of a shard must ascend by (step, sequence_id, position), each once."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int] | None = None

    def check(self, step_N: Array, sequence_N: Array, position_N: Array, where: Where) -> None:
        """Check one row group, and that it follows the one before. Raises `DataError`."""
        if len(step_N) == 0:
            return
        first = (int(step_N[0]), int(sequence_N[0]), int(position_N[0]))
        if self._last is not None and first <= self._last:
            self._fail(first, self._last, 0, where)
        # Where a sequence begins, the position may fall; there are few such rows.
        start_S = sequence_starts(step_N, sequence_N)[1:]
        good = position_N[1:] > position_N[:-1]
        good[start_S - 1] = _ascends(step_N, sequence_N, start_S)
        if not good.all():
            row = int(np.argmin(good)) + 1
            now, before = (
                (int(step_N[i]), int(sequence_N[i]), int(position_N[i])) for i in (row, row - 1)
            )
            self._fail(now, before, row, where)
        self._last = (int(step_N[-1]), int(sequence_N[-1]), int(position_N[-1]))

    def _fail(
        self, now: tuple[int, int, int], before: tuple[int, int, int], row: int, where: Where
    ) -> None:
        if now == before:
            raise DataError(
                f"{where.at(row, 'position')}: duplicate of the row before (step {now[0]}, "
                f"sequence {now[1]}, position {now[2]}), both in {where.name}; remove one"
            )
        raise DataError(
            f"{where.at(row, 'position')}: out of order (step {now[0]}, sequence {now[1]}, "
            f"position {now[2]} after {before[0]}, {before[1]}, {before[2]}); "
            "sort the shard by step, sequence_id, position"
        )


def _ascends(step_N: Array, sequence_N: Array, row_S: Array) -> Array:
    """Whether some rows have a larger step, or sequence of a step, than those before them."""
    step_S, step_before_S = step_N[row_S], step_N[row_S - 1]
    later_S = sequence_N[row_S] > sequence_N[row_S - 1]
    ascends: Array = (step_S > step_before_S) | ((step_S == step_before_S) & later_S)
    return ascends


class SequenceRuns:
    """Which sequences each shard holds, as runs of consecutive ids, to find duplicates.

    Memory is a few integers per run: hooks number sequences consecutively, so a shard is a few
    runs however many rows it has.
    """

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._names: list[str] = []

    def add(self, name: str, step_N: Array, sequence_N: Array) -> None:
        """Note the sequences of one shard's rows (in order)."""
        if len(step_N) == 0:
            return
        if not self._names or self._names[-1] != name:
            self._names.append(name)
        starts = sequence_starts(step_N, sequence_N)
        step_S, id_S = step_N[starts].astype(np.int64), sequence_N[starts]
        breaks = np.flatnonzero((np.diff(step_S) != 0) | (np.diff(id_S) != 1)) + 1
        first = np.concatenate(([0], breaks))
        last = np.concatenate((breaks - 1, [len(id_S) - 1]))
        shard = np.full(len(first), len(self._names) - 1, dtype=np.int64)
        self._parts.append(np.stack([step_S[first], id_S[first], id_S[last], shard], axis=1))

    def merge(self, other: SequenceRuns) -> None:
        """Add the shards that another one has noted."""
        for part in other._parts:
            part = part.copy()
            part[:, 3] += len(self._names)
            self._parts.append(part)
        self._names += other._names

    def check(self) -> None:
        """Raise `DataError` if two shards hold the same sequence at the same step."""
        if not self._parts:
            return
        runs = np.concatenate(self._parts)
        runs = runs[np.lexsort((runs[:, 3], runs[:, 1], runs[:, 0]))]
        before, after = runs[:-1], runs[1:]
        clash = (before[:, 0] == after[:, 0]) & (after[:, 1] <= before[:, 2])
        clash &= before[:, 3] != after[:, 3]
        if clash.any():
            row = int(np.argmax(clash))
            step, sequence = int(after[row, 0]), int(after[row, 1])
            one, other = (self._names[int(r[row, 3])] for r in (before, after))
            raise DataError(
                f"{one} and {other}: both hold sequence {sequence} at step {step}; "
                "keep each sequence of a step in one shard, its rows once"
            )

    def check_once(self, table: str) -> None:
        """Raise `DataError` for a sequence that stands at two steps, where it may at one alone."""
        if not self._parts:
            return
        runs = np.concatenate(self._parts)
        runs = runs[np.lexsort((runs[:, 0], runs[:, 1]))]
        before, after = runs[:-1], runs[1:]
        clash = (after[:, 1] <= before[:, 2]) & (before[:, 0] != after[:, 0])
        if clash.any():
            row = int(np.argmax(clash))
            (one, name), (two, other) = sorted(
                (int(r[row, 0]), self._names[int(r[row, 3])]) for r in (before, after)
            )
            raise DataError(
                f"{other}: holds sequence {int(after[row, 1])} at step {two}, {name} at step "
                f"{one}; a sequence has rows at only one step of {table}/: remove the later rows"
            )
