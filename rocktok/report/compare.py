"""`compare` as tables for people, CSV or Parquet."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from rocktok.analyse.compare import CompareResult
from rocktok.report.encode import Form, encode_rows
from rocktok.report.text import Field, number, render_table, token

Row = dict[str, Any]

_PAIRS = (
    Field("first", text=True),
    Field("second", text=True),
    Field("rocks"),
    Field("shared"),
    Field("Jaccard"),
    Field("Spearman"),
)
#: Tokens of the union that the table shows; the other formats have all.
_SHOWN = 40


def render(result: CompareResult) -> str:
    """Pairs, then the union of the tokens with their ranks."""
    names = [row["name"] for row in result.log]
    fields = (Field("token", text=True), *(Field(_short(name)) for name in names))
    cells = (
        (token(row["token"]), *("–" if rank is None else str(rank) for rank in row["ranks"]))
        for row in result.tokens[:_SHOWN]
    )
    parts = [
        f"{len(names)} lists of rocks, tokens matched by "
        + ("id" if result.matched_by == "token_id" else "text"),
        "",
        render_table(_PAIRS, (_pair(row) for row in result.pairs)),
        "Ranks of the tokens, those in most lists first",
        render_table(fields, cells).rstrip("\n"),
    ]
    left = len(result.tokens) - _SHOWN
    if left > 0:
        parts.append(f"and {left} more; --format json has all")
    return "\n".join(parts) + "\n"


def _pair(row: Row) -> tuple[str, ...]:
    rocks = f"{row['rocks_first']}, {row['rocks_second']}"
    return (
        _short(row["first"]),
        _short(row["second"]),
        rocks,
        str(row["shared_count"]),
        number(row["jaccard"]),
        "–" if row["spearman"] is None else f"{row['spearman']:.2f}",
    )


def _short(name: str) -> str:
    """The end of a path, which tells logs apart."""
    return "/".join(PurePath(name).parts[-2:])


def encode(result: CompareResult, form: Form) -> bytes:
    """The pairs; lists of tokens are in JSON alone."""
    columns = ["first", "second", "rocks_first", "rocks_second", "shared_count"]
    return encode_rows(
        result.pairs,
        [*columns, "jaccard", "spearman"],
        {"rocks_first", "rocks_second", "shared_count"},
        form,
        result.about("pairs"),
    )
