"""Rows as CSV or Parquet, one dialect for every command and for the tables of a report.

The kinds of the columns follow from the type of the rows. Parquet holds text as it is. In CSV a
text is a Python literal, in quotes and with escapes, wherever it could be taken for something else:
so no spreadsheet runs it as a formula, a row is one line, and what is read back is what was there.
"""

from __future__ import annotations

import io
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Form = Literal["csv", "parquet"]

#: What a column holds; "list": texts, in one cell with commas between them.
Kind = Literal["text", "list", "logical", "whole", "number"]

Row = Mapping[str, Any]

#: With these a spreadsheet's formula begins, or a literal of ours.
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "'", '"')

#: Columns of text out of a log, beside those whose name is or ends in `token`: always literals.
_OF_A_LOG = {"before", "after", "examples"}

_SCALARS: dict[Any, Kind] = {str: "text", bool: "logical", int: "whole", float: "number"}


def kinds_of(row_type: type, columns: Iterable[str] | None = None) -> dict[str, Kind]:
    """Column → what it holds, by the annotations of a `TypedDict`; `X | None` counts as `X`.

    `columns`: of its keys, in the order of the file; None: all, as they are declared.

    Raises `TypeError` for a type that no column can hold.
    """
    hints = get_type_hints(row_type)
    return {name: _kind(name, hints[name]) for name in (hints if columns is None else columns)}


def encode_table(
    rows: Sequence[Row], kinds: Mapping[str, Kind], form: Form, about: Row | None = None
) -> bytes:
    """Rows with the columns of `kinds`, in that order; other keys of the rows are left out.

    `about`: what the JSON output says beside the rows; in Parquet it is the metadata `rocktok`.
    """
    import pyarrow as pa

    arrow = {"logical": pa.bool_(), "whole": pa.int64(), "number": pa.float64()}
    columns = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind in ("text", "list"):
            values = [_text(name, value, form) for value in values]
        columns[name] = pa.array(values, arrow.get(kind, pa.string()))
    table = pa.table(columns)
    sink = io.BytesIO()
    if form == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table.replace_schema_metadata({"rocktok": json.dumps(about)}), sink)
    elif columns:
        from pyarrow import csv

        csv.write_csv(table.rename_columns([guarded(name) for name in columns]), sink)
    return sink.getvalue()


def encode_csv(rows: Iterable[Row]) -> bytes:
    """Rows without a declared type as CSV; what a column holds is seen from its values."""
    rows = list(rows)
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return encode_table(rows, {name: _kind_of(column) for name, column in values.items()}, "csv")


def _kind(name: str, hint: Any) -> Kind:
    union = get_origin(hint) in (Union, types.UnionType)
    options = set(get_args(hint)) - {types.NoneType} if union else {hint}
    kinds = {_kind_of_one(option) for option in options}
    if kinds == {"whole", "number"}:
        return "number"
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise TypeError(f"column {name!r}: no column of a table holds {hint}")
    return kind


def _kind_of_one(hint: Any) -> Kind | None:
    if get_origin(hint) is Literal:
        kinds = {_SCALARS.get(type(value)) for value in get_args(hint)}
        return kinds.pop() if len(kinds) == 1 else None
    if get_origin(hint) in (list, tuple):
        return "list" if set(get_args(hint)) <= {str, ...} else None
    return _SCALARS.get(hint)


def _kind_of(values: Sequence[Any]) -> Kind:
    present = [value for value in values if value is not None]
    if any(isinstance(value, list | tuple) for value in present):
        return "list"
    if not present or any(isinstance(value, str) for value in present):
        return "text"
    for kind, of in (("logical", bool), ("whole", int)):
        if all(isinstance(value, of) for value in present):
            return kind  # type: ignore[return-value]
    return "number"


def _text(name: str, value: Any, form: Form) -> str | None:
    """The text of a cell."""
    if value is None:
        return None
    items = [str(one) for one in value] if isinstance(value, list | tuple) else None
    if form == "parquet":
        return str(value) if items is None else ",".join(items)
    literal = name in _OF_A_LOG or name.endswith("token")
    if items is None:
        return repr(value) if literal else guarded(str(value))
    return ",".join(repr(one) if literal or "," in one else guarded(one) for one in items)


def guarded(text: str) -> str:
    """Text of a CSV cell; a literal where it is empty, unprintable or begins as another."""
    plain = text and text.isprintable() and not text.startswith(_BEGINNINGS)
    return text if plain else repr(text)
