"""Page headers of a Parquet column chunk, read without decoding a page.

Source: parquet.thrift of the Parquet format (PageHeader), in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

_DICTIONARY_PAGE = 2
#: Fields of PageHeader: type, compressed size, and the headers of the kinds of page.
_TYPE, _COMPRESSED, _DATA, _DICTIONARY, _DATA_V2 = 1, 3, 5, 7, 8
#: Where the encoding of the values stands in the header of a kind of page.
_ENCODING = {_DATA: 2, _DATA_V2: 4}
_NUM_VALUES = 1

_ENCODINGS = {
    0: "PLAIN",
    2: "PLAIN_DICTIONARY",
    3: "RLE",
    4: "BIT_PACKED",
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY",
    8: "RLE_DICTIONARY",
    9: "BYTE_STREAM_SPLIT",
}
_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}

#: Thrift's compact types.
_TRUE, _FALSE, _I8, _I16, _I32, _I64, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 8, 12

Fields = dict[int, "int | Fields"]


class Page(NamedTuple):
    """A page: the bytes of its header, and what that says (no values: a dictionary)."""

    start: int
    end: int
    values: int | None
    encoding: int | None


def pages_of(data: bytes) -> Iterator[Page]:
    """The pages of a column chunk. Raises `ValueError` where they do not fill it."""
    at = 0
    while at < len(data):
        page, at = _page(data, at)
        yield page


#: Pages of which a process looks at each header here; so many are worth loading a compiled loop.
_FEW_PAGES = 2_000

_looked_at = 0


def check_pages(data: bytes, values: int, encodings: Collection[str]) -> None:
    """Raise `ValueError` for pages that are not of the values and encodings of their chunk."""
    if _looked_at < _FEW_PAGES or not _as_claimed(data, values, encodings):
        look_at_pages(data, values, encodings)


def look_at_pages(data: bytes, values: int, encodings: Collection[str]) -> None:
    """`check_pages`, one header after the other."""
    global _looked_at
    listed = {_kind(name) for name in encodings}
    total = 0
    for number, page in enumerate(pages_of(data)):
        _looked_at += 1
        if page.values is None:
            if number:
                raise ValueError("a page header claims a second dictionary")
            continue
        total += page.values
        encoding = _ENCODINGS.get(-1 if page.encoding is None else page.encoding, "")
        if _kind(encoding) not in listed:
            raise ValueError("a page header claims an encoding that its footer does not list")
    if total != values:
        raise ValueError(f"its page headers claim {total:,} values, its footer {values:,}")


def _as_claimed(data: bytes, values: int, encodings: Collection[str]) -> bool:
    """Whether all is as it must be, by a compiled loop; False: one must look at the headers."""
    from rocktok.log.page_loops import DEPTH, sum_pages

    total_2 = np.zeros(2, dtype=np.int64)
    if not sum_pages(np.frombuffer(data, np.uint8), np.zeros(DEPTH, dtype=np.int64), total_2):
        return False
    total, codes = total_2.tolist()
    listed = {_kind(name) for name in encodings}
    claimed = {_kind(_ENCODINGS.get(n, "")) for n in range(codes.bit_length()) if codes >> n & 1}
    return bool(total == values and claimed <= listed)


def _kind(encoding: str) -> str:
    return "dictionary" if encoding in _DICTIONARIES else encoding


def _page(data: bytes, start: int) -> tuple[Page, int]:
    try:
        fields, end = _struct(data, start)
        size, kind = fields[_COMPRESSED], fields[_TYPE]
    except (IndexError, KeyError, RecursionError) as error:
        raise ValueError("a page header is invalid") from error
    if not isinstance(size, int) or size < 0 or end + size > len(data):
        raise ValueError("a page header claims more bytes than its column chunk has")
    for field, encoding in _ENCODING.items():
        header = fields.get(field)
        if isinstance(header, dict):
            values, code = header.get(_NUM_VALUES), header.get(encoding)
            if not isinstance(values, int) or values < 0 or not isinstance(code, int):
                raise ValueError("a page header is invalid")
            return Page(start, end, values, code), end + size
    if kind != _DICTIONARY_PAGE or _DICTIONARY not in fields:
        raise ValueError("a page header is invalid")
    return Page(start, end, None, None), end + size


def _struct(data: bytes, at: int) -> tuple[Fields, int]:
    """Field → value, of those that are numbers or structures; and where it ends.

    Numbers of one byte are read in place: there is a header for every few thousand rows.
    """
    field, fields = 0, Fields()
    while True:
        byte = data[at]
        at += 1
        if byte == 0:
            return fields, at
        kind = byte & 15
        if byte >> 4:
            field += byte >> 4
        else:
            field, at = _number(data, at)
        if kind in (_I32, _I64, _I16):
            byte = data[at]
            if byte < 128:
                fields[field], at = (byte >> 1) ^ -(byte & 1), at + 1
            else:
                fields[field], at = _number(data, at)
        elif kind == _BINARY:
            byte = data[at]
            length, at = (byte, at + 1) if byte < 128 else _varint(data, at)
            at += length
        elif kind == _STRUCT:
            fields[field], at = _struct(data, at)
        elif kind == _I8:
            at += 1
        elif kind not in (_TRUE, _FALSE):
            raise ValueError("a page header is invalid")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a page header is invalid")
