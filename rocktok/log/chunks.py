"""Column chunks of a Parquet file, checked before Parquet decodes them.

A chunk is the pages of one column in one row group, each with a header. Parquet may have a
checksum for the data of a page; it has none for headers, where a flipped bit loses rows, makes up
values, or asks for more memory than there is.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rocktok.errors import DamagedError
from rocktok.log.pages import check_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REMEDY = "restore it from a copy, or go on without it with --allow-missing"


@dataclass(frozen=True)
class Chunk:
    """One column in one row group: the bytes from `start` to `stop` of the file.

    `metadata` is what the footer says of it.
    """

    group: int
    index: int
    start: int
    stop: int
    metadata: Any


#: Raises `ValueError` for a chunk whose bytes are not what they must be.
Check = Callable[[Chunk, bytes], None]


class CheckedFile:
    """A Parquet file of which whole column chunks are read, each checked.

    The footer is given, as it was checked. `metadata` must be set before chunks are read. A chunk
    that is read in part is an error, or is not checked where `partly` allows it.
    """

    closed = False

    def __init__(
        self, source: Any, footer: bytes, name: str, check: Check, *, partly: bool
    ) -> None:
        self._source, self._footer, self._name = source, footer, name
        self._check, self._partly = check, partly
        self._size = source.size()
        self._at = 0
        self.metadata: Any = None

    @cached_property
    def _chunks(self) -> list[Chunk]:
        """In the order in which they stand in the file."""
        groups = range(self.metadata.num_row_groups)
        chunks = [chunk for group in groups for chunk in chunks_of(self.metadata, group)]
        return sorted(chunks, key=lambda chunk: chunk.start)

    @cached_property
    def _starts(self) -> list[int]:
        return [chunk.start for chunk in self._chunks]

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
        """The bytes from here on. Raises `DamagedError`."""
        start, stop = self._at, min(self._at + length, self._size)
        self._at = stop
        footer = self._size - len(self._footer)
        if self.metadata is None and stop > footer:
            # A small file is asked for as a whole, for its footer only.
            return bytes(max(footer - start, 0)) + self._footer[max(start - footer, 0) :][:length]
        data: bytes = self._source.read_at(length, start)
        first = bisect_right(self._starts, start) - 1
        for chunk in self._chunks[max(first, 0) : bisect_left(self._starts, stop)]:
            if chunk.start >= start and chunk.stop <= stop:
                # Not copied where it is all that was asked for, as on a local disk.
                self._checked(chunk, data[chunk.start - start : chunk.stop - start])
            elif chunk.stop > start and not self._partly:
                raise DamagedError(f"{self._name}: bytes {start} to {stop} cut a chunk; {REMEDY}")
        return data

    def _checked(self, chunk: Chunk, data: bytes) -> None:
        try:
            self._check(chunk, data)
        except ValueError as error:
            raise DamagedError(
                f"{self._name}: row group {chunk.group}, column {chunk.metadata.path_in_schema}: "
                f"damaged ({error}); {REMEDY}"
            ) from error


def checksums(crcs: Sequence[str]) -> Check:
    """Compares chunks with what `chunk_crc32` made of them."""

    def check(chunk: Chunk, data: bytes) -> None:
        digits = crcs[chunk.group][8 * chunk.index : 8 * chunk.index + 8]
        if zlib.crc32(data) != int(digits, 16):
            raise ValueError("its CRC32 is not the manifest's")

    return check


def plausible(chunk: Chunk, data: bytes) -> None:
    """Compares page headers with the footer: what can be told where nothing vouches for a chunk."""
    metadata = chunk.metadata
    # Of a column without rows writers give no place at which its pages would stand.
    if metadata.num_values:
        check_pages(data, metadata.num_values, metadata.encodings)


def chunks_of(metadata: Any, group: int) -> Iterator[Chunk]:
    """The column chunks of a row group, in the order of the columns."""
    row_group = metadata.row_group(group)
    for index in range(row_group.num_columns):
        chunk = row_group.column(index)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page:
            start = min(start, chunk.dictionary_page_offset)
        yield Chunk(group, index, start, start + chunk.total_compressed_size, chunk)


def chunk_crc32(data: bytes) -> tuple[str, ...]:
    """For each row group of a Parquet file the CRC32 of its column chunks, 8 digits a column."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    view = memoryview(data)
    return tuple(
        "".join(
            f"{zlib.crc32(view[chunk.start : chunk.stop]):08x}"
            for chunk in chunks_of(metadata, group)
        )
        for group in range(metadata.num_row_groups)
    )
