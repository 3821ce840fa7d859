"""Rows of two joined steps, kept in memory between the passes of one analysis.

Array suffixes: N rows; S sequences.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok._types import Array
from rocktok.runs import remember, run_starts

if TYPE_CHECKING:
    from rocktok.log.join import JoinedSteps

#: Bytes of rows that are kept, at most: 16 for each row, so some six million rows.
KEPT_BYTES = 96 << 20

_COLUMNS = ("position", "token_id", "loss_pre", "loss_post")


@dataclass(frozen=True)
class _Batch:
    """The rows of a joined batch; ids of sequences once each."""

    id_S: Array
    start_S: Array
    columns: dict[str, Array]

    @classmethod
    def of(cls, batch: dict[str, Array]) -> _Batch:
        start_S = run_starts(batch["sequence_id"])
        id_S = batch["sequence_id"][start_S]
        return cls(id_S, start_S, {name: batch[name] for name in _COLUMNS})

    @property
    def nbytes(self) -> int:
        ids = self.id_S.nbytes + self.start_S.nbytes
        return ids + sum(values.nbytes for values in self.columns.values())

    def rows(self) -> dict[str, Array]:
        """As the batch was."""
        size_S = np.diff(np.append(self.start_S, len(self.columns["position"])))
        sequence_N = np.repeat(self.id_S, size_S)
        remember(sequence_N, self.start_S)
        return {"sequence_id": sequence_N, **self.columns}


@dataclass(frozen=True)
class _Task:
    """All batches of a task, and what their reading counted."""

    batches: list[_Batch]
    unpaired: int
    alone: frozenset[int]
    rows: Counter[int]


class KeptRows:
    """What was read and verified once, for passes that need the columns of every joined row alone.

    As many tasks as fit; others are read again in each pass. Passes on other machines read all.

    Args:
        most: bytes.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._left = most
        self._tasks: dict[tuple[Any, ...], _Task] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # Each worker would hold a copy of its own.
        return KeptRows, (0,)

    def batches(self, joined: JoinedSteps, rows: Counter[int]) -> Iterator[dict[str, Array]]:
        """The batches of a task, as iterating over `joined` gives them, whose counts are set.

        `rows`: step → rows read so far by the task; those that are kept are added as if read again.
        """
        key = joined.table, joined.pre, joined.post, joined.task.span
        task = self._tasks.get(key)
        if task is not None:
            joined.unpaired, joined.alone = task.unpaired, task.alone
            rows.update(task.rows)
            for kept in task.batches:
                yield kept.rows()
            return
        read: list[_Batch] = []
        before = Counter(rows)
        fits = self._left > 0
        for batch in joined:
            if fits:
                read.append(_Batch.of(batch))
                fits = sum(kept.nbytes for kept in read) <= self._left
            yield batch
        if fits:
            self._keep(key, _Task(read, joined.unpaired, joined.alone, rows - before))

    def _keep(self, key: tuple[Any, ...], task: _Task) -> None:
        size = sum(kept.nbytes for kept in task.batches)
        with self._lock:
            if size <= self._left and key not in self._tasks:
                self._left -= size
                self._tasks[key] = task

    def close(self) -> None:
        """Let go of all rows, and keep no others."""
        with self._lock:
            self._left = 0
            self._tasks = {}
