"""What a report rests on: every analysis that a log allows, and what it lacks for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rocktok.analyses.attribute.result import AttributeResult
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.stability.result import StabilityResult
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.errors import UsageError
from rocktok.report.other_analyses import OtherResult

Row = dict[str, Any]

SCHEMA = "rocktok.report/1"

#: Of `missing`: what a log without the same text at two steps lacks, and one with too little of it.
PERSISTENCE = "persistence, context consistency, retained contexts, early against late loss"
NO_NULL = "which contexts recur"


@dataclass(frozen=True)
class ReportParams:
    """Options of `report` beside those of `detect`.

    `replicates`: of every bootstrap; `sequences`: how many are shown as text; `rows`: of the table
    of tokens; `lifts`: as in `detect`.
    """

    replicates: int = 1000
    sequences: int = 24
    rows: int = 500
    lifts: bool = True

    def __post_init__(self) -> None:
        for name, least in (("replicates", 100), ("sequences", 0), ("rows", 1)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more", parameter=name)


@dataclass(frozen=True)
class ReportResult:
    """All analyses of one log.

    Attributes:
        log: identity of the log, table, steps and passes, by analysis.
        run: what run.json says; {} without it.
        params: options of the report itself; those of `detect` are with its result.
        detect: rocks, of which those with contexts have `contexts` in `rocks`.
        types: of every type seen, as equally long lists: `token_id`, `frequency`, `loss_first`
            (None without an earlier step), `loss_last`, and `grad_share` where norms were recorded.
        attribute, stagnation, stability: None where the log lacks what they need.
        positions: mean losses by relative position, of rocks and of others.
        density: sequences by the share of their positions that is rock: bins and counts.
        sensitivity: rocks over a grid of γ, η and the null's distance; None without contexts.
        contexts: token id → typical retained contexts of a rock, and how many there are.
        texts: sequences with all that was recorded of them, at some steps; None where not asked.
        token_texts: token id → text of all ids that stand in the above.
        clusters: token id → functional cluster; cluster_names: all of them, in order.
        missing: what could not be done: `what`, `why`, `remedy`.
        notes: what a reader of the numbers must know.
        others: of analyses that are not built into the report.
    """

    log: Row
    run: Row
    params: Row
    detect: DetectResult
    types: dict[str, list[Any]]
    attribute: AttributeResult | None
    stagnation: StagnationResult | None
    stability: StabilityResult | None
    positions: tuple[Row, ...]
    density: Row
    sensitivity: tuple[Row, ...] | None
    contexts: dict[int, Row]
    texts: Row | None
    token_texts: dict[int, str]
    clusters: dict[int, str]
    cluster_names: tuple[str, ...]
    missing: tuple[Row, ...]
    notes: tuple[str, ...]
    others: tuple[OtherResult, ...] = ()

    @property
    def rocks(self) -> tuple[int, ...]:
        """Token ids of the rocks, in rank order."""
        return tuple(int(row["token_id"]) for row in self.detect.rocks)

    def __repr__(self) -> str:
        return (
            f"report of {self.log['path']}: {len(self.rocks)} rocks, {len(self.missing)} things "
            f"that the log does not allow, {len(self.notes)} notes"
        )

    def _repr_html_(self) -> str:
        """The rocks, for notebooks."""
        return self.detect._repr_html_()
