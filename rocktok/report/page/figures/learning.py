"""Do they learn: losses at two steps, and over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rocktok.report.page.figures.gradients import strips
from rocktok.report.page.figures.style import (
    GROUP_LABELS,
    group_style,
    legend_below,
    log_axis,
    panel,
)

Numbers = Mapping[str, Any]


def _names(numbers: Numbers, between: str = " ") -> dict[str, str]:
    """Group → label: what stagnation chose by their loss are not the rocks of `detect`."""
    chosen = {"rocks": f"most loss{between}at first step"} if numbers.get("chosen") else {}
    return {**GROUP_LABELS, **chosen}


def _early_late(ax: Any, numbers: Numbers) -> None:
    """Mean loss of each type at the earlier and the later step; on the line nothing was learned."""
    values = [p[name] for p in numbers["points"] for name in ("loss_first", "loss_last")]
    ends = max(min(values) / 1.5, max(values) * 1e-5), max(values) * 1.5
    ax.plot(ends, ends, color="black", linewidth=0.7, linestyle="--", label="no change")
    for rock in (False, True):
        points = [p for p in numbers["points"] if p["is_rock"] == rock]
        style = group_style("rocks" if rock else "others")
        ax.plot(
            [p["loss_first"] for p in points], [p["loss_last"] for p in points], linestyle="",
            marker="o" if rock else ".", markersize=3.2, color=style["color"],
            markeredgewidth=0.3, markeredgecolor="white" if rock else style["color"],
            label=f"{'rocks' if rock else 'other types'} ({len(points)})",
            rasterized=len(points) > 500,
        )  # fmt: skip
    for axis, limits in ((ax.xaxis, ax.set_xlim), (ax.yaxis, ax.set_ylim)):
        log_axis(axis)
        limits(*ends)
    ax.set_xlabel(f"mean loss at step {numbers['pre']} (nats)")
    ax.set_ylabel(f"mean loss at step {numbers['post']} (nats)")
    ax.legend(loc="upper left", handletextpad=0.4)


def _delta_kl(ax: Any, numbers: Numbers) -> None:
    """Change of the types' mean losses by group; below zero: learned."""
    unit = f"ΔKL, step {numbers['first']} to {numbers['last']} (nats)"
    strips(ax, numbers["groups"], unit, _names(numbers, "\n"))
    ax.axhline(0, color="black", linewidth=0.5, linestyle=":")
    # Most changes are small beside the largest: linear up to a tenth of a nat, then logarithmic.
    ax.set_yscale("symlog", linthresh=0.1)
    values = [one["value"] for group in numbers["groups"] for one in group["types"]]
    low, high = min(-0.1, *values) * 1.4, max(0.1, *values) * 1.4
    ticks = [tick for tick in (-10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10) if low < tick < high]
    ax.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.set_ylim(low, high)
    ax.minorticks_off()


def _stagnation(ax: Any, numbers: Numbers) -> None:
    """Mean loss over the steps by group, with 95% bands over prompts."""
    from matplotlib.ticker import MaxNLocator

    names = _names(numbers)
    for line in numbers["lines"]:
        style = group_style(line["group"])
        steps = [point["step"] for point in line["curve"]]
        low, middle, high = (
            np.array([np.nan if point[name] is None else point[name] for point in line["curve"]])
            for name in ("low", "loss", "high")
        )
        size = "" if line["types"] is None else f" ({line['types']})"
        ax.plot(steps, middle, **style, label=f"{names[line['group']]}{size}")
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    log_axis(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("mean loss (nats)")
    legend_below(ax)


early_late = panel("early_late", _early_late)
delta_kl = panel("delta_kl", _delta_kl)
stagnation = panel("stagnation", _stagnation)
