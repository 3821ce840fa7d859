"""The table of an adjusted contrast: its verdict, and what it rests on at each cutoff."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rocktok.tables.terminal import View
from rocktok.tables.text import Field, number, p_value, render_table


def adjusted_table(
    row: Mapping[str, Any] | None, view: View, *, what: str, types: str, loss: str
) -> list[str]:
    """Lines of it; none without a contrast.

    Args:
        row: an `AdjustedComparison`.
        what: is compared, as the heading begins.
        types: name of the column that counts the types of a cutoff.
        loss: of which the means are given.
    """
    if row is None:
        return []
    names = (types, "supported", "ratio", "95%", "p Holm", "comparable")
    cells = (
        (
            f"{each['cutoff']:g}",
            str(each["types"]),
            f"{each['supported']}/{each['measured']}",
            _factor(each["difference"]),
            "–" if each["low"] is None else f"{_factor(each['low'])} to {_factor(each['high'])}",
            p_value(each["p_holm"]) if each["p_holm"] is not None else "–",
            "yes" if each["comparable"] else "no",
        )
        for each in row["cutoffs"]
    )
    return [
        view.heading(f"{what} against others of similar loss and frequency: {row['verdict']}"),
        view.prose(
            f"{loss}: {number(row['loss_first'])}, others {number(row['loss_second'])}; "
            "supported: 5 others of similar loss"
        ),
        render_table((Field("cutoff", text=True), *map(Field, names)), cells, view),
    ]


def _factor(log: float | None) -> str:
    return "–" if log is None else f"{math.exp(log):.2f}"
