"""How the reading of a step is shared out: tasks that depend on the log alone.

The tasks of a pass, and their order, are the same for any number of threads or workers; partial
results merged in that order are therefore the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rocktok.log.catalogue import Log
from rocktok.log.checks import Where, to_numpy
from rocktok.log.selection import Span
from rocktok.log.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Rows of the later step that a task of a join holds at least, where the log can be cut so.
TASK_ROWS = 1 << 20


@dataclass(frozen=True)
class Task:
    """What one partial result is made from: for each step its shards, and the ids to keep."""

    shards: tuple[tuple[Shard, ...], ...]
    span: Span
    rows: int


def step_tasks(log: Log, table: str, step: int) -> list[Task]:
    """Shards that hold rows of the step, in order; small ones share a task."""
    tasks: list[Task] = []
    shards: list[Shard] = []
    rows = 0
    holders = log.holders(table, step)
    for number, (shard, count) in enumerate(holders, start=1):
        shards.append(shard)
        rows += count
        if rows >= TASK_ROWS or number == len(holders):
            tasks.append(Task((tuple(shards),), Span(), rows))
            shards, rows = [], 0
    return tasks


def span_tasks(log: Log, table: str, step: int) -> list[Task]:
    """Tasks that cover one step in ascending ranges of sequence ids, cutting no row group."""
    groups = _groups(log, table, step)
    tasks = []
    for span in _spans(groups, [g.rows for g in groups], TASK_ROWS):
        touched = [g for g in groups if span.touches(g.first, g.last)]
        shards = tuple({g.shard.path: g.shard for g in touched}.values())
        tasks.append(Task((shards,), span, sum(g.rows for g in touched)))
    return tasks


def joined_tasks(
    log: Log, table: str, pre: int, post: int, task_rows: int | None = None
) -> list[Task]:
    """Tasks that join two steps on ranges of sequence ids; together they cover all ids.

    A range ends where no row group of either step straddles, so that each is read once. Shards
    whose ids are interleaved stay in one task.
    """
    task_rows = TASK_ROWS if task_rows is None else task_rows
    early, late = (_groups(log, table, step) for step in (pre, post))
    tasks = []
    for span in _spans([*early, *late], [g.rows for g in early] + [0] * len(late), task_rows):
        sides = tuple(
            tuple({g.shard.path: g.shard for g in side if span.touches(g.first, g.last)}.values())
            for side in (early, late)
        )
        rows = sum(g.rows for g in early + late if span.touches(g.first, g.last))
        tasks.append(Task(sides, span, rows))
    return tasks


@dataclass(frozen=True)
class _Group:
    """A row group's range of sequence ids; `rows` counts all its rows, of whatever step."""

    shard: Shard
    first: int
    last: int
    rows: int


def _groups(log: Log, table: str, step: int) -> list[_Group]:
    row_groups = []
    for shard, _ in log.holders(table, step):
        opened = log.open(shard, ("step", "sequence_id"))
        for group, _ in opened.groups():
            steps = opened.group_range(group, "step")
            if steps is not None and not steps[0] <= step <= steps[1]:
                continue
            ids = opened.group_range(group, "sequence_id")
            if ids is None:
                # Nothing vouches for the statistics of this shard: look.
                where = Where(opened.name, group)
                rows = opened.read_group(group, ["step", "sequence_id"])
                step_N, id_N = (to_numpy(rows[n], n, where) for n in ("step", "sequence_id"))
                id_N = id_N[step_N == step]
                if len(id_N) == 0:
                    continue
                ids = int(id_N.min()), int(id_N.max())
            count = opened.file.metadata.row_group(group).num_rows
            row_groups.append(_Group(shard, ids[0], ids[1], count))
    return row_groups


def _spans(groups: Sequence[_Group], weights: Sequence[int], target: int) -> list[Span]:
    """Consecutive ranges that cut no group, each of about `target` rows by weight."""
    order = sorted(range(len(groups)), key=lambda i: (groups[i].first, groups[i].last))
    cuts: list[int] = []
    reach, weight = None, 0
    for i in order:
        group = groups[i]
        if reach is not None and group.first > reach and weight >= target:
            cuts.append(group.first)
            weight = 0
        weight += weights[i]
        reach = group.last if reach is None else max(reach, group.last)
    bounds = [None, *cuts, None]
    return [Span(low, high) for low, high in pairwise(bounds)]
