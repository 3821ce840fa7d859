"""One dialect of CSV: columns by the type of the rows, and text that is read back as it was."""

from __future__ import annotations

import ast
import csv
import io
import json
from typing import Any, Literal, NotRequired, TypedDict

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocktok.tables.encode import encode_csv, encode_table, kinds_of


class Base(TypedDict):
    token: str
    rank: int | None


class Example(Base):
    loss: float | None
    share: int | float
    is_rock: NotRequired[bool]
    kind: Literal["frequency", "loss"]
    flags: list[str]
    names: tuple[str, ...]


ROWS: list[dict[str, Any]] = [
    {"token": "=1+1", "rank": 1, "loss": -1.5, "share": 1, "is_rock": True, "kind": "loss",
     "flags": ["low_power", "sampled"], "names": (), "left_out": object()},
    {"token": "a\r\n\"b'", "rank": None, "loss": None, "share": 0.25, "kind": "frequency",
     "flags": [], "names": ("-x", "a,b")},
]  # fmt: skip


def cells(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_kinds_follow_from_the_type_of_the_rows() -> None:
    assert kinds_of(Example) == {
        "token": "text", "rank": "whole", "loss": "number", "share": "number",
        "is_rock": "logical", "kind": "text", "flags": "list", "names": "list",
    }  # fmt: skip


@pytest.mark.parametrize("hint", [dict[str, int], list[int], str | int, None, object])
def test_a_type_that_no_column_holds_is_named(hint: Any) -> None:
    row_type = type("Rows", (), {"__annotations__": {"curve": hint}})
    with pytest.raises(TypeError, match="column 'curve': no column of a table holds "):
        kinds_of(row_type)


def test_csv_by_hand() -> None:
    assert encode_table(ROWS, kinds_of(Example), "csv").decode() == (
        '"token","rank","loss","share","is_rock","kind","flags","names"\n'
        '"\'=1+1\'",1,-1.5,1,true,"loss","low_power,sampled",""\n'
        '"\'a\\r\\n""b\\\'\'",,,0.25,,"frequency","","\'-x\',\'a,b\'"\n'
    )


def test_parquet_holds_text_as_it_is_and_the_types_of_the_columns() -> None:
    data = encode_table(ROWS, kinds_of(Example), "parquet", {"schema": "x/1"})
    table = pq.read_table(io.BytesIO(data))
    assert table["token"].to_pylist() == ["=1+1", "a\r\n\"b'"]
    assert table["flags"].to_pylist() == ["low_power,sampled", ""]
    assert table["names"].to_pylist() == ["", "-x,a,b"]
    assert [str(field.type) for field in table.schema] == [
        "string", "int64", "double", "double", "bool", "string", "string", "string",
    ]  # fmt: skip
    assert json.loads(table.schema.metadata[b"rocktok"]) == {"schema": "x/1"}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_no_rows_are_a_header(form: Literal["csv", "parquet"]) -> None:
    data = encode_table([], kinds_of(Base), form)
    if form == "csv":
        assert data == b'"token","rank"\n'
    else:
        assert pq.read_table(io.BytesIO(data)).schema.names == ["token", "rank"]


HARMFUL = ["=1+1", "+cmd", "@SUM(A1)", "-2", "\t=x", "\r=x", "'", '"', "a,b", "\n", "\ud800",
           "</script>", "\u202e", "", "NA", "1"]  # fmt: skip


@pytest.mark.parametrize("text", HARMFUL)
@pytest.mark.parametrize("column", ["token", "rock_token", "before", "after"])
def test_text_out_of_a_log_is_always_a_literal(text: str, column: str) -> None:
    data = encode_csv([{column: text, "examples": [text, "b"], "loss": -1.5, "none": None}])
    header, row = cells(data)
    assert header == [column, "examples", "loss", "none"]
    assert row == [repr(text), f"{text!r},'b'", "-1.5", ""]
    assert len(data.splitlines()) == 2


def test_other_text_is_a_literal_where_it_could_be_taken_for_something_else() -> None:
    row = {"cluster": "=evil", "@name": "+a", "path": "a\nb", "loss": -1.5, "group": "rocks",
           "quoted": "'x'", "left": "", "unlike": "naïve – 文"}  # fmt: skip
    header, values = cells(encode_csv([row]))
    assert header == ["cluster", "'@name'", *list(row)[2:]]
    assert values == [
        "'=evil'", "'+a'", "'a\\nb'", "-1.5", "rocks", '"\'x\'"', "''", "naïve – 文",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.text(), st.none() | st.text()), min_size=1))
def test_what_is_written_is_read_back(texts: list[tuple[str, str | None]]) -> None:
    rows = [{"token": token, "name": name} for token, name in texts]
    header, *read = cells(encode_csv(rows))
    assert header == ["token", "name"]
    for (token, name), (first, second) in zip(texts, read, strict=True):
        assert ast.literal_eval(first) == token
        plain = second[:1] not in ("'", '"')
        assert (None if second == "" else second if plain else ast.literal_eval(second)) == name
        assert not second.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_kinds_are_seen_from_values_where_rows_have_no_type() -> None:
    rows = [
        {"count": 2, "mean": 1, "is": True, "none": None, "mixed": 1},
        {"count": 3, "mean": 0.5, "is": None, "none": None, "mixed": "x", "late": 10.0},
    ]
    assert cells(encode_csv(rows))[1:] == [
        ["2", "1", "true", "", "1", ""],
        ["3", "0.5", "", "", "x", "10"],
    ]
    assert encode_csv([]) == b""


def test_whole_numbers_stay_whole_beyond_what_floats_hold() -> None:
    big = (1 << 62) + 1
    assert cells(encode_csv([{"sequence_id": big}, {"sequence_id": None}]))[1] == [str(big)]
