"""Which rows of a shard count, and what must be read to tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rocktok._types import Array
    from rocktok.log.shard import OpenShard

#: What a row is of, and the order of a shard.
KEY = ("step", "sequence_id", "position")


@dataclass(frozen=True)
class Span:
    """A range of sequence ids, `low` included and `high` not; None: no bound."""

    low: int | None = None
    high: int | None = None

    def touches(self, first: int, last: int) -> bool:
        """Whether any id from `first` to `last` lies in the span."""
        return (self.high is None or first < self.high) and (self.low is None or last >= self.low)

    def covers(self, first: int, last: int) -> bool:
        """Whether all ids from `first` to `last` lie in the span."""
        return (self.high is None or last < self.high) and (self.low is None or first >= self.low)


EVERYWHERE = Span()


@dataclass(frozen=True)
class Selection:
    """Which rows count: those at some steps, below a limit, in a span of sequence ids."""

    steps: Collection[int] | None
    limit: int | None
    span: Span

    def plan(self, opened: OpenShard, group: int) -> tuple[str, ...] | None:
        """Columns by which a row group's rows must be told apart; None: no row of it counts.

        Statistics that can be trusted save reading a column whose every value counts.
        """
        asked = []
        bounds = opened.group_range(group, "step")
        if bounds is not None and not self._may_hold(*bounds):
            return None
        if bounds is None or not (bounds[0] == bounds[1] or self._all_count):
            asked.append("step")
        ids = opened.group_range(group, "sequence_id")
        if ids is not None and not self.span.touches(*ids):
            return None
        if self.span != EVERYWHERE and (ids is None or not self.span.covers(*ids)):
            asked.append("sequence_id")
        return tuple(asked)

    @property
    def _all_count(self) -> bool:
        return self.steps is None and self.limit is None

    def _may_hold(self, low: int, high: int) -> bool:
        if self.limit is not None and low >= self.limit:
            return False
        return self.steps is None or any(low <= step <= high for step in self.steps)

    def keep(self, rows: dict[str, Array], plan: Sequence[str]) -> dict[str, Array]:
        """The rows that count, told apart by the planned columns."""
        if not plan:
            return rows
        keep = np.ones(len(next(iter(rows.values()))), dtype=bool)
        if "step" in plan and self.limit is not None:
            keep &= rows["step"] < self.limit
        if "step" in plan and self.steps is not None:
            keep &= np.isin(rows["step"], list(self.steps))
        if "sequence_id" in plan and self.span.low is not None:
            keep &= rows["sequence_id"] >= self.span.low
        if "sequence_id" in plan and self.span.high is not None:
            keep &= rows["sequence_id"] < self.span.high
        return rows if keep.all() else {name: values[keep] for name, values in rows.items()}

    def keep_ordered(self, rows: dict[str, Array]) -> dict[str, Array]:
        """As `keep`, of rows in the order of a shard, one or more, by their keys."""
        first, last = int(rows["step"][0]), int(rows["step"][-1])
        counts = first == last and self._may_hold(first, last)
        by_id = self.span != EVERYWHERE
        return self.keep(rows, (*(() if counts else ("step",)), *(("sequence_id",) * by_id)))
