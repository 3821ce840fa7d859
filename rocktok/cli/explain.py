"""`--explain`: the passes of a command, on stderr while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from rocktok.errors import printable

if TYPE_CHECKING:
    from rocktok.engine.made import PassMade


class Explained:
    """Tells of each pass that was made, and at the end of all."""

    def __init__(self) -> None:
        self._made: list[PassMade] = []

    def __call__(self, made: PassMade) -> None:
        """One line: what was read, how long that took, for which analyses."""
        self._made.append(made)
        columns = f"columns {', '.join(made.columns)}" if made.columns else "rows kept from before"
        _say(
            f"pass {made.number}: {_where(made)}, {_number(made.rows.total(), 'row')}, "
            f"{_bytes(made.decoded.total())} in {made.seconds:.2f} s for "
            f"{', '.join(_shown(name) for name in made.names) or 'the command'}; "
            f"{columns}"
        )

    def finish(self, seconds: float) -> None:
        """How much was read, and how much there is."""
        from rocktok.engine.made import Reads

        if not self._made:
            _say(f"no pass over the rows; {seconds:.2f} s")
            return
        reads = Reads.of(self._made)
        _say(
            f"{_number(len(self._made), 'pass', 'es')} in {reads.seconds:.2f} s of "
            f"{seconds:.2f} s: {_number(reads.rows, 'row')} read, {reads.times:.1f} times the "
            f"{reads.rows_once:,} of these steps; {_bytes(reads.decoded)} decoded, "
            f"{reads.decoded / max(1, reads.decoded_once):.1f} times the "
            f"{_bytes(reads.decoded_once)} of these columns"
        )


@contextmanager
def explained() -> Iterator[Explained]:
    """What an engine tells of its passes; the last line when it is closed without an error."""
    told, began = Explained(), time.perf_counter()
    yield told
    told.finish(time.perf_counter() - began)


def _say(line: str) -> None:
    click.echo(f"rocktok: explain: {printable(line)}", err=True)


def _where(made: PassMade) -> str:
    steps = " and ".join(map(str, made.steps))
    return f"{made.log.name}: {made.table}/ step{'s' if len(made.steps) > 1 else ''} {steps}"


def _shown(name: str) -> str:
    """An analysis, without the command that it is part of."""
    return name.rpartition(": ")[2]


def _number(count: int, unit: str, plural: str = "s") -> str:
    return f"{count:,} {unit}{'' if count == 1 else plural}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
