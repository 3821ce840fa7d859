"""How much the accuracy changes without each token: a forest plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rocktok.analyses.pillars.result import PILLAR, STUMBLING, PillarsResult
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.style import group_style, label, legend_below
from rocktok.report.result import ReportResult
from rocktok.stats.group_names import CONTROL, ROCKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Arms that are drawn.
MOST = 20


class ForestRow(TypedDict):
    """One arm: change of the accuracy, with its interval."""

    benchmark: str
    token: str | None
    token_id: int
    mode: str
    group: str
    delta: float
    low: float
    high: float
    category: str


class PillarsNumbers(TypedDict):
    """Arms of one benchmark, rocks first, the smallest p first; `margin`: of equivalence."""

    benchmark: str
    margin: float
    arms: list[ForestRow]
    left_out: int


def _of_report(report: ReportResult) -> PillarsResult | None:
    results = (other.result for other in report.others)
    return next((result for result in results if isinstance(result, PillarsResult)), None)


def _numbers_of(result: PillarsResult) -> PillarsNumbers:
    if not result.arms:
        raise AbsentError("no arm ever acted")
    benchmark = result.sources[0]["benchmark"]
    ranked = sorted(
        (row for row in result.arms if row["benchmark"] == benchmark),
        key=lambda row: (row["group"] != "rock", row["p_value"], -abs(row["delta"]), row["arm"]),
    )
    if not ranked:
        raise AbsentError(f"no arm ever acted on {benchmark}")
    rows: list[ForestRow] = [
        {
            "benchmark": row["benchmark"],
            "token": row["token"],
            "token_id": row["token_id"],
            "mode": row["mode"],
            "group": row["group"],
            "delta": row["delta"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "category": row["category"],
        }
        for row in ranked[:MOST]
    ]
    return {
        "benchmark": benchmark,
        "margin": result.params["margin"],
        "arms": rows,
        "left_out": len(ranked) - len(rows),
    }


def _draw(ax: Axes, numbers: PillarsNumbers) -> None:
    """One line per arm, the surest effect on top."""
    rows = numbers["arms"]
    place = -np.arange(len(rows), dtype=float)
    margin = 100 * numbers["margin"]
    ax.axvspan(-margin, margin, color="#EEEEEE", zorder=0, linewidth=0)
    ax.axvline(0, color="#999999", linewidth=0.6, zorder=1)
    for name, group, is_rock in (
        ("rocks", ROCKS.name, True),
        ("other tokens", CONTROL.name, False),
    ):
        style = group_style(group)
        chosen = [
            (at, row)
            for at, row in zip(place, rows, strict=True)
            if (row["group"] == "rock") == is_rock
        ]
        if not chosen:
            continue
        heights = [at for at, _ in chosen]
        ax.hlines(heights, [100 * row["low"] for _, row in chosen],
                  [100 * row["high"] for _, row in chosen],
                  color=style["color"], linewidth=0.9)  # fmt: skip
        ax.plot([100 * row["delta"] for _, row in chosen], heights, linestyle="", label=name,
                marker=style["marker"], color=style["color"])  # fmt: skip
    names = [
        f"{row['token_id'] if row['token'] is None else label(row['token'])}"
        f"{' *' if row['category'] in (PILLAR, STUMBLING) else ''}"
        for row in rows
    ]
    ax.set_yticks(place, names, fontsize=6.5 if len(rows) <= 12 else 5)
    for text in ax.get_yticklabels():
        text.set_parse_math(False)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.set_xlabel("change of accuracy (percentage points)")
    ax.set_ylabel("token")
    legend_below(ax)


def _says(numbers: PillarsNumbers) -> str:
    text = (
        f"Change of the accuracy on {numbers['benchmark']} under each intervention, with 95% "
        "intervals over problems (or those of the level that was asked for); the arms with the "
        "smallest p are on top, rocks before other tokens. * changes the accuracy, corrected for "
        "the number of arms. In the grey band changes are too small to count: an interval that "
        "reaches out of it decides nothing."
    )
    left = numbers["left_out"]
    return f"{text} {left:,} more arms are in the table." if left else text


pillars = Figure(
    "pillars",
    "Accuracy without each token",
    _says,
    rests_on=(PillarsResult,),
    numbers_of=_numbers_of,
    draw=_draw,
    part=_of_report,
)
