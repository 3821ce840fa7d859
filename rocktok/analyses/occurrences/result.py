"""What `occurrences` returns: how many there are of each type, and where they were written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result

if TYPE_CHECKING:
    import pandas as pd

#: Partners that are listed of an occurrence, unless told.
LISTED = 8


class OccurrencesLog(LogIdentity):
    """The log, what was read of it, and how often."""

    table: str
    pre: int
    post: int
    passes: int


class OccurrencesTotals(TypedDict):
    """Of all types; `judged`: persistent occurrences that have a verdict."""

    positions: int
    persistent: int
    judged: int
    retained: int
    rocks: int
    rock_persistent: int
    rock_retained: int


class OccurrencesRow(TypedDict):
    """One type with persistent occurrences.

    `retained` is among the `judged`, which are all but of types with very many; None where none
    could be judged. `similar` and `persistent_similar` are means over the occurrences compared.
    """

    token_id: int
    token: str
    rock: bool
    frequency: int
    persistent: int
    judged: int
    retained: int | None
    similar: float | None
    persistent_similar: float | None


@dataclass(frozen=True)
class OccurrencesResult(Result):
    """Persistent occurrences by type; the occurrences themselves are in the output file.

    Attributes:
        log: identity of the log, table, steps and passes.
        params: every option of `detect`, with γ as it was used, and `list_partners`.
        totals: of all types.
        tokens: one row per type with a persistent occurrence, rocks first.
        output: path of the file; None where none was asked for.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.occurrences/1"
    CARD: ClassVar[tuple[str, ...]] = (
        "token", "token_id", "rock", "frequency", "persistent", "judged", "retained",
        "persistent_similar",
    )  # fmt: skip

    log: OccurrencesLog
    params: dict[str, Any]
    totals: OccurrencesTotals
    tokens: tuple[OccurrencesRow, ...]
    output: str | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The types as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.tokens), columns=list(OccurrencesRow.__annotations__))

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The types under the number of occurrences."""
        heading = f"{self.totals['persistent']} persistent occurrences"
        return heading, self.table.assign(token=[repr(row["token"]) for row in self.tokens])
