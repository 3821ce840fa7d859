"""The text view of a page: of one log, or of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from rocktok.report.alternatives import Alternatives, token_ids
from rocktok.report.page.labels import column_label
from rocktok.report.page.page_data import Text, TextColumn
from rocktok.report.result import ReportResult
from rocktok.report.text_view import SequenceText

#: Sequences of all logs of a comparison together, and of each at least.
OF_ALL, OF_EACH = 24, 4

#: Where vocabularies differ, ids of each log's types are this far apart.
APART = 1 << 32


def text_view(result: ReportResult) -> Text | None:
    """The sequences as the page reads them; None where none are shown."""
    texts = result.texts
    if not texts or not texts["sequences"]:
        return None
    used = {v for sequence in texts["sequences"] for v in sequence["token_ids"]}
    for sequence in texts["sequences"]:
        if named := sequence.get("alternatives"):
            used |= token_ids(named)
    several = len(texts["steps"]) > 1
    why = {sequence["why"] for sequence in texts["sequences"]}
    drawn = sum(sequence["why"] == "drawn at random" for sequence in texts["sequences"])
    others = len(texts["sequences"]) - drawn
    said = [f"{drawn} were drawn at random, {others} hold contexts of rocks."] if (
        len(why) > 1) else []  # fmt: skip
    return {
        "table": texts["table"],
        "steps": texts["steps"],
        "columns": [
            {
                "key": c["key"],
                "label": column_label(c["key"]),
                "unit": c["unit"],
                "by_step": several,
            }
            for c in texts["columns"]
        ],
        "tokens": {str(v): result.token_texts[v] for v in sorted(used)},
        "rocks": [v for v in result.rocks if v in used],
        "sequences": texts["sequences"],
        "shown": len(texts["sequences"]),
        "total": texts["total"],
        "capped": " ".join([*said, *([texts["capped"]] if texts["capped"] else [])]) or None,
    }


def texts_of_several(results: Sequence[ReportResult], names: Sequence[str]) -> Text | None:
    """The first sequences of each log, under one set of steps and columns; None where none are."""
    shown = [(name, text, result) for name, result in zip(names, results, strict=True)
             if (text := text_view(result)) is not None]  # fmt: skip
    if not shown:
        return None
    texts = [text for _, text, _ in shown]
    steps = sorted({step for text in texts for step in text["steps"]})
    keys = {column["key"] for column in texts[0]["columns"]}.intersection(
        *({column["key"] for column in text["columns"]} for text in texts)
    )
    columns: list[TextColumn] = [
        {**column, "by_step": len(steps) > 1}
        for column in texts[0]["columns"]
        if column["key"] in keys
    ]
    apart = _differ([text["tokens"] for text in texts])
    most = max(OF_EACH, OF_ALL // len(shown))
    sequences: list[SequenceText] = []
    tokens: dict[str, str] = {}
    logs: list[tuple[str, list[int]]] = []
    for at, (name, text, result) in enumerate(shown):
        offset = APART * at if apart else 0
        chosen = [_moved(one, at, offset, text["steps"], steps) for one in text["sequences"][:most]]
        sequences += chosen
        logs.append((name, [v + offset for v in result.rocks]))
        tokens |= {str(int(v) + offset): token for v, token in text["tokens"].items()}
    kinds = {text["table"] for text in texts}
    return {
        "table": "fixed" if kinds == {"fixed"} else "rollout",
        "steps": steps,
        "columns": columns,
        "tokens": tokens,
        "rocks": [],
        "logs": logs,
        "sequences": sequences,
        "shown": len(sequences),
        "total": sum(text["total"] for text in texts),
        "capped": f"At most {most} of each log are shown; its own report shows more.",
    }


def _differ(vocabularies: Sequence[dict[str, str]]) -> bool:
    """Whether an id means one token here and another there."""
    seen: dict[str, str] = {}
    return any(
        seen.setdefault(v, token) != token for tokens in vocabularies for v, token in tokens.items()
    )


def _moved(
    sequence: SequenceText, log: int, offset: int, own: Sequence[int], steps: Sequence[int]
) -> SequenceText:
    """A sequence among those of other logs: its ids apart, and no values at steps it lacks."""
    at = {step: place for place, step in enumerate(own)}
    moved: SequenceText = {
        **sequence,
        "log": log,
        "token_ids": [v + offset for v in sequence["token_ids"]],
        "values": {
            key: [values[at[step]] if step in at else [] for step in steps]
            for key, values in sequence["values"].items()
        },
    }
    others = sequence.get("alternatives")
    if others is not None and offset:
        moved["alternatives"] = _apart(others, offset)
    return moved


def _apart(others: Alternatives, offset: int) -> Alternatives:
    def each(lists: list[list[float]]) -> list[list[float]]:
        return [[x if k % 2 else x + offset for k, x in enumerate(one)] for one in lists]

    student = {step: each(lists) for step, lists in others["student"].items()}
    return {"teacher": each(others["teacher"]), "student": student}
