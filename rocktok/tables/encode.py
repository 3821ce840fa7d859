"""Rows as CSV or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

Form = Literal["csv", "parquet"]

_TEXT = {
    "token",
    "rock_token",
    "control_token",
    "flags",
    "groups",
    "first",
    "second",
    "kind",
    "interval",
    "table",
    "descriptive",
}
_LOGICAL = {"is_rock", "singled_out"}


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    integers: Collection[str],
    form: Form,
    about: dict[str, Any],
) -> bytes:
    """Rows with those columns: text, true or false, `integers`, else float64; lists by commas.

    `about`: what the JSON output says beside the rows; in Parquet it is the metadata `rocktok`.
    """
    import pyarrow as pa

    def kind(name: str) -> Any:
        if name in _TEXT:
            return pa.string()
        if name in _LOGICAL:
            return pa.bool_()
        return pa.int64() if name in integers else pa.float64()

    values = {
        name: [",".join(row[name]) if isinstance(row[name], list) else row[name] for row in rows]
        for name in columns
    }
    table = pa.table(values, schema=pa.schema([(name, kind(name)) for name in columns]))
    sink = io.BytesIO()
    if form == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table.replace_schema_metadata({"rocktok": json.dumps(about)}), sink)
    else:
        from pyarrow import csv

        csv.write_csv(table, sink)
    return sink.getvalue()
