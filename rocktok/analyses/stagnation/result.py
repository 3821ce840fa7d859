"""Options of `stagnation`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NotRequired, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import MOST_TYPES, Result
from rocktok.errors import UsageError
from rocktok.stats.bootstrap import REPLICATES
from rocktok.stats.contrasts import ContrastColumns, OverTypes
from rocktok.stats.matching import Balance
from rocktok.stats.verdicts import AdjustedComparison

if TYPE_CHECKING:
    import pandas as pd

DESCRIPTIVE = "descriptive: conditioned on the outcome"
GIVEN = "rocks given: descriptive, unless they were chosen on other prompts"


@dataclass(frozen=True)
class StagnationParams:
    """Options of `stagnation`. `pre`, `post`: first and last step; None: the outermost complete.

    `top_k`: types of `high_loss` where there are no rocks. `top`: types by loss, beside those of
    the groups, that are drawn again; `all_types`: the others, too, with linearised intervals.
    """

    table: str = "auto"
    pre: int | None = None
    post: int | None = None
    select_at: str = "first"
    top_k: int = 100
    group_size: int | None = None
    top: int | None = None
    all_types: bool = False
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"top_k": 1, "top": 0, "replicates": 100}
        if self.group_size is not None:
            least["group_size"] = 1
        for name, floor in least.items():
            value = getattr(self, name)
            if value is not None and value < floor:
                raise UsageError(f"{name} is {value}; it must be {floor} or more", parameter=name)
        if self.select_at not in ("first", "last"):
            message = f"select_at is {self.select_at!r}; it must be first or last"
            raise UsageError(message, parameter="select_at")

    @property
    def most(self) -> int:
        """`top` with its default filled in."""
        return MOST_TYPES if self.top is None else self.top

    @property
    def draws(self) -> tuple[int, int]:
        """Seed and number of replicates, as bootstraps take them."""
        return self.seed, self.replicates


class StagnationLog(LogIdentity):
    """What was read, and at which steps and on what prompts groups were chosen and measured.

    `pre`, `post`: changes are from the one to the other; curves have all `steps`. `first`: the
    group that the others are held against: `rocks`, or `high_loss` and then `no_rocks` says why.
    `similarity`: how contexts were compared when rocks were looked for; None: they were not.
    """

    table: str
    text: str
    steps: list[int]
    pre: int
    post: int
    passes: int
    first: str
    no_rocks: str | None
    similarity: str | None
    selected_at: list[int] | str
    chosen_on: str
    measured_on: str
    descriptive: str | None


class StagnationOptions(TypedDict):
    """Every option; `rocks`, `controls`: "given" where they were, and by which files."""

    table: str
    pre: int | None
    post: int | None
    select_at: str
    top_k: int
    group_size: int | None
    top: int | None
    all_types: bool
    replicates: int
    seed: int
    rocks: str | None
    controls: str | None
    rocks_file: str | None
    controls_file: str | None
    control_kind: str | None


class CorpusStep(TypedDict):
    """Mean loss of all positions at a step, nats, with a 95% interval."""

    step: int
    positions: int
    loss: float
    loss_low: float | None
    loss_high: float | None


class Change(TypedDict):
    """Loss at the pre and the post step (nats), their ratio and their difference."""

    loss_pre: float | None
    loss_post: float | None
    stagnation: float | None
    stagnation_low: float | None
    stagnation_high: float | None
    delta_kl: float | None
    delta_kl_low: float | None
    delta_kl_high: float | None


class CorpusChange(Change):
    """Of all positions."""

    curve: list[CorpusStep]
    few_prompts_carry_it: bool


class TypeChange(Change):
    """Of one token type. A curve is None where the type is absent."""

    token_id: int
    token: str
    groups: list[str]
    frequency_pre: int
    frequency_post: int
    slope: float | None
    slope_low: float | None
    slope_high: float | None
    interval: str | None
    few_prompts_carry_it: bool
    curve: list[float | None]
    curve_low: list[float | None]
    curve_high: list[float | None]


class GroupChange(TypedDict):
    """Of a group, over its types that stand at both steps, each counting the same."""

    group: str
    types: int
    types_at_both_ends: int
    skipped: NotRequired[str]
    loss_pre: NotRequired[float]
    loss_post: NotRequired[float]
    stagnation: NotRequired[float | None]
    stagnation_low: NotRequired[float | None]
    stagnation_high: NotRequired[float | None]
    delta_kl: NotRequired[float | None]
    delta_kl_low: NotRequired[float | None]
    delta_kl_high: NotRequired[float | None]
    stagnation_low90: NotRequired[float | None]
    stagnation_high90: NotRequired[float | None]
    does_not_learn: NotRequired[bool | None]
    few_prompts_carry_it: NotRequired[bool]


class GroupStep(TypedDict):
    """Mean loss of a group's types at a step, nats, with a 95% interval."""

    step: int
    group: str
    types_seen: int
    frequency: int
    loss: float | None
    loss_low: float | None
    loss_high: float | None


class GroupBalance(Balance):
    """Balance of one covariate between `log.first` and one kind of control."""

    control: str


class Members(TypedDict):
    """Token ids of each group, pairs of a type of `log.first` and its control, their balance."""

    rocks: tuple[int, ...]
    high_loss: tuple[int, ...]
    high_kl: tuple[int, ...]
    random: tuple[int, ...]
    control: tuple[int, ...]
    loss_control: tuple[int, ...]
    pairs: dict[str, tuple[tuple[int, int], ...]]
    without_control: dict[str, tuple[int, ...]]
    control_source: str
    balance: tuple[GroupBalance, ...]


class Comparison(ContrastColumns):
    """`log.first` against another group; with `skipped`, why they were not compared."""

    first: str
    second: str
    types_first: int
    types_second: int
    skipped: NotRequired[str]
    ratio: NotRequired[float | None]
    ratio_low: NotRequired[float | None]
    ratio_high: NotRequired[float | None]
    delta_kl: NotRequired[OverTypes]
    p_holm: NotRequired[float]


@dataclass(frozen=True)
class StagnationResult(Result):
    """Losses over the steps of a log.

    Attributes:
        log: identity of the log, table, steps, passes, and on what prompts all was measured.
        params: every option.
        corpus: mean loss of all positions: steps, stagnation, ΔKL, intervals.
        tokens: one mapping per type, with its curve (None where it is absent) and the kind of its
            intervals: "bootstrap", "linearised" or None.
        groups: one mapping per group.
        curves: one mapping per step and group.
        members: token ids of each group, pairs of matched types, balance of the matching.
        tests: rocks, or without any the types of `high_loss`, against each other group.
        adjusted: whether these improve less than other types like them; None where they were not
            chosen on one half of the prompts, or there are none.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.stagnation/3"

    log: StagnationLog
    params: StagnationOptions
    corpus: CorpusChange
    tokens: tuple[TypeChange, ...]
    groups: tuple[GroupChange, ...]
    curves: tuple[GroupStep, ...]
    members: Members
    tests: tuple[Comparison, ...]
    adjusted: AdjustedComparison | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tokens as a pandas DataFrame, a list in each cell of a curve."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens))
        frame["groups"] = [",".join(row["groups"]) for row in self.tokens]
        return frame

    def shown(self) -> tuple[str, tuple[GroupChange, ...]]:
        """The groups."""
        return "", self.groups
