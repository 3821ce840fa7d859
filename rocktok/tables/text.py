"""Plain text for people: tables that fit a terminal, and stay whole in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rocktok.errors import printable
from rocktok.tables.terminal import View
from rocktok.words import counted as counted

#: Blanks between two columns of a table.
_GAP = 2


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        heading: above it.
        text: whether it holds text (left, cut where it must be) or numbers.
        dim: whether it is an aside.
        extra: whether it is left out where it does not fit, unless all columns are asked for.
        least: columns of the screen below which its text is not cut.
    """

    heading: str
    text: bool = False
    dim: bool = False
    extra: bool = False
    least: int = 8


def render_table(
    fields: Sequence[Field], rows: Iterable[Sequence[str]], view: View | None = None
) -> str:
    """Rows under headings, without frames; numbers are never cut, long text is.

    Columns that do not fit beside the others go into a block of their own, below, in which the
    first column stands again.
    """
    return lay_out(fields, rows, view)[0]


def lay_out(
    fields: Sequence[Field], rows: Iterable[Sequence[str]], view: View | None = None
) -> tuple[str, int]:
    """(what `render_table` gives, how many of the extra columns were left out)."""
    view = view or View.plain()
    cells = [list(map(printable, row)) for row in rows]
    widest = [
        max([_columns_of(field.heading), *(_columns_of(row[column]) for row in cells)])
        for column, field in enumerate(fields)
    ]
    least = [
        min(wide, field.least) if field.text else wide
        for field, wide in zip(fields, widest, strict=True)
    ]
    shown = _shown(fields, widest, least, view)
    blocks = []
    for columns in _columns(shown, least, view.width):
        own = [fields[c] for c in columns]
        widths = _widths(own, [widest[c] for c in columns], [least[c] for c in columns], view.width)
        blocks.append(_block(own, widths, [[row[c] for c in columns] for row in cells], view))
    return "\n".join(blocks), len(fields) - len(shown)


def _shown(
    fields: Sequence[Field], widest: Sequence[int], least: Sequence[int], view: View
) -> list[int]:
    """Which columns there are: of the extra ones the first that fit, no text cut for them."""
    columns = range(len(fields))
    if view.wide:
        return list(columns)
    own = [c for c in columns if not fields[c].extra]
    used = sum(widest[c] + _GAP for c in own) - _GAP
    for column in columns:
        if fields[column].extra:
            used += _GAP + least[column]
            if used > view.width:
                break
            # What follows does not cut a text.
            used = min(used + widest[column] - least[column], view.width)
            own.append(column)
    return sorted(own)


def _columns(shown: Sequence[int], least: Sequence[int], width: int) -> list[list[int]]:
    """Which columns each block has, the first in all of them."""
    key = shown[0]
    blocks, used = [[key]], least[key]
    for column in shown[1:]:
        if used + _GAP + least[column] > width and len(blocks[-1]) > 1:
            blocks.append([key])
            used = least[key]
        blocks[-1].append(column)
        used += _GAP + least[column]
    if len(blocks) > 1 and len(blocks[-1]) == 2 < len(blocks[-2]) - 1:
        # Marks by themselves say little: the column before keeps them company.
        blocks[-1].insert(1, blocks[-2].pop())
    return blocks


def _block(
    fields: Sequence[Field], widths: Sequence[int], cells: Sequence[Sequence[str]], view: View
) -> str:
    """Headings, a rule, rows; no blanks at the end of a line."""
    gap = " " * _GAP
    headings = [_fitted(f.heading, w, f) for f, w in zip(fields, widths, strict=True)]
    lines = [view.bold(gap.join(headings).rstrip()), view.dim("─" * len(gap.join(headings)))]
    for row in cells:
        fitted = [_fitted(c, w, f) for c, w, f in zip(row, widths, fields, strict=True)]
        while fitted and not fitted[-1].strip():
            fitted.pop()
        lines.append(
            gap.join(
                view.dim(cell.rstrip()) if field.dim else cell
                for cell, field in zip(fitted, fields, strict=False)
            ).rstrip()
        )
    return "\n".join(lines) + "\n"


def _fitted(cell: str, width: int, field: Field) -> str:
    """A cell of exactly that width on the screen, where a character may take two columns."""
    wide = _columns_of(cell)
    if wide > width:
        from rich.cells import set_cell_size

        cell = set_cell_size(cell, width - 1).rstrip() + "…"
        wide = _columns_of(cell)
    pad = " " * (width - wide)
    return cell + pad if field.text else pad + cell


def _columns_of(text: str) -> int:
    """Columns that a text takes on the screen."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _widths(
    fields: Sequence[Field], widest: Sequence[int], least: Sequence[int], width: int
) -> list[int]:
    """Of the columns of a block: the longest texts are cut until all fit."""
    widths = list(widest)
    text = [c for c, field in enumerate(fields) if field.text]
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        able = [c for c in text if widths[c] > least[c]]
        if not able:
            break
        widths[max(able, key=lambda c: widths[c])] -= 1
    return widths


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


def filled(items: Iterable[str], view: View | None = None, indent: str = "  ") -> str:
    """Items with commas between them, on lines that fit; never broken within an item."""
    width = (view or View.plain()).width
    lines = [indent]
    for item in items:
        begun = lines[-1] != indent
        if begun and _columns_of(lines[-1]) + _columns_of(item) + 3 > width:
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


#: Times as much text beyond which growth foretells nothing.
_MUCH_TEXT = 100


def times_as_much(factor: float) -> str:
    """How many times as much text is wanted, as a foretelling.

    >>> times_as_much(3.04)
    'about 3 times as much'
    """
    if factor < _MUCH_TEXT:
        return f"about {factor:.2g} times as much"
    return f"more than {_MUCH_TEXT} times as much"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def token(text: str) -> str:
    """A token so that blanks, line breaks and control characters can be seen."""
    return repr(text)
