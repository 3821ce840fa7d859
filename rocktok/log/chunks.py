"""Column chunks of a Parquet file: the pages of one column in one row group, and their headers."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rocktok.errors import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REMEDY = "restore it from a copy, or go on without it with --allow-missing"


class VouchedFile:
    """A shard's column chunks, each given out only if its CRC32 is the manifest's.

    Parquet asks for the end of the file, and then for a whole chunk at a time. It is given the
    footer that has been checked, and nothing else before `metadata` is set.
    """

    closed = False

    def __init__(self, source: Any, footer: bytes, crcs: Sequence[str], name: str) -> None:
        self._source, self._footer, self._crcs, self._name = source, footer, crcs, name
        self._size = source.size()
        self._at = 0
        self.metadata: Any = None

    @cached_property
    def _chunks(self) -> dict[int, tuple[int, int, int, str]]:
        """First byte → bytes, CRC32, row group and column of a chunk."""
        chunks = {}
        for group, digits in enumerate(self._crcs):
            for index, (column, start, size) in enumerate(chunk_ranges(self.metadata, group)):
                crc = int(digits[8 * index : 8 * index + 8], 16)
                chunks[start] = (size, crc, group, column)
        return chunks

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """As of any file."""
        return self._at

    def close(self) -> None:
        """As of any file."""
        self.closed = True

    def read(self, length: int) -> bytes:
        """The chunk that begins here, or what reaches into the footer. Raises `DamagedError`."""
        before = self._size - len(self._footer) - self._at
        if length > before:
            self._at += length
            # A small file is asked for as a whole, for its footer only.
            return (
                bytes(max(before, 0)) + self._footer[max(-before, 0) :][: length - max(before, 0)]
            )
        size, crc, group, column = self._chunks.get(self._at, (-1, 0, 0, ""))
        if size != length:
            raise DamagedError(
                f"{self._name}: bytes {self._at} to {self._at + length} are no column chunk that "
                f"its manifest vouches for; {REMEDY}"
            )
        data: bytes = self._source.read_at(length, self._at)
        if zlib.crc32(data) != crc:
            raise DamagedError(
                f"{self._name}: row group {group}, column {column}: damaged (its CRC32 is not the "
                f"manifest's); {REMEDY}"
            )
        self._at += length
        return data


def chunk_ranges(metadata: Any, group: int) -> Iterator[tuple[str, int, int]]:
    """(column, first byte, bytes) of each column chunk of a row group: headers and pages."""
    row_group = metadata.row_group(group)
    for index in range(row_group.num_columns):
        chunk = row_group.column(index)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page:
            start = min(start, chunk.dictionary_page_offset)
        yield chunk.path_in_schema, start, chunk.total_compressed_size


def chunk_crc32(data: bytes) -> tuple[str, ...]:
    """For each row group of a Parquet file the CRC32 of its column chunks, 8 digits a column."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    view = memoryview(data)
    return tuple(
        "".join(
            f"{zlib.crc32(view[start : start + size]):08x}"
            for _, start, size in chunk_ranges(metadata, group)
        )
        for group in range(metadata.num_row_groups)
    )
