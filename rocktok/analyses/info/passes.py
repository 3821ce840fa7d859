"""`info` over a log: what its manifests say, and one look, or one pass, at every shard."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import numpy as np

import rocktok.schema as schema
from rocktok.analyses.detect.enough import EnoughText
from rocktok.analyses.detect.enough_passes import enough_text
from rocktok.analyses.info.beside_passes import coverage, misfits, uneven
from rocktok.analyses.info.result import (
    AttemptInfo,
    Coverage,
    DroppedInfo,
    LogInfo,
    RankInfo,
    StepInfo,
    TableInfo,
    WeightsInfo,
)
from rocktok.analyses.run import LogOrPath, opened, public
from rocktok.engine.passes import Engine
from rocktok.errors import LogError
from rocktok.log.checks import SequenceRuns, Where, check_values, to_numpy
from rocktok.log.gradients import checked_rows
from rocktok.log.sequences import cast_sequences, load_prompts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocktok._types import Array
    from rocktok.log.catalogue import Log
    from rocktok.log.reader import Reader
    from rocktok.log.shard import OpenShard, Shard


@public
def info(log: LogOrPath, *, verify: bool = False, engine: Engine | None = None) -> LogInfo:
    """Contents of a log, and how many types its text can test.

    Args:
        log: an open log, or the path of one.
        verify: read and check every value of every row.
        engine: runs the verification; default: threads on the available cores.

    Raises `LogError` for a log that cannot be opened; damage inside it is named in the result.
    """
    log, engine = opened(log), engine or Engine()
    damage = _damage(log, verify, engine)
    covered: dict[str, Coverage] = {}
    try:
        covered = {} if damage else coverage(log)
    except LogError as error:
        damage = [str(error)]
    there = [table for table in schema.STEP_TABLES if log.shards(table)]
    tables = {} if damage else {table: _table(log, table, covered.get(table)) for table in there}
    sequences, prompts = (None, None) if damage else _sequences(log)
    enough, unknown = (None, None) if damage else _enough(log, engine)
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
        notes=(
            *log.warnings(),
            *_uncovered(covered.get("contexts")),
            *(_unfinished(name) for name in temporary),
        ),
        weights=tuple(
            cast(WeightsInfo, {"attempt": attempt, **asdict(weights)})
            for attempt, weights in log.weights
        ),
        enough=enough,
        enough_unknown=unknown,
    )


def _enough(log: Log, engine: Engine) -> tuple[EnoughText | None, str | None]:
    """How many types can be tested, or why that cannot be counted."""
    try:
        return enough_text(log, engine), None
    except LogError as error:
        return None, str(error)


def _unfinished(name: str) -> str:
    return (
        f"{name}: a temporary file of a process that is writing or was killed; the next attempt "
        "removes those of its rank, `rocktok compact` leaves them out"
    )


def _uncovered(contexts: Coverage | None) -> list[str]:
    if contexts is None or not contexts.texts_without:
        return []
    return [
        f"contexts/ lacks texts that fixed/ has at step {contexts.step} "
        f"({contexts.texts_without:,}): comparisons of contexts leave their positions out; "
        "`rocktok rescore` writes the contexts of every text"
    ]


def _table(log: Log, table: str, covered: Coverage | None) -> TableInfo:
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
        coverage=covered,
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
        seen = _Seen()
        shards = log.shards(table)
        # Handing out shards one by one costs as much as looking at a small one.
        size = 1 if verify else 64
        parts = (shards[i : i + size] for i in range(0, len(shards), size))
        for part_problems, part_seen in engine.map(
            _check_shards, ((log.reader, table, part, verify) for part in parts)
        ):
            problems += part_problems
            seen.merge(part_seen)
        try:
            seen.runs.check()
            if table == "contexts":
                seen.runs.check_once(table)
            if verify and table == "sequences":
                load_prompts(log)
        except LogError as error:
            problems += [str(error)] if str(error) not in problems else []
        problems += uneven(seen.widths)
    if verify and not problems:
        problems += misfits(log, engine)
    return problems


class _Seen:
    """What rows of several shards must be checked for together.

    `runs`: their sequences; `widths`: step → (length of its lists, shard)s.
    """

    def __init__(self) -> None:
        self.runs = SequenceRuns()
        self.widths: dict[int, list[tuple[int, str]]] = {}

    def add(self, name: str, rows: Mapping[str, Array]) -> None:
        """Note rows of a shard that count, in order."""
        self.runs.add(name, rows["step"], rows["sequence_id"])
        if "student_ids" in rows:
            for step in np.unique(rows["step"]).tolist():
                here = (rows["student_ids"].shape[1], name)
                known = self.widths.setdefault(step, [])
                if here not in known:
                    known.append(here)

    def merge(self, other: _Seen) -> None:
        """Add what another one has noted, of later shards."""
        self.runs.merge(other.runs)
        for step, found in other.widths.items():
            self.widths.setdefault(step, []).extend(found)


def _check_shards(
    reader: Reader, table: str, shards: tuple[Shard, ...], verify: bool
) -> tuple[list[str], _Seen]:
    """What is wrong with some shards, and what is in them. Runs on a worker."""
    seen, problems = _Seen(), []
    for shard in shards:
        try:
            opened = reader.open(shard, schema.required_names(table))
            if verify:
                _read_everything(reader, table, opened, seen)
        except LogError as error:
            problems.append(str(error))
    return problems, seen


def _read_everything(reader: Reader, table: str, opened: OpenShard, seen: _Seen) -> None:
    if table in (*schema.OCCURRENCE_TABLES, *schema.BESIDE_FIXED):
        columns = [c.name for c in schema.columns_of(table) if c.name in opened.columns]
        limit = reader.limit_of(opened.attempt)
        for rows in reader.scan_shard(opened.shard, columns, superseded=True):
            counts = slice(None) if limit is None else rows.columns["step"] < limit
            noted = [n for n in ("step", "sequence_id", "student_ids") if n in rows.columns]
            seen.add(rows.name, {name: rows.columns[name][counts] for name in noted})
        return
    for group, _ in opened.groups():
        if table == "gradients":
            checked_rows(reader.rules, opened, group, vectors=True)
            continue
        where = Where(opened.name, group)
        listed = cast_sequences(opened.read_group(group, opened.columns), where)
        numbers = {n: to_numpy(listed[n], n, where) for n in ("sequence_id", "step", "num_tokens")}
        check_values(numbers, reader.rules, where)
