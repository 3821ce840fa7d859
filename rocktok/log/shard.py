"""One Parquet shard: how it is opened without being trusted, and read.

Parquet has a checksum for the data of a page, and none for its header or for the footer. A flipped
bit in a footer renames columns, loses row groups or crashes the reader; one in a header loses the
rows of a page or decodes other values. So the manifest keeps a CRC32 of the footer, compared before
Parquet parses it, and one of every column chunk as it is stored, compared before it is decoded.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.log.chunks import REMEDY, CheckedFile, checksums, chunks_of, plausible
from rocktok.log.lists import entries, is_list
from rocktok.runs import run_starts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from rocktok._types import Array
    from rocktok.files import Place

#: Rows of a piece of a row group, where sequences need not be whole: hand-written ones may be huge.
STREAM_ROWS = 1 << 20
_MAGIC = b"PAR1"
_END = 1 << 15
#: Bytes at the end of a file: four of footer length, four of magic.
TAIL = 8

#: What Arrow raises for bytes that make no sense, or that claim more than there is memory for.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What the manifest knows of a shard. `steps` maps each step to its rows in the shard.

    `chunk_crc32`: for each row group the CRC32 of every column chunk, eight hexadecimal digits a
    column; empty for a shard of schema version 1.
    """

    path: str
    rows: int
    size: int
    footer_crc32: int
    steps: dict[int, int]
    chunk_crc32: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a log; `entry` and `attempt` are None where nothing vouches for it."""

    path: str
    size: int
    entry: ShardEntry | None = None
    attempt: int | None = None


@dataclass
class OpenShard:
    """A shard whose footer has been checked. `local`: its file, if that is on a local disk."""

    shard: Shard
    file: Any
    name: str
    columns: list[str]
    version: int = 1
    run_id: str | None = None
    attempt: int | None = None
    rank: int | None = None
    local: CheckedFile | None = None

    @property
    def trusted(self) -> bool:
        """Whether a manifest vouches for the footer, and so for statistics."""
        return self.shard.entry is not None

    @property
    def rows(self) -> int:
        """Rows in the whole file."""
        return int(self.file.metadata.num_rows)

    def groups(self) -> Iterator[tuple[int, int]]:
        """(row group, its first row) in file order."""
        first = 0
        for group in range(self.file.metadata.num_row_groups):
            yield group, first
            first += self.file.metadata.row_group(group).num_rows

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group, checksums verified and rows counted. Raises `DamagedError`."""
        self._check_claims(group, columns)
        try:
            table = self.file.read_row_group(group, columns=list(columns), use_threads=False)
        except _UNREADABLE as error:
            raise self._damaged(group, self._bad_column(group, columns), _reason(error)) from error
        for column in columns:
            self._check_count(group, column, len(table[column]))
        self._check_entries(group, table)
        return table

    def stream_group(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """As `read_group`, in pieces of `STREAM_ROWS`."""
        self._check_claims(group, columns)
        rows = 0
        held = dict.fromkeys(self._entries(group), 0)
        try:
            for piece in self.file.iter_batches(
                STREAM_ROWS, row_groups=[group], columns=list(columns), use_threads=False
            ):
                rows += piece.num_rows
                for column in held.keys() & set(columns):
                    held[column] += entries(piece[column])
                yield piece
        except _UNREADABLE:
            self.read_group(group, columns)  # says which column is damaged
            raise
        if rows != self.file.metadata.row_group(group).num_rows:
            self.read_group(group, columns)
            self._check_count(group, ", ".join(columns), rows)
        self._check_held(group, {column: held[column] for column in held if column in columns})

    def _check_claims(self, group: int, columns: Sequence[str]) -> None:
        """Row group and column chunks must agree in their rows, where nothing vouches for them."""
        if self.trusted:
            return
        row_group = self.file.metadata.row_group(group)
        for index in range(row_group.num_columns):
            flat = self.file.schema.column(index).max_repetition_level == 0
            chunk = row_group.column(index)
            if flat and chunk.path_in_schema in columns:
                self._check_count(group, chunk.path_in_schema, chunk.num_values)
            elif not flat and chunk.path_in_schema.split(".")[0] in columns:
                # An empty list, and a null, are one value each.
                least = min(chunk.num_values, row_group.num_rows)
                self._check_count(group, chunk.path_in_schema.split(".")[0], least)

    def _entries(self, group: int) -> dict[str, int]:
        """Column of lists of numbers → how many values a row group has of it, by the footer."""
        row_group = self.file.metadata.row_group(group)
        counts = {}
        for index in range(row_group.num_columns):
            chunk = row_group.column(index)
            name = chunk.path_in_schema.split(".")[0]
            if self.file.schema.column(index).max_repetition_level != 1:
                continue
            type_ = self.file.schema_arrow.field(name).type
            if is_list(type_) and pa.types.is_primitive(type_.value_type):
                counts[name] = chunk.num_values
        return counts

    def _check_entries(self, group: int, table: pa.Table) -> None:
        """The rows of a column with lists may all be there, and values of the last one not."""
        if any(is_list(field.type) for field in table.schema):
            names = self._entries(group).keys() & set(table.schema.names)
            self._check_held(group, {name: entries(table[name]) for name in sorted(names)})

    def _check_held(self, group: int, held: dict[str, int]) -> None:
        for column, count in held.items():
            expected = self._entries(group)[column]
            if count != expected:
                raise self._damaged(
                    group, column, f"{count:,} values where its footer claims {expected:,}"
                )

    def _check_count(self, group: int, column: str, rows: int) -> None:
        expected = self.file.metadata.row_group(group).num_rows
        if rows != expected:
            raise self._damaged(
                group, column, f"{rows:,} rows where its row group has {expected:,}"
            )

    def _damaged(self, group: int, column: str, reason: str) -> DamagedError:
        return DamagedError(
            f"{self.name}: row group {group}, column {column}: damaged ({reason}); {REMEDY}"
        )

    def _bad_column(self, group: int, columns: Sequence[str]) -> str:
        for column in columns:
            try:
                self.file.read_row_group(group, columns=[column], use_threads=False)
            except _UNREADABLE:
                return column
        return "?"

    def group_range(self, group: int, name: str) -> tuple[int, int] | None:
        """Smallest and largest value of a column by its statistics, if they can be trusted."""
        if not self.trusted:
            return None
        metadata = self.file.metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            if column.path_in_schema == name:
                statistics = column.statistics
                if statistics is not None and statistics.has_min_max:
                    return int(statistics.min), int(statistics.max)
        return None

    def read_constant(self, group: int, name: str) -> int | None:
        """The value of an int32 column that is the same in all rows, by such statistics.

        Its bytes are verified as if they were decoded. None: read the column. So, too, where
        bytes that are asked for one by one take long. Raises `DamagedError`.
        """
        bounds = self.group_range(group, name)
        field = self.file.schema_arrow.field(name)
        if self.local is None or bounds is None or bounds[0] != bounds[1]:
            return None
        if field.nullable or field.type != pa.int32():
            return None
        for chunk in chunks_of(self.file.metadata, group):
            if chunk.metadata.path_in_schema == name:
                self.local.seek(chunk.start)
                self.local.read(chunk.stop - chunk.start)
        return bounds[0]


def sequence_starts(step_N: Array, sequence_N: Array) -> npt.NDArray[np.int64]:
    """Rows at which a new (step, sequence) begins; the first row included."""
    if len(step_N) == 0:
        return np.zeros(0, dtype=np.int64)
    if step_N.strides[0]:  # not a constant, of which there is one value in memory
        new_N = step_N[1:] != step_N[:-1]
        if new_N.any():
            new_N |= sequence_N[1:] != sequence_N[:-1]
            return np.concatenate(([0], np.flatnonzero(new_N) + 1)).astype(np.int64)
    starts: npt.NDArray[np.int64] = run_starts(sequence_N)
    return starts


def open_shard(where: Place, shard: Shard, required: Iterable[str] = ()) -> OpenShard:
    """Open a shard after checking what can be checked before Parquet parses it.

    Raises `DamagedError` for a file that is truncated or altered, `LogError` for one of a newer
    schema version or without a required column.
    """
    name = where.show(shard.path)
    try:
        source = where.open(shard.path)
    except FileNotFoundError as error:
        raise DamagedError(f"{name}: is missing; {REMEDY}") from error
    except OSError as error:
        raise DamagedError(f"{name}: cannot be opened ({_reason(error)}); {REMEDY}") from error
    footer = _checked_footer(source, shard, name)
    entry = shard.entry
    try:
        vouched = entry is not None and bool(entry.chunk_crc32)
        check = checksums(entry.chunk_crc32) if entry is not None and vouched else plausible
        checked = CheckedFile(source, footer, name, check, partly=not vouched)
        # Chunks are asked for one by one, or, where a request takes long, as neighbours.
        file = pq.ParquetFile(
            checked, pre_buffer=not where.is_local, page_checksum_verification=not vouched
        )
        checked.metadata = file.metadata
        _check_rows(file.metadata, entry, name)
        columns = list(file.schema_arrow.names)
    except UnicodeDecodeError as error:
        raise DamagedError(f"{name}: the name of a column is not UTF-8; {REMEDY}") from error
    except _UNREADABLE as error:
        raise DamagedError(f"{name}: damaged footer ({_reason(error)}); {REMEDY}") from error
    _check_columns(columns, required, name)
    local = checked if where.is_local else None
    return _with_footer_keys(OpenShard(shard, file, name, columns, local=local))


def _check_columns(columns: list[str], required: Iterable[str], name: str) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise LogError(f"{name}: has two columns {', '.join(twice)}; keep one of each name")
    missing = [column for column in required if column not in columns]
    if missing:
        path = name.rsplit("/", 1)[0].split("/")
        # As Hive, Spark and others write it: the value is in no file.
        if any(part.startswith(tuple(f"{column}=" for column in missing)) for part in path):
            raise LogError(
                f"{name}: has no column {', '.join(missing)}: values in folder names are not "
                "read; write it as a column as well"
            )
        raise LogError(
            f"{name}: has no column {', '.join(missing)}; every shard of the table must have it"
        )


def _checked_footer(source: Any, shard: Shard, name: str) -> bytes:
    """The footer: metadata, its length and the closing magic, as a manifest vouches for it."""
    size = source.size()
    entry = shard.entry
    if entry is not None and size != entry.size:
        raise DamagedError(
            f"{name}: has {size} bytes where its manifest says {entry.size}: truncated or "
            f"overwritten; {REMEDY}"
        )
    if size != shard.size:
        raise DamagedError(
            f"{name}: has {size} bytes, {shard.size} when the log was opened: it is being written "
            "or replaced; run the command again when that is done"
        )
    # One read for most footers.
    end = _read_at(source, max(size - _END, 0), min(size, _END), name)
    if size < 2 * TAIL or end[-4:] != _MAGIC:
        raise DamagedError(f"{name}: no Parquet footer at the end: truncated; {REMEDY}")
    length = int.from_bytes(end[-TAIL:-4], "little")
    if length + TAIL > size:
        raise DamagedError(f"{name}: damaged footer (longer than the file); {REMEDY}")
    footer = end[-(length + TAIL) :]
    if length + TAIL > len(end):
        footer = _read_at(source, size - length - TAIL, length + TAIL, name)
    if entry is not None and zlib.crc32(footer) != entry.footer_crc32:
        raise DamagedError(f"{name}: damaged footer (its CRC32 is not the manifest's); {REMEDY}")
    return footer


def _read_at(source: Any, start: int, length: int, name: str) -> bytes:
    try:
        return bytes(source.read_at(length, start))
    except (OSError, MemoryError) as error:
        raise DamagedError(f"{name}: cannot be read ({_reason(error)}); {REMEDY}") from error


def _with_footer_keys(opened: OpenShard) -> OpenShard:
    keys = opened.file.schema_arrow.metadata or {}
    version = _number(keys.get(schema.KEY_VERSION, b"1"))
    if version is None or version > schema.SCHEMA_VERSION:
        shown = keys[schema.KEY_VERSION].decode(errors="replace")
        raise LogError(newer_version(opened.name, shown))
    opened.version = version
    run_id = keys.get(schema.KEY_RUN_ID)
    opened.run_id = run_id.decode(errors="replace") if run_id is not None else None
    attempt = _number(keys.get(schema.KEY_ATTEMPT, b""))
    opened.attempt = attempt if opened.shard.attempt is None else opened.shard.attempt
    opened.rank = _number(keys.get(schema.KEY_RANK, b""))
    return opened


def newer_version(name: str, version: Any) -> str:
    """The message for a file that a later rocktok wrote."""
    return (
        f"{name}: schema version {version}, but this rocktok reads versions up to "
        f"{schema.SCHEMA_VERSION}; upgrade rocktok"
    )


def _number(text: bytes) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _check_rows(metadata: Any, entry: ShardEntry | None, name: str) -> None:
    total = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if total != metadata.num_rows:
        raise DamagedError(
            f"{name}: damaged footer ({metadata.num_rows} rows, but its row groups hold "
            f"{total}); {REMEDY}"
        )
    if entry is not None and entry.rows != metadata.num_rows:
        raise DamagedError(
            f"{name}: holds {metadata.num_rows} rows where its manifest says {entry.rows}; {REMEDY}"
        )


def _reason(error: BaseException) -> str:
    """The first line of a library's message, without the path that is already named."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
