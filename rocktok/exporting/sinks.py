"""Files of one table, written piece by piece in one of four formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rocktok.exporting.cells import csv_cells, json_lines

#: Rows of a batch: of a row group in Parquet, a record batch in Arrow.
BATCH_ROWS = 1 << 17
#: Rows of a Parquet file, about as many as the Hub's viewer and loaders handle well.
PART_ROWS = 1 << 22


def evenly(pieces: Iterable[pa.Table], rows: int | None = None) -> Iterator[pa.Table]:
    """The same rows in batches of one size (`BATCH_ROWS` by default), however they were cut.

    So a file depends on its rows alone, not on the shards that they come from.
    """
    rows = BATCH_ROWS if rows is None else rows
    waiting: list[pa.Table] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count < rows:
            continue
        whole = pa.concat_tables(waiting)
        for start in range(0, count - count % rows, rows):
            yield whole.slice(start, rows).combine_chunks()
        waiting, count = [whole.slice(count - count % rows)], count % rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def write_table(
    folder: Path, name: str, form: str, schema: pa.Schema, pieces: Iterable[pa.Table]
) -> tuple[list[str], int]:
    """Write the pieces of a table; (relative paths of the files, rows).

    Args:
        folder: to write into.
        name: of the table.
        form: datasets, csv, jsonl or arrow.
        schema: of the pieces.

    Raises `OSError` if the disk fails.
    """
    batches = evenly(pieces)
    if form == "datasets":
        return _parquet(folder, name, schema, batches)
    write = {"csv": _csv, "jsonl": _jsonl, "arrow": _arrow}[form]
    path = f"{name}.{form}"
    with _file(folder / path) as file:
        rows = write(file, schema, batches)
    return [path], rows


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """A new file; the disk has it when the block ends."""
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _parquet(
    folder: Path, name: str, schema: pa.Schema, batches: Iterator[pa.Table]
) -> tuple[list[str], int]:
    paths: list[str] = []
    rows, batch = 0, next(batches, schema.empty_table())
    while batch is not None:
        paths.append(f"{name}/{len(paths):05d}.parquet")
        full = rows + PART_ROWS
        with (
            _file(folder / paths[-1]) as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            while batch is not None and rows < full:
                writer.write_table(batch, row_group_size=BATCH_ROWS)
                rows += len(batch)
                batch = next(batches, None)
    return paths, rows


def _arrow(file: BinaryIO, schema: pa.Schema, batches: Iterator[pa.Table]) -> int:
    # Not compressed: readers map the file, and read what they look at.
    with pa.ipc.new_file(file, schema) as writer:
        return _each(batches, writer.write_table)


def _csv(file: BinaryIO, schema: pa.Schema, batches: Iterator[pa.Table]) -> int:
    from pyarrow import csv

    with csv.CSVWriter(file, csv_cells(schema.empty_table()).schema) as writer:
        return _each(batches, lambda rows: writer.write_table(csv_cells(rows)))


def _jsonl(file: BinaryIO, schema: pa.Schema, batches: Iterator[pa.Table]) -> int:
    # Pieces small enough for the 2 GB that an array of strings may hold.
    small = (part for rows in batches for part in evenly([rows], _rows_of_text(rows)))
    return _each(small, lambda rows: file.write(json_lines(rows)))


def _rows_of_text(rows: pa.Table) -> int:
    """Rows whose JSON stays far below 2 GB, by the bytes that they have in memory."""
    per_row: int = max(1, rows.nbytes // max(1, len(rows)))
    return max(1, min(BATCH_ROWS, (1 << 26) // per_row))


def _each(batches: Iterable[pa.Table], write: Callable[[pa.Table], object]) -> int:
    rows = 0
    for batch in batches:
        write(batch)
        rows += len(batch)
    return rows
