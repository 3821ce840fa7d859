"""Options of `stability`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.detect.result import ReplicationRow
from rocktok.analyses.result import MOST_TYPES, Result
from rocktok.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


#: Share of the half-samples that must name a rock for it to be called stable, and any other type
#: for it to be told of.
STABLE, OFTEN = 0.8, 0.5


@dataclass(frozen=True)
class StabilityParams:
    """Options of `stability`. `sizes`: prompts in nested subsamples; None: shares of all."""

    table: str = "auto"
    step: int | None = None
    sizes: tuple[int, ...] | None = None
    repeats: int = 40
    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500)
    context: str = "auto"
    top: int | None = None
    all_types: bool = False
    replicates: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("repeats", 2), ("top", 1), ("replicates", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more", parameter=name)
        for name in ("k", "sizes"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                message = f"{name} is {list(values)}; give one number or more, each 1 or more"
                raise UsageError(message, parameter=name)

    @property
    def most(self) -> int:
        """`top` with its default filled in."""
        return MOST_TYPES if self.top is None else self.top


class SecondLog(LogIdentity):
    """A second log, for the scores that take the smaller of two."""

    table: str
    step: int
    prompts: int


#: `with` is no name in Python: the second log, None where two halves of the prompts were taken.
_With = TypedDict("_With", {"with": SecondLog | None})


class StabilityLog(LogIdentity, _With):
    """What was read.

    `similarity`: how contexts were compared when rocks were looked for; None: they were not.
    """

    table: str
    step: int
    passes: int
    prompts: int
    positions: int
    types: int
    candidates: int
    similarity: str | None


class StabilityOptions(TypedDict):
    """Every option."""

    table: str
    step: int | None
    sizes: tuple[int, ...] | None
    repeats: int
    k: tuple[int, ...]
    context: str
    top: int | None
    all_types: bool
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


class FirstK(TypedDict):
    """Share of the replicates with a type among the first K, and its 95% ranks.

    `few_prompts_carry_it`: ranks are left out for this reason.
    """

    in_first_k: float | None
    rank_low: int | None
    rank_high: int | None
    few_prompts_carry_it: bool


class RankedType(FirstK):
    """One type, by Rock Score.

    `is_rock`: by the tested rule, on all prompts; `inclusion`, `testable`: share of half-samples of
    the prompts that name it a rock, and that can test it; all None where `rocks` is.
    """

    rank: int
    token_id: int
    token: str
    frequency: int
    mean_loss: float
    rock_score: float
    coverage: float
    k: int
    is_rock: bool | None
    inclusion: float | None
    testable: float | None


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


class RocksAgain(TypedDict):
    """How sure the set of tested rocks is.

    `rocks`: of all prompts, with `tests` types among the tests; `samples`: half-samples, of
    `prompts` prompts each, or of so many groups of them where `grouped`; `mean_rocks`: rocks of a
    half-sample; `stable`: rocks that at least `STABLE` of the half-samples name; `rare`: other
    rocks, that fewer than `STABLE` of them can test; `others`: types that are no rocks, but that at
    least `OFTEN` of them name; `replication`: of the rocks of all
    half-samples in the half beside each; `halves`: that of `detect`, which does everything anew on
    two halves, None where it is not known.
    """

    rocks: int
    tests: int
    samples: int
    prompts: int
    grouped: bool
    mean_rocks: float
    stable: int
    rare: int
    others: int
    replication: ReplicationRow
    halves: ReplicationRow | None


@dataclass(frozen=True)
class StabilityResult(Result):
    """How sure the tested rocks are, and how stable the ranking by Rock Score is.

    Attributes:
        log: identity of the log, table, step, passes, prompts; `with`: the same of a second log
            that the scores "min …" took, None where they took two halves of the prompts.
        params: every option.
        rocks: whether half-samples of the prompts name the rocks of all of them; None where
            `no_rocks` says why that cannot be told.
        cutoffs: one mapping per K: coverage, Jaccard and Spearman of halves and subsamples, and
            whether it may be recommended.
        recommended: the largest K whose halves agree, with its coverage; None where none do.
        tokens: one mapping per type: rank by Rock Score, whether it is a rock, the share of samples
            that name it one, and of those with it among the first K. The first by Rock Score, then
            rocks, and what half-samples often name, with lower ranks.
        scores: one mapping per score.
        rankings: pairs of `detect`'s rankings; None without context.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.stability/2"

    log: StabilityLog
    params: StabilityOptions
    rocks: RocksAgain | None
    no_rocks: str | None
    cutoffs: tuple[Cutoff, ...]
    recommended: Recommended | None
    tokens: tuple[RankedType, ...]
    scores: tuple[ScoreRow, ...]
    rankings: tuple[RankingPair, ...] | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tokens as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.tokens))

    def shown(self) -> tuple[str, tuple[Cutoff, ...]]:
        """The cutoffs."""
        return "", self.cutoffs
