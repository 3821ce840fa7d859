"""Contents of a report: results of all analyses of a log, and what it lacks for the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.attribute.result import AttributeResult
from rocktok.analyses.detect.density import DensityHistogram
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.result import Result
from rocktok.analyses.stability.result import StabilityResult
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.errors import UsageError
from rocktok.report.hardest import HardType
from rocktok.report.other_analyses import Missing, OtherResult
from rocktok.report.positions import PositionBin
from rocktok.report.sensitivity import RockContexts, SensitivityRow
from rocktok.report.text_view import StepLoss, Texts

SCHEMA = "rocktok.report/3"

#: Entries of `missing`: of a log without the same text at two steps, and of one with too little
#: text.
PERSISTENCE = "persistence, context consistency, retained contexts, loss at two steps"
NO_NULL = "recurring contexts"


@dataclass(frozen=True)
class ReportParams:
    """Options of `report` beside those of `detect`.

    `replicates`: number of bootstrap replicates; `sequences`: maximum number of sequences in the
    text view; `rows`: maximum number of rows in the table of tokens; `lifts`: as in `detect`.
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


class ReportOptions(TypedDict):
    """Every option of `ReportParams`, and patterns of one's own clusters."""

    replicates: int
    sequences: int
    rows: int
    lifts: bool
    clusters: dict[str, list[str]]


class ReportLog(LogIdentity):
    """The log, what `detect` read of it, and passes by analysis.

    `passes`: those that served each analysis, some of them several; "all": how many were made.
    `reads`: how often a row of the steps read was read, on average.
    """

    table: str
    pre: int | None
    post: int
    passes: dict[str, int]
    reads: float


class TypeColumns(TypedDict):
    """Every type seen, as equally long lists.

    `loss_pre`: mean at pre, None without; `loss_post`: at post; `grad_share`: of the gradient's
    norm, where that was recorded.
    """

    token_id: list[int]
    frequency: list[int]
    loss_post: list[float]
    grad_share: NotRequired[list[float | None]]
    loss_pre: list[float | None]


@dataclass(frozen=True)
class ReportResult:
    """All analyses of one log.

    Attributes:
        log: identity of the log, table, steps and passes, by analysis.
        run: what run.json says; {} without it.
        params: options of the report itself; those of `detect` are with its result.
        detect: rocks, of which those with contexts have `contexts` in `rocks`.
        types: frequencies and losses of every type seen.
        attribute, stagnation, stability: None where the log lacks what they need.
        positions: mean losses by relative position, of rocks and of others.
        density: sequences by the share of their positions that is rock: bins and counts.
        sensitivity: rocks over a grid of γ, η and the null's distance; None without contexts.
        contexts: token id → typical retained contexts of a rock, and how many there are.
        contexts_in_text: of these sequences alone that `texts` shows; None where it shows none.
        texts: sequences with all that was recorded of them, at some steps; None where not asked.
        token_texts: token id → text of all ids that stand in the above.
        clusters: token id → functional cluster; cluster_names: all of them, in order.
        missing: results that the log does not allow: what, why, and the remedy.
        notes: caveats of the results.
        others: of analyses that are not built into the report.
        curves: token id → mean losses of a rock at the steps shown as text; {} without text.
        hardest: of a log without rocks, the types that a page shows first; () with rocks.
    """

    log: ReportLog
    run: dict[str, Any]
    params: ReportOptions
    detect: DetectResult
    types: TypeColumns
    attribute: AttributeResult | None
    stagnation: StagnationResult | None
    stability: StabilityResult | None
    positions: tuple[PositionBin, ...]
    density: DensityHistogram
    sensitivity: tuple[SensitivityRow, ...] | None
    contexts: dict[int, RockContexts]
    texts: Texts | None
    token_texts: dict[int, str]
    clusters: dict[int, str]
    cluster_names: tuple[str, ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]
    others: tuple[OtherResult, ...] = ()
    curves: dict[int, list[StepLoss]] = field(default_factory=dict)
    contexts_in_text: dict[int, RockContexts] | None = None
    hardest: tuple[HardType, ...] = ()

    @property
    def rocks(self) -> tuple[int, ...]:
        """Token ids of the rocks, in rank order."""
        return tuple(row["token_id"] for row in self.detect.rocks)

    def __repr__(self) -> str:
        return (
            f"report of {self.log['path']}: {len(self.rocks)} rocks, {len(self.missing)} things "
            f"that the log does not allow, {len(self.notes)} notes"
        )

    def _repr_html_(self) -> str:
        """The rocks, for notebooks."""
        return self.detect._repr_html_()


#: Results that `report` passes to its callback as soon as each is complete.
Told = Result | ReportResult
