"""What `detect` returns: frozen, traceable to the log and the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NotRequired, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.detect.instead import InsteadColumns, instead_text
from rocktok.analyses.detect.lifts import LiftColumns

# Whoever reads a result finds its options here.
from rocktok.analyses.detect.params import MOST_ROCKS as MOST_ROCKS
from rocktok.analyses.detect.params import DetectParams as DetectParams
from rocktok.analyses.result import Result

if TYPE_CHECKING:
    import pandas as pd


class DetectOptions(TypedDict):
    """Every option of `DetectParams`; `lifts` only where these were asked for.

    `similarity` is what was compared ("auto": nothing was), `similarity_given` the option.
    """

    pre: int | None
    post: int | None
    table: str
    context: str
    quantile_pre: float
    quantile_post: float
    tau_pre: float | None
    tau_post: float | Literal["same"] | None
    persistence: str
    window: int
    similarity: str
    partners: str
    gamma: float | Literal["auto"]
    eta: float | Literal["auto"]
    rule: str
    fdr: float
    min_hardness: float
    top_k: int | None
    tau_r: float | None
    min_frequency: int
    exclude_most_frequent: int
    cap: int
    exact: bool
    seed: int
    all_types: bool
    similarity_given: str
    lifts: NotRequired[bool]


class DetectLog(LogIdentity):
    """The log, what was read of it, and how often."""

    table: str
    pre: int | None
    post: int
    no_context: str | None
    rollout_step: int | None
    passes: int
    embeddings: str | None


class ThresholdRow(TypedDict):
    """Thresholds in nats, τ_post/τ_pre, and γ as it was used; None where there are none."""

    tau_pre: float | None
    tau_post: float | None
    tau_change: float | None
    ratio: float | None
    gamma: float | None


class ReplicationRow(TypedDict):
    """Rocks of half of the prompts; those that the other half holds, and that are hard there."""

    rocks: int
    held: int
    hard: int
    share: float | None


class Totals(TypedDict):
    """Of all types, but `retained` of the rocks; None without persistence.

    `tests`: m of the false discovery rate; `tested`: types with enough persistent occurrences;
    `hard`: of these, those that are persistently hard beyond chance, in whatever contexts;
    `untested_loss_share`: of all others; `text_wanted`: how many times as much text until types
    with half of the loss are testable. None by another rule than "tested".
    """

    sequences: int
    positions: int
    loss: float
    persistent: int | None
    retained: int | None
    unpaired_sequences: int | None
    tests: int | None
    tested: int | None
    hard: int | None
    untested_loss_share: float | None
    text_wanted: float | None
    replication: ReplicationRow | None


class Spread(TypedDict):
    """Of a share of a sequence's positions; None where it was not computed."""

    median: float | None
    p10: float | None
    p90: float | None


class DensityRow(TypedDict):
    """How much of a sequence is rock: positions of rock types, and retained occurrences."""

    type: Spread
    retained: Spread
    sequences: int


class PermutedRow(TypedDict):
    """Rocks, and those that labels permuted within types give.

    `reach_lowest`: types whose score then reaches the lowest of a rock; `complete`: whether the
    labels of all types were permuted.
    """

    rocks: int
    rocks_permuted: int
    lowest_score: float | None
    reach_lowest: int
    judged: int
    complete: bool


class ScoreColumns(TypedDict):
    """Of a type: what it carries of the loss."""

    rank: int
    token_id: int
    token: str
    frequency: int
    prompts: int
    mean_loss_pre: float | None
    mean_loss: float
    rock_score: float
    loss_share: float | None
    coverage: float


class PersistenceColumns(TypedDict):
    """Of a type: its persistent occurrences; None where that was not computed."""

    persistent: int | None
    persistent_prompts: int | None
    persistence_lift: float | None


class ContextColumns(TypedDict):
    """Of a type: its retained occurrences; None where its contexts were not judged."""

    retained: int | None
    retained_loss: float | None
    eta: float | None
    eta_count: int | None
    null_distance: int | None
    ccr: float | None
    ccr_low: float | None
    ccr_high: float | None
    context_rock_score: float | None


class TestedColumns(TypedDict):
    """Of a type: what the tested rule says; None by another rule, and where it was not computed.

    `hardness` is None, too, where none of its occurrences was expected to be persistent.
    """

    tested: bool | None
    prompts_held: int | None
    hardness: float | None
    p_hard: float | None
    p_context: float | None
    p_value: float | None
    q_value: float | None
    score: float | None
    shadowed_by: int | None


class ExtraColumns(TypedDict):
    """Of a type: what only some logs have; None in others."""

    rollout_frequency: int | None
    rollout_rock_score: float | None
    mean_log_ratio: float | None
    student_probability: float | None
    teacher_probability: float | None


class DetectRow(
    ScoreColumns, PersistenceColumns, ContextColumns, TestedColumns, ExtraColumns, InsteadColumns,
    LiftColumns,
):  # fmt: skip
    """One type; the columns of lifts only where these were asked for."""

    flags: list[str]
    is_rock: bool


#: With lifts, theirs come after all others.
COLUMNS = tuple(c for c in DetectRow.__annotations__ if c not in LiftColumns.__annotations__)
LIFT_COLUMNS = (*COLUMNS, *LiftColumns.__annotations__)


@dataclass(frozen=True)
class DetectResult(Result):
    """Rocks of a log (with `all_types`: every type seen), in rank order.

    By the rule "tested" without persistence: no rocks, but the types with the largest loss.

    Attributes:
        log: identity of the log, table, steps and passes.
        params: every option.
        thresholds: `tau_pre`, `tau_post`, `tau_change` (nats), `ratio` τ_post/τ_pre; `gamma`, the
            minimum similarity of two contexts.
        totals: sequences, positions, loss (nats), persistent and retained occurrences (of rocks),
            how many types were tested, and replication.
        density: share of a sequence's positions: of rock types, and retained occurrences.
        tokens: one row per type; None where a number was not computed.
        notes: what a reader of the numbers must know.
        permuted: with lifts, rocks and rocks that permuted labels give; else None.
    """

    SCHEMA: ClassVar[str] = "rocktok.detect/3"
    CARD: ClassVar[tuple[str, ...]] = (
        "rank", "token", "token_id", "frequency", "mean_loss_pre", "mean_loss", "loss_share",
        "persistent", "retained", "ccr", "hardness", "q_value", "teacher_on_token",
        "student_on_token", "instead", "flags",
    )  # fmt: skip

    log: DetectLog
    params: DetectOptions
    thresholds: ThresholdRow
    totals: Totals
    density: DensityRow
    tokens: tuple[DetectRow, ...]
    notes: tuple[str, ...]
    permuted: PermutedRow | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `tokens`."""
        return COLUMNS if self.permuted is None else LIFT_COLUMNS

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tokens as a pandas DataFrame, one row per type; flags and others in one text."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens), columns=self.columns)
        frame["flags"] = [",".join(row["flags"]) for row in self.tokens]
        frame["instead"] = [instead_text(row) for row in self.tokens]
        return frame

    @property
    def similarity(self) -> str | None:
        """How contexts were compared; None: they were not."""
        compared = self.thresholds.get("gamma") is not None
        return self.params["similarity"] if compared else None

    @property
    def rocks(self) -> tuple[DetectRow, ...]:
        """The rows that are rocks."""
        return tuple(row for row in self.tokens if row["is_rock"])

    def to_dict(self) -> dict[str, object]:
        """What `to_json` writes: every field, `permuted` only with lifts."""
        content: dict[str, object] = super().to_dict()
        if self.permuted is None:
            del content["permuted"]
        return content

    def limits(self) -> dict[str, object]:
        """What `--fail-if` may name: what `to_dict` holds, and `rocks`, its rows that are rocks.

        `rocks.loss_share` is that of all rocks together, `rocks.count` their number; None where
        persistence is unknown.
        """
        if self.log["pre"] is None and self.params["rule"] == "tested":
            return {**self.to_dict(), "rocks": {"count": None, "loss_share": None}}
        shares = [row["loss_share"] for row in self.rocks]
        known = [share for share in shares if share is not None]
        share = sum(known) if len(known) == len(shares) else None
        return {**self.to_dict(), "rocks": {"count": len(self.rocks), "loss_share": share}}

    @classmethod
    def limit_types(cls) -> dict[str, Any]:
        """As of any result, with `rocks`."""
        rocks = {"count": int | None, "loss_share": float | None}
        return {**super().limit_types(), "rocks": rocks}

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The tokens under the number of rocks."""
        frame = self.table.drop(columns=["eta", "eta_count", "null_distance"])
        frame["token"] = [repr(text) for text in frame["token"]]
        step = f"step {self.log['post']} of {self.log['table']}/"
        return f"{len(self.rocks)} rock tokens at {step}", frame
