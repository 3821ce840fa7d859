"""A report as files: one HTML page, figures, the numbers behind them, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from rocktok.analyses.plain_json import indented
from rocktok.report.other_analyses import Missing
from rocktok.report.page.content import COLUMNS, all_params, facts, page_content, token_rows
from rocktok.report.page.drawing import POINTS, Drawing
from rocktok.report.page.figures import APPENDIX, BY_NAME, FIGURES
from rocktok.report.page.figures.figure import AbsentError, AnyNumbers, Caption, Figure
from rocktok.report.page.figures.takeaways import takeaway
from rocktok.report.page.page_data import PageFigure
from rocktok.report.page.render import render_page
from rocktok.report.page.summary import summary
from rocktok.report.result import SCHEMA, ReportResult
from rocktok.tables.encode import encode_csv

#: A row of a CSV file: column → cell.
Row = Mapping[str, object]


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
    for name, one in numbers.items():
        drawing.add(name, one)
    files: dict[str, bytes] = {}
    for name, rows in tables(result, numbers).items():
        if rows:
            files[f"tables/{name}.csv"] = encode_csv(rows)
    files["report.json"] = encode_json(to_dict(result, numbers))
    captions = {name: BY_NAME[name].caption(one) for name, one in numbers.items()}
    shown = place_figures(captions, drawing, files, "one" if drawing.columns == 1 else "two")
    for figure in shown:
        figure["takeaway"] = takeaway(figure["name"], numbers[figure["name"]])
    files["report.html"] = render_page(page_content(result, shown, missing(result))).encode()
    return dict(sorted(files.items()))


def add_figures(drawing: Drawing, result: object) -> None:
    """Begin with the figures that rest on the result of one analysis alone.

    `result`: that, or a `ReportResult` that may lack the analyses: the figures of its own.
    """
    for figure in FIGURES:
        if (figure.part is None) != isinstance(result, ReportResult):
            continue
        try:
            drawing.add(figure.name, figure.numbers(result))
        except AbsentError:
            continue


def figure_numbers(result: ReportResult) -> dict[str, AnyNumbers]:
    """Figure → its numbers, of the figures that the log allows, in the order of the page."""
    return _drawable(result)[0]


def missing(result: ReportResult) -> list[Missing]:
    """What the report lacks: of the log, and figures that too little was recorded for."""
    rows: list[Missing] = [
        {"what": f"the figure “{figure.title}”", "why": error.why, "remedy": error.remedy}
        for figure, error in _drawable(result)[1]
        if error.remedy
    ]
    return [*result.missing, *rows]


def _drawable(
    result: ReportResult,
) -> tuple[dict[str, AnyNumbers], list[tuple[Figure[Any, Any], AbsentError]]]:
    numbers: dict[str, AnyNumbers] = {}
    absent = []
    for figure in FIGURES:
        try:
            numbers[figure.name] = figure.numbers(result)
        except AbsentError as error:
            absent.append((figure, error))
    return numbers, absent


def place_figures(
    captions: Mapping[str, Caption],
    drawing: Drawing,
    files: dict[str, bytes],
    width: Literal["one", "two"] = "one",
) -> list[PageFigure]:
    """Put the figures among the files; what the page shows of them, with their captions."""
    drawn = drawing.drawn()
    shown: list[PageFigure] = []
    for name, (title, text) in captions.items():
        files.update({f"figures/{name}.{form}": drawn[name][form] for form in drawing.formats})
        shown.append({
            "name": name, "title": title, "caption": text, "alt": f"Figure: {title}. {text}",
            "svg": drawn[name]["svg"].decode(), "width": width,
            "points": json.loads(drawn[name][POINTS]), "appendix": name in APPENDIX,
            "files": {form: f"figures/{name}.{form}" for form in drawing.formats},
        })  # fmt: skip
    return shown


def to_dict(result: ReportResult, numbers: Mapping[str, AnyNumbers]) -> dict[str, object]:
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
        "contexts": {str(v): contexts for v, contexts in result.contexts.items()},
        "curves": {str(v): curve for v, curve in result.curves.items()},
        **({"hardest": list(result.hardest)} if result.hardest else {}),
        "tests": {
            "attribute": list(result.attribute.tests) if result.attribute else None,
            "stagnation": list(result.stagnation.tests) if result.stagnation else None,
        },
        "adjusted": {
            "attribute": result.attribute.adjusted if result.attribute else None,
            "stagnation": result.stagnation.adjusted if result.stagnation else None,
        },
        **({"analyses": others} if (others := _others(result)) else {}),
    }


def _others(result: ReportResult) -> Row:
    return {o.analysis.name: o.result.to_dict() for o in result.others if o.result is not None}


def encode_json(content: Mapping[str, object]) -> bytes:
    """ASCII, so that no text of a token can be an invalid file."""
    return (indented(content, ascii_only=True) + "\n").encode()


def tables(result: ReportResult, numbers: Mapping[str, AnyNumbers]) -> dict[str, Sequence[Row]]:
    """Name → rows of each CSV file."""
    keys = [key for key, *_ in COLUMNS]
    rows: dict[str, Sequence[Row]] = {
        "tokens": [{key: row.get(key) for key in keys} for row in token_rows(result)],
        "contexts": [
            {"token_id": v, "token": result.token_texts[v], **_joined(example)}
            for v, context in result.contexts.items()
            for example in context["examples"]
        ],
        "sensitivity": result.sensitivity or (),
        "positions": result.positions,
    }
    for figure in FIGURES:
        if figure.table is not None and figure.name in numbers:
            rows[figure.table] = cast("Sequence[Row]", numbers[figure.name][figure.table])
    if result.attribute:
        rows["gradient_groups"] = result.attribute.groups
    if result.stagnation:
        rows["learning_groups"] = result.stagnation.groups
        rows["learning_curves"] = result.stagnation.curves
    return rows


def _joined(example: Mapping[str, Any]) -> Row:
    return {**example, "before": "".join(example["before"]), "after": "".join(example["after"])}
