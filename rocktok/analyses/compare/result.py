"""What `compare` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NotRequired, TypedDict

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
    at: NotRequired[list[int]]
    types: NotRequired[int | None]


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


class AgreementAt(TypedDict):
    """The first `k` of two lists, which may be shorter.

    `jaccard_chance`: expected of types drawn at random; None where it is not known from how many.
    `jaccard_controls`: of the controls of these rocks; None where a list names none.
    """

    first: str
    second: str
    k: int
    first_count: int
    second_count: int
    shared_count: int
    jaccard: float | None
    jaccard_chance: float | None
    jaccard_controls: float | None


class Replicated(TypedDict):
    """Rocks of the first list in the second log.

    `by`: "hardness", which is 1.5 or more in the second log, of `seen` rocks that 3 of its prompts
    hold; "listed", where that is not known of all types: they stand anywhere in its list.
    """

    first: str
    second: str
    by: str
    rocks: int
    seen: int
    replicated: int
    share: float | None


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
        at_k: for each two and each K that was asked for.
        replication: for each two in either order.
        tokens: the union, those in most lists first, with the rank in each list; `token_id` is
            None where texts are matched.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.compare/1"

    log: tuple[ComparedList, ...]
    params: CompareOptions
    matched_by: str
    pairs: tuple[Agreement, ...]
    at_k: tuple[AgreementAt, ...]
    replication: tuple[Replicated, ...]
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
