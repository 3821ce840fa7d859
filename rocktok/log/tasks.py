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
from rocktok.log.shard import OpenShard, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Rows of the later step that a task of a join holds at least, where the log can be cut so.
TASK_ROWS = 1 << 20

#: Steps of a table whose row groups a log keeps in memory, some 100 bytes for each of these.
STEPS_KEPT = 8


@dataclass(frozen=True)
class Beside:
    """One step of a shard of a table beside `fixed`: rows of sequences from `first` to `last`."""

    table: str
    shard: Shard
    step: int
    first: int
    last: int


@dataclass(frozen=True)
class Task:
    """What one partial result is made from: for each step its shards, and the ids to keep.

    `beside`: what tables beside `fixed` hold of these ids, by table, step and shard.
    """

    shards: tuple[tuple[Shard, ...], ...]
    span: Span
    rows: int
    beside: tuple[Beside, ...] = ()


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


def ids_within(log: Log, task: Task) -> tuple[int | None, int | None]:
    """A range of sequence ids, the first included, the other not, that holds all of a task's rows.

    By the statistics of its shards; (None, None) where one's cannot be trusted.
    """
    bounds = []
    for shard in {shard.path: shard for shards in task.shards for shard in shards}.values():
        opened = log.open(shard, ("sequence_id",))
        bounds += [opened.group_range(group, "sequence_id") for group, _ in opened.groups()]
    known = [pair for pair in bounds if pair is not None]
    if not known or len(known) < len(bounds):
        return None, None
    return min(low for low, _ in known), max(high for _, high in known) + 1


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
    log: Log,
    table: str,
    pre: int | None,
    post: int,
    task_rows: int | None = None,
    beside: Mapping[str, Sequence[int]] | None = None,
) -> list[Task]:
    """Tasks that join two steps on ranges of sequence ids; together they cover all ids.

    A range ends where no row group of either step straddles, so that each is read once. Shards
    whose ids are interleaved stay in one task.

    Args:
        log, table: what is read.
        pre, post: the steps; `pre` None: one step alone, which is not joined to another.
        task_rows: rows of the first of these steps that a task holds at least.
        beside: table beside `fixed` → steps of it that are read, too, where row groups end alike.
    """
    task_rows = TASK_ROWS if task_rows is None else task_rows
    sides = [_groups(log, table, step) for step in ((post,) if pre is None else (pre, post))]
    parts = [
        (name, step, _groups(log, name, step))
        for name, steps in (beside or {}).items()
        for step in steps
    ]
    others = [group for side in (*sides[1:], *(groups for _, _, groups in parts)) for group in side]
    tasks = []
    weights = [group.rows for group in sides[0]] + [0] * len(others)
    for span in _spans([*sides[0], *others], weights, task_rows):
        touched = [[g for g in side if span.touches(g.first, g.last)] for side in sides]
        shards = tuple(tuple({g.shard.path: g.shard for g in side}.values()) for side in touched)
        rows = sum(group.rows for side in touched for group in side)
        tasks.append(Task(shards, span, rows, _beside(parts, span)))
    return tasks


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group's range of sequence ids; `rows` counts all its rows, of whatever step."""

    shard: Shard
    first: int
    last: int
    rows: int


def _groups(log: Log, table: str, step: int) -> list[_Group]:
    """The row groups that hold a step; kept for the next pass over the log.

    Footers of all shards of a step are read for them: the longest part of a pass over many shards
    that cannot be shared out.
    """
    kept: dict[tuple[str, int], list[_Group]] = log.row_groups
    found = kept.pop((table, step), None)
    if found is None:
        found = _read_groups(log, table, step)
    kept[table, step] = found  # behind those that were asked for before
    while len(kept) > STEPS_KEPT:
        kept.pop(next(iter(kept)))
    return found


def _read_groups(log: Log, table: str, step: int) -> list[_Group]:
    row_groups = []
    for shard, _ in log.holders(table, step):
        opened = log.open(shard, ("step", "sequence_id"))
        for group, _ in opened.groups():
            steps = opened.group_range(group, "step")
            if steps is not None and not steps[0] <= step <= steps[1]:
                continue
            ids = opened.group_range(group, "sequence_id")
            if ids is None:
                ids = _looked_up(opened, group, step)
                if ids is None:
                    continue
            count = opened.file.metadata.row_group(group).num_rows
            row_groups.append(_Group(shard, ids[0], ids[1], count))
    return row_groups


def _looked_up(opened: OpenShard, group: int, step: int) -> tuple[int, int] | None:
    """What ids a row group has at a step, by its rows: nothing vouches for its statistics.

    None: it has no rows of the step.
    """
    where = Where(opened.name, group)
    rows = opened.read_group(group, ["step", "sequence_id"])
    step_N, id_N = (to_numpy(rows[n], n, where) for n in ("step", "sequence_id"))
    id_N = id_N[step_N == step]
    return (int(id_N.min()), int(id_N.max())) if len(id_N) else None


def _beside(parts: Sequence[tuple[str, int, Sequence[_Group]]], span: Span) -> tuple[Beside, ...]:
    """What tables beside `fixed` hold of a range of ids, each shard once for each of its steps."""
    found = []
    for table, step, groups in parts:
        of_shard: dict[str, list[_Group]] = {}
        for group in groups:
            if span.touches(group.first, group.last):
                of_shard.setdefault(group.shard.path, []).append(group)
        for same in of_shard.values():
            first, last = min(g.first for g in same), max(g.last for g in same)
            found.append(Beside(table, same[0].shard, step, first, last))
    return tuple(found)


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
