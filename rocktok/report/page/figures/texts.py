"""Where in the text the loss lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocktok.report.page.figures.style import group_style, legend_below, panel

Numbers = Mapping[str, Any]


def _position(ax: Any, numbers: Numbers) -> None:
    """Mean loss by relative position in the completion, of rocks and others, at both steps."""
    for group in ("rocks", "others"):
        rows = [row for row in numbers["bins"] if row["group"] == group]
        style = group_style(group)
        for column, line, step in (("loss_pre", ":", "pre"), ("loss_post", "-", "post")):
            if column not in (rows[0] if rows else {}):
                continue
            # Short completions leave bins empty: the one before reaches over them.
            held = [row for row in rows if row[column] is not None]
            heights = [row[column] for row in held]
            edges = [row["low"] for row in held] + [row["high"] for row in held[-1:]]
            if not held:
                continue
            ax.stairs(heights, edges, baseline=None, color=style["color"], linestyle=line,
                      linewidth=1.2, label=f"{group}, step {numbers[step]}")  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("relative position in the completion")
    ax.set_ylabel("mean loss (nats)")
    legend_below(ax)


position = panel("position", _position)
