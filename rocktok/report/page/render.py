"""One self-contained HTML page: summary, figures, tokens, contexts, and the text with its losses.

Every text in it is untrusted. What the template writes is autoescaped; what the script reads is
JSON that cannot end its element, and becomes text nodes; the page's own policy lets nothing run but
the one script that it was written with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rocktok.report.page.escape import Piece, pieces, printable, signs
from rocktok.report.page.page_data import Kind, Page, PageFigure, Rock, Table, Text
from rocktok.report.page.sections import render_sections
from rocktok.tables.text import count, number, percent

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

#: What the template reads of one part.
Part = dict[str, object]

#: One module of the page, in this order.
SCRIPTS = ("text.js", "scales.js", "notes.js", "page.js")

#: Figures in the values of the text view: what a reader compares, and what a page can carry.
DIGITS = 3


def render_page(page: Page) -> str:
    """The page. Any part of it may be absent, None or empty: the page then goes without it."""
    from markupsafe import Markup

    css, script = _asset("page.css"), Markup("").join(_asset(name) for name in SCRIPTS)
    text = page.get("text") or None
    if text is not None and not text.get("sequences"):
        text = None
    occurrences = _occurrences(text)
    return str(
        _template().render(
            title=page.get("title") or "rocktok",
            embedded=page.get("embedded", False),
            created=page.get("created"),
            version=page.get("version"),
            log=[(label, _shown(value)) for label, value in (page.get("log") or {}).items()],
            summary=page.get("summary") or [],
            notes=page.get("notes") or [],
            missing=page.get("missing") or [],
            figures=[_figure(figure) for figure in page.get("figures") or []],
            table=_table(page.get("table"), page.get("rocks") or []),
            rocks=[_rock(rock, occurrences) for rock in page.get("rocks") or []],
            text=text,
            sections=page.get("sections") or [],
            rendered_sections=render_sections(page.get("sections") or []),
            slider=text is not None and _has_slider(text),
            payload=_embedded(_payload(text)),
            css=css,
            script=script,
            policy=_policy(css, script),
        )
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        if isinstance(value, str) and not isinstance(value, Markup):
            return printable(value)
        return value

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters["count"] = count
    environment.filters["number"] = lambda value: _number(_finite(value))
    environment.filters["percent"] = lambda value: percent(_finite(value), 0)
    return environment.from_string(_asset("page.html"))


@cache
def _asset(name: str) -> str:
    """A file of the package, safe by its source, as the template must not escape it."""
    from markupsafe import Markup

    path = resources.files("rocktok.report.page").joinpath("assets", name)
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    return text if name.endswith(".html") else Markup(text)


def _policy(css: str, script: str) -> str:
    """Nothing but this style, this script and images within the page."""

    def digest(source: str) -> str:
        # What stands between the tags, line breaks of the template included.
        raw = hashlib.sha256(f"\n{source}".encode()).digest()
        return f"'sha256-{base64.b64encode(raw).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(css)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _embedded(payload: Part) -> Markup:
    """JSON for a script element: no `<`, `>` or `&`, lone surrogates as escapes."""
    from markupsafe import Markup

    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    """`text.number`, with its significant digits below 0.1 as well: 0.00123 beside 5.16e-04."""
    if value is None or not 1e-3 <= abs(value) < 0.1:
        return number(value)
    return f"{value:.{DIGITS - 1 - math.floor(math.log10(abs(value)))}f}"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(_finite(value)) if isinstance(value, float) else str(value)


def _figure(figure: PageFigure) -> Part:
    svg = str(figure["svg"]).encode("utf-8", "replace")
    title, caption = figure.get("title") or figure["name"], figure.get("caption") or ""
    alt = figure.get("alt")
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return {
        "name": figure["name"],
        "title": title,
        "caption": caption,
        # What is below the image anyway is not read twice.
        "alt": alt if alt and alt != caption else f"Figure: {title}",
        "source": source,
        "wide": figure.get("width") == "two",
    }


def _table(table: Table | None, rocks: Iterable[Rock]) -> Part | None:
    if not table or not table.get("rows"):
        return None
    columns, rows = table["columns"], table["rows"]
    linked = {rock["token_id"] for rock in rocks}
    return {
        "columns": columns,
        "rows": [
            {
                "rock": bool(row.get("is_rock")),
                "link": row["token_id"] if row.get("token_id") in linked else None,
                "cells": [
                    _cell(row.get(column["key"]), column["kind"], column["key"])
                    for column in columns
                ],
            }
            for row in rows
        ],
        "total": table.get("total") or len(rows),
        "some_rocks": any(row.get("is_rock") for row in rows)
        and not all(row.get("is_rock") for row in rows),
    }


def _cell(value: Any, kind: Kind, key: str) -> Part:
    """What a cell shows, and what it sorts by (None: by what it shows)."""
    value = _finite(value)
    cell: Part = {"kind": kind, "sort": None, "pieces": None, "signs": "", "flags": (), "shown": ""}
    if value is None:
        cell["shown"] = "–"
    elif kind == "token":
        text = pieces(str(value))
        cell |= {"pieces": text, "signs": signs(text), "shown": repr(value)}
    elif kind == "flags":
        cell["flags"] = [value] if isinstance(value, str) else list(value)
    elif isinstance(value, bool) or kind == "text":
        cell["shown"] = _shown(value)
    elif kind == "integer":
        # An id is a name: it is searched for as it is shown.
        cell |= {"shown": str(value) if key.endswith("_id") else count(value), "sort": value}
    else:
        shown = percent(value) if kind == "percent" else _number(value)
        cell |= {"shown": shown, "sort": f"{value:.6g}"}
    return cell


def _rock(rock: Rock, occurrences: Mapping[tuple[int, int], int]) -> Part:
    contexts = [
        {
            **context,
            "times": context.get("times") or 1,
            "before": [pieces(text) for text in context["before"]],
            "after": [pieces(text) for text in context["after"]],
            "shown": (context["sequence_id"], context["position"]) in occurrences,
        }
        for context in rock.get("contexts") or []
    ]
    return {
        **rock,
        "pieces": pieces(rock["token"]),
        "repr": repr(rock["token"]),
        "contexts": contexts,
        "total_contexts": rock.get("total_contexts") or len(contexts),
        "in_text": sum(token_id == rock["token_id"] for token_id in occurrences.values()),
    }


def _occurrences(text: Text | None) -> dict[tuple[int, int], int]:
    """Token ids of the text view by sequence and position."""
    return {
        (sequence["sequence_id"], position): token_id
        for sequence in (text["sequences"] if text is not None else ())
        for position, token_id in zip(sequence["positions"], sequence["token_ids"], strict=True)
    }


def _has_slider(text: Text) -> bool:
    several = len(text.get("steps") or ()) > 1
    return several and any(column.get("by_step") for column in text["columns"])


def _payload(text: Text | None) -> Part:
    """What the script reads: the text view with its tokens as pieces and its values rounded."""
    if text is None:
        return {"text": None}
    keys = [column["key"] for column in text["columns"]]
    return {
        "text": {
            "steps": text.get("steps") or [],
            "columns": text["columns"],
            "tokens": {
                str(token_id): _compact(pieces(shown))
                for token_id, shown in (text.get("tokens") or {}).items()
            },
            "rocks": text.get("rocks") or [],
            "sequences": [
                {
                    # As text: a script's numbers are exact to 2^53 only.
                    "id": str(sequence["sequence_id"]),
                    "prompt_id": printable(str(sequence.get("prompt_id") or "")),
                    "prompt": _compact(pieces(sequence.get("prompt") or "", None, prose=True)),
                    "tokens": sequence["token_ids"],
                    "positions": sequence["positions"],
                    "retained": sequence.get("retained") or [],
                    "persistent": sequence.get("persistent") or [],
                    "values": {
                        key: [_rounded(values) for values in sequence["values"][key]]
                        for key in keys
                        if sequence.get("values", {}).get(key)
                    },
                }
                for sequence in text["sequences"]
            ],
        }
    }


def _compact(shown: Sequence[Piece]) -> str | list[Piece]:
    """Plain text as itself."""
    return "".join(text for _, text in shown) if all(not kind for kind, _ in shown) else list(shown)


def _rounded(values: Iterable[float | None]) -> list[float | int | None]:
    """`DIGITS` significant digits, whole numbers as such; None for what is not finite."""
    rounded: list[float | int | None] = []
    for value in values:
        if value is None or not math.isfinite(value):
            rounded.append(None)
        else:
            near = float(f"{value:.{DIGITS}g}")
            rounded.append(int(near) if near.is_integer() else near)
    return rounded
