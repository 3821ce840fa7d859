"""Options of `attribute`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NotRequired, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import MOST_TYPES, Result
from rocktok.errors import UsageError
from rocktok.stats.bootstrap import REPLICATES
from rocktok.stats.contrasts import ContrastColumns
from rocktok.stats.verdicts import AdjustedComparison

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AttributeParams:
    """Options of `attribute`.

    `group_size`: types in each group beside the rocks; None: as many as there are rocks. `top`:
    types in the result; None: 100, of which the terminal table has 20.
    """

    table: str = "auto"
    step: int | None = None
    top: int | None = None
    all_types: bool = False
    group_size: int | None = None
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("replicates", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more", parameter=name)
        if self.group_size is not None and self.group_size < 1:
            message = f"group_size is {self.group_size}; it must be 1 or more"
            raise UsageError(message, parameter="group_size")

    @property
    def most(self) -> int:
        """`top` with its default filled in."""
        return MOST_TYPES if self.top is None else self.top


class AttributeLog(LogIdentity):
    """What was read. `chosen_at`: steps at which the rocks of the contrasts were chosen.

    `similarity`: how contexts were compared when rocks were looked for; None: they were not.
    """

    table: str
    steps: list[int]
    step: int
    chosen_at: list[int]
    similarity: str | None
    passes: int


class AttributeOptions(TypedDict):
    """Every option; `rocks`: "given" where they were."""

    table: str
    step: int | None
    top: int | None
    all_types: bool
    group_size: int | None
    replicates: int
    seed: int
    rocks: str | None


class Totals(TypedDict):
    """Counts and sums over all positions at the reference step; squares of the norms as `…_sq`."""

    positions: int
    types: int
    loss: float
    grad_norm: float
    grad_norm_sq: float
    head_grad_norm: NotRequired[float]
    head_grad_norm_sq: NotRequired[float]


class ShareRow(TypedDict):
    """Shares of all positions' sums, with 95% intervals; `concentration`: grad / position.

    `few_prompts_carry_it`: an interval is left out for this reason.
    """

    position_share: float | None
    loss_share: float | None
    grad_share: float | None
    grad_sq_share: float | None
    head_grad_share: NotRequired[float | None]
    head_grad_sq_share: NotRequired[float | None]
    concentration: float | None
    position_share_low: NotRequired[float | None]
    position_share_high: NotRequired[float | None]
    loss_share_low: NotRequired[float | None]
    loss_share_high: NotRequired[float | None]
    grad_share_low: NotRequired[float | None]
    grad_share_high: NotRequired[float | None]
    grad_sq_share_low: NotRequired[float | None]
    grad_sq_share_high: NotRequired[float | None]
    head_grad_share_low: NotRequired[float | None]
    head_grad_share_high: NotRequired[float | None]
    head_grad_sq_share_low: NotRequired[float | None]
    head_grad_sq_share_high: NotRequired[float | None]
    concentration_low: NotRequired[float | None]
    concentration_high: NotRequired[float | None]
    few_prompts_carry_it: NotRequired[bool]


class TypeShares(ShareRow):
    """Of one token type at the reference step."""

    token_id: int
    token: str
    groups: list[str]
    frequency: int
    mean_grad_norm: float


class GroupShares(ShareRow):
    """Of one group at one step."""

    step: int
    group: str
    types: int
    frequency: int


class Members(TypedDict):
    """Token ids of each group, pairs of a rock and its control, rocks without a control."""

    rocks: tuple[int, ...]
    high_kl: tuple[int, ...]
    random: tuple[int, ...]
    control: tuple[int, ...]
    control_pairs: tuple[tuple[int, int], ...]
    rocks_without_control: tuple[int, ...]
    caliper: float | None
    control_source: str


class GroupContrast(ContrastColumns):
    """Rocks against another group; with `skipped`, why they were not compared."""

    measure: str
    first: str
    second: str
    chosen_on: str
    measured_on: str
    skipped: NotRequired[str]
    types_first: NotRequired[int]
    types_second: NotRequired[int]
    p_holm: NotRequired[float]


class TypeGeometry(TypedDict):
    """Measures of a type's mean gradient; of sketches with how far off 95% of them are."""

    token: str
    token_id: int
    frequency: int
    mean_norm: float | None
    cos_balanced: float | None
    cos_global: float | None
    contribution: float | None
    squared_mean: float | None
    coherence: float | None
    split_cos_balanced: float | None
    split_cos_global: float | None
    mean_norm_bound: NotRequired[float | None]
    cos_balanced_bound: NotRequired[float | None]
    cos_global_bound: NotRequired[float | None]
    contribution_bound: NotRequired[float | None]
    squared_mean_bound: NotRequired[float | None]
    coherence_bound: NotRequired[float | None]
    split_cos_balanced_bound: NotRequired[float | None]
    split_cos_global_bound: NotRequired[float | None]


class GroupGeometry(TypedDict):
    """Medians over the types of a group whose sums were recorded."""

    step: int
    group: str
    types: int
    mean_norm: float | None
    cos_balanced: float | None
    cos_global: float | None
    contribution: float | None
    squared_mean: float | None
    coherence: float | None
    split_cos_balanced: float | None
    split_cos_global: float | None


class GeometryContrast(TypedDict):
    """Difference of means of rocks and another group; with `skipped`, why there is none."""

    measure: str
    first: str
    second: str
    skipped: NotRequired[str]
    difference: NotRequired[float | None]
    bound: NotRequired[float | None]
    reason: NotRequired[str | None]
    p_types_naive: NotRequired[float | None]


class GeometryTables(TypedDict):
    """What `gradients/` gives; `tokens` at the last step."""

    step: int
    exact: bool
    sketch_dims: int
    tokens: list[TypeGeometry]
    groups: list[GroupGeometry]
    comparisons: list[GeometryContrast]


@dataclass(frozen=True)
class AttributeResult(Result):
    """Gradient shares of a log.

    Attributes:
        log: identity of the log, table, steps and passes.
        params: every option.
        totals: sums over all positions at the reference step.
        tokens: one mapping per type at the reference step, largest `grad_share` first.
        groups: one mapping per step and group.
        members: token ids of each group, pairs of rocks and controls, rocks without a control.
        tests: contrasts of the rocks with each other group, whatever their losses.
        adjusted: whether the gradient of rocks is larger than that of other types of like loss and
            frequency; None where rocks were not chosen on one half of the prompts, or there are
            none.
        geometry: what `gradients/` gives, None where the log has none.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.attribute/2"

    log: AttributeLog
    params: AttributeOptions
    totals: Totals
    tokens: tuple[TypeShares, ...]
    groups: tuple[GroupShares, ...]
    members: Members
    tests: tuple[GroupContrast, ...]
    adjusted: AdjustedComparison | None
    geometry: GeometryTables | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tokens as a pandas DataFrame; groups joined by commas."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens))
        frame["groups"] = [",".join(row["groups"]) for row in self.tokens]
        return frame

    def shown(self) -> tuple[str, tuple[GroupShares, ...]]:
        """The groups."""
        return "", self.groups
