"""Sections of the page for analyses that are not built into it: question, answer, table, notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from rocktok.analyses import Analysis
from rocktok.analyses.result import Result, frame_of
from rocktok.report.other_analyses import OtherResult
from rocktok.report.page.escape import printable
from rocktok.report.page.page_data import Section
from rocktok.tables.text import count, number

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

#: Rows of a section's table; the command's own output has all.
ROWS = 100


def sections(others: Iterable[OtherResult]) -> list[Section]:
    """What the page shows of the results."""
    return [_section(one.analysis, one.result) for one in others if one.result is not None]


def _section(analysis: Analysis, result: Result) -> Section:
    rows = _rows(result.shown()[1])
    # What no row has, as shares of rocks without any, is no column.
    columns = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(not _is_nothing(row.get(name)) for row in rows)
    ]
    return {
        "name": analysis.name,
        "help": analysis.help,
        "answer": result.answer(),
        "columns": columns,
        "rows": [[_cell(name, row.get(name)) for name in columns] for row in rows[:ROWS]],
        "total": len(rows),
        "notes": list(getattr(result, "notes", ())),
    }


def _rows(shown: object) -> list[dict[str, Any]]:
    """Rows as mappings. pandas, which takes long to load, only where they are a DataFrame."""
    if isinstance(shown, Iterable) and not hasattr(shown, "columns"):
        rows = list(shown)
        if all(isinstance(row, Mapping) for row in rows):
            return [dict(row) for row in rows]
        shown = rows
    frame = frame_of(cast(Any, shown))
    columns = list(map(str, frame.columns))
    return [
        dict(zip(columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)
    ]


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(column: str, value: Any) -> str:
    if _is_nothing(value):
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


def render_sections(shown: Iterable[Section]) -> Markup:
    """The sections as HTML that is safe to stand in the page; every text is escaped."""
    from markupsafe import Markup

    return Markup(_template().render(sections=list(shown)))


@cache
def _template() -> Template:
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
