"""What the page and the tables of a report show: rows of tokens, contexts, text, facts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rocktok._version import __version__
from rocktok.analyses.detect.table import contexts
from rocktok.log.shipped import is_demo
from rocktok.report.other_analyses import Missing
from rocktok.report.page.flags import explained
from rocktok.report.page.opening import curve_of, likeliest, page_opening, plain
from rocktok.report.page.page_data import Cell, Column, Kind, Page, PageFigure, Rock
from rocktok.report.page.sections import sections
from rocktok.report.page.summary import summary
from rocktok.report.page.texts import text_view
from rocktok.report.page.without_rocks import concerns, folded
from rocktok.report.result import ReportResult

#: Columns of the table of tokens: key, label, kind, and what it means.
COLUMNS: tuple[tuple[str, str, Kind, str], ...] = (
    ("rank", "rank", "integer", "of rocks: by score; of untested ones by (context) Rock Score"),
    ("token", "token", "token", "the token's text"),
    ("token_id", "id", "integer", "its number in the vocabulary"),
    ("cluster", "cluster", "text", "what it is for, by the look of its text"),
    ("frequency", "freq", "integer", "occurrences among the scored positions"),
    ("mean_loss", "loss", "number", "mean reverse KL at its positions, nats"),
    ("loss_pre", "first loss", "number", "the same at the earlier step, nats"),
    ("loss_share", "share", "percent", "of the loss of all positions"),
    ("persistent", "persist", "integer", "occurrences that are hard at both steps"),
    ("retained", "retain", "integer", "of those, the ones in recurring contexts"),
    ("ccr", "CCR", "number", "context-consistent rock rate: retained over all occurrences"),
    ("context_rock_score", "R_ctx", "number", "context Rock Score: sum of its losses × CCR, nats"),
    ("context_lift", "ctx lift", "number", "above 1: the loss singles its contexts out"),
    ("grad_share", "gradient", "percent", "of the summed gradient norms of all positions"),
    ("inclusion", "incl.", "percent", "of half-samples of the prompts that name it a rock"),
    ("in_first_k", "in top K", "percent", "of samples of prompts with it among the first K"),
    ("flags", "flags", "flags", "what to know of the row; see docs/definitions.md"),
)  # fmt: skip

#: The name of a flag after what it means.
_CODE = re.compile(r" \([a-z]+_[a-z_]+\)")


def all_params(result: ReportResult) -> dict[str, object]:
    """Options of the report and of `detect`."""
    return {**result.params, "detect": result.detect.params}


def page_content(result: ReportResult, figures: list[PageFigure], missing: list[Missing]) -> Page:
    """Everything that `render_page` puts on the page; `figures` are drawn already."""
    shown = token_rows(result)
    present = {key for row in shown for key, value in row.items() if value not in (None, [])}
    return {
        "title": _title(result),
        "log": facts(result),
        "created": result.run.get("created_at"),
        "version": __version__,
        "opening": page_opening(result),
        # Its first point is what the page opens with.
        "summary": [
            {**point, "text": _CODE.sub("", point["text"])} for point in summary(result)[1:]
        ],
        "notes": [plain(note) for note in result.notes if concerns(result, note)],
        "missing": missing,
        "figures": figures,
        "folded": folded(result, [figure["name"] for figure in figures]),
        "table": {
            "columns": [
                column
                for column in _columns(result)
                if column["key"] == "token"
                or (column["key"] in present and (result.rocks or column["key"] != "inclusion"))
            ],
            "rows": shown,
            "total": len(result.types["token_id"]),
            "shown": len(shown),
        },
        "rocks": [_rock(result, row) for row in result.detect.rocks],
        "text": text_view(result),
        "sections": sections(result.others),
    }


def _title(result: ReportResult) -> str:
    """What the page is about, and of which log."""
    path = str(result.log["path"])
    name = "the log that ships with rocktok" if is_demo(path) else path
    if result.detect.rocks:
        return f"Rock tokens in {name}"
    return f"{'No rock tokens' if result.log['pre'] is not None else 'Token losses'} in {name}"


def _columns(result: ReportResult) -> list[Column]:
    """`COLUMNS`, as this log and these options make them."""
    columns: list[Column] = [
        {"key": key, "label": label, "kind": kind, "help": meaning}
        for key, label, kind, meaning in COLUMNS
    ]
    by_key = {column["key"]: column for column in columns}
    if result.stability and result.stability.tokens:
        k = result.stability.tokens[0]["k"]
        by_key["in_first_k"]["label"] = f"in top {k}"
        by_key["in_first_k"]["help"] = (
            f"of samples of prompts in which it is among the first {k} by Rock Score"
        )
    if result.detect.params["persistence"] == "recalcitrant":
        by_key["persistent"]["help"] = "occurrences that are hard at first and hardly better later"
    return columns


def facts(result: ReportResult) -> dict[str, str | int]:
    """Label → value: what the log is, and what was read."""
    log, run = result.log, result.run
    loss = run.get("loss") or {}
    steps = str(log["post"]) if log["pre"] is None else f"{log['pre']} and {log['post']}"
    totals, compared = result.detect.totals, contexts(result.detect)
    values: dict[str, str | int | None] = {
        "log": log["path"],
        "run": log["run_id"],
        "recorded": run.get("created_at"),
        "student": run.get("student"),
        "teacher": run.get("teacher"),
        "loss": f"reverse KL, {log['exactness']}"
        + ("" if loss.get("trained", True) else "; the trained loss is another"),
        "table": f"{log['table']}/, step {steps}",
        "positions": f"{totals['positions']:,} in {totals['sequences']:,} sequences",
        **dict([compared] if compared is not None else []),
        "seed": result.detect.params["seed"],
        "passes": ", ".join(f"{name} {count}" for name, count in log["passes"].items() if count),
    }
    return {label: value for label, value in values.items() if value is not None}


def token_rows(result: ReportResult) -> list[dict[str, Cell]]:
    """Rocks in rank order, then other types by their loss, up to `params["rows"]`."""
    types = result.types
    place = {v: i for i, v in enumerate(types["token_id"])}
    total = result.detect.totals["loss"] or 1.0
    gradient = dict(zip(types["token_id"], types.get("grad_share", ()), strict=False))
    samples = {row["token_id"]: row for row in result.stability.tokens} if (
        result.stability) else {}  # fmt: skip
    rows: list[tuple[int, dict[str, Cell]]] = []
    for rock in result.detect.rocks:
        v, cells = rock["token_id"], cast("Mapping[str, Cell]", rock)
        rows.append((v, {**{key: cells.get(key) for key, *_ in COLUMNS}, "is_rock": True,
                         "loss_pre": types["loss_pre"][place[v]]}))  # fmt: skip
    rocks = set(result.rocks)
    by_loss = sorted(
        (i for i, v in enumerate(types["token_id"]) if v not in rocks),
        key=lambda i: (-types["frequency"][i] * types["loss_post"][i], types["token_id"][i]),
    )
    # What the page opens with without rocks has its row, however little loss it carries.
    first = {row["token_id"] for row in result.hardest}
    room = max(0, result.params["rows"] - len(rows))
    for i in _with(by_loss, {i for i in by_loss if types["token_id"][i] in first}, room):
        v, n, loss = types["token_id"][i], types["frequency"][i], types["loss_post"][i]
        rows.append((v, {"token_id": v, "frequency": n, "mean_loss": loss, "flags": [],
                         "loss_pre": types["loss_pre"][i], "loss_share": n * loss / total,
                         "is_rock": False}))  # fmt: skip
    for v, row in rows:
        row["token"], row["cluster"] = result.token_texts[v], result.clusters[v]
        row["grad_share"], drawn = gradient.get(v), samples.get(v)
        row["inclusion"] = drawn and drawn["inclusion"]
        row["in_first_k"] = drawn and drawn["in_first_k"]
    return [row for _, row in rows]


def _with(order: Sequence[int], wanted: set[int], most: int) -> list[int]:
    """The first of some places, as many as there is room for, with those that are wanted."""
    others = [at for at in order if at not in wanted][: max(0, most - len(wanted))]
    kept = {*others, *wanted}
    return [at for at in order if at in kept]


def _rock(result: ReportResult, row: Mapping[str, Any]) -> Rock:
    """Of its contexts those that stand in a text on the page; where no text is shown, any."""
    v, listed = row["token_id"], result.contexts_in_text
    contexts = result.contexts.get(v)
    shown = contexts if listed is None else listed.get(v)
    return {
        "rank": row["rank"],
        "token_id": v,
        "token": row["token"],
        "frequency": row["frequency"],
        "retained": row["retained"],
        "persistent": row["persistent"],
        "ccr": row["ccr"],
        "contexts": shown["examples"] if shown else [],
        "total_contexts": contexts["distinct"] if contexts else 0,
        "curve": curve_of(result, row),
        "instead": likeliest(row),
        "instead_occurrences": row.get("instead_occurrences"),
        "teacher_on_token": row.get("teacher_on_token"),
        "student_on_token": row.get("student_on_token"),
        "flags": explained(row["flags"]),
    }
