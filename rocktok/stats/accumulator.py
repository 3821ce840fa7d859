"""What the engine runs over a log: statistics that are fed batch by batch and merge exactly.

A batch is a mapping of equally long arrays (rows of whole sequences). Memory depends on the
vocabulary and on stated caps, never on the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

from rocktok._types import Array

Batch = Mapping[str, Array]


#: Rows from which a log is large: compiled loops are then worth the second that loading them takes.
LARGE = 1_000_000


class Accumulator(Protocol):
    """What the engine runs over a log."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of a batch that it looks at."""

    def update(self, batch: Batch) -> None:
        """Add a batch of rows."""

    def merge(self, other: Self) -> None:
        """Add what another one has seen, as if its batches followed; the other is used up."""


@runtime_checkable
class Closing(Protocol):
    """An accumulator that holds something large for `update` alone."""

    def close(self) -> None:
        """All rows of a task were seen: drop what its partial result need not carry."""
