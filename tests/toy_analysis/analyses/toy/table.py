"""`toy` as a table for people, CSV or Parquet."""

from __future__ import annotations

from rocktok.analyses.toy.result import ToyResult, TypeLoss
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.text import Field, count, number, render_table, token


def render(result: ToyResult) -> str:
    """The answer, then the types."""
    fields = (Field("token", text=True), Field("freq"), Field("loss"))
    cells = (
        (token(row["token"]), count(row["frequency"]), number(row["mean_loss"]))
        for row in result.tokens
    )
    first = result.tokens[0]["token"]
    return f"{first!r} has the largest mean loss\n\n{render_table(fields, cells)}"


def encode(result: ToyResult, form: Form) -> bytes:
    """The types, with all columns."""
    return encode_table(result.tokens, kinds_of(TypeLoss), form, result.about("tokens"))
