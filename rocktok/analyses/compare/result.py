"""What `compare` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok.analyses.result import Result

if TYPE_CHECKING:
    import pandas as pd


class ComparedList(TypedDict, total=False):
    """A list of rocks: its log's identity, where the list has it, and what it is ranked by.

    `similarity`: how contexts were compared; None: they were not.
    """

    name: str
    ranked_by: str
    path: str | None
    run_id: str | None
    exactness: str | None
    trained_loss: bool | None
    vocab: str | None
    vocab_size: int | None
    shards: dict[str, int] | None
    skipped_shards: int | None
    versions: dict[str, str] | None
    table: str | None
    pre: int | None
    post: int | None
    similarity: str | None


class CompareOptions(TypedDict):
    """Every option."""

    top_k: int | None
    by: str | None
    seed: int


class Agreement(TypedDict):
    """Two lists: rocks in each, how many and which are in both, and the correlation of ranks."""

    first: str
    second: str
    rocks_first: int
    rocks_second: int
    shared_count: int
    jaccard: float | None
    spearman: float | None
    shared: list[str]
    only_first: list[str]
    only_second: list[str]


class ListedToken(TypedDict):
    """A token that is a rock in some list, and its rank in each; None: not in it."""

    token_id: int | None
    token: str
    lists: int
    best_rank: int
    ranks: list[int | None]


@dataclass(frozen=True)
class CompareResult(Result):
    """How far lists of rocks agree.

    Attributes:
        log: what was compared, in the order given.
        params: every option.
        matched_by: "token_id" where ids mean the same in all lists, else "token", the text.
        pairs: for each two: rocks, shared, `jaccard`, `spearman`, tokens shared and unique.
        tokens: the union, those in most lists first, with the rank in each list; `token_id` is
            None where texts are matched.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.compare/1"

    log: tuple[ComparedList, ...]
    params: CompareOptions
    matched_by: str
    pairs: tuple[Agreement, ...]
    tokens: tuple[ListedToken, ...]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The pairs as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.pairs))

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The pairs."""
        return "", self.table.drop(columns=["shared", "only_first", "only_second"])
