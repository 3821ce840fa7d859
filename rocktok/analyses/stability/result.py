"""Options of `stability`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result
from rocktok.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StabilityParams:
    """Options of `stability`. `sizes`: prompts in nested subsamples; None: shares of all."""

    table: str = "auto"
    step: int | None = None
    sizes: tuple[int, ...] | None = None
    repeats: int = 40
    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500)
    context: str = "auto"
    top: int = 100
    replicates: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("repeats", 2), ("top", 1), ("replicates", 100)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more", parameter=name)
        for name in ("k", "sizes"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                message = f"{name} is {list(values)}; give one number or more, each 1 or more"
                raise UsageError(message, parameter=name)


class SecondLog(LogIdentity):
    """A second log, for the scores that take the smaller of two."""

    table: str
    step: int
    prompts: int


#: `with` is no name in Python: the second log, None where two halves of the prompts were taken.
_With = TypedDict("_With", {"with": SecondLog | None})


class StabilityLog(LogIdentity, _With):
    """What was read."""

    table: str
    step: int
    passes: int
    prompts: int
    positions: int
    types: int
    candidates: int


class StabilityOptions(TypedDict):
    """Every option."""

    table: str
    step: int | None
    sizes: tuple[int, ...] | None
    repeats: int
    k: tuple[int, ...]
    context: str
    top: int
    replicates: int
    seed: int


class Overlap(TypedDict):
    """Of the first K in pairs of rankings: mean, least and largest Jaccard, mean Spearman."""

    jaccard: float | None
    jaccard_least: float | None
    jaccard_most: float | None
    spearman: float | None


class NestedOverlap(Overlap):
    """Of subsamples of so many prompts with the whole."""

    prompts: int


class Cutoff(TypedDict):
    """One K.

    `chance`: about what two random picks share; `by_frequency`: mean Jaccard of halves whose types
    are ranked by their number of occurrences alone; `certain`: see `Samples.certain`.
    """

    k: int
    coverage: float
    chance: float
    eligible: bool
    halves: Overlap
    by_frequency: float | None
    nested: list[NestedOverlap]
    certain: float | None


class Recommended(TypedDict):
    """The largest K whose halves agree."""

    k: int
    coverage: float
    jaccard: float | None


class Inclusion(TypedDict):
    """Share of the replicates with a type among the first K, and its 95% ranks.

    `few_prompts_carry_it`: ranks are left out for this reason.
    """

    inclusion: float | None
    rank_low: int | None
    rank_high: int | None
    few_prompts_carry_it: bool


class RankedType(Inclusion):
    """One type, by Rock Score."""

    rank: int
    token_id: int
    token: str
    frequency: int
    mean_loss: float
    rock_score: float
    coverage: float
    k: int


class ScoreRow(TypedDict):
    """One of the twelve scores: how far the first K of two halves agree, and what they cover."""

    score: str
    jaccard_halves: float | None
    coverage: float | None
    jaccard_with_rock_score: float | None
    median_frequency: float | None


class RankingPair(TypedDict):
    """The first K by two rankings of `detect`."""

    first: str
    second: str
    k: int
    jaccard: float | None


class RocksOfHalves(TypedDict):
    """Rocks that `detect` finds on each half of the prompts."""

    k: int
    first: int
    second: int
    jaccard: float | None


class Rankings(TypedDict):
    """Rankings of `detect` against each other, and its rocks of one half against the other's."""

    pairs: list[RankingPair]
    rocks_of_halves: RocksOfHalves


@dataclass(frozen=True)
class StabilityResult(Result):
    """Stability of the ranking by Rock Score, and of what `detect` calls rocks.

    Attributes:
        log: identity of the log, table, step, passes, prompts; `with`: the same of a second log
            that the scores "min …" took, None where they took two halves of the prompts.
        params: every option.
        cutoffs: one mapping per K: coverage, Jaccard and Spearman of halves and subsamples, and
            whether it may be recommended.
        recommended: the largest K whose halves agree, with its coverage; None where none do.
        tokens: one mapping per type: rank, inclusion probability, rank interval.
        scores: one mapping per score.
        rankings: pairs of `detect`'s rankings, and of its rocks on each half; None without context.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.stability/1"

    log: StabilityLog
    params: StabilityOptions
    cutoffs: tuple[Cutoff, ...]
    recommended: Recommended | None
    tokens: tuple[RankedType, ...]
    scores: tuple[ScoreRow, ...]
    rankings: Rankings | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tokens as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.tokens))

    def shown(self) -> tuple[str, tuple[Cutoff, ...]]:
        """The cutoffs."""
        return "", self.cutoffs
