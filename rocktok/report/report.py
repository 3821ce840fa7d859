"""A report as files: one HTML page, figures, the numbers behind them, tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rocktok.analyse.report import SCHEMA, ReportResult
from rocktok.report import figures
from rocktok.report.captions import ORDER, caption
from rocktok.report.content import COLUMNS, facts, page_content, token_rows
from rocktok.report.figures.style import encode
from rocktok.report.page import render_page
from rocktok.report.series import AbsentError, series
from rocktok.report.summary import summary

Row = dict[str, Any]

#: Figures that need the width of two columns.
_WIDE: frozenset[str] = frozenset()


def render_report(result: ReportResult, formats: Sequence[str] = ("png",)) -> dict[str, bytes]:
    """Relative path → content of every file of a report, the same bytes for the same result.

    Args:
        formats: of the files in figures/: png, pdf, svg.
    """
    numbers = figure_numbers(result)
    files: dict[str, bytes] = {}
    drawn = draw(numbers, lambda name: getattr(figures, name)(numbers[name]), formats, files)
    files["report.html"] = render_page(page_content(result, drawn)).encode()
    files["report.json"] = encode_json(to_dict(result, numbers))
    for name, rows in tables(result, numbers).items():
        if rows:
            files[f"tables/{name}.csv"] = encode_csv(rows)
    return dict(sorted(files.items()))


def figure_numbers(result: ReportResult) -> dict[str, Row]:
    """Figure → its numbers, of the figures that the log allows, in the order of the page."""
    found = {}
    for name in ORDER:
        try:
            found[name] = series(name, result)
        except AbsentError:
            continue
    return found


def draw(
    numbers: Mapping[str, Row],
    figure: Callable[[str], Any],
    formats: Sequence[str],
    files: dict[str, bytes],
) -> list[Row]:
    """Draw each figure into `files`; what the page shows of them."""
    shown = []
    for name, behind in numbers.items():
        made = figure(name)
        # Laid out once for all formats.
        made.draw_without_rendering()
        made.set_layout_engine("none")
        drawn = {form: encode(made, form) for form in dict.fromkeys(("svg", *formats))}
        files.update({f"figures/{name}.{form}": drawn[form] for form in formats})
        title, text = caption(name, behind)
        shown.append({
            "name": name, "title": title, "caption": text, "alt": f"Figure: {title}. {text}",
            "svg": drawn["svg"].decode(), "width": "one",
        })  # fmt: skip
    return shown


def to_dict(result: ReportResult, numbers: Mapping[str, Row]) -> Row:
    """What report.json holds: every number of the page and of the figures."""
    return {
        "schema": SCHEMA,
        "log": result.log,
        "params": {**result.params, "detect": result.detect.params},
        "facts": facts(result),
        "summary": summary(result),
        "missing": list(result.missing),
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
    }


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


def encode_csv(rows: Iterable[Row]) -> bytes:
    """Rows as CSV. Text of tokens is in quotes with escapes, as Python writes it.

    So no spreadsheet takes a token for a formula, and blanks and line breaks can be seen.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(key, row.get(key)) for key in columns])
    return sink.getvalue().encode("utf-8", "backslashreplace")


def _cell(key: str, value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(repr(one) if key == "examples" else str(one) for one in value)
    return repr(value) if key in ("token", "before", "after") else value
