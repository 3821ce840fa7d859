"""What analyses ask of a pass, and which of their requests one pass can serve.

Rows are shared by all who ask for the same steps of the same table of a log. Each asker gets what
it would get alone, to the last bit: batches are cut by the tasks, and tasks by the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rocktok.engine.partial import Partial
from rocktok.engine.source import Source, reads_ids
from rocktok.errors import LogError
from rocktok.log.attach import TABLE_OF
from rocktok.log.tasks import Task
from rocktok.stats.accumulator import Accumulator


@dataclass(eq=False)
class Request:
    """One analysis asks for every row of a source, for some accumulators.

    `asker`: the companion that waits; None: the analysis that runs by itself. `names`: of the
    analyses it is for. `patient`: it waits for others that will read the same rows, as nothing but
    its own result comes of it. `outcome`, once it is answered: a result, or the error to be raised.
    """

    source: Source
    accumulators: Sequence[Accumulator]
    asker: Any = None
    names: tuple[str, ...] = ()
    patient: bool = False
    outcome: Partial | BaseException | None = field(default=None, init=False)

    @property
    def needs(self) -> frozenset[str]:
        """Columns that its accumulators look at."""
        return frozenset(name for a in self.accumulators for name in a.needs)

    @property
    def tables_beside(self) -> frozenset[str]:
        """Tables beside `fixed` that columns are taken from."""
        return frozenset(TABLE_OF[name] for name in self.needs if name in TABLE_OF)

    def rows_of(self) -> tuple[Any, ...]:
        """What is the same of two requests for the same rows, read alike."""
        source = self.source
        return (
            id(source.log), source.table, source.pre, source.post, id(source.prompts),
            reads_ids(source, self.needs),
        )  # fmt: skip

    def tasks(self, more: frozenset[str] = frozenset()) -> list[Task]:
        """How its pass is shared out, with more columns. Raises `LogError` as `Source.tasks`."""
        return self.source.tasks(self.needs | more)


def next_pass(waiting: Sequence[Request]) -> list[Request]:
    """Requests that one pass serves: not all of them patient, if others wait.

    Analyses look at both steps before others, and at the later one before the course: what follows
    from these passes may ask for the others' rows.
    """
    groups: dict[Any, list[Request]] = {}
    for request in waiting:
        groups.setdefault(request.rows_of(), []).append(request)
    urgent = [group for group in groups.values() if not all(each.patient for each in group)]
    return _alike(min(urgent or groups.values(), key=_place))


def _place(requests: Sequence[Request]) -> tuple[bool, int]:
    source = requests[0].source
    return source.pre is None, -source.post


def _alike(requests: list[Request]) -> list[Request]:
    """As many of these as are shared out in the same tasks, the first of them included.

    Tables beside `fixed` may need other cuts; then they have a pass of their own.
    """
    if len({request.tables_beside for request in requests}) == 1:
        return requests
    beside: frozenset[str] = frozenset().union(*(request.needs for request in requests))
    try:
        together = _cuts(requests[0].tasks(beside))
        if all(_cuts(request.tasks()) == together for request in requests):
            return requests
    except LogError:
        pass  # Of a table that the log lacks; who asked for it is told so alone.
    first = requests[0].tables_beside
    return [request for request in requests if request.tables_beside == first]


def _cuts(tasks: list[Task]) -> list[Any]:
    return [(task.span, [[shard.path for shard in side] for side in task.shards]) for task in tasks]
