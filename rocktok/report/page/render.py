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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from rocktok.report.alternatives import Alternatives
from rocktok.report.page.escape import Piece, pieces, printable, signs
from rocktok.report.page.inline import inline
from rocktok.report.page.page_data import Chip, Kind, Page, PageFigure, Rock, Table, Text
from rocktok.report.page.sections import render_sections
from rocktok.report.text_view import StepLoss
from rocktok.tables.text import count, number, percent

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

#: What the template reads of one part.
Part = dict[str, object]

#: One module of the page, in this order.
SCRIPTS = ("text.js", "scales.js", "moving.js", "overview.js", "notes.js", "table.js", "page.js")

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
    in_text = Counter(occurrences.values())
    figures = [_figure(figure) for figure in page.get("figures") or []]
    rocks = {
        rock["token_id"]: _rock(rock, occurrences, in_text) for rock in page.get("rocks") or []
    }
    return str(
        _template().render(
            title=page.get("title") or "rocktok",
            embedded=page.get("embedded", False),
            created=page.get("created"),
            version=page.get("version"),
            log=[(label, _shown(value)) for label, value in (page.get("log") or {}).items()],
            opening=_opening(page),
            summary=page.get("summary") or [],
            notes=page.get("notes") or [],
            missing=page.get("missing") or [],
            figures=[figure for figure in figures if not figure["appendix"]],
            appendix=[figure for figure in figures if figure["appendix"]],
            folded=page.get("folded"),
            table=_table(page.get("table"), rocks),
            # Rocks whose row the table does not have.
            rocks=[] if page.get("table") else list(rocks.values()),
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
    environment.filters["share"] = _share
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


def _share(value: Any) -> str:
    """With one decimal, and what is not quite nothing as such."""
    value = _finite(value)
    return "<0.1%" if value is not None and 0 < value < 0.0005 else percent(value)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(_finite(value)) if isinstance(value, float) else str(value)


def _opening(page: Page) -> Part:
    """Without one, the first point of the summary."""
    opening = page.get("opening")
    if opening is None:
        points = page.get("summary") or []
        verdict = points[0]["text"] if points else None
        return {"verdict": verdict, "groups": [], "sure": ""}
    return {
        "verdict": opening["verdict"],
        "sure": opening["sure"],
        "groups": [
            {"heading": heading, "chips": list(map(_chip, chips))}
            for heading, chips in (
                (None, opening["chips"]),
                *((group["heading"], group["chips"]) for group in opening.get("others", ())),
            )
            if chips
        ],
    }


def _chip(chip: Chip) -> Part:
    return {
        "label": None,
        **chip,
        **_token(chip["token"]),
        "spark": spark(chip["curve"]),
        "instead": [{**one, **_token(one["token"])} for one in chip["instead"]],
    }


def _token(text: str) -> Part:
    shown = pieces(text)
    return {"pieces": shown, "signs": signs(shown), "repr": repr(text)}


def spark(curve: Sequence[StepLoss], width: int = 100, height: int = 28) -> Part | None:
    """A curve as a line from zero up, and what it says; None for less than two steps."""
    known = [(one["step"], one["loss"]) for one in curve if math.isfinite(one["loss"])]
    if len(known) < 2:
        return None
    (first, _), (last, _) = known[0], known[-1]
    most = max(loss for _, loss in known) or 1.0
    at = [
        (width * (step - first) / ((last - first) or 1), height * (1 - loss / most))
        for step, loss in known
    ]
    return {
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in at),
        "ends": [{"x": f"{x:.1f}", "y": f"{y:.1f}"} for x, y in (at[0], at[-1])],
        "steps": (first, last),
        "losses": (known[0][1], known[-1][1]),
        "all": known,
    }


def _figure(figure: PageFigure) -> Part:
    from markupsafe import Markup

    title, caption = figure.get("title") or figure["name"], figure.get("caption") or ""
    alt = figure.get("alt")
    svg = inline(str(figure["svg"]), figure["name"], figure.get("points") or ())
    return {
        "name": figure["name"],
        "title": title,
        "takeaway": figure.get("takeaway") or title,
        "caption": caption,
        # What is below the image anyway is not read twice.
        "alt": alt if alt and alt != caption else f"Figure: {title}",
        # Ours, and without what could run: `inline` keeps no text of the log but numbers.
        "svg": Markup(svg),
        "points": bool(figure.get("points")),
        "files": figure.get("files") or {},
        "wide": figure.get("width") == "two",
        "appendix": figure.get("appendix", False),
    }


def _table(table: Table | None, rocks: Mapping[int, Part]) -> Part | None:
    if not table or not table.get("rows"):
        return None
    columns, rows = table["columns"], table["rows"]
    return {
        "columns": columns,
        "rows": [
            {
                "rock": bool(row.get("is_rock")),
                "token_id": row.get("token_id"),
                "more": rocks.get(cast(int, row.get("token_id"))),
                "cells": [
                    _cell(row.get(column["key"]), column["kind"], column["key"])
                    for column in columns
                ],
            }
            for row in rows
        ],
        "total": table.get("total") or len(rows),
        "some_more": any(row.get("token_id") in rocks for row in rows),
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


def _rock(
    rock: Rock, occurrences: Mapping[tuple[int, int], int], in_text: Mapping[int, int]
) -> Part:
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
        **_token(rock["token"]),
        "contexts": contexts,
        "total_contexts": rock.get("total_contexts") or len(contexts),
        "in_text": in_text.get(rock["token_id"], 0),
        "spark": spark(rock.get("curve") or ()),
        "instead": [{**one, **_token(one["token"])} for one in rock.get("instead") or ()],
        "instead_occurrences": rock.get("instead_occurrences"),
        "teacher_on_token": rock.get("teacher_on_token"),
        "student_on_token": rock.get("student_on_token"),
        "flags": rock.get("flags") or (),
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
            "logs": [
                {"name": printable(name), "rocks": rocks}
                for name, rocks in text.get("logs") or [("", text.get("rocks") or [])]
            ],
            "sequences": [
                {
                    # As text: a script's numbers are exact to 2^53 only.
                    "id": str(sequence["sequence_id"]),
                    "prompt_id": printable(str(sequence.get("prompt_id") or "")),
                    "prompt": _compact(pieces(sequence.get("prompt") or "", None, prose=True)),
                    "log": sequence.get("log") or 0,
                    "domain": printable(str(sequence.get("domain") or "")),
                    "correct": sequence.get("correct"),
                    "alternatives": _alternatives(sequence.get("alternatives")),
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


def _alternatives(others: Alternatives | None) -> Part | None:
    """Ids and probabilities by position; a script that reads none shows none."""
    return None if others is None else {**others}


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
