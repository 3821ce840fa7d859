"""The same figure of several logs, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rocktok.report.page.figures.style import HEIGHT, WIDTHS, log_ticks, styled

#: Figures worth comparing between logs, in their order.
COMPARED = ("funnel", "ccr", "clusters", "density", "position", "stagnation", "shares", "coverage")

#: Panels in a row.
_ACROSS = 2

#: Figure → the axes that are quantities: its panels share their range.
_SHARED = {
    "funnel": "xy", "ccr": "xy", "clusters": "x", "density": "xy", "position": "xy",
    "stagnation": "xy", "shares": "y", "coverage": "xy",
}  # fmt: skip


def _short(title: str, most: int = 36) -> str:
    """The end of a long name, where paths differ."""
    return title if len(title) <= most else f"…{title[1 - most :]}"


def multiples(figure: Callable[..., Any], name: str, numbers: Mapping[str, Any]) -> Any:
    """Draw one figure for each log (label → numbers); the panels share their scale."""
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(numbers))
    down = math.ceil(len(numbers) / across)
    with styled():
        made = Figure(figsize=(WIDTHS[across], HEIGHT * down), layout="constrained")
        axes = made.subplots(down, across, squeeze=False).ravel()
        used = axes[: len(numbers)]
        for ax, (title, behind) in zip(used, numbers.items(), strict=True):
            figure(behind, ax=ax)
            ax.set_title(_short(title), parse_math=False)
        for ax in axes[len(numbers) :]:
            ax.set_visible(False)
        for direction in _SHARED.get(name, ""):
            _share(list(used), direction)
    return made


def _share(used: Sequence[Any], direction: str) -> None:
    """One range for all panels, with the ticks that it asks for."""
    from matplotlib.ticker import FixedLocator, LogLocator

    axes = [getattr(ax, f"{direction}axis") for ax in used]
    ranges = [axis.get_view_interval() for axis in axes]
    scales = {axis.get_scale() for axis in axes}
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if len(scales) > 1:
        return  # a log without loss has a linear axis: there is no range for both
    widest = axes[max(range(len(axes)), key=lambda i: ranges[i][1])]
    for axis in axes:
        getattr(axis.axes, f"set_{direction}lim")(low, high)
        if isinstance(axis.get_major_locator(), LogLocator):
            log_ticks(axis)
        elif isinstance(axis.get_major_locator(), FixedLocator):
            ticks = widest.get_majorticklocs()
            axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
