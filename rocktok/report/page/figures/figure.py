"""A figure as one object: its name, what it says, its numbers, and how these are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar, cast

from rocktok.report.page.figures.rule import without_rocks
from rocktok.report.page.figures.style import HEIGHT, WIDTHS, styled
from rocktok.report.result import ReportResult

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

#: Numbers of any figure, as report.json has them.
AnyNumbers = Mapping[str, object]

Numbers = TypeVar("Numbers", bound=AnyNumbers)
Source = TypeVar("Source")


class Caption(NamedTuple):
    """Title, and what to know when looking."""

    title: str
    text: str


class AbsentError(Exception):
    """The result does not hold what a figure shows; `why`.

    `remedy`: what would help, where nothing else says so. `figure`: its name.
    """

    def __init__(self, why: str, remedy: str | None = None, figure: str = "") -> None:
        super().__init__(f"{figure}: {why}" if figure else why)
        self.why, self.remedy = why, remedy


def _first(by_log: Mapping[str, Numbers]) -> Numbers:
    """Those of the first log that has rocks, whose rule a caption names; else of the first."""
    with_rocks = (numbers for numbers in by_log.values() if not without_rocks(numbers))
    return next(with_rocks, next(iter(by_log.values())))


@dataclass(frozen=True, repr=False, eq=False)
class Figure(Generic[Source, Numbers]):
    """A figure; calling it draws a result, or numbers as in report.json.

    Attributes:
        name: of its file, and in report.json.
        title: the caption's first words.
        says: the caption: what is drawn, on what, and how to read it; or made from the numbers.
        rests_on: the results that it can be drawn from.
        numbers_of: what is drawn of a result. Raises `AbsentError` where there is nothing to draw.
        draw: the numbers, on an axis.
        part: the analysis within a report; None: the report itself.
        shared_axes: those on which panels of several logs share a range, as they are quantities;
            "": not worth comparing between logs.
        common: the numbers by which a caption over several logs goes; default: those of the first.
        table: key of the numbers whose rows are also a file, tables/KEY.csv.
    """

    name: str
    title: str
    says: str | Callable[[Numbers], str]
    rests_on: tuple[type[Source], ...]
    numbers_of: Callable[[Source], Numbers]
    draw: Callable[[Axes, Numbers], None]
    part: Callable[[ReportResult], Source | None] | None = None
    shared_axes: Literal["", "x", "y", "xy"] = ""
    common: Callable[[Mapping[str, Numbers]], Numbers] = _first
    table: str | None = None

    def __repr__(self) -> str:
        return f"<figure {self.name}: {self.title}>"

    def numbers(self, result: object) -> Numbers:
        """What is drawn of a `ReportResult`, or of the result of the analysis it rests on.

        Raises:
            AbsentError: the result does not hold it.
        """
        source = result
        if isinstance(result, ReportResult) and self.part is not None:
            source = self.part(result)
        if source is None:
            raise AbsentError("the log does not have what it shows", figure=self.name)
        if not isinstance(source, self.rests_on):
            kinds = " or ".join(kind.__name__ for kind in self.rests_on)
            why = f"is drawn from {kinds}, not from {type(source).__name__}"
            raise AbsentError(why, figure=self.name)
        try:
            return self.numbers_of(source)
        except AbsentError as error:
            raise AbsentError(error.why, error.remedy, self.name) from None

    def caption(self, numbers: Numbers) -> Caption:
        """Title and text, with what the numbers ask to be said."""
        return Caption(self.title, self.says if isinstance(self.says, str) else self.says(numbers))

    def __call__(
        self, result: object, ax: Axes | None = None, *, columns: int = 1
    ) -> matplotlib.figure.Figure | matplotlib.figure.SubFigure:
        """Draw a result or its numbers; returns the matplotlib figure that holds them.

        Args:
            result: what the analysis returns, a `ReportResult`, or numbers as in report.json.
            ax: where to draw; default: on a new figure.
            columns: 1 or 2, of a paper: the width of a new figure.
        """
        numbers = cast(Numbers, result) if isinstance(result, Mapping) else self.numbers(result)
        if ax is None:
            return self.alone(numbers, columns)
        with styled():
            self.draw(ax, numbers)
        return ax.figure

    def alone(self, numbers: Numbers, columns: int = 1) -> matplotlib.figure.Figure:
        """Draw the numbers on a new figure, as wide as 1 or 2 columns of a paper."""
        with styled():
            # Needs matplotlib, which is not imported as it stands: see `styled`.
            from rocktok.report.page.figures.notebook import NotebookFigure

            canvas = NotebookFigure(figsize=(WIDTHS[columns], HEIGHT), layout="constrained")
            self.draw(canvas.add_subplot(), numbers)
        return canvas
