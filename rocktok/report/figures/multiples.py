"""The same figure of several logs, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rocktok.report.figures.style import HEIGHT, WIDTHS, styled

#: Figures worth comparing between logs, in their order.
COMPARED = ("funnel", "ccr", "clusters", "density", "position", "stagnation", "shares", "coverage")

#: Panels in a row.
_ACROSS = 2

#: Figures whose panels share the range of the vertical axis.
_SHARED = {"funnel", "density", "position", "stagnation", "shares"}


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
        if name in _SHARED:
            ends = [ax.get_ylim() for ax in used]
            for ax in used:
                ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    return made
