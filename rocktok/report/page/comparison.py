"""Reports of several logs in one: small multiples of their figures, and their common rocks."""

from __future__ import annotations

from collections.abc import Sequence

from rocktok._version import __version__
from rocktok.analyses.compare.result import CompareResult
from rocktok.report.page.content import all_params, facts
from rocktok.report.page.drawing import Drawing
from rocktok.report.page.figures import FIGURES
from rocktok.report.page.files import (
    encode_json,
    figure_numbers,
    missing,
    place_figures,
)
from rocktok.report.page.opening import plain
from rocktok.report.page.page_data import Cell, Column, Page, Point
from rocktok.report.page.render import render_page
from rocktok.report.page.summary import summary
from rocktok.report.page.texts import texts_of_several
from rocktok.report.page.without_rocks import concerns
from rocktok.report.result import ReportResult
from rocktok.tables.encode import encode_csv
from rocktok.tables.names import labels
from rocktok.tables.text import counted, number

SCHEMA = "rocktok.report-comparison/1"


def render_comparison(
    results: Sequence[ReportResult],
    compared: CompareResult,
    formats: Sequence[str] = ("svg",),
    drawing: Drawing | None = None,
) -> dict[str, bytes]:
    """Relative path → content of every file.

    Args:
        compared: the rocks of the same logs, in the same order.
        formats: of the files in figures/: png, pdf, svg.
        drawing: where figures are drawn; default: here.
    """
    names = labels([str(result.log["path"]) for result in results])
    by_log = {name: figure_numbers(result) for name, result in zip(names, results, strict=True)}
    drawing = drawing or Drawing(formats)
    captions = {}
    for figure in FIGURES:
        panels = {name: of[figure.name] for name, of in by_log.items() if figure.name in of}
        if figure.shared_axes and len(panels) > 1:
            drawing.add(figure.name, panels, several=True)
            captions[figure.name] = figure.caption(figure.common(panels))
    files: dict[str, bytes] = {}
    shown = place_figures(captions, drawing, files, "two")
    columns, rows = _tokens(compared, names)
    pairs = _pairs(compared, names)
    page: Page = {
        "title": f"Rock tokens in {len(names)} logs",
        "log": {name: _line(result) for name, result in zip(names, results, strict=True)},
        "version": __version__,
        "opening": {
            "verdict": " ".join(point["text"] for point in pairs),
            "chips": [],
            "sure": " ".join(point["text"] for point in _each(results, names)),
        },
        "summary": [{**point, "text": ""} for point in pairs],
        "notes": [*(_note(note, compared, names) for note in compared.notes),
                  *(f"{name}: {plain(note)}" for name, result in
                    zip(names, results, strict=True) for note in result.notes
                    if concerns(result, note))],
        "missing": [
            {**row, "what": f"{name}: {row['what']}"}
            for name, result in zip(names, results, strict=True)
            for row in missing(result)
        ],
        "figures": shown,
        "table": {"columns": columns, "rows": rows, "total": len(rows), "shown": len(rows)},
        "text": texts_of_several(results, names),
    }  # fmt: skip
    content = {
        "schema": SCHEMA,
        "logs": [
            {"name": name, "log": result.log, "params": all_params(result), "facts": facts(result),
             "missing": missing(result), "notes": list(result.notes),
             "summary": summary(result), "figures": by_log[name]}
            for name, result in zip(names, results, strict=True)
        ],
        "compare": compared.to_dict(),
    }  # fmt: skip
    numbers = [
        {k: v for k, v in row.items() if not isinstance(v, list | tuple)} for row in compared.pairs
    ]
    files["report.html"] = render_page(page).encode()
    files["report.json"] = encode_json(content)
    files["tables/tokens.csv"] = encode_csv(rows)
    files["tables/pairs.csv"] = encode_csv(numbers)
    return dict(sorted(files.items()))


def _line(result: ReportResult) -> str:
    return "; ".join(f"{label} {value}" for label, value in facts(result).items())


def _note(note: str, compared: CompareResult, names: Sequence[str]) -> str:
    """A note of the comparison as a sentence; a log that it begins with keeps its name."""
    for row, name in zip(compared.log, names, strict=True):
        whole, _, rest = note.partition(f"{row['name']}: ")
        if rest and not whole:
            return f"{name}: {plain(rest)}"
    return plain(note)


def _pairs(compared: CompareResult, names: Sequence[str]) -> list[Point]:
    """A sentence for each two logs."""
    both = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    points: list[Point] = []
    for (a, b), row in zip(both, compared.pairs, strict=True):
        jaccard = number(row["jaccard"], 2)
        points.append({
            "text": f"{a} and {b} share {counted(len(row['shared']), 'rock')} (Jaccard {jaccard}); "
            f"only in the first: {len(row['only_first'])}, only in the second: "
            f"{len(row['only_second'])}.",
            "numbers": [{"label": f"Jaccard, {a} and {b}", "value": jaccard}],
        })  # fmt: skip
    return points


def _each(results: Sequence[ReportResult], names: Sequence[str]) -> list[Point]:
    """What each log's own report says first."""
    return [
        {"text": f"{name}: {point['text']}", "numbers": []}
        for name, result in zip(names, results, strict=True)
        for point in summary(result)[:1]
    ]


def _tokens(
    compared: CompareResult, names: Sequence[str]
) -> tuple[list[Column], list[dict[str, Cell]]]:
    columns: list[Column] = [
        {"key": "token", "label": "token", "kind": "token", "help": "the token's text"},
        {"key": "lists", "label": "in", "kind": "integer", "help": "logs in which it is a rock"},
    ]
    for name in names:
        columns.append({"key": f"rank {name}", "label": f"rank, {name}", "kind": "integer",
                        "help": f"its rank among the rocks of {name}"})  # fmt: skip
    rows: list[dict[str, Cell]] = []
    for row in compared.tokens:
        ranks = dict(zip((f"rank {name}" for name in names), row["ranks"], strict=True))
        lists = sum(rank is not None for rank in row["ranks"])
        rows.append(
            {"token_id": row.get("token_id"), "token": row["token"], "lists": lists, **ranks}
        )
    return columns, rows
