"""Rows of a table beside `fixed`, put to the rows of `fixed` by sequence and position, streamed.

Shards of both tables ascend by sequence, but may be cut differently, and come from other ranks and
attempts. So the rows of `fixed` lead: for each batch of them the shards beside are read as far as
its sequences may stand in them, and what was read and not yet asked for waits. Where both tables
are written in one order (the hooks' always are) no more waits than a row group; a hand-written log
in another order costs the memory of what waits, never a wrong answer.

Array suffixes: N rows of `fixed`; M rows beside; R runs of rows of a sequence; S sequences of a
batch; C of a chunk; K wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

import rocktok.schema as schema
from rocktok.errors import DataError
from rocktok.log.checks import SequenceRuns
from rocktok.log.selection import KEY
from rocktok.log.shard import sequence_starts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from rocktok._types import Array
    from rocktok.log.reader import Reader, ShardRows
    from rocktok.log.tasks import Beside, Task

#: Table → the name of the column that marks the rows of `fixed` which have a row in it.
MARKS = {"alternatives": "has_alternatives", "contexts": "has_context"}

#: Column → its table, marks included.
TABLE_OF = {
    **{
        column.name: table
        for table in schema.BESIDE_FIXED
        for column in schema.columns_of(table)
        if column.name not in KEY
    },
    **{mark: table for table, mark in MARKS.items()},
}


@dataclass
class BesideRows:
    """One table beside the rows of `fixed` that a task reads, in the order in which they come.

    Attributes:
        reader, task: as for the rows of `fixed`.
        table: "alternatives" or "contexts".
        columns: columns of it.
        strict: whether a sequence that `fixed` lacks is an error, too.
        lacking: rows of `fixed` so far that have none in the table.
    """

    reader: Reader
    task: Task
    table: str
    columns: Sequence[str]
    strict: bool
    lacking: int = field(default=0, init=False)
    _units: list[list[_Unit]] = field(default_factory=list, init=False)
    _runs: SequenceRuns = field(default_factory=SequenceRuns, init=False)

    def __post_init__(self) -> None:
        mine = sorted((b for b in self.task.beside if b.table == self.table), key=lambda b: b.step)
        for _, of_step in groupby(mine, key=lambda b: b.step):
            self._units.append([_Unit(part, self._scan(part)) for part in of_step])

    def _scan(self, part: Beside) -> Iterator[ShardRows]:
        wanted = (*KEY, *self.columns)
        return self.reader.scan_shard(part.shard, wanted, [part.step], self._runs, self.task.span)

    def attach(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The table's columns for a batch of whole sequences, and which rows it has.

        Rows that it lacks have token ids −1, probabilities NaN, a context of zeros. Of a sequence
        that stands at several steps, the first is taken.

        Returns column → (N, k) or (N, 32) array, and the mark of the table, (N,) bool.

        Raises `DataError` for a position that `fixed` lacks; and as the reader does.
        """
        sequence_N, position_N = batch["sequence_id"], batch["position"]
        run_R, length_R = _runs(sequence_N)
        sequence_S, index_R = np.unique(run_R, return_inverse=True)
        taken = self._take(sequence_S)
        if len(taken) == 1 and all(
            np.array_equal(taken[0].rows[name], batch[name]) for name in ("sequence_id", "position")
        ):
            # The common case: the same rows, in the same order.
            whole = {name: taken[0].rows[name] for name in self.columns}
            return {**whole, MARKS[self.table]: np.ones(len(sequence_N), dtype=bool)}
        joined = {
            name: _empty(name, [p.rows[name] for p in taken], len(sequence_N))
            for name in self.columns
        }
        has_N = np.zeros(len(sequence_N), dtype=bool)
        key_N = _keys(np.repeat(index_R, length_R), position_N)
        order_N = None if (key_N[1:] > key_N[:-1]).all() else np.argsort(key_N)
        sorted_N = key_N if order_N is None else key_N[order_N]
        for part in taken:
            run_R, length_R = _runs(part.rows["sequence_id"])
            index_M = np.repeat(np.searchsorted(sequence_S, run_R), length_R)
            key_M = _keys(index_M, part.rows["position"])
            at_M = np.minimum(np.searchsorted(sorted_N, key_M), len(sorted_N) - 1)
            lost_M = sorted_N[at_M] != key_M
            if lost_M.any():
                raise self._lost(part.rows, int(np.argmax(lost_M)), part.name)
            if order_N is not None:
                at_M = order_N[at_M]
            for name, values_N in joined.items():
                width = part.rows[name].shape[1]
                values_N[at_M, :width] = part.rows[name]
            has_N[at_M] = True
        self.lacking += len(has_N) - int(np.count_nonzero(has_N))
        return {**joined, MARKS[self.table]: has_N}

    def _take(self, sequence_S: npt.NDArray[np.int64]) -> list[_Part]:
        """Rows of ascending sequences, of each at the first step at which it stands."""
        taken: list[_Part] = []
        for units in self._units:
            for unit in units:
                parts, sequence_S = unit.take(sequence_S)
                taken += parts
                if len(sequence_S) == 0:
                    break
            units[:] = [unit for unit in units if not unit.spent]
            if len(sequence_S) == 0:
                break
        return taken

    def finish(self, known: Collection[int] = ()) -> None:
        """Read what was not asked for. Raises `DataError` for sequences that stand twice at a step.

        If `strict`, also for the first one that is neither asked for nor `known` to be in `fixed`.
        """
        if not self.strict:
            self._runs.check()
            return
        first: tuple[dict[str, Array], int, str] | None = None
        for unit in (unit for units in self._units for unit in units):
            for chunk in unit.rest():
                left = [int(i) for i in np.flatnonzero(~chunk.used_C) if chunk.id_C[i] not in known]
                if left and first is None:
                    first = chunk.rows, int(chunk.start_C[left[0]]), chunk.name
        self._runs.check()
        if first is not None:
            raise self._lost(*first)

    def _lost(self, rows: Mapping[str, Array], row: int, name: str) -> DataError:
        step, sequence, position = (int(rows[key][row]) for key in KEY)
        return DataError(
            f"{name}: sequence {sequence}, position {position} at step {step} is not in fixed/; "
            f"{self.table}/ may only have rows of fixed/: remove it, or restore the rows of fixed/"
        )


@dataclass(frozen=True)
class _Part:
    """Rows of some whole sequences of one shard."""

    rows: dict[str, Array]
    name: str


class _Chunk:
    """Rows that were read, and which of their sequences have been asked for."""

    def __init__(self, read: ShardRows) -> None:
        self.rows, self.name = read.columns, read.name
        self.start_C = sequence_starts(read.columns["step"], read.columns["sequence_id"])
        self.stop_C = np.append(self.start_C[1:], len(read))
        self.id_C = read.columns["sequence_id"][self.start_C]
        self.used_C = np.zeros(len(self.id_C), dtype=bool)

    def take(self, sequence_K: npt.NDArray[np.int64]) -> tuple[_Part | None, Array]:
        """Rows of those of some ascending sequences that are here, and which of them are."""
        at_K = np.minimum(np.searchsorted(self.id_C, sequence_K), len(self.id_C) - 1)
        here_K = self.id_C[at_K] == sequence_K
        at = at_K[here_K]
        if len(at) == 0:
            return None, here_K
        self.used_C[at] = True
        chosen: slice | Array = slice(int(self.start_C[at[0]]), int(self.stop_C[at[-1]]))
        if at[-1] - at[0] + 1 != len(at):
            chosen = np.concatenate(
                [np.arange(self.start_C[i], self.stop_C[i]) for i in at.tolist()]
            )
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return _Part(rows, self.name), here_K


class _Unit:
    """One step of one shard, read as far as it was asked for."""

    def __init__(self, part: Beside, read: Iterator[ShardRows]) -> None:
        self._read, self._last = read, part.last
        self._reach = part.first - 1
        self._chunks: list[_Chunk] = []
        self._ended = False

    @property
    def spent(self) -> bool:
        """Whether all of it was asked for."""
        return self._ended and not self._chunks

    def take(self, sequence_K: npt.NDArray[np.int64]) -> tuple[list[_Part], Array]:
        """Rows of those of some ascending sequences that stand here, and the other sequences."""
        parts = []
        number = 0
        while len(sequence_K):
            if number == len(self._chunks):
                # Sequences that stand nowhere must not make it read on: what is read waits.
                ahead_K = (sequence_K > self._reach) & (sequence_K <= self._last)
                if not ahead_K.any() or not self._pull():
                    break
                continue
            part, here_K = self._chunks[number].take(sequence_K)
            if part is not None:
                parts.append(part)
                sequence_K = sequence_K[~here_K]
            number += 1
        self._chunks = [chunk for chunk in self._chunks if not chunk.used_C.all()]
        return parts, sequence_K

    def _pull(self) -> bool:
        """Read on; False at the end."""
        read = next(self._read, None)
        if read is None:
            self._ended = True
            return False
        chunk = _Chunk(read)
        self._chunks.append(chunk)
        self._reach = int(chunk.id_C[-1])
        return True

    def rest(self) -> Iterator[_Chunk]:
        """What was read and what was not, one after the other; it is then gone."""
        while self._chunks or self._pull():
            yield self._chunks.pop(0)


def _runs(sequence_N: Array) -> tuple[Array, Array]:
    """Sequences as they follow one another, and how many rows each has there."""
    starts = sequence_starts(np.zeros_like(sequence_N), sequence_N)
    return sequence_N[starts], np.diff(starts, append=len(sequence_N))


def _keys(index_N: Array, position_N: Array) -> Array:
    """Number of a sequence and position as one integer."""
    key_N: Array = (index_N.astype(np.int64) << 32) | position_N.astype(np.int64)
    return key_N


def _empty(name: str, parts: Sequence[Array], rows: int) -> Array:
    """A column for so many rows, all of them lacking; as wide as the widest part."""
    if name == "context":
        return np.zeros((rows, schema.CONTEXT_BYTES), dtype=np.uint8)
    width = max((part.shape[1] for part in parts), default=1)
    if name.endswith("_ids"):
        return np.full((rows, width), -1, dtype=np.int32)
    return np.full((rows, width), np.nan, dtype=np.float32)
