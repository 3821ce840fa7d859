"""Token types as points: which of them are drawn, and strips of them by group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from rocktok.report.page.figures.style import group_style
from rocktok.stats.group_names import LABELS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Types that are drawn as points beside the rocks.
MOST = 2_000

#: Types of a group from which it has a median that says more than its points do.
ENOUGH = 3


class TypeValue(TypedDict):
    """One type's value."""

    token_id: int
    value: float


class GroupValues(TypedDict):
    """The types of a group that have a value, and their median."""

    group: str
    types: list[TypeValue]
    median: float


class PlacedPoint(TypedDict):
    """Where a type's point lies in the figure's SVG, and what it shows: labels and values."""

    token_id: int
    x: float
    y: float
    values: list[tuple[str, float]]


def of_types(artist: Artist, token_ids: Iterable[int], *, across: bool = True) -> None:
    """Remember whose points an artist holds. `across`: whether their x is a quantity."""
    held: Any = artist
    held.token_ids, held.across = list(token_ids), across


def placed(figure: Figure) -> list[PlacedPoint]:
    """The points of types that lie within their axes, as the figure is laid out, in pt."""
    scale, height = 72 / figure.dpi, figure.get_figheight() * 72
    points: list[PlacedPoint] = []
    for ax in figure.axes:
        names = [text.split("\n")[0] for text in (ax.get_xlabel(), ax.get_ylabel())]
        box = ax.get_window_extent()
        for artist in (*ax.lines, *ax.collections):
            ids = getattr(artist, "token_ids", None)
            if ids is None:
                continue
            held: Any = artist
            xy_PC = np.asarray(held.get_xydata() if artist in ax.lines else held.get_offsets())
            with np.errstate(all="ignore"):
                at_PC = ax.transData.transform(xy_PC)
            for token_id, values, (x, y) in zip(ids, xy_PC.tolist(), at_PC.tolist(), strict=True):
                if not (box.x0 - 1 <= x <= box.x1 + 1 and box.y0 - 1 <= y <= box.y1 + 1):
                    continue  # NaN and infinity among them
                said = list(zip(names, values, strict=True))
                points.append({"token_id": token_id, "x": round(x * scale, 2),
                               "y": round(height - y * scale, 2),
                               "values": said if held.across else said[1:]})  # fmt: skip
    return points


def size(types: int) -> str:
    """How many types a group has, in a legend or on an axis."""
    return f"{types}" if types >= ENOUGH else f"{types}: too few"


def thinned(token_ids: Sequence[int], rocks: set[int]) -> list[int]:
    """Places of all rocks, and of an even choice of the others."""
    others = [i for i, v in enumerate(token_ids) if v not in rocks]
    if len(others) > MOST:
        places = np.linspace(0, len(others) - 1, MOST).round().astype(int)
        others = [others[at] for at in places.tolist()]
    return others + [i for i, v in enumerate(token_ids) if v in rocks]


def by_group(
    pairs: Mapping[str, Iterable[tuple[int, float | None]]],
) -> list[GroupValues]:
    """Of (token id, value) by group: the groups with any value that is finite."""
    groups: list[GroupValues] = []
    for group, values in pairs.items():
        types: list[TypeValue] = [
            {"token_id": v, "value": value}
            for v, value in values
            if value is not None and math.isfinite(value)
        ]
        if types:
            median = float(np.median([one["value"] for one in types]))
            groups.append({"group": group, "types": types, "median": median})
    return groups


def strips(
    ax: Axes, groups: Sequence[GroupValues], unit: str, labels: Mapping[str, str] = LABELS
) -> None:
    """A point for each type, by group; the bar is the median, of three types or more."""
    generator = np.random.default_rng(0)  # of the sideways shift alone, so that points are seen
    for at, group in enumerate(groups):
        style = group_style(group["group"])
        values = np.array([one["value"] for one in group["types"]])
        x = at + generator.uniform(-0.22, 0.22, len(values))
        (line,) = ax.plot(x, values, linestyle="", marker=style["marker"], color=style["color"],
                          markersize=2.6, alpha=0.75, markeredgewidth=0,
                          rasterized=len(values) > 500)  # fmt: skip
        of_types(line, [one["token_id"] for one in group["types"]], across=False)
        if len(values) >= ENOUGH:
            ax.hlines(group["median"], at - 0.36, at + 0.36, color="black", linewidth=1.3)
    names = [f"{labels[g['group']]}\n({size(len(g['types']))})" for g in groups]
    ax.set_xticks(range(len(groups)), names)
    ax.set_ylabel(unit)
