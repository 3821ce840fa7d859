"""The current rows of a table as Arrow tables, in one order: by step, sequence, position.

For what copies a log: rows are checked as they are read, superseded ones are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.log.checks import ListCheck, SequenceRuns, Where
from rocktok.log.gradients import checked_rows
from rocktok.log.lists import from_matrix
from rocktok.log.sequences import cast_sequences
from rocktok.log.tasks import span_tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from rocktok._types import Array
    from rocktok.log.catalogue import Log


def ordered_rows(
    log: Log,
    table: str,
    columns: Collection[str] | None = None,
    steps: Collection[int] | None = None,
) -> Iterator[pa.Table]:
    """Rows of a table, piece by piece, in the format's own types.

    The order depends on the rows alone, but for `sequences`, whose rows come as their shards have
    them. A piece holds whole sequences of one step: about a million rows, or all of the step where
    its shards are interleaved.

    Args:
        log, table: what is read.
        columns: optional columns to read, those that the table needs come with them; None: all.
        steps: of the rows; None: all. Rows of `sequences` are read whatever their step.
    """
    if table == "sequences":
        return _sequences(log, columns)
    wanted = [s.step for s in log.steps(table) if steps is None or s.step in steps]
    if table == "gradients":
        return _gradients(log, wanted)
    return _occurrences(log, table, columns, wanted)


def stored_columns(log: Log, table: str) -> list[str]:
    """Columns of the format that all shards of a table have, in its order."""
    if table != "sequences":
        return log.columns(table)
    names = [c.name for c in schema.columns_of(table)]
    of_shards = [set(log.open(shard).columns) for shard in log.shards(table)]
    return [name for name in names if all(name in columns for columns in of_shards)]


def _gradients(log: Log, steps: list[int]) -> Iterator[pa.Table]:
    """The rows of all ranks, step by step, in the order in which readers add them up."""
    wanted = schema.arrow_schema("gradients")
    for step in steps:
        parts = []
        for shard, _ in log.holders("gradients", step):
            opened = log.open(shard, wanted.names)
            for group, _ in opened.groups():
                kept = checked_rows(log.rules, opened, group, vectors=True)["step"] == step
                rows = opened.read_group(group, wanted.names).select(wanted.names).cast(wanted)
                parts.append(rows.filter(pa.array(kept)))
        yield pa.concat_tables(parts)


def _occurrences(
    log: Log, table: str, only: Collection[str] | None, steps: list[int]
) -> Iterator[pa.Table]:
    """Rows by step, then in ascending order of sequence_id: whole sequences in every part."""
    wanted = _schema(table, log.columns(table), only)
    for step in steps:
        lists = ListCheck("step")
        for task in span_tasks(log, table, step):
            check, parts = SequenceRuns(), []
            for shard in task.shards[0]:
                for part in log.reader.scan_shard(shard, wanted.names, [step], check, task.span):
                    lists.check(part.columns, Where(part.name, 0))
                    parts.append(part.columns)
            check.check()
            if not parts:
                continue
            rows = {name: np.concatenate([p[name] for p in parts]) for name in wanted.names}
            order = np.lexsort((rows["position"], rows["sequence_id"]))
            yield pa.Table.from_arrays(
                [_array(rows[f.name][order], f.type) for f in wanted], schema=wanted
            )


def _schema(table: str, columns: list[str], only: Collection[str] | None) -> pa.Schema:
    """Of required columns and of the optional ones among `columns`, or of `only` these."""
    required = schema.required_names(table)
    optional = [c for c in columns if c not in required and (only is None or c in only)]
    return schema.arrow_schema(table, optional)


def _array(values: Array, type_: Any) -> pa.Array:
    return pa.array(values, type_) if values.ndim == 1 else from_matrix(values, type_).cast(type_)


def _sequences(log: Log, only: Collection[str] | None) -> Iterator[pa.Table]:
    wanted = _schema("sequences", stored_columns(log, "sequences"), only)
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        limit = log.limit_of(opened.attempt)
        for group, _ in opened.groups():
            rows = opened.read_group(group, wanted.names)
            rows = cast_sequences(rows, Where(opened.name, group)).select(wanted.names)
            if limit is not None:
                rows = rows.filter(pa.array(np.asarray(rows["step"]) < limit))
            yield rows
