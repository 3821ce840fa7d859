"""How much of the rock occurrences lies in the top 10% of each lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rocktok.analyses.lenses.result import LensesResult
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.style import group_style, legend_below
from rocktok.report.result import ReportResult
from rocktok.stats.group_names import ROCKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LensShares(TypedDict):
    """Shares of positions in the top 10% of a lens: of all, of rock occurrences, of others.

    `hard_share`: of hard positions of other types; `type_share`: of other occurrences of the
    rocks' types; `shuffled_share`: of rock occurrences if losses are shuffled within sequences.
    """

    lens: str
    top_share: float
    rocks_share: float
    rocks_share_low: float | None
    rocks_share_high: float | None
    hard_share: float | None
    type_share: float | None
    shuffled_share: float | None
    singles_out: bool | None


class LensesNumbers(TypedDict):
    """Lenses that rank positions, by Jaccard with the rock occurrences."""

    pre: int | None
    post: int
    lenses: list[LensShares]


def _of_report(report: ReportResult) -> LensesResult | None:
    results = (other.result for other in report.others)
    return next((result for result in results if isinstance(result, LensesResult)), None)


def _numbers_of(result: LensesResult) -> LensesNumbers:
    ranked = sorted(
        (row for row in result.lenses if row["jaccard_top10"] is not None),
        key=lambda row: -(row["jaccard_top10"] or 0.0),
    )
    rows: list[LensShares] = [
        {
            "lens": row["name"],
            "top_share": row["top_share"],
            "rocks_share": row["rocks_share"],
            "rocks_share_low": row["rocks_share_low"],
            "rocks_share_high": row["rocks_share_high"],
            "hard_share": row["hard_share"],
            "type_share": row["type_share"],
            "shuffled_share": row["shuffled_share"],
            "singles_out": row["singles_out"],
        }
        for row in ranked
        if row["top_share"] is not None and row["rocks_share"] is not None
    ]
    if not rows:
        raise AbsentError(result.log["no_rocks"] or "no lens ranks positions")
    return {"pre": result.log["pre"], "post": result.log["post"], "lenses": rows}


#: What is held against the rock occurrences: key, label, colour, marker.
_AGAINST = (
    ("top_share", "all positions", "#000000", "|"),
    ("type_share", "rocks' types elsewhere", "#56B4E9", "^"),
    ("hard_share", "other hard positions", "#0072B2", "s"),
    ("shuffled_share", "losses shuffled", "#009E73", "D"),
)


def _draw(ax: Axes, numbers: LensesNumbers) -> None:
    """Shares in the top 10% by lens: one row each, the closest on top."""
    rows = numbers["lenses"]
    place = -np.arange(len(rows), dtype=float)
    for key, text, color, marker in _AGAINST:
        shares = [100 * _number(row.get(key)) for row in rows]
        ax.plot(shares, place, linestyle="", marker=marker, color=color, label=text,
                markersize=6 if marker == "|" else 3.5,
                markerfacecolor="none" if marker != "|" else color)  # fmt: skip
    style = group_style(ROCKS.name)
    ax.plot([100 * row["rocks_share"] for row in rows], place, linestyle="",
            marker=style["marker"], color=style["color"], label="rock occurrences")  # fmt: skip
    for at, row in zip(place, rows, strict=True):
        low, high = row["rocks_share_low"], row["rocks_share_high"]
        if low is not None and high is not None:
            ax.hlines(at, 100 * low, 100 * high, color=style["color"], linewidth=0.9)
    names = [f"{row['lens']}{' *' if row['singles_out'] else ''}" for row in rows]
    ax.set_yticks(place, names)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.set_xlim(left=0)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel("share in the lens's top 10% (%)")
    ax.set_ylabel("lens")
    legend_below(ax)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


lenses = Figure(
    "lenses",
    "Rocks through the lenses of other papers",
    "Of the rock occurrences, with 95% intervals over prompts, the share that is in the top 10% of "
    "each lens; beside it those of all positions, of hard positions of other types, of the other "
    "occurrences of the rocks' types, and of the rock occurrences there would be if losses were "
    "shuffled within sequences. Rocks are hard by definition, so a lens that looks at the loss is "
    "far beyond all positions: the others are what tells. * is beyond all four, for all lenses "
    "together.",
    rests_on=(LensesResult,),
    numbers_of=_numbers_of,
    draw=_draw,
    part=_of_report,
)
