"""Where in the text the loss lies, and how densely the rocks stand in it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np

from rocktok.report.naming import RockNames, rock_names
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.points import ENOUGH
from rocktok.report.page.figures.rule import named, with_rule
from rocktok.report.page.figures.style import group_style, legend_below
from rocktok.report.result import ReportResult
from rocktok.stats.group_names import ALL_POSITIONS, OTHERS, ROCKS
from rocktok.tables.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DensityNumbers(TypedDict):
    """How many sequences are in each bin of the share that is of a rock type, or retained.

    `medians`: share → median over the sequences; None for one that was not computed.
    """

    named: NotRequired[RockNames]
    edges: list[float]
    type: list[int] | None
    retained: list[int] | None
    sequences: int
    seen: int
    medians: dict[str, float | None]


class PositionBin(TypedDict):
    """Positions of a group and their mean losses, in a bin of the relative position."""

    group: str
    low: float
    high: float
    positions: int
    loss_pre: NotRequired[float | None]
    loss_post: float | None


class PositionNumbers(TypedDict):
    """Bins of rocks and of others, at one step or two."""

    named: NotRequired[RockNames]
    bins: list[PositionBin]
    pre: int | None
    post: int


def _density_of(result: ReportResult) -> DensityNumbers:
    if not result.density["sequences"] or not result.rocks:
        raise AbsentError("no rocks")
    if result.density["sequences"] < ENOUGH:
        few = counted(result.density["sequences"], "sequence")
        raise AbsentError(f"too few for a distribution: {few}", "record more sequences")
    histogram, density = result.density, result.detect.density
    return {
        "named": rock_names(result.detect),
        "edges": histogram["edges"],
        "type": histogram["type"],
        "retained": histogram["retained"],
        "sequences": histogram["sequences"],
        "seen": histogram["seen"],
        "medians": {share: density[share]["median"] for share in ("type", "retained")},
    }


def _draw_density(ax: Axes, numbers: DensityNumbers) -> None:
    """Sequences by the share of their positions that is of a rock type, or retained."""
    edges = numbers["edges"]
    looks = (
        ("type", numbers["type"], "of a rock type", "#D55E00", "-", None),
        ("retained", numbers["retained"], "retained occurrences", "#0072B2", "--", "////"),
    )
    for name, counts, text, color, line, hatch in looks:
        if counts is None:
            continue
        share = np.array(counts) / max(1, sum(counts))
        ax.stairs(share, edges, color=color, fill=True, alpha=0.25, linewidth=0, hatch=hatch)
        ax.stairs(share, edges, color=color, linestyle=line, linewidth=1.1)
        ax.plot([], [], color=color, linestyle=line, label=text)
        median = numbers["medians"].get(name)
        if median is not None:
            ax.axvline(median, color=color, linewidth=0.7, linestyle=line)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of a sequence's positions")
    ax.set_ylabel("share of sequences")
    legend_below(ax, title=f"{named(numbers)}; vertical lines: medians")


def _position_of(result: ReportResult) -> PositionNumbers:
    bins = cast("list[PositionBin]", list(result.positions))
    return {"named": rock_names(result.detect), "bins": bins, "pre": result.log["pre"],
            "post": result.log["post"]}  # fmt: skip


def _has_rocks(numbers: PositionNumbers) -> bool:
    return any(r["group"] == ROCKS.name and r["loss_post"] is not None for r in numbers["bins"])


def _position_caption(numbers: PositionNumbers) -> str:
    whose = "rock types and of all others" if _has_rocks(numbers) else "all types"
    text = f"Mean loss by relative position in the completion, of {whose}."
    return with_rule(text, numbers)


def _draw_position(ax: Axes, numbers: PositionNumbers) -> None:
    """Mean loss by relative position in the completion, of rocks and others, at both steps."""
    others = OTHERS if _has_rocks(numbers) else ALL_POSITIONS
    names = {ROCKS.name: ROCKS.label, OTHERS.name: others.label}
    for group in names:
        bins = [row for row in numbers["bins"] if row["group"] == group]
        style = group_style(group)
        pre = [(row, row["loss_pre"]) for row in bins if "loss_pre" in row]
        post = [(row, row["loss_post"]) for row in bins]
        for losses, line, step in ((pre, ":", numbers["pre"]), (post, "-", numbers["post"])):
            # Short completions leave bins empty: the one before reaches over them.
            drawn = [(row, loss) for row, loss in losses if loss is not None]
            if not drawn:
                continue
            heights = [loss for _, loss in drawn]
            edges = [*(row["low"] for row, _ in drawn), drawn[-1][0]["high"]]
            ax.stairs(heights, edges, baseline=None, color=style["color"], linestyle=line,
                      linewidth=1.2, label=f"{names[group]}, step {step}")  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("relative position in the completion")
    ax.set_ylabel("mean loss (nats)")
    legend_below(ax, title=named(numbers) if _has_rocks(numbers) else None)


density = Figure(
    "density",
    "Rocks per sequence",
    partial(
        with_rule,
        "Sequences by the share of their positions that is of a rock type, and that is a retained "
        "occurrence of one. The first counts easy occurrences, too.",
    ),
    rests_on=(ReportResult,),
    numbers_of=_density_of,
    draw=_draw_density,
    shared_axes="xy",
)
position = Figure(
    "position",
    "Where in the text",
    _position_caption,
    rests_on=(ReportResult,),
    numbers_of=_position_of,
    draw=_draw_position,
    shared_axes="xy",
)
