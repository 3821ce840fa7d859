"""What a page shows, as plain JSON values: made by `content` and `comparison`, read by `render`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from rocktok.analyses.detect.instead import InsteadRow
from rocktok.report.other_analyses import Missing
from rocktok.report.page.figures.points import PlacedPoint
from rocktok.report.sensitivity import Example
from rocktok.report.text_view import SequenceText, StepLoss

#: What a cell of the table of tokens holds; the kind of its column says how it is shown.
Cell = str | float | bool | Sequence[str] | None

Kind = Literal["token", "integer", "number", "percent", "text", "flags"]


class Fact(TypedDict):
    """A number with its label."""

    label: str
    value: str


class Point(TypedDict):
    """Sentences of the summary that answer one question, and the numbers that carry them."""

    text: str
    numbers: list[Fact]


class Chip(TypedDict):
    """A type on the first screen; `curve`: mean losses; `instead`: what the teacher wanted.

    `label`: what is said of it alone; of a rock nothing.
    """

    token_id: int
    token: str
    loss_pre: float | None
    loss_post: float
    loss_share: float | None
    curve: list[StepLoss]
    instead: list[InsteadRow]
    label: NotRequired[str]


class Chips(TypedDict):
    """Types that are no rocks, and what they are instead."""

    heading: str
    chips: list[Chip]


class Opening(TypedDict):
    """The first screen: the answer in a sentence, the strongest rocks, how sure all of it is.

    `others`: without rocks, the hardest types.
    """

    verdict: str
    chips: list[Chip]
    sure: str
    others: NotRequired[list[Chips]]


class PageFigure(TypedDict):
    """A figure, drawn: `svg` is ours, trusted.

    `takeaway`: what its numbers come to, in a line. `points`: where types lie in it. `files`: its
    files beside the page, by format. `appendix`: folded, after the others.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    width: Literal["one", "two"]
    takeaway: NotRequired[str | None]
    points: NotRequired[list[PlacedPoint]]
    files: NotRequired[dict[str, str]]
    appendix: NotRequired[bool]


class Column(TypedDict):
    """A column of the table of tokens."""

    key: str
    label: str
    kind: Kind
    help: str


class Table(TypedDict):
    """The table of tokens: key → cell; beside the columns, rows have `token_id` and `is_rock`.

    `total`: token types of which the rows are a part.
    """

    columns: list[Column]
    rows: Sequence[Mapping[str, Cell]]
    total: int
    shown: int


class Rock(TypedDict):
    """A rock: what its row in the table unfolds. `flags`: in words."""

    rank: int
    token_id: int
    token: str
    frequency: int
    retained: int
    persistent: int
    ccr: float | None
    contexts: list[Example]
    total_contexts: int
    curve: NotRequired[list[StepLoss]]
    instead: NotRequired[list[InsteadRow]]
    instead_occurrences: NotRequired[int | None]
    teacher_on_token: NotRequired[float | None]
    student_on_token: NotRequired[float | None]
    flags: NotRequired[list[str]]


class TextColumn(TypedDict):
    """A value by which the text can be shaded; `by_step`: whether there is one for each step."""

    key: str
    label: str
    unit: str
    by_step: bool


class Text(TypedDict):
    """The text view; `tokens`: id → text, `rocks`: ids, `total`: sequences in the log.

    `logs`: of a comparison, name → ids of its rocks, in the order that sequences number them by.
    """

    table: str
    steps: list[int]
    columns: list[TextColumn]
    tokens: dict[str, str]
    rocks: list[int]
    sequences: list[SequenceText]
    shown: int
    total: int
    capped: str | None
    logs: NotRequired[list[tuple[str, list[int]]]]


class Section(TypedDict):
    """An analysis that is not built into the page; cells are as they are shown.

    `answer`: lines; `total`: rows of the table of which these are the first.
    """

    name: str
    help: str
    answer: list[str]
    columns: list[str]
    rows: list[list[str]]
    total: int
    notes: list[str]


class Page(TypedDict, total=False):
    """A page. Any part may be absent, None or empty: the page then goes without it.

    `embedded`: within another page, which has its own way around: without navigation and footer.
    `folded`: a sentence in the place of figures that there would be with rocks.
    """

    embedded: bool
    title: str | None
    created: str | None
    version: str | None
    log: Mapping[str, object] | None
    opening: Opening | None
    summary: list[Point] | None
    notes: list[str] | None
    missing: list[Missing] | None
    figures: list[PageFigure] | None
    folded: str | None
    table: Table | None
    rocks: list[Rock] | None
    text: Text | None
    sections: list[Section]
