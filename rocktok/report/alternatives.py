"""Likeliest tokens of both models at the positions of the text view."""

from __future__ import annotations

from typing import TypedDict

from rocktok.report.sequences import Occurrences

#: Maximum number of alternatives of each model per position.
SHOWN = 3

#: Columns of a source with alternatives.
COLUMNS = (
    "has_alternatives",
    "student_ids",
    "student_probs",
    "teacher_ids",
    "teacher_probs",
)


class Alternatives(TypedDict):
    """Likeliest tokens at each position: id, probability, id, probability, …; [] where unknown.

    `teacher`: of all steps; `student`: by step, as text, at those steps that have them.
    """

    teacher: list[list[float]]
    student: dict[str, list[list[float]]]


def at_positions(
    steps: list[int], at_steps: list[Occurrences | None], positions: list[int]
) -> Alternatives | None:
    """Alternatives of both models; of the teacher at the last step that has them."""
    found: Alternatives = {"teacher": [], "student": {}}
    for step, rows in zip(steps, at_steps, strict=True):
        if rows is None or "has_alternatives" not in rows:
            continue
        if rows["position"].tolist() != positions or not rows["has_alternatives"].any():
            continue
        found["student"][str(step)] = _likeliest(rows, "student")
        found["teacher"] = _likeliest(rows, "teacher")
    return found if found["student"] else None


def _likeliest(rows: Occurrences, model: str) -> list[list[float]]:
    ids_NK, probs_NK = rows[f"{model}_ids"], rows[f"{model}_probs"]
    return [
        [
            part
            for v, p in zip(ids[:SHOWN], probs[:SHOWN], strict=True)
            if v >= 0
            for part in (v, float(f"{p:.2g}"))
        ]
        for ids, probs in zip(ids_NK.tolist(), probs_NK.tolist(), strict=True)
    ]


def count(others: Alternatives) -> int:
    """Number of tokens in all lists."""
    lists = [others["teacher"], *others["student"].values()]
    return sum(len(one) // 2 for each in lists for one in each)


def token_ids(others: Alternatives) -> set[int]:
    """Token ids of all alternatives of a sequence."""
    lists = [others["teacher"], *others["student"].values()]
    return {int(v) for each in lists for one in each for v in one[::2]}


def shortened(others: Alternatives, length: int) -> Alternatives:
    """Alternatives of the first positions alone."""
    return {
        "teacher": others["teacher"][:length],
        "student": {step: each[:length] for step, each in others["student"].items()},
    }
