"""What names a prompt or a domain: one text for one value, whatever type it was written in.

The same prompts may be strings in one file, integers in another and, where pandas met a missing
value, floats in a third.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rocktok.errors import DataError
from rocktok.log.checks import numpy_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocktok._types import Array
    from rocktok.log.checks import Where

_UUID_BYTES = 16

#: Rows up to which a column is encoded without Arrow's functions.
_FEW = 1 << 14
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def label_codes(
    column: Any, name: str, where: Where, *, nulls: bool = False
) -> tuple[list[str], Array]:
    """The distinct labels of a column, and for each of N rows the place of its own among them.

    Integers, and floats that are whole, are their decimal digits; bytes are UTF-8, or `0x…` where
    that fails; UUIDs are 8-4-4-4-12 lower-case digits. `nulls`: a missing label is -1.

    Returns (labels, (N,) int64). Raises `DataError` for a null, for NaN, for a float that is not
    whole or too large to be exact, and for a type that is no name.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_uuid = getattr(array.type, "extension_name", "") == "arrow.uuid"
    array = array.storage if is_uuid else array
    is_dictionary = pa.types.is_dictionary(array.type)
    kind = array.dictionary.type if is_dictionary else _VIEWS.get(array.type, array.type)
    text_of = _text_of(kind, is_uuid, name, where)  # a list cannot be encoded, either
    values, code_N = _encoded(array)
    labels, refused, absent = [], {}, []
    for code, value in enumerate(values):
        labels.append("")
        if value is None:
            absent.append(code)
            continue
        try:
            labels[code] = text_of(value)
        except ValueError as error:
            refused[code] = str(error)
    if absent:
        code_N = np.where(np.isin(code_N, absent), -1, code_N)
    bad_N = np.isin(code_N, list(refused))
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise DataError(f"{where.at(row, name)}: {refused[int(code_N[row])]}")
    if not nulls and len(code_N) and code_N.min() < 0:
        row = int(np.argmin(code_N))
        raise DataError(f"{where.at(row, name)}: null or NaN; every row must have a value")
    return labels, code_N


def _encoded(array: Any) -> tuple[list[Any], Array]:
    """Distinct values in the order in which they come, and the place of each row's; null: −1."""
    if pa.types.is_dictionary(array.type):
        values = array.dictionary.to_pylist()
    elif len(array) <= _FEW:
        # Arrow's functions take longer to load than it takes to look at few values.
        place_of: dict[Any, int] = {}
        codes = [
            -1 if value is None else place_of.setdefault(value, len(place_of))
            for value in array.to_pylist()
        ]
        return list(place_of), np.array(codes, dtype=np.int64)
    else:
        array = array.cast(_VIEWS.get(array.type, array.type)).dictionary_encode()
        values = array.dictionary.to_pylist()
    indices = array.indices.cast(pa.int64())
    # Not filled without need: that imports pandas, which a small log can do without (0.2 s).
    return values, numpy_view(indices.fill_null(-1) if indices.null_count else indices)


def label_column(column: Any, name: str, where: Where, *, nulls: bool = False) -> Any:
    """A column as an Arrow array of its labels. Arguments and errors: as of `label_codes`."""
    labels, code_N = label_codes(column, name, where, nulls=nulls)
    return pa.array(labels, pa.string()).take(pa.array(code_N, pa.int64(), mask=code_N < 0))


def _text_of(kind: Any, is_uuid: bool, name: str, where: Where) -> Callable[[Any], str]:
    """What makes the label of a value of an Arrow type. Raises `DataError` for other types."""
    types = pa.types
    if is_uuid:
        return _uuid_text
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return str
    if types.is_integer(kind):
        return str
    if types.is_floating(kind):
        # Whole numbers up to this power of two are all different.
        largest = 2 ** {16: 11, 32: 24, 64: 53}[kind.bit_width]
        return lambda value: _whole_text(value, largest)
    if types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        # As UUIDs reach readers that have no type for them.
        return lambda value: value.decode() if _is_plain(value) else _uuid_text(value)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _bytes_text
    raise DataError(
        f"{where.name}: column {name}: type {kind}; it must be text, whole numbers or UUIDs"
    )


def _whole_text(value: float, largest: int) -> str:
    if not abs(value) <= largest:
        raise ValueError(
            f"{value} is not a whole number up to {largest:,}, as a float must be here"
        )
    if value != int(value):
        raise ValueError(f"{value} is not whole; write text or whole numbers")
    return str(int(value))


def _is_plain(value: bytes) -> bool:
    return value.isascii() and value.decode().isprintable()


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def _uuid_text(value: bytes | uuid.UUID) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=value))
