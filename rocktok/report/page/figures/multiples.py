"""The same figure of several logs, side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rocktok.report.page.figures.figure import Figure, Numbers, Source
from rocktok.report.page.figures.style import HEIGHT, WIDTHS, log_ticks, styled

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Panels in a row.
_ACROSS = 2


def _short(title: str, most: int = 36) -> str:
    """The end of a long name, where paths differ."""
    return title if len(title) <= most else f"…{title[1 - most :]}"


def multiples(
    figure: Figure[Source, Numbers], by_log: Mapping[str, Numbers]
) -> matplotlib.figure.Figure:
    """Draw one figure for each log (label → numbers); the panels share their scale."""
    across = min(_ACROSS, len(by_log))
    down = math.ceil(len(by_log) / across)
    with styled():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(WIDTHS[across], HEIGHT * down), layout="constrained")
        axes = canvas.subplots(down, across, squeeze=False).ravel()
        used = axes[: len(by_log)]
        for ax, (title, numbers) in zip(used, by_log.items(), strict=True):
            figure.draw(ax, numbers)
            ax.set_title(_short(title), parse_math=False)
        _share_legend(canvas, list(used))
        for ax in axes[len(by_log) :]:
            ax.set_visible(False)
        for direction in ("x", "y"):
            if direction in figure.shared_axes:
                _share(list(used), direction)
    return canvas


#: In a legend: how many, which panels do not share.
_COUNT = re.compile(r"^[\d,]+ (?:of [\d,]+ )?| \(\d[\d,]*(?:: too few)?\)$")


def _share_legend(canvas: matplotlib.figure.Figure, used: Sequence[Axes]) -> None:
    """One legend for all panels, of everything that any of them shows; numbers go with panels."""
    handles: dict[str, Artist] = {}
    titles: dict[str, None] = {}
    for ax in used:
        legend = ax.get_legend()
        if legend is None:
            continue
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(_COUNT.sub("", label), handle)
        titles[_COUNT.sub("", legend.get_title().get_text())] = None
        legend.remove()
    if handles:
        canvas.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=3,
            columnspacing=1.2, handlelength=2.6, title="; ".join(filter(None, titles)) or None,
            title_fontsize=6,
        )  # fmt: skip


def _share(used: Sequence[Axes], direction: Literal["x", "y"]) -> None:
    """One range for all panels, with the ticks that it asks for."""
    from matplotlib.ticker import FixedLocator, LogLocator

    axes = [ax.xaxis if direction == "x" else ax.yaxis for ax in used]
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
