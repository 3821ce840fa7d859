"""One Parquet shard: how it is encoded, and what a manifest says of it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rocktok.schema as schema
from rocktok.log.chunks import chunk_crc32
from rocktok.log.lists import is_list
from rocktok.log.shard import TAIL, ShardEntry, sequence_starts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rocktok._types import Array

ROW_GROUP_ROWS = 1 << 20
#: Numbers in the lists of a row group of gradients/ or alternatives/: what a reader holds at once.
ROW_GROUP_NUMBERS = 1 << 24
_DICTIONARIES = ("step", "sequence_id", "prompt_id", "kind", "vocab_size", "sketch_dims", "seed")
#: Of a small shard: a page is what is compressed at once, so that what recurs later in a row group
#: (the same text at the next step) costs next to nothing.
_SMALL_LEVEL, _SMALL_PAGE_BYTES = 19, 1 << 26


def encode_shard(
    table: pa.Table,
    *,
    run_id: str,
    attempt: int,
    rank: int = 0,
    row_group_rows: int = ROW_GROUP_ROWS,
    small: bool = False,
) -> bytes:
    """Bytes of a shard for a table that is in canonical order.

    A sequence at a step never straddles a row group. LZ4, or ZSTD for alternatives; dictionary
    encoding for step and sequence_id, delta encoding for position; a checksum in every page.
    With `small` ZSTD at a high level, and the four bytes of a float apart from one another:
    fewer bytes, in many times the time.
    """
    names = table.schema.names
    encoded = table.replace_schema_metadata(
        {
            schema.KEY_VERSION: str(schema.SCHEMA_VERSION).encode(),
            schema.KEY_RUN_ID: run_id.encode(),
            schema.KEY_ATTEMPT: str(attempt).encode(),
            schema.KEY_RANK: str(rank).encode(),
        }
    )
    sink = pa.BufferOutputStream()
    encodings = {"position": "DELTA_BINARY_PACKED"} if "position" in names else {}
    options: dict[str, Any] = {"compression": _compression(names)}
    if small:
        encodings |= _split_floats(encoded.schema)
        options = {
            "compression": "zstd",
            "compression_level": _SMALL_LEVEL,
            "data_page_size": _SMALL_PAGE_BYTES,
        }
    with pq.ParquetWriter(
        sink,
        encoded.schema,
        use_dictionary=[name for name in _DICTIONARIES if name in names],
        column_encoding=encodings or None,
        write_page_checksum=True,
        **options,
    ) as writer:
        for start, stop in _row_groups(encoded, row_group_rows):
            writer.write_table(encoded.slice(start, stop - start), row_group_size=stop - start)
    return bytes(sink.getvalue())


def _compression(names: list[str]) -> str:
    # Lists of ids and of float16 become a third smaller by entropy coding, which LZ4 has not.
    return "zstd" if "student_ids" in names else "lz4"


def _split_floats(columns: pa.Schema) -> dict[str, str]:
    """Path of each column of floats, or of lists of them → its encoding."""
    paths = {
        f"{field.name}.list.element" if is_list(field.type) else field.name: (
            field.type.value_type if is_list(field.type) else field.type
        )
        for field in columns
    }
    return {
        path: "BYTE_STREAM_SPLIT" for path, type_ in paths.items() if pa.types.is_floating(type_)
    }


def _row_groups(table: pa.Table, target: int) -> Iterator[tuple[int, int]]:
    rows, names = table.num_rows, table.schema.names
    if not {"vector", "position"} & set(names):
        yield 0, rows
        return
    numbers = row_numbers(table)
    if numbers:
        target = min(target, max(1, ROW_GROUP_NUMBERS // numbers))
    if "vector" in names:
        yield from ((start, min(start + target, rows)) for start in range(0, rows, target))
        return
    if rows <= target:
        yield 0, rows
        return
    step, sequence = (np.asarray(table[name]) for name in ("step", "sequence_id"))
    bounds = np.append(sequence_starts(step, sequence), rows)
    start = 0
    while start < rows:
        # The last boundary within the target, or the next one if one sequence is larger than it.
        index = int(np.searchsorted(bounds, start + target, side="right")) - 1
        if bounds[index] <= start:
            index += 1
        yield start, int(bounds[index])
        start = int(bounds[index])


def footer_crc32(data: bytes) -> int:
    """CRC32 over a Parquet file's footer: metadata, its length and the closing magic."""
    length = int.from_bytes(data[-TAIL:-4], "little")
    return zlib.crc32(data[-(length + TAIL) :])


def entry_of(path: str, data: bytes, step_N: Array) -> ShardEntry:
    """The manifest's entry for a shard that has just been encoded."""
    steps, counts = np.unique(step_N, return_counts=True)
    return ShardEntry(
        path=path,
        rows=len(step_N),
        size=len(data),
        footer_crc32=footer_crc32(data),
        steps={int(s): int(n) for s, n in zip(steps, counts, strict=True)},
        chunk_crc32=chunk_crc32(data),
    )


def row_numbers(table: pa.Table) -> int:
    """Numbers that stand in the lists of a row, on average, rounded up."""
    lists = [chunk for column in table.columns for chunk in column.chunks if is_list(chunk.type)]
    numbers = sum(len(chunk.flatten()) for chunk in lists)
    return int(-(-numbers // max(1, table.num_rows)))
