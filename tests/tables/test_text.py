"""Plain text for people: p values, lists that fit, tables whose numbers are whole."""

from __future__ import annotations

import click
import pytest
from rich.cells import cell_len

from rocktok.tables.terminal import PIPE_WIDTH, View
from rocktok.tables.text import Field, count, filled, lay_out, p_value, render_table, token


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "<0.001"),
        (0.00099, "<0.001"),
        (0.001, "0.001"),
        (0.0034, "0.003"),
        (0.0994, "0.099"),
        (0.0996, "0.10"),
        (0.26, "0.26"),
        (1.0, "1.00"),
    ],
)
def test_p_values(value: float | None, shown: str) -> None:
    assert p_value(value) == shown


def test_lists_break_between_items_alone() -> None:
    items = [repr(" a, b" * (i % 4 + 1)) for i in range(30)]
    lines = filled(items).splitlines()
    assert max(map(len, lines)) <= PIPE_WIDTH
    assert all(line.startswith("  ") for line in lines)
    assert " ".join(line.strip() for line in lines) == ", ".join(items)
    assert filled(["x" * 100]) == "  " + "x" * 100


def test_long_text_is_cut_and_numbers_are_not() -> None:
    numbers = [f"{i}.2345 to {i}.6789" for i in range(3)]
    fields = (Field("name", text=True), *(Field("95%") for _ in numbers), Field("p"))
    line = render_table(fields, [("n" * 60, *numbers, "0.003")]).splitlines()[-1]
    assert len(line) <= PIPE_WIDTH
    assert line.split("…")[1].split() == [*" ".join(numbers).split(), "0.003"]


def test_a_table_without_rows_is_its_headings() -> None:
    lines = render_table((Field("name", text=True), Field("n")), []).splitlines()
    assert lines[0].split() == ["name", "n"]
    assert len(lines) == 2


@pytest.mark.parametrize("columns", [1, 10, 11, 12, 13, 14, 25])
def test_columns_that_do_not_fit_stand_below(columns: int) -> None:
    # Thirteen columns of 4 and the key's 3, with 2 blanks between them, are 81; twelve are 75.
    fields = (Field("key", text=True), *(Field(f"c{c:03}") for c in range(columns)))
    rows = [(key, *(f"{key}{c:03}" for c in range(columns))) for key in "ab"]
    blocks = render_table(fields, rows).split("\n\n")
    assert len(blocks) == -(-columns // 12)
    found: dict[str, list[str]] = {"key": [], "a": [], "b": []}
    for block in blocks:
        lines = block.splitlines()
        assert max(map(len, lines)) <= PIPE_WIDTH
        for line in (lines[0], *lines[2:]):
            key, *cells = line.split()
            found[key] += cells
    assert found == {
        "key": [f"c{c:03}" for c in range(columns)],
        "a": [f"a{c:03}" for c in range(columns)],
        "b": [f"b{c:03}" for c in range(columns)],
    }


WIDE = ["'字符'", "'日本語のトークン'", "'🪨'", "'é'", repr("\x1b[31m\u200d\n"), "'a'"]


@pytest.mark.parametrize("width", [24, 40, 80, 160])
@pytest.mark.parametrize("color", [False, True])
def test_columns_are_straight_whatever_a_token_holds(width: int, color: bool) -> None:
    fields = (Field("token", text=True), Field("n"), Field("", text=True, dim=True))
    rows = [(text * 3, count(10**i), "x") for i, text in enumerate(WIDE)]
    view = View(width=width, color=color)
    lines = click.unstyle(render_table(fields, rows, view)).splitlines()
    assert len(lines) == 2 + len(rows)
    ends = {cell_len(line) for line in lines[2:]}
    assert len(ends) == 1
    assert ends.pop() <= width
    assert all(line.endswith("  x") for line in lines[2:])
    assert not any(char in "".join(lines) for char in "\x1b\u200d")


def test_color_changes_no_character_of_a_table() -> None:
    fields = (Field("token", text=True), Field("n"), Field("", text=True, dim=True))
    rows = [("'a'", "1", ""), ("'b'", "22", "*o")]
    plain, colored = (render_table(fields, rows, View(color=color)) for color in (False, True))
    assert click.unstyle(colored) == plain
    assert colored.splitlines()[0] == "\x1b[1mtoken   n\x1b[0m"
    assert colored.splitlines()[-1] == "'b'    22  \x1b[2m*o\x1b[0m"


def test_extra_columns_are_shown_where_they_fit() -> None:
    fields = (Field("token", text=True), Field("n"), Field("more", extra=True),
              Field("most", extra=True), Field("", text=True, dim=True))  # fmt: skip
    rows = [("'a'", "1", "1", "2", "*")]
    for width, left_out in ((13, 2), (17, 1), (22, 1), (23, 0), (80, 0)):
        table, hidden = lay_out(fields, rows, View(width=width))
        assert (hidden, table.splitlines()[-1].endswith("*")) == (left_out, True)
        assert ("most" in table) == (left_out == 0)
    whole, hidden = lay_out(fields, rows, View(width=13, wide=True))
    assert hidden == 0
    assert all(name in whole for name in ("more", "most"))


def test_an_escaped_token_is_one_line() -> None:
    assert token("a\n\x07\u200d") == r"'a\n\x07\u200d'"
