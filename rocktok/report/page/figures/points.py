"""Token types as points: which of them are drawn, and strips of them by group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rocktok.report.page.figures.style import group_style
from rocktok.stats.group_names import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Types that are drawn as points beside the rocks.
MOST = 2_000


class TypeValue(TypedDict):
    """One type's value."""

    token_id: int
    value: float


class GroupValues(TypedDict):
    """The types of a group that have a value, and their median."""

    group: str
    types: list[TypeValue]
    median: float


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
    """A point for each type, by group; the bar is the median."""
    generator = np.random.default_rng(0)  # of the sideways shift alone, so that points are seen
    for at, group in enumerate(groups):
        style = group_style(group["group"])
        values = np.array([one["value"] for one in group["types"]])
        x = at + generator.uniform(-0.22, 0.22, len(values))
        ax.plot(x, values, linestyle="", marker=style["marker"], color=style["color"],
                markersize=2.6, alpha=0.75, markeredgewidth=0,
                rasterized=len(values) > 500)  # fmt: skip
        ax.hlines(group["median"], at - 0.36, at + 0.36, color="black", linewidth=1.3)
    names = [f"{labels[g['group']]}\n({len(g['types'])})" for g in groups]
    ax.set_xticks(range(len(groups)), names)
    ax.set_ylabel(unit)
