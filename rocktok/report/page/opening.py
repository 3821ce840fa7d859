"""What a page opens with: the answer, the strongest rocks as chips, and how sure all of it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.detect.instead import InsteadRow
from rocktok.analyses.detect.table import opening as detected
from rocktok.report.hardest import HardType
from rocktok.report.page.flags import of_several
from rocktok.report.page.page_data import Chip, Chips, Opening
from rocktok.report.page.summary import summary
from rocktok.report.result import ReportResult
from rocktok.report.text_view import StepLoss
from rocktok.stats.group_names import LABELS, NAMES
from rocktok.tables.text import count, counted, number

#: Rocks that a page opens with, and other tokens named with each.
CHIPS, INSTEAD = 8, 2

#: A part of a note that says how to call a command or function, not what the numbers mean.
_CALL = re.compile(r"--[a-z]|Recorder\(|`rocktok|rocktok [a-z]+ --|`certain`")

#: Names in notes that are those of columns or parameters, in words.
_WORDS = {"tau_pre": "the earlier threshold", "tau_post": "the later threshold"}

_ANALYSES = {
    "attribute": "Gradients",
    "stagnation": "Loss over training",
    "stability": "Samples of prompts",
    "lifts": "Contexts one by one",
}


def page_opening(result: ReportResult) -> Opening:
    """The first screen of a page."""
    answer = detected(result.detect)
    first = summary(result)[0]["text"]
    told = bool(result.detect.rocks) or first.startswith(answer[0])
    if result.log["pre"] is None or not told:
        # Why there is nothing to test comes with it.
        answer = [first]
    return {
        "verdict": answer[0],
        "chips": chips(result),
        "sure": _how_sure(result, answer),
        "others": others(result),
    }


def _how_sure(result: ReportResult, answer: Sequence[str]) -> str:
    detection, rocks = result.detect, result.detect.rocks
    # The last line of a tested answer counts what stands beside rocks, as flags do.
    said = [f"{line.rstrip('.')}." for line in answer[1:2]]
    if rocks and detection.log["pre"] is not None:
        said.append(of_several([row["flags"] for row in rocks]))
        if detection.totals["tests"] is not None:
            types = len(result.types["token_id"])
            rare = types - (detection.totals["tested"] or 0)
            said.append(
                f"Not tested: {count(rare)} of {counted(types, 'token type')}, which are too rare "
                "or too rarely hard; and whether another run would name the same."
            )
    return " ".join(filter(None, said))


def chips(result: ReportResult) -> list[Chip]:
    """The first rocks, in the order of their rank."""
    return [
        {
            "token_id": row["token_id"],
            "token": row["token"],
            "loss_pre": row["mean_loss_pre"],
            "loss_post": row["mean_loss"],
            "loss_share": row["loss_share"],
            "curve": curve_of(result, row),
            "instead": likeliest(row)[:INSTEAD],
        }
        for row in result.detect.rocks[:CHIPS]
    ]


def others(result: ReportResult) -> list[Chips]:
    """Without rocks, the hardest types: first those that are hard beyond chance."""
    hard = [_no_rock(result, row) for row in result.hardest if row["hard"]]
    largest = [_no_rock(result, row) for row in result.hardest if not row["hard"]]
    groups: list[Chips] = [
        {"heading": "Not rocks: hard beyond chance, in contexts that do not recur", "chips": hard},
        {"heading": "Not rocks: the largest sums of loss (Rock Scores)", "chips": largest},
    ]
    return [group for group in groups if group["chips"]]


def _no_rock(result: ReportResult, row: HardType) -> Chip:
    """A chip that says what it is not."""
    label = "not a rock"
    if row["hardness"] is not None:
        label = f"hard {number(row['hardness'], 2)} times as often as expected; {label}"
    return {
        "token_id": row["token_id"],
        "token": row["token"],
        "loss_pre": row["mean_loss_pre"],
        "loss_post": row["mean_loss"],
        "loss_share": row["loss_share"],
        "curve": curve_of(result, row),
        "instead": row["instead"][:INSTEAD],
        "label": label,
    }


def curve_of(result: ReportResult, row: Mapping[str, Any]) -> list[StepLoss]:
    """Mean losses of a type over the steps shown; without text, at both ends alone."""
    curve = result.curves.get(row["token_id"])
    if curve:
        return curve
    pre, post = result.log["pre"], result.log["post"]
    ends: list[StepLoss] = []
    if pre is not None and row["mean_loss_pre"] is not None:
        ends.append({"step": pre, "loss": row["mean_loss_pre"]})
    return [*ends, {"step": post, "loss": row["mean_loss"]}]


def likeliest(row: Mapping[str, Any]) -> list[InsteadRow]:
    """What the teacher wanted in the place of a rock; [] where that is not known."""
    return list(row.get("instead") or ())


def plain(note: str) -> str:
    """A note as a sentence: no call of a command in it, no short name of an analysis before it."""
    name, _, rest = note.partition(": ")
    text, before = (rest, f"{_ANALYSES[name]}: ") if name in _ANALYSES else (note, "")
    group, _, rest = text.partition(": ")
    if group in NAMES:
        text = f"{LABELS[group]}: {rest}"
    parts = text.split("; ")
    said = [part for part in parts if not _CALL.search(part)] or parts
    text = f"{before}{'; '.join(said)}".rstrip(".")
    text = re.sub(r"\w+", lambda word: _WORDS.get(word[0], word[0]), text)
    return f"{text[:1].upper()}{text[1:]}."
