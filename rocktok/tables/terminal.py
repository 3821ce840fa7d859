"""What is printed, and where to: width, colour, and how many rows. The only place that decides."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO, TypeVar

from rocktok.errors import printable

T = TypeVar("T")

#: Width of a piped table: what an 80-column terminal shows without wrapping.
PIPE_WIDTH = 80

#: Rows of a list that are shown where no number was asked for.
ROWS = 20

#: The one colour, of the answer.
ACCENT = "cyan"

#: How `View` styles text: reset, bold, dim, and the colour.
_STYLES = re.compile("(\x1b\\[(?:0|1|2|36)m)")


@dataclass(frozen=True)
class View:
    """How a result is printed.

    Attributes:
        width: columns of the screen that a table may take.
        wraps: whether sentences are broken at that width; in a pipe, a sentence is a line.
        color: whether text is in colour, bold and dim.
        top: rows of each list; None: `ROWS`.
        everything: all rows of each list.
        wide: all columns of each table.
    """

    width: int = PIPE_WIDTH
    wraps: bool = False
    color: bool = False
    top: int | None = None
    everything: bool = False
    wide: bool = False

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] | None = None) -> View:
        """What suits a stream: the width of a terminal, and colour where it is one."""
        environ = os.environ if environment is None else environment
        terminal = stream.isatty()
        width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if terminal else PIPE_WIDTH
        return cls(width, terminal, _in_color(terminal, environ))

    @classmethod
    def plain(cls) -> View:
        """As on stdout, without colour: what `repr` of a result shows."""
        return replace(cls.of(sys.stdout), color=False)

    def first(
        self, rows: Sequence[T], top: int | None = None, *, everything: bool = False
    ) -> Sequence[T]:
        """The rows of a list that are shown.

        `top`, `everything`: what the analysis was asked for, where that is an option of its own.
        """
        if everything or self.everything:
            return rows
        limits = [limit for limit in (top, self.top) if limit is not None]
        return rows[: limits[0] if limits else ROWS]

    def answer(self, lines: Sequence[str]) -> list[str]:
        """The answer, and how sure it is."""
        answer, *rest = lines
        return [self._styled(self.prose(answer), fg=ACCENT, bold=True), *map(self.prose, rest)]

    def heading(self, text: str) -> str:
        """What stands above a table."""
        return self.bold(self.prose(text))

    def aside(self, text: str) -> str:
        """What stands below a table: marks, provenance."""
        return self.dim(self.prose(text))

    def bold(self, text: str) -> str:
        """Text as it is, bold."""
        return self._styled(text, bold=True)

    def dim(self, text: str) -> str:
        """Text as it is, dim."""
        return self._styled(text, dim=True)

    def prose(self, text: str, indent: int = 0) -> str:
        """Sentences, broken between words; further lines are indented."""
        text = _printable_lines(text)
        if not self.wraps:
            return text
        return "\n".join(
            textwrap.fill(line, self.width, subsequent_indent=" " * indent,
                          break_long_words=False, break_on_hyphens=False)
            for line in text.split("\n")
        )  # fmt: skip

    def safe(self, text: str) -> str:
        """The text without what would steer a terminal, but for lines and styles of our own."""
        parts = _STYLES.split(text) if self.color else [text]
        parts[::2] = map(_printable_lines, parts[::2])
        return "".join(parts)

    def more(self, left: int, remedy: str, noun: str = "") -> list[str]:
        """The last line of a list that was cut; none where nothing is `left`."""
        what = f" {noun}" if noun else ""
        return [self.aside(f"… {left:,} more{what} ({remedy})")] if left > 0 else []

    def _styled(self, text: str, *, fg: str | None = None, bold: bool | None = None,
                dim: bool | None = None) -> str:  # fmt: skip
        if not self.color:
            return text
        import click

        # By line: a pager shows each by itself.
        return "\n".join(
            click.style(line, fg=fg, bold=bold, dim=dim) if line else line
            for line in text.split("\n")
        )


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _in_color(terminal: bool, environ: Mapping[str, str]) -> bool:
    """Where a variable asks for none (no-color.org), where one forces it, and on a terminal."""
    if environ.get("NO_COLOR"):
        return False
    if any(environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return terminal and environ.get("TERM") != "dumb" and environ.get("CLICOLOR") != "0"
