"""A record of each pass that was made: what it read, for whom, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rocktok.engine.requests import Request
from rocktok.engine.turns import Life
from rocktok.log.catalogue import Log


@dataclass
class PassMade:
    """One pass over the rows of a step, or of two steps joined.

    Attributes:
        number: of the pass, from 1.
        log, table, steps: what was read.
        names: of the analyses that it served.
        rows: step → rows read.
        decoded: (step, column) → bytes of its values.
        seconds: how long it took.
    """

    number: int
    log: Log
    table: str
    steps: tuple[int, ...]
    names: tuple[str, ...]
    rows: Counter[int] = field(default_factory=Counter)
    decoded: Counter[tuple[int, str]] = field(default_factory=Counter)
    seconds: float = 0.0
    _counted: set[int] = field(default_factory=set, repr=False)

    @classmethod
    def of(cls, requests: Sequence[Request], number: int) -> PassMade:
        """A pass that begins."""
        source = requests[0].source
        steps = (source.post,) if source.pre is None else (source.pre, source.post)
        names = tuple(dict.fromkeys(": ".join(request.names) for request in requests))
        return cls(number, source.log, source.table, steps, names)

    def add(self, rows: Mapping[int, int], decoded: Mapping[tuple[int, str], int]) -> None:
        """Add what a task read."""
        self.rows.update(rows)
        self.decoded.update(decoded)

    def count_for(self, life: Life | None) -> None:
        """Count it for a companion that it served, and for whoever started that; once for each."""
        while life is not None:
            if life.number not in self._counted:
                self._counted.add(life.number)
                life.passes += 1
            life = life.parent

    def served(self, life: Life | None) -> bool:
        """Whether it counts for a companion; None: for who has started all of them."""
        return life is None or life.number in self._counted

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that were read, each once."""
        return tuple(sorted({name for _, name in self.decoded}))


@dataclass(frozen=True)
class Reads:
    """What some passes read, and what one reading of each step would have been.

    Attributes:
        rows, rows_once: rows read; those of all steps that were read, each step once.
        decoded, decoded_once: bytes of the columns read; those of each column of each step once.
        seconds: of all passes.
    """

    rows: int
    rows_once: int
    decoded: int
    decoded_once: int
    seconds: float

    @classmethod
    def of(cls, made: Sequence[PassMade]) -> Reads:
        """Sums over passes, whatever logs they are of."""
        rows: dict[tuple[int, str, int], int] = {}
        columns: dict[tuple[int, str, int, str], int] = {}
        for each in made:
            where = id(each.log), each.table
            for step, count in each.rows.items():
                rows[*where, step] = max(rows.get((*where, step), 0), count)
            for (step, name), size in each.decoded.items():
                columns[*where, step, name] = max(columns.get((*where, step, name), 0), size)
        return cls(
            rows=sum(each.rows.total() for each in made),
            rows_once=sum(rows.values()),
            decoded=sum(each.decoded.total() for each in made),
            decoded_once=sum(columns.values()),
            seconds=sum(each.seconds for each in made),
        )

    @property
    def times(self) -> float:
        """How often a row was read, on average."""
        return self.rows / self.rows_once if self.rows_once else 0.0
