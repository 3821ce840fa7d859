"""`controls` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocktok.analyses.controls.result import ControlsResult, PairRow
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import contexts_of_rocks, left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, filled, render_table, token

Row = Mapping[str, Any]

_BALANCE = (
    Field("kind", text=True),
    Field("covariate", text=True),
    Field("pairs"),
    Field("no match"),
    Field("before"),
    Field("after"),
    Field("", text=True, dim=True),
)

#: |standardised mean difference| above which a covariate counts as unbalanced (Austin 2011).
UNBALANCED = 0.1


def opening(result: ControlsResult) -> list[str]:
    """The number of matched rocks, and the balance of the matches."""
    return [_answer(result), _how_sure(result)]


def render(result: ControlsResult, view: View | None = None) -> str:
    """Answer, balance of each kind, what could not be matched, provenance."""
    view = view or View.plain()
    log = result.log
    cells = []
    for kind, found in result.kinds.items():
        for i, row in enumerate(found["balance"]):
            after = row["smd_after"]
            cells.append(
                (
                    kind if i == 0 else "",
                    row["covariate"],
                    count(row["pairs"]) if i == 0 else "",
                    count(len(found["unmatched"])) if i == 0 else "",
                    _difference(row["smd_before"]),
                    _difference(after),
                    "!" if after is not None and abs(after) > UNBALANCED else "",
                )
            )
    parts = [
        *view.answer(opening(result)),
        "",
        view.heading(
            "Standardised mean differences, rocks minus others, before and after matching"
        ),
        render_table(_BALANCE, cells, view).rstrip("\n"),
        view.aside(f"! unbalanced: beyond ±{UNBALANCED}  no match: none within the caliper"),
    ]
    for kind, found in result.kinds.items():
        alone = found["unmatched"]
        if alone:
            shown = view.first(alone)
            parts += [
                "",
                view.heading(f"{kind}: no match for {_WHAT[kind]}"),
                filled((_one(place, result) for place in shown), view),
                *view.more(len(alone) - len(shown), "--all"),
            ]
    parts += [
        "",
        view.aside(
            f"{counted(len(log['rocks']), 'rock')} in {log['table']}/, step {log['step']}; "
            f"{counted(log['passes'], 'pass')}"
        ),
        *map(view.aside, (*contexts_of_rocks(log), *left_out(log), log["path"])),
    ]
    return "\n".join(parts) + "\n"


def _answer(result: ControlsResult) -> str:
    """The number of matched rocks, and of matched occurrences."""
    parts: list[str] = []
    for kinds, what in (
        (("frequency", "loss"), "rocks"),
        (("occurrence", "window"), "occurrences"),
    ):
        matched = [(kind, result.kinds[kind]) for kind in kinds if kind in result.kinds]
        words = [
            f"{len(one['pairs']):,}"
            + ("" if at else f" of {len(one['pairs']) + len(one['unmatched']):,} {what}")
            + f" by {_LIKE[kind]}"
            for at, (kind, one) in enumerate(matched)
        ]
        parts += [", ".join(words)] if words else []
    return f"There are controls for {', and for '.join(parts)}."


_LIKE = {"frequency": "frequency", "loss": "loss", "occurrence": "position and loss",
         "window": "window"}  # fmt: skip


def _how_sure(result: ControlsResult) -> str:
    """The covariates that differ between rocks and their controls after matching."""
    if not any(matched["pairs"] for matched in result.kinds.values()):
        return "Nothing was matched; the notes say why."
    apart = [
        f"{row['covariate']} by {kind} ({_difference(row['smd_after'])})"
        for kind, matched in result.kinds.items()
        for row in matched["balance"]
        if row["smd_after"] is not None and abs(row["smd_after"]) > UNBALANCED
    ]
    if not apart:
        return f"All covariates are balanced, within ±{UNBALANCED} standard deviations."
    return f"Not balanced, in standard deviations: {', '.join(apart)}."


_WHAT = {
    "frequency": "the types",
    "loss": "the types",
    "occurrence": "sequence:position token",
    "window": "sequence:position token",
}


def _one(place: int | list[int], result: ControlsResult) -> str:
    if isinstance(place, int):
        return token(result.text(place))
    return f"{place[0]}:{place[1]} {token(result.text(place[2]))}"


def _difference(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def encode(result: ControlsResult, form: Form) -> bytes:
    """One row per pair."""
    return encode_table(result.rows(), kinds_of(PairRow), form, result.to_dict())
