"""A page without rocks: what is not on it, in one sentence, and whom its notes concern."""

from __future__ import annotations

import re
from collections.abc import Collection

from rocktok.report.page.figures.robustness import counting_rocks
from rocktok.report.result import ReportResult
from rocktok.tables.text import count

#: Figure → what it shows of rocks.
_OF_ROCKS = {
    "ccr": "contexts",
    "clusters": "kinds",
    "density": "density",
    "shares": "share of the gradient",
    "lenses": "place in other papers' lenses",
}

#: Notes that say no more than that there are no rocks.
_VOID = re.compile(r"\bno rocks (to|for)\b")


def folded(result: ReportResult, figures: Collection[str]) -> str | None:
    """The sentence; None where there are rocks. `figures`: names of those on the page."""
    if result.detect.rocks:
        return None
    absent = [words for name, words in _OF_ROCKS.items() if name not in figures]
    text = "There are no rocks"
    if absent:
        listed = absent[0] if len(absent) == 1 else f"{', '.join(absent[:-1])} and {absent[-1]}"
        text += f", so figures of their {listed} are left out"
    cells = counting_rocks(result.sensitivity or ())
    if cells and not any(cell["rocks"] for cell in cells):
        text += f"; none of {count(len(cells))} settings of contexts names any"
    return f"{text}."


def concerns(result: ReportResult, note: str) -> bool:
    """Whether a note says anything of a page with these rocks, or without any."""
    return bool(result.detect.rocks) or not _VOID.search(note)
