"""What is in a log: steps, sequences, columns, gaps, damage. `rocktok info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result


class StepInfo(TypedDict):
    """A step of a table, and whether every rank has published all it had."""

    step: int
    rows: int
    complete: bool


class AttemptInfo(TypedDict):
    """A start of the training job."""

    attempt: int
    resume_step: int
    world_size: int
    columns: tuple[str, ...]


class RankInfo(TypedDict):
    """What a rank of an attempt has published, and whether it said that this is all."""

    rank: int
    attempt: int
    final: bool
    shards: int


class DroppedInfo(TypedDict):
    """A step that a rank could not write."""

    rank: int
    attempt: int
    table: str
    step: int
    rows: int
    reason: str


@dataclass(frozen=True)
class TableInfo:
    """One table: rows that count, by step, and rows that a later attempt has superseded."""

    shards: int
    rows: int
    columns: tuple[str, ...]
    steps: tuple[StepInfo, ...]
    incomplete_steps: tuple[int, ...]
    superseded_rows: int


@dataclass(frozen=True)
class LogInfo(Result):
    """Summary of a log; `damage` names every problem found, `verified` says how hard it looked."""

    SCHEMA: ClassVar[str] = "rocktok.info/1"

    log: LogIdentity
    run: Mapping[str, object] | None
    sequences: int | None
    prompts: int | None
    vocab: int
    tables: dict[str, TableInfo]
    attempts: tuple[AttemptInfo, ...]
    ranks: tuple[RankInfo, ...]
    dropped: tuple[DroppedInfo, ...]
    dropped_rows: int
    mismatches: int
    damage: tuple[str, ...]
    verified: bool
    notes: tuple[str, ...]

    def shown(self) -> tuple[str, list[dict[str, object]]]:
        """The tables."""
        return "", [
            {
                "table": name,
                "shards": table.shards,
                "rows": table.rows,
                "superseded_rows": table.superseded_rows,
                "steps": len(table.steps),
            }
            for name, table in self.tables.items()
        ]
