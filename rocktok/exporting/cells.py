"""Arrow columns as text: JSON of every row, and the cells of a CSV file.

Numbers have the fewest digits that give the same number again in their own width. The loops are
Arrow's; only texts go through Python, each distinct one once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rocktok.tables.encode import guarded

#: What JSON may hold as it is, and some readers take for the end of a line.
_LINE_ENDS = {ord(c): json.dumps(c)[1:-1] for c in "\x85\u2028\u2029"}


def json_lines(rows: pa.Table) -> bytes:
    """One JSON object per row, each on a line of its own; rows of at most 2 GB of text."""
    if not len(rows):
        return b""
    parts: list[Any] = []
    for number, name in enumerate(rows.column_names):
        parts += [f"{', ' if number else '{'}{json.dumps(name)}: ", _json(rows[name])]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    # The text of an array of strings stands in one buffer, row after row.
    _, offsets, text = lines.buffers()
    bounds = memoryview(offsets).cast("i")
    return bytes(memoryview(text)[bounds[lines.offset] : bounds[lines.offset + len(lines)]])


def csv_cells(rows: pa.Table) -> pa.Table:
    """The rows with columns that a CSV file can hold.

    Lists are JSON, bytes hexadecimal. Texts of tokens are Python literals, others where they could
    be taken for something else, as in every CSV file of this package.
    """
    return pa.table({name: _cell(name, rows[name]) for name in rows.column_names})


def _json(column: Any) -> Any:
    """JSON of each value, as an array of strings without nulls."""
    values = _whole(column)
    if pa.types.is_string(values.type):
        found = _mapped(values, _quoted)
    elif pa.types.is_binary(values.type) or pa.types.is_fixed_size_binary(values.type):
        found = _joined('"', _hex(values), '"')
    elif pa.types.is_list(values.type):
        found = _list(values)
    else:
        found = _number(values)
    return found.fill_null("null") if found.null_count else found


def _cell(name: str, column: Any) -> Any:
    values = _whole(column)
    if pa.types.is_string(values.type):
        return _mapped(values, repr if name == "token" else guarded)
    if pa.types.is_binary(values.type) or pa.types.is_fixed_size_binary(values.type):
        return _hex(values)
    if pa.types.is_list(values.type):
        return _list(values)
    return values


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_LINE_ENDS)


def _mapped(texts: Any, function: Callable[[str], str]) -> Any:
    """A function of each text, called once for each distinct one; null stays null."""
    encoded = texts.dictionary_encode()
    made = [function(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(made, pa.string()).take(encoded.indices)


def _hex(values: Any) -> Any:
    return pa.array([None if one is None else one.hex() for one in values.to_pylist()], pa.string())


def _number(values: Any) -> Any:
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    return values.cast(pa.string())


def _list(lists: Any) -> Any:
    """Lists of numbers as JSON; null stays null."""
    texts = pa.ListArray.from_arrays(
        lists.offsets, _number(lists.values), mask=lists.is_null() if lists.null_count else None
    )
    return _joined("[", pc.binary_join(texts, ", "), "]")


def _joined(before: str, texts: Any, after: str) -> Any:
    return pc.binary_join_element_wise(before, texts, after, "")
