"""Who takes the gradient, and which way it points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rocktok.report.page.figures.style import (
    GROUP_LABELS,
    group_style,
    legend_below,
    log_axis,
    panel,
)

Numbers = Mapping[str, Any]

_SHARES = (
    ("position_share", "positions", "#BBBBBB", "////"),
    ("loss_share", "loss", "#0072B2", None),
    ("grad_share", "gradient norm", "#D55E00", "\\\\\\\\"),
)


def _shares(ax: Any, numbers: Numbers) -> None:
    """Shares of positions, loss and gradient norm by group, with 95% intervals."""
    groups = numbers["groups"]
    place = np.arange(len(groups))
    for at, (name, text, color, hatch) in enumerate(_SHARES):
        heights = np.array([100 * row[name] for row in groups])
        x = place + (at - 1) * 0.27
        ax.bar(x, heights, 0.25, color=color, hatch=hatch, edgecolor="white", linewidth=0,
               label=text)  # fmt: skip
        for x_of, row in zip(x, groups, strict=True):
            if row[f"{name}_low"] is not None:
                ax.vlines(x_of, 100 * row[f"{name}_low"], 100 * row[f"{name}_high"], color="black",
                          linewidth=0.8)  # fmt: skip
    ax.set_xticks(place, [f"{GROUP_LABELS[r['group']]}\n({r['types']} types)" for r in groups])
    ax.set_ylabel("share of all (%)")
    legend_below(ax, 3)


def strips(ax: Any, groups: list[Any], unit: str, labels: Mapping[str, str] = GROUP_LABELS) -> None:
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


def _gradient_norm(ax: Any, numbers: Numbers) -> None:
    """Size of the types' gradients by group; bars are medians."""
    mean = numbers["measure"] == "mean_norm"
    strips(
        ax,
        numbers["groups"],
        "norm of the mean gradient (nats/logit)" if mean else "mean gradient norm (nats/logit)",
    )
    values = [one["value"] for group in numbers["groups"] for one in group["types"]]
    if values and min(values) > 0:
        log_axis(ax.yaxis)


def _gradient_cosine(ax: Any, numbers: Numbers) -> None:
    """Cosine of a type's mean gradient with the sum of all others', other prompts."""
    strips(ax, numbers["groups"], "cosine with all others' gradient")
    ax.axhline(0, color="black", linewidth=0.5, linestyle=":")


shares = panel("shares", _shares)
gradient_norm = panel("gradient_norm", _gradient_norm)
gradient_cosine = panel("gradient_cosine", _gradient_cosine)
