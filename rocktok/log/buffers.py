"""What the writer holds until a flush: the parts of each step, and which rows it has had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rocktok.errors import DataError
from rocktok.log.checks import numpy_view

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from rocktok._types import Array


class Buffer:
    """Rows of one table by step, until they are published or given up. `bytes`: their size."""

    def __init__(self) -> None:
        self.bytes = 0
        self._parts: dict[int, list[pa.Table]] = {}

    def add(self, step: int, part: pa.Table) -> None:
        """Hold rows of one step."""
        self._parts.setdefault(step, []).append(part)
        self.bytes += part.nbytes

    def parts(self, but: Collection[int] = ()) -> list[pa.Table]:
        """All parts, in order of arrival; `but`: not of these steps."""
        return [part for step, parts in self._parts.items() if step not in but for part in parts]

    def rows(self, step: int) -> int:
        """The rows that are held of a step."""
        return sum(part.num_rows for part in self._parts.get(step, []))

    def drop(self, step: int) -> int:
        """Forget a step; returns the rows that were held of it."""
        parts = self._parts.pop(step, [])
        self.bytes -= sum(part.nbytes for part in parts)
        return sum(part.num_rows for part in parts)

    def clear(self, but: Collection[int] = ()) -> dict[int, int]:
        """Forget everything `but` some steps; returns the rows that were held of each step."""
        return {step: self.drop(step) for step in list(self._parts) if step not in but}


class IdRuns:
    """A set of sequence ids, held as runs of consecutive ones: 16 bytes each.

    Runs stand in levels, each more than twice as long as the next, so that adding ids costs the
    same on average however many there are.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[Array, Array]] = []

    def holds(self, id_S: Array) -> Array:
        """(S,) whether each id is in the set."""
        found = np.zeros(len(id_S), dtype=bool)
        for first_R, last_R in self._levels:
            at_S = np.searchsorted(first_R, id_S, side="right") - 1
            found |= (at_S >= 0) & (id_S <= last_R[np.maximum(at_S, 0)])
        return found

    def add(self, id_S: Array) -> None:
        """Add ids, ascending and distinct."""
        if len(id_S) == 0:
            return
        gap = np.flatnonzero(np.diff(id_S) != 1)
        level = id_S[np.concatenate(([0], gap + 1))], id_S[np.concatenate((gap, [-1]))]
        while self._levels and len(self._levels[-1][0]) <= 2 * len(level[0]):
            level = _merged(self._levels.pop(), level)
        self._levels.append(level)


def _merged(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    first_R, last_R = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    order_R = np.argsort(first_R, kind="stable")
    first_R, last_R = first_R[order_R], np.maximum.accumulate(last_R[order_R])
    apart = np.flatnonzero(first_R[1:] > last_R[:-1] + 1)
    return first_R[np.concatenate(([0], apart + 1))], last_R[np.concatenate((apart, [-1]))]


class StepKeys:
    """The sequences and positions that a step has had so far, to refuse what comes twice."""

    def __init__(self, table: str, step: int) -> None:
        self._table, self._step = table, step
        self._open, self._published = IdRuns(), IdRuns()
        self._parts: list[tuple[Array, Array]] = []

    def add(self, rows: pa.Table) -> None:
        """Note rows of the step. Raises `DataError` for one that is there already."""
        sequence_N, position_N = (
            numpy_view(rows[name].combine_chunks()) for name in ("sequence_id", "position")
        )
        id_S = _distinct(sequence_N)
        again_S = self._published.holds(id_S)
        if again_S.any():
            raise DataError(
                f"{self._table}: sequence {id_S[np.argmax(again_S)]} at step {self._step} is in a "
                "published shard already; write each sequence of a step whole, and once"
            )
        self._check(sequence_N, position_N, id_S[self._open.holds(id_S)])
        self._open.add(id_S)
        self._parts.append((sequence_N, position_N))

    def _check(self, sequence_N: Array, position_N: Array, shared_S: Array) -> None:
        """Rows against one another, and against earlier ones of the sequences they share."""
        if len(shared_S):
            earlier = [
                (sequence_M[kept], position_M[kept])
                for sequence_M, position_M in self._parts
                if (kept := np.isin(sequence_M, shared_S)).any()
            ]
            sequence_N, position_N = (
                np.concatenate(arrays)
                for arrays in zip(*earlier, (sequence_N, position_N), strict=True)
            )
        step_N, next_N = np.diff(sequence_N), np.diff(position_N)
        if ((step_N > 0) | ((step_N == 0) & (next_N > 0))).all():
            return
        order_N = np.lexsort((position_N, sequence_N))
        same = (np.diff(sequence_N[order_N]) == 0) & (np.diff(position_N[order_N]) == 0)
        if same.any():
            at = order_N[int(np.argmax(same))]
            raise DataError(
                f"{self._table}: sequence {sequence_N[at]} has position {position_N[at]} twice at "
                f"step {self._step}; write each position once"
            )

    def published(self) -> None:
        """What has come so far is in shards: its sequences may not come again."""
        for sequence_N, _ in self._parts:
            self._published.add(_distinct(sequence_N))
        self._open, self._parts = IdRuns(), []


def _distinct(id_N: Array) -> Array:
    """Ascending distinct ids; fast where they ascend already, as rows of whole sequences do."""
    changes = np.diff(id_N)
    if (changes < 0).any():
        return np.unique(id_N)
    return id_N[np.concatenate(([True], changes != 0))] if len(id_N) else id_N


class ContextIds:
    """The sequences that have had their contexts, by the step, to refuse what comes again."""

    def __init__(self) -> None:
        self._by_step: dict[int, IdRuns] = {}

    def add(self, step: int, sequence_N: Array) -> None:
        """Note rows of a step. Raises `DataError` for a sequence that had some at another one."""
        id_S = _distinct(sequence_N)
        for other, had in self._by_step.items():
            again_S = had.holds(id_S)
            if other != step and again_S.any():
                raise DataError(
                    f"contexts: sequence {id_S[np.argmax(again_S)]} at step {step} has been "
                    f"written at step {other}; write the contexts of a text once"
                )
        here = self._by_step.setdefault(step, IdRuns())
        here.add(id_S[~here.holds(id_S)])

    def drop(self, step: int) -> None:
        """Forget a step that was given up."""
        self._by_step.pop(step, None)
