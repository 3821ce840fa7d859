"""What is in a log: steps, sequences, columns, gaps, damage. `rocktok info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.detect.enough import EnoughText
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
    fingerprint: dict[str, object] | None


class RankInfo(TypedDict):
    """What a rank of an attempt has published, how, and whether it said that this is all."""

    rank: int
    attempt: int
    final: bool
    shards: int
    publishing: str | None


class WeightsInfo(TypedDict):
    """Weights that target tokens had in the trained loss, from a step of an attempt on.

    `found_at`: step at which the run found them by itself; None: they were given.
    """

    attempt: int
    from_step: int
    found_at: int | None
    sha256: str
    select: str
    weight: float
    radius: int
    windows: int
    token_ids: tuple[int, ...]


class DroppedInfo(TypedDict):
    """A step that a rank could not write."""

    rank: int
    attempt: int
    table: str
    step: int
    rows: int
    reason: str


class Question(TypedDict):
    """An analysis of this log: what it can tell (`why` None), or why not, or not all."""

    command: str
    able: bool
    why: str | None


@dataclass(frozen=True)
class Coverage:
    """What a table beside `fixed` says of it.

    `covered` of the `positions` of fixed/ at `step`, its last complete one (of those that
    `alternatives` has, if any), are there, and rows at `steps` of the `fixed_steps` steps.
    `texts_without`: texts at `step` without contexts; None for `alternatives`.
    """

    step: int
    steps: int
    fixed_steps: int
    positions: int
    covered: int
    texts_without: int | None


@dataclass(frozen=True)
class TableInfo:
    """One table: rows that count, by step, and rows that a later attempt has superseded.

    `coverage`: of a table beside `fixed`, what it says of that.
    """

    shards: int
    rows: int
    columns: tuple[str, ...]
    steps: tuple[StepInfo, ...]
    incomplete_steps: tuple[int, ...]
    superseded_rows: int
    coverage: Coverage | None = None


@dataclass(frozen=True)
class LogInfo(Result):
    """Summary of a log; `damage` names every problem found, `verified` says how hard it looked."""

    SCHEMA: ClassVar[str] = "rocktok.info/2"

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
    temporary_files: tuple[str, ...]
    notes: tuple[str, ...]
    weights: tuple[WeightsInfo, ...] = ()
    enough: EnoughText | None = None
    enough_unknown: str | None = None

    def to_dict(self) -> dict[str, object]:
        """With `answer`, `next` and `questions`, which follow from the fields."""
        return {
            **super().to_dict(),
            "answer": self.sentence,
            "next": self.next,
            "questions": list(self.questions),
        }

    @property
    def sentence(self) -> str:
        """Contents of the log, and whether it is complete."""
        if self.damage:
            more = len(self.damage) - 1
            others = f", and {more} more" if more else ""
            return f"The log is damaged: {self.damage[0]}{others}."
        parts = []
        fixed, rollout = (self._complete(name) for name in ("fixed", "rollout"))
        if fixed:
            rows = f"{fixed[-1]['rows']:,} positions"
            parts.append(f"{_steps(fixed)} of the same text ({rows})")
        if rollout:
            parts.append(f"{_steps(rollout)} of rollouts")
        if not parts:
            parts.append("no step is complete on every rank")
        damage = "nothing is damaged" if self.verified else "no damage was found"
        said = f"{', '.join(parts)}; {damage}"
        lost = self.dropped_rows or self.log["skipped_shards"]
        return f"{said[0].upper()}{said[1:]}{', but rows are missing' if lost else ''}."

    @property
    def next(self) -> str:
        """The command to run next."""
        log = quote(self.log["path"])
        if self.damage:
            # What is wrong is known in full only after every row has been read.
            return f"rocktok detect --allow-missing {log}" if self.verified else (
                f"rocktok info --verify {log}")  # fmt: skip
        steps = self._all_steps()
        if steps and not self._complete(self._table):
            return f"rocktok detect --post {steps[-1]['step']} {log}"
        return f"rocktok detect {log}"

    @property
    def questions(self) -> tuple[Question, ...]:
        """Analyses that this log allows with default options; none if it is damaged."""
        if self.damage:
            return ()
        steps, table = len(self._complete(self._table)), self._table
        none = None if steps else f"no step of {table}/ is complete on every rank"
        scored = "no fixed text at two steps; record fixed_sequences, or run `rocktok rescore`"
        rocks = scored if table != "fixed" or steps < 2 else None
        one = f"{table}/ has one complete step; two or more are needed"
        few = "only types with the most loss: rocks need three steps of fixed text"
        followed = few if table != "fixed" or steps < 3 else None
        half = "the log has one prompt; groups are chosen on half of the prompts"
        halves = half if self.prompts == 1 else None
        norms = "grad_norm" in self.tables[table].columns
        lacking = None if norms else f"{table}/ has no column grad_norm"
        alone = "the log has one prompt; samples of prompts need two or more"
        return (
            {"command": "detect", "able": not none, "why": none or rocks},
            {
                "command": "stagnation",
                "able": steps > 1 and self.prompts != 1,
                "why": none or (one if steps < 2 else halves or followed),
            },
            {"command": "attribute", "able": norms and not none, "why": lacking or none},
            {
                "command": "stability",
                "able": self.prompts != 1 and not none,
                "why": none or (alone if self.prompts == 1 else rocks),
            },
            {"command": "controls", "able": not (none or rocks), "why": none or rocks},
        )

    @property
    def _table(self) -> str:
        """Which table the analyses read by default."""
        return "fixed" if "fixed" in self.tables else "rollout"

    def _all_steps(self) -> tuple[StepInfo, ...]:
        return self.tables[self._table].steps if self.tables else ()

    def _complete(self, table: str) -> list[StepInfo]:
        """Steps that every rank has published."""
        if table not in self.tables:
            return []
        incomplete = set(self.tables[table].incomplete_steps)
        return [step for step in self.tables[table].steps if step["step"] not in incomplete]

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


def _steps(steps: list[StepInfo]) -> str:
    return "1 step" if len(steps) == 1 else f"{len(steps):,} steps"
