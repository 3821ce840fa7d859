"""How figures look: sizes for one and two columns, colours told apart in grey, exact bytes."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rocktok.stats.group_names import (
    ALL_POSITIONS,
    CONTROL,
    HIGH_KL,
    HIGH_LOSS,
    LOSS_CONTROL,
    OTHERS,
    RANDOM,
    ROCKS,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Widths of a figure in one column and across two of a paper, and the height, inches.
WIDTHS, HEIGHT = {1: 3.35, 2: 6.9}, 2.5


class GroupStyle(TypedDict):
    """How a group is drawn, as matplotlib calls it."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[int, ...]]


#: Okabe and Ito's colours, told apart by the colour-blind; light and dark ones alternate. Marker
#: and line tell them apart where there is no colour.
_GROUPS: dict[str, GroupStyle] = {
    ROCKS.name: {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    HIGH_LOSS.name: {"color": "#E69F00", "marker": "P", "linestyle": (0, (6, 1))},
    HIGH_KL.name: {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    RANDOM.name: {"color": "#56B4E9", "marker": "^", "linestyle": ":"},
    CONTROL.name: {"color": "#009E73", "marker": "D", "linestyle": "-."},
    LOSS_CONTROL.name: {"color": "#CC79A7", "marker": "v",
                        "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    ALL_POSITIONS.name: {"color": "#000000", "marker": "", "linestyle": "-"},
    OTHERS.name: {"color": "#999999", "marker": ".", "linestyle": "--"},
}  # fmt: skip

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "svg.hashsalt": "rocktok",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": False,
}

#: Rounds of a layout, at most, and the share of a figure below which nothing has moved.
_ROUNDS, _SETTLED = 4, 0.002

#: Begins the ids of what keeps its colour whatever the page is like, as it stands on another.
FIXED = "on-colour-"

#: What would put the time of drawing into a file, by format.
_TIMELESS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None, "Creator": "rocktok"},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": "rocktok"},
}

FORMATS = tuple(_TIMELESS)

#: The last code point that every DejaVu font draws without gaps (Latin, Greek, arrows apart).
_DRAWN = 0x24F


@contextmanager
def styled() -> Iterator[None]:
    """Our look within, upon matplotlib's defaults; the user's without."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _matplotlib() -> Any:
    """matplotlib, whatever the environment asks of it: figures are drawn into files.

    A backend or a matplotlibrc that it cannot have would end its import, and half of it would stay.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    with _settings(MPLBACKEND=None, MATPLOTLIBRC=_own_settings()):
        import matplotlib
    # As an import would have it, for figures that are not ours.
    logger = logging.getLogger("matplotlib")
    logger.disabled = True
    with suppress(Exception):
        # Where no backend is named, its entry would be looked up, and pyplot imported.
        settings = dict.items(matplotlib.rc_params())
        named = {n: v for n, v in settings if n != "backend" or isinstance(v, str)}
        matplotlib.rcParams.update(named)
    logger.disabled = False
    if backend := os.environ.get("MPLBACKEND"):
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib


def _own_settings() -> str:
    """The settings that matplotlib comes with, without its import."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")


@contextmanager
def _settings(**variables: str | None) -> Iterator[None]:
    """Variables of the environment within; None: none."""
    earlier = {name: os.environ.pop(name, None) for name in variables}
    try:
        os.environ.update({name: value for name, value in variables.items() if value is not None})
        yield
    finally:
        for name, value in earlier.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def settle(figure: Figure) -> None:
    """Lay a figure out once for all formats: what is drawn later stays where it is."""
    with styled(), _without_minor_ticks(figure):
        engine = figure.get_layout_engine()
        assert engine is not None
        if len(figure.axes) == 1:
            pads = engine.get()
            _fit(figure, pads["w_pad"], pads["h_pad"])
        else:
            # The second time counts with the ticks and labels that the first gave room to.
            engine.execute(figure)
            engine.execute(figure)
        # Not "none", which leaves one behind: for any engine a file is drawn twice.
        figure.set_layout_engine(None)


def _fit(figure: Figure, across: float, up: float) -> None:
    """Give the only axes all the room that its labels and legend leave, less a margin in inches.

    What the engine does, in half of the rounds: it measures again what no longer moves.
    """
    from matplotlib.transforms import Bbox

    (ax,) = figure.axes
    width, height = figure.get_size_inches()
    for _ in range(_ROUNDS):
        inner = ax.get_position()
        box = ax.get_tightbbox(for_layout_only=True)
        assert box is not None
        outer = box.transformed(figure.transFigure.inverted())
        room = Bbox.from_extents(
            across / width + inner.x0 - outer.x0,
            up / height + inner.y0 - outer.y0,
            1 - across / width - outer.x1 + inner.x1,
            1 - up / height - outer.y1 + inner.y1,
        )
        if room.width <= 0 or room.height <= 0:
            return  # labels take all of it
        ax.set_position(room)
        ax.set_in_layout(True)
        if abs(room.get_points() - inner.get_points()).max() < _SETTLED:
            return


@contextmanager
def _without_minor_ticks(figure: Figure) -> Iterator[None]:
    """Minor ticks have no labels, so that a layout does not depend on them, only its time."""
    from matplotlib.ticker import NullLocator

    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    locators = [(axis, axis.get_minor_locator()) for axis in axes]
    for axis in axes:
        axis.set_minor_locator(NullLocator())
    try:
        yield
    finally:
        for axis, locator in locators:
            axis.set_minor_locator(locator)


def encode(figure: Figure, form: str) -> bytes:
    """A figure's file: the same bytes for the same numbers and version of matplotlib."""
    sink = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(sink, format=form, metadata=_TIMELESS[form])
    return sink.getvalue()


def label(text: str, most: int = 14) -> str:
    """A token as an axis can show it: in quotes, escapes for what the font may lack, cut."""
    shown = repr(text)
    shown = "".join(c if ord(c) <= _DRAWN else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _direction(axis: Axis) -> Literal["x", "y"]:
    return "x" if axis is axis.axes.xaxis else "y"


def log_axis(axis: Axis) -> None:
    """A logarithmic axis whose ticks are plain numbers; 2 and 5 between where it is short."""
    from matplotlib.ticker import NullFormatter

    axes, name = axis.axes, _direction(axis)
    if getattr(axes.dataLim, f"minpos{name}") == math.inf:
        return  # nothing above zero is drawn
    getattr(axes, f"set_{name}scale")("log")
    axis.set_minor_formatter(NullFormatter())
    log_ticks(axis)


def log_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis for the range that it has."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes, name = axis.axes, _direction(axis)
    low, high = getattr(axes, f"get_{name}lim")()
    decades = abs(math.log10(high / low)) if low > 0 else 9
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    if value and (value < 0.0005 or value >= 1e6):
        return f"$10^{{{round(math.log10(value))}}}$"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def legend_below(ax: Axes, columns: int = 2, title: str | None = None) -> None:
    """The legend under the axis, where it hides nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, columnspacing=1.2,
              handlelength=2.6, title=title, title_fontsize=6)  # fmt: skip


def group_style(name: str) -> GroupStyle:
    """Colour, marker and line of a group."""
    return _GROUPS.get(name, _GROUPS[OTHERS.name])


def write(
    ax: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    va: Literal["baseline", "center"] = "baseline",
) -> None:
    """Small text, `offset` points from a place, that is never taken for mathematics."""
    ax.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=5.5, va=va,
                parse_math=False)  # fmt: skip
