"""Options of `lenses`, and what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.stats.bootstrap import REPLICATES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LensesParams:
    """Options of `lenses`. `pre`, `post`: None: the first and the last complete step."""

    table: str = "auto"
    pre: int | None = None
    post: int | None = None
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicates < 100:
            message = f"replicates is {self.replicates}; it must be 100 or more"
            raise UsageError(message, parameter="replicates")


class LensesOptions(TypedDict):
    """Every option; `rocks`: "given" where they were."""

    table: str
    pre: int | None
    post: int | None
    replicates: int
    seed: int
    rocks: str | None


class LensesLog(LogIdentity):
    """What was read, and the rocks.

    `no_context`: why there is no earlier step; `no_rocks`: why there are no rock occurrences.
    `hard`: persistent occurrences of all types; `rock_occurrences`: those of the rocks.
    `similarity`: how contexts were compared when rocks were looked for; None: they were not.
    """

    table: str
    pre: int | None
    post: int
    no_context: str | None
    passes: int
    positions: int
    rocks: list[int]
    no_rocks: str | None
    hard: int | None
    rock_occurrences: int | None
    similarity: str | None


class ClassRow(TypedDict):
    """One class of a lens: its shares of positions, of what they carry, and of rock occurrences.

    None: not recorded, no rocks, or (ends) no interval.
    """

    name: str
    positions: int
    share: float
    share_low: float | None
    share_high: float | None
    loss_share: float | None
    loss_share_low: float | None
    loss_share_high: float | None
    grad_share: float | None
    grad_share_low: float | None
    grad_share_high: float | None
    rocks_share: float | None
    rocks_share_low: float | None
    rocks_share_high: float | None
    few_prompts_carry_it: bool


class PersistenceRow(TypedDict):
    """Whether positions stay in a class from pre to post.

    `pre`, `post`: its share of positions at each; `stays`: share of those in it at pre that are in
    it at post; `ratio`: `stays` over `post`, 1 where the one step says nothing of the other.
    """

    name: str
    pre: float
    post: float
    stays: float | None
    stays_low: float | None
    stays_high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


class LensRow(TypedDict):
    """One lens.

    Attributes:
        ranked_by: what ranks positions; None: the lens ranks none, and has no top 10%.
        top_share: share of positions in its top 10%, ties with the last included.
        rocks_share: share of rock occurrences in there; `hard_share`, `type_share`: of persistent
            occurrences of other types, and of the other occurrences of the rocks' types;
            `shuffled_share`: of the rock occurrences there would be, in the top 10% there would be,
            were the losses of each sequence dealt out among its positions.
        over_chance, over_hard, over_type, over_shuffled: `rocks_share` over each of the four.
        jaccard_top10: of the rock occurrences with the top 10%; `jaccard_chance`: mean of as many
            positions drawn at random.
        p_value: that `rocks_share` is one of the four shares, the largest of the four; None where
            too few prompts hold the positions of one.
        p_holm: adjusted for all lenses.
        singles_out: whether `rocks_share` is above all four, by intervals and by `p_holm` at 0.05;
            None where `p_value` is.
        persistence: empty with one step, and where nothing can change.
    """

    name: str
    source: str
    ranked_by: str | None
    top_share: float | None
    rocks_share: float | None
    rocks_share_low: float | None
    rocks_share_high: float | None
    hard_share: float | None
    type_share: float | None
    shuffled_share: float | None
    over_chance: float | None
    over_chance_low: float | None
    over_chance_high: float | None
    over_hard: float | None
    over_hard_low: float | None
    over_hard_high: float | None
    over_type: float | None
    over_type_low: float | None
    over_type_high: float | None
    over_shuffled: float | None
    over_shuffled_low: float | None
    over_shuffled_high: float | None
    jaccard_top10: float | None
    jaccard_top10_low: float | None
    jaccard_top10_high: float | None
    jaccard_chance: float | None
    p_value: float | None
    p_holm: float | None
    singles_out: bool | None
    few_prompts_carry_it: bool
    classes: list[ClassRow]
    persistence: list[PersistenceRow]


class MissingRow(TypedDict):
    """What a lens lacks in this log, why, and what would give it."""

    lens: str
    column: str
    why: str
    remedy: str


class LensColumns(TypedDict):
    """What a row of the files says of its lens."""

    lens: str
    source: str
    top_share: float | None
    lens_rocks_share: float | None
    jaccard_top10: float | None
    jaccard_chance: float | None
    over_chance: float | None
    over_hard: float | None
    over_type: float | None
    over_shuffled: float | None
    p_holm: float | None
    singles_out: bool | None


class LensTableRow(LensColumns, ClassRow):
    """One class of one lens, with what is said of the lens: a row of the files."""

    stays: float | None
    stays_low: float | None
    stays_high: float | None
    stays_chance: float | None


@dataclass(frozen=True)
class LensesResult(Result):
    """Classes of positions by each lens, and where rocks fall among them.

    Attributes:
        log: identity of the log, table, steps, passes, rocks.
        params: every option.
        lenses: one row each, in a fixed order.
        missing: what the others lack in this log.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.lenses/1"

    log: LensesLog
    params: LensesOptions
    lenses: tuple[LensRow, ...]
    missing: tuple[MissingRow, ...]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each class of each lens, as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    def rows(self) -> Iterator[LensTableRow]:
        """One mapping for each class of each lens."""
        for lens in self.lenses:
            moved = {row["name"]: row for row in lens["persistence"]}
            for row in lens["classes"]:
                stays = moved.get(row["name"])
                yield {
                    "lens": lens["name"],
                    "source": lens["source"],
                    "top_share": lens["top_share"],
                    "lens_rocks_share": lens["rocks_share"],
                    "jaccard_top10": lens["jaccard_top10"],
                    "jaccard_chance": lens["jaccard_chance"],
                    "over_chance": lens["over_chance"],
                    "over_hard": lens["over_hard"],
                    "over_type": lens["over_type"],
                    "over_shuffled": lens["over_shuffled"],
                    "p_holm": lens["p_holm"],
                    "singles_out": lens["singles_out"],
                    **row,
                    "stays": stays and stays["stays"],
                    "stays_low": stays and stays["stays_low"],
                    "stays_high": stays and stays["stays_high"],
                    "stays_chance": stays and stays["post"],
                }

    def shown(self) -> tuple[str, list[dict[str, object]]]:
        """The classes."""
        columns = ("lens", "name", "share", "loss_share", "grad_share", "rocks_share", "stays",
                   "stays_chance")  # fmt: skip
        rows: Iterator[Mapping[str, object]] = self.rows()
        return "", [{name: row[name] for name in columns} for row in rows]
