"""Sections of the page for analyses that are not built into it: question, answer, table, notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from rocktok.analyses.result import Result, frame_of
from rocktok.report.other_analyses import OtherResult
from rocktok.report.page.escape import printable
from rocktok.tables.text import count, number

Row = dict[str, Any]

#: Rows of a section's table; the command's own output has all.
ROWS = 100


def sections(others: Iterable[OtherResult]) -> list[Row]:
    """What the page shows of the results, as plain JSON values."""
    return [
        {"name": other.analysis.name, "help": other.analysis.help, **_content(other.result)}
        for other in others
        if other.result is not None
    ]


def _content(result: Result) -> Row:
    frame = frame_of(result.shown()[1])
    columns = list(map(str, frame.columns))
    rows = frame.head(ROWS).itertuples(index=False, name=None)
    return {
        "answer": result.answer(),
        "columns": columns,
        "rows": [[_cell(n, v) for n, v in zip(columns, row, strict=True)] for row in rows],
        "total": len(frame),
        "notes": list(getattr(result, "notes", ())),
    }


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(column, one) for one in value)
    if isinstance(value, str):
        return repr(value) if column.endswith("token") else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # An id is a name, and a step a place: neither is a count.
        return str(value) if column.endswith(("id", "step")) else count(value)
    return number(value) if isinstance(value, float) else str(value)


def render_sections(shown: Iterable[Mapping[str, Any]]) -> Any:
    """The sections as HTML that is safe to stand in the page; every text is escaped."""
    from markupsafe import Markup

    return Markup(_template().render(sections=list(shown)))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
    )
    environment.filters["count"] = count
    path = resources.files("rocktok.report.page").joinpath("assets", "sections.html")
    return environment.from_string(path.read_text(encoding="utf-8").replace("\r\n", "\n"))
