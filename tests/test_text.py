"""Plain text for people: p values, lists that fit, tables whose numbers are whole."""

from __future__ import annotations

import pytest

from rocktok.report.text import PIPE_WIDTH, Field, filled, p_value, render_table


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
