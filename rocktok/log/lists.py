"""Columns whose rows are lists of one length, or strings of bytes of one size, as matrices.

Shape suffixes: N rows, K values of a row, B bytes of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rocktok.errors import DataError

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.log.checks import Where


def is_list(type_: Any) -> bool:
    """Whether an Arrow type is one of lists, of whatever kind."""
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def flat(lists: Any, name: str, wanted: str, where: Where) -> tuple[Any, int]:
    """All values of a column of lists in one Arrow array, and how many each row has.

    Raises `DataError` for another type, an empty list, lists of several lengths, or a null.
    """
    if not is_list(lists.type):
        raise DataError(f"{where.name}: column {name}: type {lists.type}; it must be {wanted}")
    length_N = lengths(lists)
    width = int(length_N[0]) if len(length_N) else 0
    if (length_N != width).any():
        row = int(np.argmax(length_N != width))
        raise DataError(
            f"{where.at(row, name)}: {length_N[row]} values where the row before has {width}; "
            "the lists of a shard must be equally long"
        )
    if len(length_N) and width == 0:
        raise DataError(f"{where.at(0, name)}: an empty list; every row must have a value")
    values = lists.flatten()
    if values.null_count:
        at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where.at(at // width, name)}: null or NaN in a list")
    return values, width


def lengths(lists: Any) -> Array:
    """(N,) how many values each list has; 0 for a null."""
    if pa.types.is_fixed_size_list(lists.type):
        length_N = np.full(len(lists), lists.type.list_size)
    else:
        length_N = np.diff(np.from_dlpack(lists.offsets)) if len(lists) else np.zeros(0, np.int64)
    if lists.null_count:
        length_N = np.where(lists.is_null().to_numpy(zero_copy_only=False), 0, length_N)
    return length_N


def byte_matrix(column: Any, size: int, name: str, wanted: str, where: Where) -> Array:
    """(N, B) uint8 of a column of strings of bytes, all of one size. Raises `DataError`."""
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == size:
        return _bytes(column.buffers()[1], column.offset * size, len(column), size)
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(f"{where.name}: column {name}: type {column.type}; it must be {wanted}")
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    rows = len(column)
    if not rows:
        return np.zeros((0, size), np.uint8)
    _, offsets, data = column.buffers()
    offset_N = np.frombuffer(offsets, width, rows + 1, column.offset * width().itemsize)
    length_N = np.diff(offset_N)
    if (length_N != size).any():
        row = int(np.argmax(length_N != size))
        raise DataError(f"{where.at(row, name)}: {length_N[row]} bytes; there must be {size}")
    return _bytes(data, int(offset_N[0]), rows, size)


def _bytes(buffer: Any, start: int, rows: int, size: int) -> Array:
    if not rows:
        return np.zeros((0, size), np.uint8)
    return np.frombuffer(buffer, np.uint8, rows * size, start).reshape(rows, size)


def entries(column: Any) -> int:
    """How many values Parquet counts of a column of lists: one also for an empty or a null one."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(int(np.maximum(lengths(chunk), 1).sum()) for chunk in chunks)


def from_matrix(values: Array, type_: Any) -> pa.Array:
    """The rows of a matrix as lists, or as strings of bytes where `type_` is of such; not copied.

    Raises `TypeError` for bytes that are not uint8.
    """
    values = np.ascontiguousarray(values)
    rows, width = values.shape
    if pa.types.is_fixed_size_binary(type_):
        if values.dtype != np.uint8:
            raise TypeError(f"bytes as {values.dtype}; they must be uint8")
        return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(values)])
    offsets = np.arange(0, rows * width + 1, width) if width else np.zeros(rows + 1)
    return pa.ListArray.from_arrays(offsets.astype(np.int32), values.ravel())
