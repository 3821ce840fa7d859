"""`toy` as a table for people, CSV or Parquet."""

from __future__ import annotations

from rocktok.analyses.toy.result import ToyResult, TypeLoss
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, number, render_table, token


def opening(result: ToyResult) -> list[str]:
    """The answer."""
    return [f"{result.tokens[0]['token']!r} has the largest mean loss"]


def render(result: ToyResult, view: View | None = None) -> str:
    """The answer, then the types."""
    view = view or View.plain()
    fields = (Field("token", text=True), Field("freq"), Field("loss"))
    cells = (
        (token(row["token"]), count(row["frequency"]), number(row["mean_loss"]))
        for row in view.first(result.tokens)
    )
    return "\n".join([*view.answer(opening(result)), "", render_table(fields, cells, view)])


def encode(result: ToyResult, form: Form) -> bytes:
    """The types, with all columns."""
    return encode_table(result.tokens, kinds_of(TypeLoss), form, result.about("tokens"))
