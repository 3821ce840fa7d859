"""A report as files: one HTML page, figures, the numbers behind them, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.report.page import render_page
from rocktok.report.page.captions import ORDER, caption, caption_title
from rocktok.report.page.content import COLUMNS, all_params, facts, page_content, token_rows
from rocktok.report.page.drawing import Drawing
from rocktok.report.page.series import OF_ONE_ANALYSIS, AbsentError, series
from rocktok.report.page.summary import summary
from rocktok.report.result import SCHEMA, ReportResult
from rocktok.tables.encode import encode_csv

Row = dict[str, Any]


def render_report(
    result: ReportResult, formats: Sequence[str] = ("svg",), drawing: Drawing | None = None
) -> dict[str, bytes]:
    """Relative path → content of every file of a report, the same bytes for the same result.

    Args:
        formats: of the files in figures/: png, pdf, svg.
        drawing: where figures are drawn, some perhaps already; default: here.
    """
    numbers = figure_numbers(result)
    drawing = drawing or Drawing(formats)
    for name, behind in numbers.items():
        drawing.add(name, behind)
    files: dict[str, bytes] = {}
    for name, rows in tables(result, numbers).items():
        if rows:
            files[f"tables/{name}.csv"] = encode_csv(rows)
    files["report.json"] = encode_json(to_dict(result, numbers))
    width = "one" if drawing.columns == 1 else "two"
    shown = place_figures(numbers, drawing, files, width)
    files["report.html"] = render_page(page_content(result, shown, missing(result))).encode()
    return dict(sorted(files.items()))


def add_figures(drawing: Drawing, result: Any) -> None:
    """Begin with the figures that rest on the result of one analysis alone."""
    for name in ORDER:
        if name not in OF_ONE_ANALYSIS:
            continue
        try:
            drawing.add(name, series(name, result))
        except AbsentError:
            continue


def figure_numbers(result: ReportResult) -> dict[str, Row]:
    """Figure → its numbers, of the figures that the log allows, in the order of the page."""
    return _drawable(result)[0]


def missing(result: ReportResult) -> list[Row]:
    """What the report lacks: of the log, and figures that too little was recorded for."""
    absent = _drawable(result)[1]
    rows = [
        {"what": f"the figure “{caption_title(name)}”",
         "why": str(error).removeprefix(f"{name}: "), "remedy": error.remedy}
        for name, error in absent.items()
        if error.remedy
    ]  # fmt: skip
    return [*result.missing, *rows]


def _drawable(result: ReportResult) -> tuple[dict[str, Row], dict[str, AbsentError]]:
    found, absent = {}, {}
    for name in ORDER:
        try:
            found[name] = series(name, result)
        except AbsentError as error:
            absent[name] = error
    return found, absent


def place_figures(
    numbers: Mapping[str, Row], drawing: Drawing, files: dict[str, bytes], width: str = "one"
) -> list[Row]:
    """Put the figures among the files; what the page shows of them.

    `numbers`: figure → the numbers that its caption goes by.
    """
    drawn, shown = drawing.drawn(), []
    for name, behind in numbers.items():
        files.update({f"figures/{name}.{form}": drawn[name][form] for form in drawing.formats})
        title, text = caption(name, behind)
        shown.append({
            "name": name, "title": title, "caption": text, "alt": f"Figure: {title}. {text}",
            "svg": drawn[name]["svg"].decode(), "width": width,
        })  # fmt: skip
    return shown


def to_dict(result: ReportResult, numbers: Mapping[str, Row]) -> Row:
    """What report.json holds: every number of the page and of the figures."""
    return {
        "schema": SCHEMA,
        "log": result.log,
        "params": all_params(result),
        "facts": facts(result),
        "summary": summary(result),
        "missing": missing(result),
        "notes": list(result.notes),
        "thresholds": result.detect.thresholds,
        "totals": result.detect.totals,
        "permuted": result.detect.permuted,
        "figures": dict(numbers),
        "tokens": token_rows(result),
        "contexts": {str(v): found for v, found in result.contexts.items()},
        "tests": {
            "attribute": list(result.attribute.tests) if result.attribute else None,
            "stagnation": list(result.stagnation.tests) if result.stagnation else None,
        },
        **({"analyses": others} if (others := _others(result)) else {}),
    }


def _others(result: ReportResult) -> Row:
    return {o.analysis.name: o.result.to_dict() for o in result.others if o.result is not None}


def encode_json(content: Row) -> bytes:
    """ASCII, so that no text of a token can be an invalid file."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def tables(result: ReportResult, numbers: Mapping[str, Row]) -> dict[str, list[Row]]:
    """Name → rows of each CSV file."""
    keys = [key for key, *_ in COLUMNS]
    found = {
        "tokens": [{key: row.get(key) for key in keys} for row in token_rows(result)],
        "contexts": [
            {"token_id": v, "token": result.token_texts[v], **_joined(example)}
            for v, context in result.contexts.items()
            for example in context["examples"]
        ],
        "sensitivity": list(result.sensitivity or ()),
        "positions": list(result.positions),
        "clusters": list(numbers.get("clusters", {}).get("clusters", ())),
        "cutoffs": list(numbers.get("coverage", {}).get("cutoffs", ())),
    }
    if result.attribute:
        found["gradient_groups"] = list(result.attribute.groups)
    if result.stagnation:
        found["learning_groups"] = list(result.stagnation.groups)
        found["learning_curves"] = list(result.stagnation.curves)
    return found


def _joined(example: Row) -> Row:
    return {**example, "before": "".join(example["before"]), "after": "".join(example["after"])}
