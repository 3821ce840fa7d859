"""`info` on `alternatives/` and `contexts/`: what of `fixed/` they cover, and whether they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import rocktok.schema as schema
from rocktok.analyses.info.result import Coverage
from rocktok.errors import LogError
from rocktok.log.beside import check_positions, positions_of
from rocktok.log.tasks import span_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rocktok.engine.passes import Engine
    from rocktok.log.catalogue import Log
    from rocktok.log.reader import Reader
    from rocktok.log.selection import Span
    from rocktok.log.shard import Shard


def coverage(log: Log) -> dict[str, Coverage]:
    """What the tables beside `fixed` say of its last complete step. Raises `LogError`.

    Of `alternatives` by the counts of rows; of `contexts`, which stand at other steps, by the
    sequence ids of both.
    """
    rows = {step.step: step.rows for step in log.steps("fixed")}
    complete = log.complete_steps("fixed")
    if not complete:
        return {}
    covered = {}
    if log.shards("alternatives"):
        here = {step.step: step.rows for step in log.steps("alternatives") if step.step in rows}
        last = max(set(here) & set(complete), default=complete[-1])
        found = Coverage(last, len(here), len(rows), rows[last], here.get(last, 0), None)
        covered["alternatives"] = found
    if log.shards("contexts"):
        last = complete[-1]
        fixed, known = positions_of(log, "fixed", last), positions_of(log, "contexts")
        known_S = known.counts_of(fixed.sequence_S)
        covered["contexts"] = Coverage(
            step=last,
            steps=len({step.step for step in log.steps("contexts")} & set(rows)),
            fixed_steps=len(rows),
            positions=rows[last],
            covered=int(np.minimum(known_S, fixed.count_S).sum()),
            texts_without=int(np.count_nonzero(known_S == 0)),
        )
    return covered


def misfits(log: Log, engine: Engine) -> list[str]:
    """One line for each part of a table with a row whose position `fixed/` lacks."""
    tasks = [
        (table, step.step, task.shards[0], fixed, task.span)
        for table in schema.BESIDE_FIXED
        for step in log.steps(table)
        if not log.has_lost("fixed", step.step)
        for fixed in [tuple(shard for shard, _ in log.holders("fixed", step.step))]
        for task in span_tasks(log, table, step.step)
    ]
    found = engine.map(_misfit, ((log.reader, *task) for task in tasks))
    return [line for line in found if line is not None]


def _misfit(
    reader: Reader,
    table: str,
    step: int,
    shards: tuple[Shard, ...],
    fixed: tuple[Shard, ...],
    span: Span,
) -> str | None:
    try:
        check_positions(reader, table, step, shards, fixed, span)
    except LogError as error:
        return str(error)
    return None


def uneven(widths: Mapping[int, Sequence[tuple[int, str]]]) -> list[str]:
    """One line for each step with lists of several lengths. `widths`: step → (length, shard)s."""
    problems = []
    for step, ((width, name), *others) in sorted(widths.items()):
        apart = [(other, where) for other, where in others if other != width]
        if apart:
            other, where = apart[0]
            problems.append(
                f"{where}: lists of {other} values at step {step}, of {width} in {name}; the "
                "lists of a step must be equally long"
            )
    return problems
