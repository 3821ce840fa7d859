"""The occurrences file: its columns, written in order and read back row group by row group."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rocktok._types import Array
from rocktok.analyses.occurrences.judged import NOT_JUDGED, JudgedType
from rocktok.analyses.occurrences.result import OccurrencesResult
from rocktok.errors import LogError
from rocktok.files import local_path

#: Rows of a row group: readers of the file hold one at a time.
ROW_GROUP = 1 << 16

PLACES = [pa.field("sequence_id", pa.int64()), pa.field("position", pa.int32())]

#: The columns, of which docs/output.md says what they mean.
SCHEMA = pa.schema(
    [
        *PLACES,
        ("token_id", pa.int32()),
        ("pre_loss", pa.float32()),
        ("post_loss", pa.float32()),
        ("retained", pa.bool_()),
        ("rock", pa.bool_()),
        ("partners", pa.list_(pa.struct(PLACES))),
        ("similar_count", pa.int32()),
        ("persistent_similar_count", pa.int32()),
        ("context_left", pa.list_(pa.int32())),
        ("context_right", pa.list_(pa.int32())),
    ]
)

_WANTED = "give what `rocktok occurrences LOG -o FILE.parquet` writes"


class RowGroups:
    """Writes tables one after another as row groups of one size; whole when the block ends.

    Args:
        file: open to write.
        schema: of the tables.
        about: JSON of the metadata `rocktok`.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, about: dict[str, Any]) -> None:
        described = schema.with_metadata({"rocktok": json.dumps(about, allow_nan=False)})
        self._writer = pq.ParquetWriter(
            file, described, compression="zstd", write_page_checksum=True
        )
        self._waiting: list[pa.Table] = []
        self._schema = described
        #: Rows written, or waiting.
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append rows; how they are cut into tables does not show in the file."""
        self._waiting.append(table.cast(self._schema))
        self.rows += len(table)
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting).combine_chunks()
            stop = len(whole) // ROW_GROUP * ROW_GROUP
            self._writer.write_table(whole.slice(0, stop), row_group_size=ROW_GROUP)
            self._waiting = [whole.slice(stop)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        # While the file is open still: later Parquet's writer would complain of it on stderr.
        with suppress(Exception):
            self._writer.close()

    def close(self) -> None:
        """Write what waits, and the footer."""
        rest = pa.concat_tables([self._schema.empty_table(), *self._waiting]).combine_chunks()
        if len(rest):
            self._writer.write_table(rest, row_group_size=ROW_GROUP)
        self._writer.close()


class Runs:
    """Judged occurrences in files of a folder, each sorted by sequence and position.

    The files are mapped, not read: what is looked at is what takes memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[tuple[pa.Table, Array]] = []

    def add(self, types: Iterable[JudgedType]) -> None:
        """Keep the types of one round."""
        table = pa.concat_tables([_table_of(one) for one in types])
        keys = [("sequence_id", "ascending"), ("position", "ascending")]
        table = table.sort_by(keys).combine_chunks()
        path = self._folder / f"{len(self._runs)}.arrow"
        with (
            pa.OSFile(os.fspath(path), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        mapped = pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()
        self._runs.append((mapped, mapped["sequence_id"].to_numpy()))

    def between(self, first: int, last: int) -> pa.Table:
        """Occurrences of the sequences from one to another, in order."""
        parts = []
        for table, sequence_N in self._runs:
            start = int(np.searchsorted(sequence_N, first, "left"))
            stop = int(np.searchsorted(sequence_N, last, "right"))
            parts.append(table.slice(start, stop - start))
        whole = pa.concat_tables([_JUDGED.empty_table(), *parts])
        return whole.sort_by([("sequence_id", "ascending"), ("position", "ascending")])


_JUDGED = pa.schema(
    [
        *PLACES,
        ("retained", pa.bool_()),
        ("partners", pa.list_(pa.struct(PLACES))),
        ("similar_count", pa.int32()),
        ("persistent_similar_count", pa.int32()),
    ]
)


def _table_of(one: JudgedType) -> pa.Table:
    offsets = np.concatenate(([0], np.cumsum(one.listed_M))).astype(np.int32)
    places = pa.StructArray.from_arrays(
        [
            pa.array(one.partner_sequence_E, pa.int64()),
            pa.array(one.partner_position_E, pa.int32()),
        ],
        fields=PLACES,
    )
    columns = [
        pa.array(one.sequence_M, pa.int64()),
        pa.array(one.position_M, pa.int32()),
        pa.array(one.retained_M == 1, pa.bool_(), mask=one.retained_M == NOT_JUDGED),
        pa.ListArray.from_arrays(pa.array(offsets), places),
        pa.array(one.similar_M.astype(np.int32)),
        pa.array(one.persistent_similar_M.astype(np.int32)),
    ]
    return pa.Table.from_arrays(columns, schema=_JUDGED)


def rows_of(rows: dict[str, Array], judged: pa.Table, rock_U: Array, reach: int) -> pa.Table:
    """The rows of a range of sequences as the file has them.

    Args:
        rows: persistent occurrences with windows, as `PersistentWindows.result` gives them.
        judged: what `Runs.between` has of them.
        rock_U: ascending ids of the rocks.
        reach: tokens on each side of a window.
    """
    order = np.lexsort((rows["position"], rows["sequence"]))
    rows = {name: values[order] for name, values in rows.items()}
    # Rows without a verdict take none: a null index gives null.
    at_M = _places(rows, judged)
    verdicts = judged.combine_chunks().take(pa.array(at_M, mask=at_M < 0))
    window_MK = rows["window"]
    return pa.table(
        {
            "sequence_id": pa.array(rows["sequence"], pa.int64()),
            "position": pa.array(rows["position"], pa.int32()),
            "token_id": pa.array(rows["token"], pa.int32()),
            "pre_loss": pa.array(rows["loss_pre"], pa.float32()),
            "post_loss": pa.array(rows["loss"], pa.float32()),
            "retained": verdicts["retained"],
            "rock": pa.array(np.isin(rows["token"], rock_U)),
            "partners": verdicts["partners"],
            "similar_count": verdicts["similar_count"],
            "persistent_similar_count": verdicts["persistent_similar_count"],
            "context_left": _lists(window_MK[:, :reach]),
            "context_right": _lists(window_MK[:, reach:]),
        },
        schema=SCHEMA,
    )


def _places(rows: dict[str, Array], judged: pa.Table) -> Array:
    """(M,) where each row stands among the judged; −1 where it does not. Both are sorted."""
    ids_S = np.unique(rows["sequence"])

    def key(sequence_N: Array, position_N: Array) -> Array:
        keys: Array = (np.searchsorted(ids_S, sequence_N) << np.int64(32)) + position_N
        return keys

    own_M = key(rows["sequence"], rows["position"])
    theirs = key(judged["sequence_id"].to_numpy(), judged["position"].to_numpy())
    if not len(theirs):
        return np.full(len(own_M), -1, dtype=np.int64)
    at_M = np.minimum(np.searchsorted(theirs, own_M), len(theirs) - 1)
    return np.where(theirs[at_M] == own_M, at_M, -1)


def _lists(token_MK: Array) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(token_MK).ravel(), pa.int32())
    offsets = np.arange(len(token_MK) + 1, dtype=np.int32) * np.int32(token_MK.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


@dataclass(frozen=True)
class OccurrencesFile:
    """An occurrences file, open to read.

    Attributes:
        path: of the file.
        about: its metadata: log, steps, parameters, tokenizer.
        file: the Parquet file.
    """

    path: str
    about: dict[str, Any]
    file: pq.ParquetFile

    def groups(self, columns: list[str]) -> Iterator[pa.Table]:
        """Row group by row group, in order. Raises `LogError` for a damaged one."""
        for group in range(self.file.num_row_groups):
            try:
                yield self.file.read_row_group(group, columns)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(self.path, error) from error


@contextmanager
def open_occurrences(path: str | os.PathLike[str]) -> Iterator[OccurrencesFile]:
    """An occurrences file. Raises `LogError` for one that cannot be read, or is none."""
    try:
        file = pq.ParquetFile(local_path(path), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    with file:
        yield OccurrencesFile(os.fspath(path), _about(path, file), file)


def _about(path: str | os.PathLike[str], file: pq.ParquetFile) -> dict[str, Any]:
    refusal = LogError(f"{path}: is not a result of `rocktok occurrences`; {_WANTED}")
    try:
        about = json.loads((file.schema_arrow.metadata or {})[b"rocktok"])
        if about["schema"] != OccurrencesResult.SCHEMA:
            raise refusal
        parts = (about["log"], about["steps"], about["parameters"])
        window, gamma = about["parameters"]["window"], about["parameters"]["gamma"]
        if type(window) is not int or not isinstance(gamma, int | float):
            raise refusal
    except (KeyError, ValueError, TypeError) as error:
        raise refusal from error
    lacks = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
    if lacks or not all(isinstance(part, dict) for part in parts):
        raise refusal
    return dict(about)


def _unreadable(path: str | os.PathLike[str], error: Exception) -> LogError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return LogError(f"{path}: cannot be read ({why}); {_WANTED}")
