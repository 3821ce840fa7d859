"""What is in a log: steps, sequences, columns, gaps, damage. `rocktok info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rocktok.analyses.result import Result


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
class LogInfo(Result):
    """Summary of a log; `damage` names every problem found, `verified` says how hard it looked."""

    SCHEMA: ClassVar[str] = "rocktok.info/1"

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

    def shown(self) -> tuple[str, Any]:
        """The tables."""
        names = ("shards", "rows", "superseded_rows")
        rows = [{"table": name, **{n: getattr(table, n) for n in names}, "steps": len(table.steps)}
                for name, table in self.tables.items()]  # fmt: skip
        return "", rows
