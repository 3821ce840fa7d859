"""What differs between thirds: of the text in which an arm acted, and of texts by their length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rocktok.analyses.pillars.result import PillarsResult
from rocktok.tables.changes import or_dash, signed, signed_number
from rocktok.tables.text import Field, percent

#: Heading of a table, its columns, its rows.
Section = tuple[str, Sequence[Field], Iterable[tuple[str, ...]]]

#: Kind of thirds → what a heading calls them, and their names.
KINDS = {
    "position": ("by where in the text the arm first acted", ("early", "middle", "late")),
    "length": ("by the length of the text", ("short", "medium", "long")),
}


def thirds(result: PillarsResult, *, everything: bool) -> Iterator[Section]:
    """Tables of one column per third; those by length only where `everything` is asked for."""
    for kind, (words, names) in KINDS.items():
        if kind == "length" and not everything:
            continue
        fields = (
            Field("group", text=True, least=16),
            Field("mode", text=True),
            *map(Field, names),
            Field("benchmark", text=True, extra=True),
        )
        effects = [row for row in result.cohorts if row["kind"] == kind]
        after = [row for row in result.compensation_cohorts if row["kind"] == kind]
        losses = [row for row in after if row["loss_change"] is not None]
        yield (f"Change of accuracy {words} (95%)", fields, _by_third(names, effects, _effect))
        yield f"Change of the loss after the place, {words}, in nats", fields, [
            *_by_third(names, losses, lambda row: signed_number(row["loss_change"])),
            *_by_third(names, _against(losses), _loss_difference),
        ]  # fmt: skip
        yield f"Share of tokens edited after the place, {words}", fields, [
            *_by_third(names, after, lambda row: percent(row["edit_after"])),
            *_by_third(names, _against(after), _edit_difference),
        ]  # fmt: skip


def _by_third(
    names: Sequence[str], rows: Iterable[Mapping[str, Any]], cell: Any
) -> Iterator[tuple[str, ...]]:
    """One row per group, mode and benchmark, in their order; a dash where a third is absent."""
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        own = cells.setdefault((row["group"], row["mode"], row["benchmark"]), {})
        own[row["cohort"]] = cell(row)
    for (group, mode, benchmark), own in cells.items():
        yield (group, mode, *(own.get(name, "–") for name in names), benchmark)


def _against(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same for the differences between rocks and the other groups."""
    return [
        {**row, "group": f"rock − {row['group']}"}
        for row in rows
        if row["group"] != "rock" and row["pairs"]
    ]


def _effect(row: Mapping[str, Any]) -> str:
    return _with(signed(row["delta"]), row["ci_low"], row["ci_high"], signed)


def _loss_difference(row: Mapping[str, Any]) -> str:
    low, high = row["loss_difference_low"], row["loss_difference_high"]
    return _with(signed_number(row["loss_difference"]), low, high, signed_number)


def _edit_difference(row: Mapping[str, Any]) -> str:
    low, high = row["edit_difference_low"], row["edit_difference_high"]
    return _with(or_dash(row["edit_difference"]), low, high, signed)


def _with(value: str, low: float | None, high: float | None, form: Any) -> str:
    """A number, and its interval in brackets where it has one."""
    return value if low is None or high is None else f"{value} ({form(low)}, {form(high)})"
