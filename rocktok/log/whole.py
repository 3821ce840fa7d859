"""Whole sequences out of rows that come in pieces, which may cut one.

Array suffixes: R runs of rows of one sequence id.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rocktok._types import Array
from rocktok.log.shard import sequence_starts
from rocktok.runs import remember, run_starts

Rows = dict[str, Array]


class WholeSequences:
    """Rows in the order of a shard, cut only between sequences.

    Only what is cut is copied: of each piece the last sequence, which may go on in the next one.
    """

    def __init__(self) -> None:
        self._open: Rows | None = None

    def add(self, rows: Rows) -> Iterator[Rows]:
        """The sequences that have ended with, or in, some more rows."""
        size, start = len(rows["step"]), 0
        if not size:
            return
        starts = sequence_starts(rows["step"], rows["sequence_id"])
        start_R = run_starts(rows["sequence_id"])
        if self._open is not None:
            if all(self._open[name][-1] == rows[name][0] for name in ("step", "sequence_id")):
                start = int(starts[1]) if len(starts) > 1 else size
                self._open = _joined(self._open, _part(rows, 0, start))
            if start == size:
                return
            yield self._open
        cut = int(starts[-1])
        # Not a view, which would keep all of the piece in memory.
        self._open = {name: values.copy() for name, values in _part(rows, cut, size).items()}
        if cut > start:
            whole = _part(rows, start, cut)
            within_R = start_R[(start_R > start) & (start_R < cut)] - start
            remember(whole["sequence_id"], np.concatenate(([0], within_R)))
            yield whole

    def rest(self) -> Iterator[Rows]:
        """The last sequence, once there are no more rows."""
        if self._open is not None:
            yield self._open


def _part(rows: Rows, start: int, stop: int) -> Rows:
    return {name: values[start:stop] for name, values in rows.items()}


def _joined(one: Rows, other: Rows) -> Rows:
    return {name: np.concatenate((one[name], other[name])) for name in one}
