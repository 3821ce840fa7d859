"""`info` over a log: what its manifests say, and one look, or one pass, at every shard."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import numpy as np

import rocktok.schema as schema
from rocktok.analyses.info.result import (
    AttemptInfo,
    DroppedInfo,
    LogInfo,
    RankInfo,
    StepInfo,
    TableInfo,
)
from rocktok.analyses.run import LogOrPath, opened, public
from rocktok.engine.passes import Engine
from rocktok.errors import LogError
from rocktok.log.checks import SequenceRuns, Where, check_values, to_numpy
from rocktok.log.gradients import checked_rows
from rocktok.log.sequences import cast_sequences, load_prompts

if TYPE_CHECKING:
    from rocktok.log.catalogue import Log
    from rocktok.log.reader import Reader
    from rocktok.log.shard import OpenShard, Shard


@public
def info(log: LogOrPath, *, verify: bool = False, engine: Engine | None = None) -> LogInfo:
    """What is in a log.

    Args:
        log: an open log, or the path of one.
        verify: read every value of every row, and check it.
        engine: what makes the pass that verifies; default: threads on the cores at hand.

    Raises `LogError` for a log that cannot be opened; damage inside it is named in the result.
    """
    log = opened(log)
    damage = _damage(log, verify, engine or Engine())
    tables = {} if damage else {t: _table(log, t) for t in schema.STEP_TABLES if log.shards(t)}
    sequences, prompts = (None, None) if damage else _sequences(log)
    dropped = [
        cast(DroppedInfo, {"rank": m.rank, "attempt": m.attempt, **asdict(d)})
        for m in log.manifests
        for d in m.dropped
    ]
    ranks: list[RankInfo] = [
        {
            "rank": m.rank,
            "attempt": m.attempt,
            "final": m.final,
            "shards": len(m.shards),
            "publishing": m.publishing,
        }
        for m in sorted(log.manifests, key=lambda m: (m.attempt, m.rank))
    ]
    temporary = log.place.temporaries()
    return LogInfo(
        log=log.identity(),
        run=log.run,
        sequences=sequences,
        prompts=prompts,
        vocab=len(log.vocab),
        tables=tables,
        attempts=tuple(cast(AttemptInfo, asdict(attempt)) for attempt in log.attempts),
        ranks=tuple(ranks),
        dropped=tuple(dropped),
        dropped_rows=sum(item["rows"] for item in dropped),
        mismatches=sum(sum(m.mismatches.values()) for m in log.manifests),
        damage=tuple(damage),
        verified=verify,
        temporary_files=tuple(temporary),
        notes=(*log.warnings(), *(_unfinished(name) for name in temporary)),
    )


def _unfinished(name: str) -> str:
    return (
        f"{name}: a temporary file, of a process that is writing or was killed; the next attempt "
        "removes those of its rank, `rocktok compact` leaves them behind"
    )


def _table(log: Log, table: str) -> TableInfo:
    superseded = 0
    for shard in log.shards(table):
        limit = log.limit_of(log.attempt_of(shard))
        if limit is not None:
            by_step = log.rows_by_step(shard)
            superseded += sum(rows for step, rows in by_step.items() if step >= limit)
    steps = log.steps(table)
    return TableInfo(
        shards=len(log.shards(table)),
        rows=sum(step.rows for step in steps),
        columns=tuple(log.columns(table)),
        steps=tuple(cast(StepInfo, asdict(step)) for step in steps),
        incomplete_steps=tuple(log.incomplete_steps(table)),
        superseded_rows=superseded,
    )


def _sequences(log: Log) -> tuple[int | None, int | None]:
    prompts = load_prompts(log)
    if not prompts.known:
        return None, None
    return len(prompts.sequence_S), len(np.unique(prompts.prompt_S))


def _damage(log: Log, verify: bool, engine: Engine) -> list[str]:
    """One line for each thing that is wrong; without `verify`, as far as footers show it."""
    problems = []
    for table in log.tables():
        runs = SequenceRuns()
        shards = log.shards(table)
        # Handing out shards one by one costs as much as looking at a small one.
        size = 1 if verify else 64
        parts = (shards[i : i + size] for i in range(0, len(shards), size))
        for part_problems, part_runs in engine.map(
            _check_shards, ((log.reader, table, part, verify) for part in parts)
        ):
            problems += part_problems
            runs.merge(part_runs)
        try:
            runs.check()
            if verify and table == "sequences":
                load_prompts(log)
        except LogError as error:
            problems += [str(error)] if str(error) not in problems else []
    return problems


def _check_shards(
    reader: Reader, table: str, shards: tuple[Shard, ...], verify: bool
) -> tuple[list[str], SequenceRuns]:
    """What is wrong with some shards, and the sequences in them. Runs on a worker."""
    runs, problems = SequenceRuns(), []
    for shard in shards:
        try:
            opened = reader.open(shard, schema.required_names(table))
            if verify:
                _read_everything(reader, table, opened, runs)
        except LogError as error:
            problems.append(str(error))
    return problems, runs


def _read_everything(reader: Reader, table: str, opened: OpenShard, runs: SequenceRuns) -> None:
    if table in schema.OCCURRENCE_TABLES:
        columns = [c.name for c in schema.columns_of(table) if c.name in opened.columns]
        limit = reader.limit_of(opened.attempt)
        for rows in reader.scan_shard(opened.shard, columns, superseded=True):
            step_N, sequence_N = rows.columns["step"], rows.columns["sequence_id"]
            counts = slice(None) if limit is None else step_N < limit
            runs.add(rows.name, step_N[counts], sequence_N[counts])
        return
    for group, _ in opened.groups():
        if table == "gradients":
            checked_rows(reader.rules, opened, group, vectors=True)
            continue
        where = Where(opened.name, group)
        listed = cast_sequences(opened.read_group(group, opened.columns), where)
        numbers = {n: to_numpy(listed[n], n, where) for n in ("sequence_id", "step", "num_tokens")}
        check_values(numbers, reader.rules, where)
