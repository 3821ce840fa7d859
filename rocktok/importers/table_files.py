"""Columns of CSV, Parquet and JSON Lines, a batch of rows after another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.importers.json_lines import json_lines
from rocktok.log.checks import Where
from rocktok.log.labels import label_column

#: Columns of numbers that may be mapped, and their type.
NUMBERS = {
    "step": pa.int64(),
    "sequence_id": pa.int64(),
    "position": pa.int64(),
    "token_id": pa.int64(),
    "loss": pa.float64(),
    **dict.fromkeys(schema.OPTIONAL_STATISTICS, pa.float64()),
    "teacher_rank": pa.int64(),
}
#: Columns of a sequence, repeated in each of its rows.
FACTS = {"prompt_id": pa.string(), "rollout": pa.int64(), "domain": pa.string(),
          "finish_reason": pa.string(), "correct": pa.bool_()}  # fmt: skip
SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: Rows of a batch.
BATCH_ROWS = 1 << 16
_THOUSANDS = re.compile(r"'(\d{1,3}(?:,\d{3})+(?:\.\d+)?)'")


def header(path: Path) -> set[str]:
    """Names of the columns. Raises `LogError` for a file that cannot be read, or is empty."""
    try:
        match SUFFIXES[path.suffix]:
            case "csv":
                return _csv_header(path)
            case "parquet":
                import pyarrow.parquet as pq

                return set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    line = next(json_lines(path, []), None)
    if line is None:
        raise LogError(f"{path}: is empty; give a table with rows")
    return set(line[1])


def _csv_header(path: Path) -> set[str]:
    """Names in the first line. Raises `LogError` for a file without one, or without commas."""
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    if not names:
        raise LogError(f"{path}: is empty; give a table with rows")
    for separator, said in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise LogError(f"{path}: its columns are separated by {said}; write it with commas")
    return set(names)


def batches(path: Path, names: dict[str, str], notes: list[str]) -> Iterator[dict[str, Any]]:
    """Columns by their name in the format, as Arrow arrays."""
    types = {**NUMBERS, **FACTS}
    wanted = {own: types[name] for name, own in names.items()}
    back = {own: name for name, own in names.items()}
    try:
        match SUFFIXES[path.suffix]:
            case "csv":
                found = _csv(path, wanted, notes)
            case "parquet":
                found = _parquet(path, wanted)
            case _:
                found = _json(path, wanted, notes)
        for batch in found:
            yield {back[own]: column for own, column in batch.items()}
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _csv(path: Path, wanted: dict[str, Any], notes: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.csv as pc

    cut = _without_end(path)

    def wrong(row: Any) -> str:
        """A last line with too few values is what a killed process leaves."""
        return "skip" if row.text == cut and row.actual_columns < row.expected_columns else "error"

    convert = pc.ConvertOptions(column_types=wanted, include_columns=list(wanted))
    # Elsewhere a row with too few values is an error.
    parse = pc.ParseOptions(invalid_row_handler=wrong if cut else None)
    with pc.open_csv(path, convert_options=convert, parse_options=parse) as file:
        for batch in file:
            yield {name: batch[name] for name in wanted}
    if cut:
        notes.append(
            f"{path}: the last line has no end: it may be cut, and is left out if values are "
            "missing"
        )


def _without_end(path: Path) -> str | None:
    """The last line of a file that does not end with a line break; None for one that does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if not tail or tail.endswith((b"\n", b"\r")):
        return None
    return tail.splitlines()[-1].decode(errors="replace")


def _parquet(path: Path, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(wanted)):
            rows = pa.Table.from_batches([batch])
            yield {own: _typed(rows[own], own, kind, path) for own, kind in wanted.items()}


def _typed(column: Any, name: str, kind: Any, path: Path) -> Any:
    """A column of Parquet in the type of the format; labels by the rule of the format."""
    if pa.types.is_string(kind):
        column = label_column(column, name, Where(str(path), 0), nulls=True)
    column = column.cast(kind)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _labels(values: list[Any], kind: Any) -> list[Any]:
    """Integers among labels, as text."""
    if not pa.types.is_string(kind):
        return values
    return [str(value) if type(value) is int else value for value in values]


def _json(path: Path, wanted: dict[str, Any], notes: list[str]) -> Iterator[dict[str, Any]]:
    held: list[tuple[str, dict[str, Any]]] = []
    for line in json_lines(path, notes):
        held.append(line)
        if len(held) >= BATCH_ROWS:
            yield _columns(held, wanted)
            held = []
    if held:
        yield _columns(held, wanted)


def _columns(lines: list[tuple[str, dict[str, Any]]], wanted: dict[str, Any]) -> dict[str, Any]:
    columns = {}
    for name, kind in wanted.items():
        values = [content.get(name) for _, content in lines]
        try:
            columns[name] = pa.array(_labels(values, kind), kind)
        except (pa.ArrowException, TypeError, OverflowError):
            where, value = _first_wrong(lines, name, kind)
            raise LogError(f"{where}: {name} is {value!r}; it must be {kind}") from None
    return columns


def _first_wrong(lines: list[tuple[str, dict[str, Any]]], name: str, kind: Any) -> tuple[str, Any]:
    for where, content in lines:
        try:
            pa.array(_labels([content.get(name)], kind), kind)
        except (pa.ArrowException, TypeError, OverflowError):
            return where, content.get(name)
    return lines[0][0], None


def _unreadable(path: Path, error: Exception) -> LogError:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    separated = _THOUSANDS.search(line)
    if separated:
        return LogError(
            f"{path}: {separated[1]!r} has thousands separators; write numbers without them"
        )
    return DamagedError(f"{path}: cannot be read ({line}); give a table with the right types")
