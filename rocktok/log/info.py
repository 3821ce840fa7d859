"""What is in a log: steps, sequences, columns, gaps, damage. `rocktok info`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok import schema
from rocktok.errors import LogError
from rocktok.log.checks import SequenceRuns, Where, check_values, to_numpy
from rocktok.log.sequences import load_prompts

if TYPE_CHECKING:
    from rocktok.log.reader import Log
    from rocktok.log.shard import Shard

SCHEMA = "rocktok.info/1"


@dataclass(frozen=True)
class TableInfo:
    """One table: rows that count, by step, and rows that a later attempt has superseded."""

    shards: int
    rows: int
    columns: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]
    incomplete_steps: tuple[int, ...]
    superseded_rows: int


@dataclass(frozen=True)
class LogInfo:
    """Summary of a log; `damage` names every problem found, `verified` says how hard it looked."""

    log: dict[str, Any]
    run: dict[str, Any] | None
    sequences: int | None
    prompts: int | None
    vocab: int
    tables: dict[str, TableInfo]
    attempts: tuple[dict[str, Any], ...]
    ranks: tuple[dict[str, Any], ...]
    dropped: tuple[dict[str, Any], ...]
    dropped_rows: int
    mismatches: int
    damage: tuple[str, ...]
    verified: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `info --format json` writes."""
        return {"schema": SCHEMA, **asdict(self)}


def gather(log: Log, *, verify: bool = False) -> LogInfo:
    """Summarise a log; with `verify` every value of every row is read and checked."""
    damage = _damage(log, verify)
    tables = (
        {} if damage else {t: _table(log, t) for t in schema.OCCURRENCE_TABLES if log.shards(t)}
    )
    sequences, prompts = (None, None) if damage else _sequences(log)
    dropped = [
        {"rank": m.rank, "attempt": m.attempt, **asdict(d)}
        for m in log.manifests
        for d in m.dropped
    ]
    return LogInfo(
        log=log.identity(),
        run=log.run,
        sequences=sequences,
        prompts=prompts,
        vocab=len(log.vocab),
        tables=tables,
        attempts=tuple(asdict(attempt) for attempt in log.attempts),
        ranks=tuple(
            {"rank": m.rank, "attempt": m.attempt, "final": m.final, "shards": len(m.shards)}
            for m in sorted(log.manifests, key=lambda m: (m.attempt, m.rank))
        ),
        dropped=tuple(dropped),
        dropped_rows=sum(item["rows"] for item in dropped),
        mismatches=sum(sum(m.mismatches.values()) for m in log.manifests),
        damage=tuple(damage),
        verified=verify,
        notes=tuple(log.warnings()),
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
        steps=tuple(asdict(step) for step in steps),
        incomplete_steps=tuple(log.incomplete_steps(table)),
        superseded_rows=superseded,
    )


def _sequences(log: Log) -> tuple[int | None, int | None]:
    prompts = load_prompts(log)
    if not prompts.known:
        return None, None
    return len(prompts.sequence_S), len(np.unique(prompts.prompt_S))


def _damage(log: Log, verify: bool) -> list[str]:
    """One line for each thing that is wrong; without `verify`, as far as footers show it."""
    problems = []
    for table in log.tables():
        runs = SequenceRuns()
        for shard in log.shards(table):
            try:
                _check_shard(log, table, shard, runs, verify)
            except LogError as error:
                problems.append(str(error))
        try:
            runs.check()
            if verify and table == "sequences":
                load_prompts(log)
        except LogError as error:
            if str(error) not in problems:
                problems.append(str(error))
    return problems


def _check_shard(log: Log, table: str, shard: Shard, runs: SequenceRuns, verify: bool) -> None:
    opened = log.open(shard, schema.required_names(table))
    if not verify:
        return
    if table in schema.OCCURRENCE_TABLES:
        known = [c.name for c in schema.columns_of(table) if c.name in opened.columns]
        for _ in log.scan_shard(table, shard, known, check=runs):
            pass
        return
    for group, _ in opened.groups():
        where = Where(opened.name, group)
        rows = opened.read_group(group, opened.columns)
        numbers = {n: to_numpy(rows[n], n, where) for n in ("sequence_id", "step", "num_tokens")}
        check_values(numbers, log.rules, where)
