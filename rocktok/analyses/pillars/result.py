"""Options of `pillars`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from rocktok.analyses.pillars.paired import REPLICATES
from rocktok.analyses.result import Result
from rocktok.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CORRECTIONS = ("holm", "bonferroni", "bh", "none")
P_VALUES = ("sign-flip", "percentile")

PILLAR, STUMBLING = "pillar", "stumbling"
EQUIVALENT, INCONCLUSIVE = "equivalent", "inconclusive"
CATEGORIES = (PILLAR, STUMBLING, EQUIVALENT, INCONCLUSIVE)


@dataclass(frozen=True)
class PillarsParams:
    """Options of `pillars`.

    `margin`: ε; `level`: α; `correction`: of the p-values that a category needs; `p_value`: which.
    """

    margin: float = 0.01
    level: float = 0.05
    correction: str = "holm"
    p_value: str = "sign-flip"
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            message = f"margin is {self.margin}; it must be above 0 and below 1"
            raise UsageError(message, parameter="margin")
        if not 0 < self.level < 0.5:
            message = f"level is {self.level}; it must be above 0 and below 0.5"
            raise UsageError(message, parameter="level")
        for name, words in (("correction", CORRECTIONS), ("p_value", P_VALUES)):
            if getattr(self, name) not in words:
                message = f"{name} is {getattr(self, name)!r}; choose from {', '.join(words)}"
                raise UsageError(message, parameter=name)
        if self.replicates < 1_000:
            message = f"replicates is {self.replicates}; it must be 1000 or more"
            raise UsageError(message, parameter="replicates")


class PillarsOptions(TypedDict):
    """Every option; `predictors`: their files."""

    margin: float
    level: float
    correction: str
    p_value: str
    replicates: int
    seed: int
    predictors: list[str]


class SourceRow(TypedDict):
    """One benchmark that was read.

    `draws`: of each problem in each arm; `arms`: that fired at least once; `never_fired`: the
    others; `accuracy`: of the baseline that arms are compared with; `baseline_accuracies`: of all
    baselines, that one first; `truncated`: share of that baseline's texts that were cut at the
    limit of tokens, None where the file does not say; `shared_draws`: whether texts in which an arm
    did not act are those of the baseline, so that they share their random numbers.
    """

    path: str
    benchmark: str
    problems: int
    draws: int
    arms: int
    never_fired: int
    accuracy: float
    baseline_accuracies: list[float]
    truncated: float | None
    shared_draws: bool
    tokenizer: str | None
    models: dict[str, Any]
    decoding: dict[str, Any]


class ArmRow(TypedDict):
    """One arm on one benchmark.

    `delta`: its accuracy minus the baseline's; `ci_low`, `ci_high`: 1 − level interval, by default
    95%; `ci90_low`, `ci90_high`: 1 − 2·level interval, by default 90%, that decides equivalence;
    `fired`: problems in which it acted; `gained`, `lost`: problems with more and with fewer correct
    draws; `truncated`: share of its texts that were cut at the limit of tokens; `minimum_effect`:
    smallest |delta| that would have been told with a chance of 80%.
    """

    benchmark: str
    arm: str
    token_id: int
    token: str | None
    mode: str
    group: str
    control_of: int | None
    problems: int
    fired: int
    accuracy: float
    truncated: float | None
    delta: float
    ci_low: float
    ci_high: float
    ci90_low: float
    ci90_high: float
    gained: int
    lost: int
    p_value: float
    p_holm: float
    p_bonferroni: float
    q_bh: float
    category: str
    minimum_effect: float | None


class GlobalRow(TypedDict):
    """All arms of one group and mode on one benchmark.

    `mean_delta`: mean over arms, with an interval over problems; `baselines`: how many the sign
    test counts; `p_asymmetry`: that arms lie to one side of their baselines, allowing for the
    baselines that they share; `p_placebo`: that the arms' accuracies differ from those of the
    placebo arms, for rocks; None without placebo arms.
    """

    benchmark: str
    mode: str
    group: str
    arms: int
    never_fired: int
    pillar: int
    stumbling: int
    equivalent: int
    inconclusive: int
    negative: int
    zero: int
    positive: int
    mean_delta: float
    ci_low: float
    ci_high: float
    baselines: int
    p_asymmetry: float
    p_placebo: float | None


class PowerRow(TypedDict):
    """What the arms of one group on one benchmark could have told.

    `tests`: in the family that is corrected for; `discordance`: median over its arms of the 95%
    bound; `minimum_effect`: smallest |delta| told with a chance of 80%, median, smallest and
    largest over the arms; `single_effect`: the same median for one test alone;
    `problems_for_margin`: problems at which the margin would be told.
    """

    benchmark: str
    group: str
    tests: int
    problems: int
    discordance: float
    minimum_effect: float | None
    minimum_effect_low: float | None
    minimum_effect_high: float | None
    single_effect: float | None
    problems_for_margin: int


class PairRow(TypedDict):
    """A rock against one of its controls: `difference` of their deltas."""

    benchmark: str
    mode: str
    token_id: int
    token: str | None
    control_token_id: int
    control_token: str | None
    control_group: str
    delta: float
    control_delta: float
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_holm: float


class ContrastRow(TypedDict):
    """Rocks minus their controls of one group, mean over pairs; problems flipped and resampled.

    `pairs_low`, `pairs_high`: ends of an interval with pairs as the unit, which is about rocks as a
    kind of token, not about these alone; None for less than three pairs.
    """

    benchmark: str
    mode: str
    control_group: str
    pairs: int
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    pairs_low: float | None
    pairs_high: float | None


class CohortRow(TypedDict):
    """Effect in a third of the texts in which arms acted.

    `kind`: position, by where the arm first acted in the baseline's text; length, by the length of
    the baseline's texts of the problem.
    """

    benchmark: str
    mode: str
    group: str
    kind: str
    cohort: str
    rows: int
    problems: int
    delta: float
    ci_low: float | None
    ci_high: float | None


class CompensationRow(TypedDict):
    """What follows the place where arms acted: loss in nats, and edit distance as a share.

    `loss_change`: `loss_after` minus `baseline_loss_after`. None: not recorded, or (ends) too few
    problems.
    """

    benchmark: str
    mode: str
    group: str
    rows: int
    problems: int
    loss_after: float | None
    baseline_loss_after: float | None
    loss_change: float | None
    loss_change_low: float | None
    loss_change_high: float | None
    edit_after: float | None
    edit_after_low: float | None
    edit_after_high: float | None


class CompensationContrastRow(TypedDict):
    """Rocks minus their controls of one group, mean over pairs, which are the unit of intervals."""

    benchmark: str
    mode: str
    against: str
    pairs: int
    loss_change: float | None
    loss_change_low: float | None
    loss_change_high: float | None
    edit_after: float | None
    edit_after_low: float | None
    edit_after_high: float | None


class CompensationCohortRow(TypedDict):
    """`CompensationRow` of a third of the texts, and rocks minus this group in it.

    `kind`, `cohort`: as of `CohortRow`; `pairs`: of a rock and its control that both act in the
    third, over which the differences are means. Differences are None for rocks themselves.
    """

    benchmark: str
    mode: str
    group: str
    kind: str
    cohort: str
    rows: int
    problems: int
    loss_change: float | None
    loss_change_low: float | None
    loss_change_high: float | None
    edit_after: float | None
    edit_after_low: float | None
    edit_after_high: float | None
    pairs: int
    loss_difference: float | None
    loss_difference_low: float | None
    loss_difference_high: float | None
    edit_difference: float | None
    edit_difference_low: float | None
    edit_difference_high: float | None


class AgreementRow(TypedDict):
    """Two benchmarks on their common arms.

    `spearman`: of deltas, with an interval over arms; `same_sign`: share of the arms that changed
    both accuracies that changed them in one direction; `same_sign_chance`: the share expected from
    how many are negative on either; `p_sign`: Fisher's exact test.
    """

    first: str
    second: str
    arms: int
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    signed: int
    same_sign: float | None
    same_sign_chance: float | None
    p_sign: float | None


class PredictorRow(TypedDict):
    """Rank correlation of the deltas of rocks with a number of another command."""

    benchmark: str
    mode: str
    predictor: str
    arms: int
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    p_value: float | None
    q_bh: float | None


@dataclass(frozen=True)
class PillarsResult(Result):
    """What banning or replacing each token does to the accuracy.

    Attributes:
        sources: benchmarks that were read.
        params: every option.
        arms: one row per arm and benchmark.
        overall: one row per benchmark, mode and group; in JSON the key `global`.
        power: one row per benchmark and group.
        controls: rocks against their controls, one row per pair.
        contrasts: the same over all pairs.
        cohorts: effects by position and by length.
        compensation: loss and edits behind the place where arms acted, by group.
        compensation_contrasts: rocks minus other groups.
        compensation_cohorts: both by position and by length.
        agreement: pairs of benchmarks.
        predictors: correlations with numbers of other commands.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.pillars/1"
    CARD: ClassVar[tuple[str, ...]] = (
        "token", "token_id", "mode", "group", "delta", "ci_low", "ci_high", "p_holm", "category",
        "minimum_effect",
    )  # fmt: skip

    sources: tuple[SourceRow, ...]
    params: PillarsOptions
    arms: tuple[ArmRow, ...]
    overall: tuple[GlobalRow, ...]
    power: tuple[PowerRow, ...]
    controls: tuple[PairRow, ...]
    contrasts: tuple[ContrastRow, ...]
    cohorts: tuple[CohortRow, ...]
    compensation: tuple[CompensationRow, ...]
    compensation_contrasts: tuple[CompensationContrastRow, ...]
    compensation_cohorts: tuple[CompensationCohortRow, ...]
    agreement: tuple[AgreementRow, ...]
    predictors: tuple[PredictorRow, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The schema and every field; `overall` is `global`, which no Python name may be."""
        whole = super().to_dict()
        return {("global" if key == "overall" else key): value for key, value in whole.items()}

    @classmethod
    def limit_types(cls) -> dict[str, Any]:
        """As of any result, by the names in `to_dict`."""
        whole = super().limit_types()
        return {("global" if key == "overall" else key): type_ for key, type_ in whole.items()}

    @cached_property
    def table(self) -> pd.DataFrame:
        """The arms as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.arms), columns=list(ArmRow.__annotations__))

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The arms, largest effect first."""
        return "", self.table
