"""Plain text for people: tables that fit a terminal, and stay whole in a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Width of a piped table: what an 80-column terminal shows without wrapping.
PIPE_WIDTH = 80

#: Blanks between two columns of a table.
_GAP = 3


@dataclass(frozen=True)
class Field:
    """One column: heading, and whether it is text (left, cut where it must be) or a number."""

    heading: str
    text: bool = False


def render_table(fields: Sequence[Field], rows: Iterable[Sequence[str]]) -> str:
    """Rows under headings, without frames; numbers are never cut, long text is.

    Columns that do not fit beside the others go into a block of their own, below, in which the
    first column stands again.
    """
    from rich.console import Console

    cells = [list(row) for row in rows]
    width = max(Console().width if sys.stdout.isatty() else PIPE_WIDTH, PIPE_WIDTH)
    widest = [
        max([len(field.heading), *(len(row[column]) for row in cells)])
        for column, field in enumerate(fields)
    ]
    least = [
        min(wide, 8) if field.text else wide for field, wide in zip(fields, widest, strict=True)
    ]
    blocks = [
        _block([fields[c] for c in columns], [least[c] for c in columns],
               [[row[c] for c in columns] for row in cells], width)
        for columns in _columns(least, width)
    ]  # fmt: skip
    return "\n".join(blocks)


def _columns(least: Sequence[int], width: int) -> list[list[int]]:
    """Which columns each block has, the first in all of them."""
    blocks, used = [[0]], least[0]
    for column in range(1, len(least)):
        if used + _GAP + least[column] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = least[0]
        blocks[-1].append(column)
        used += _GAP + least[column]
    return blocks


def _block(
    fields: Sequence[Field], least: Sequence[int], cells: Sequence[Sequence[str]], width: int
) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for field, narrowest in zip(fields, least, strict=True):
        table.add_column(
            Text(field.heading),
            justify="left" if field.text else "right",
            # What may wrap is what may be made narrower; the cells themselves stay on one line.
            no_wrap=not field.text,
            min_width=narrowest,
        )
    for row in cells:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    sink = io.StringIO()
    Console(file=sink, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """A number with that many significant digits; plain where that is short."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.{digits - 1}e}"
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, digits - before)}f}"


def filled(items: Iterable[str], indent: str = "  ") -> str:
    """Items with commas between them, on lines that fit a pipe; never broken within an item."""
    lines = [indent]
    for item in items:
        begun = lines[-1] != indent
        if begun and len(lines[-1]) + len(item) + 3 > PIPE_WIDTH:
            lines[-1] += ","
            lines.append(indent)
            begun = False
        lines[-1] += f", {item}" if begun else item
    return "\n".join(lines)


def p_value(value: float | None) -> str:
    """A probability: two decimals, three below a tenth, and no number below 0.001."""
    if value is None:
        return "–"
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"


def count(value: int | None) -> str:
    """A count with thousands separated."""
    return "–" if value is None else f"{value:,}"


def counted(number: int, noun: str) -> str:
    """A count and its noun: 1 shard, 2 shards."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def token(text: str) -> str:
    """A token so that blanks, line breaks and control characters can be seen."""
    return repr(text)
