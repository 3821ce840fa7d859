"""What one task of a pass comes to, for each analysis that the pass serves."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rocktok._version import __version__
from rocktok.engine.source import Reading, TaskSource
from rocktok.errors import RocktokError
from rocktok.log.checks import SequenceRuns
from rocktok.log.tasks import Task
from rocktok.stats.accumulator import Accumulator, Closing


@dataclass
class Partial:
    """What one task, or a whole pass, came to; the counts are those of `Reading`."""

    accumulators: Sequence[Accumulator]
    unpaired: int
    unlisted: int
    runs: SequenceRuns
    lacking: Counter[str]

    @classmethod
    def empty(cls, accumulators: Sequence[Accumulator]) -> Partial:
        """Nothing read yet."""
        return cls(accumulators, 0, 0, SequenceRuns(), Counter())

    def add(self, part: Partial) -> None:
        """Add the next task's."""
        for ours, theirs in zip(self.accumulators, part.accumulators, strict=True):
            ours.merge(theirs)
        self.unpaired += part.unpaired
        self.unlisted += part.unlisted
        self.runs.merge(part.runs)
        self.lacking.update(part.lacking)


@dataclass
class Prototypes:
    """Empty accumulators of each request, as every task of a pass begins with them.

    `version`: the one that they are of.
    """

    accumulators: Sequence[Sequence[Accumulator]]
    version: str = __version__


@dataclass
class TaskResult:
    """What one task came to: a partial result for each request, and what was read for all."""

    parts: list[Partial]
    rows: Counter[int]
    decoded: Counter[tuple[int, str]]


def make_partials(
    sources: Sequence[tuple[TaskSource, ...]], tasks: Sequence[Task], prototypes: Prototypes
) -> list[TaskResult]:
    """`make_partial` of some tasks, one after the other, each with its own sources."""
    return [make_partial(each, task, prototypes) for each, task in zip(sources, tasks, strict=True)]


def make_partial(sources: tuple[TaskSource, ...], task: Task, prototypes: Prototypes) -> TaskResult:
    """Read a task's rows into copies of empty accumulators. Runs on a worker.

    Raises `RocktokError` on one with another version, which may have come late.
    """
    if prototypes.version != __version__:
        raise RocktokError(
            f"a Dask worker has rocktok {__version__}, this is rocktok {prototypes.version}; "
            "install the same version on all workers, and restart them"
        )
    copies = copy.deepcopy(prototypes.accumulators)
    needs = [frozenset(name for a in each for name in a.needs) for each in copies]
    reading = Reading(sources, task, needs)
    for batches in reading:
        for accumulators, rows in zip(copies, batches, strict=True):
            for accumulator in accumulators:
                accumulator.update(rows)
    for accumulators in copies:
        for accumulator in accumulators:
            if isinstance(accumulator, Closing):
                accumulator.close()
    return TaskResult(
        [
            Partial(each, reading.unpaired, reading.unlisted, reading.runs, lacking)
            for each, lacking in zip(copies, map(reading.lacking_for, needs), strict=True)
        ],
        reading.rows,
        reading.decoded,
    )
