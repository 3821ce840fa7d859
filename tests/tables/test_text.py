"""Plain text for people: p values, lists that fit, tables whose numbers are whole."""

from __future__ import annotations

import pytest

from rocktok.tables.text import PIPE_WIDTH, Field, filled, p_value, render_table


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


@pytest.mark.parametrize("columns", [1, 9, 10, 11, 12, 13, 25])
def test_columns_that_do_not_fit_stand_below(columns: int) -> None:
    # Twelve columns of 4 and the key's 3, with 3 blanks between them, are 87; eleven are 80.
    fields = (Field("key", text=True), *(Field(f"c{c:03}") for c in range(columns)))
    rows = [(key, *(f"{key}{c:03}" for c in range(columns))) for key in "ab"]
    blocks = render_table(fields, rows).split("\n\n")
    assert len(blocks) == -(-columns // 11)
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
