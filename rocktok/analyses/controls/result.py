"""Options of `controls`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict, cast

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.stats.matching import Balance

if TYPE_CHECKING:
    import pandas as pd


KINDS = ("frequency", "loss", "occurrence", "window")


@dataclass(frozen=True)
class ControlsParams:
    """Options of `controls`. `occurrences`: of rocks, that are matched."""

    table: str = "auto"
    step: int | None = None
    kinds: tuple[str, ...] = KINDS
    occurrences: int = 1_000
    window: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("occurrences", "window"):
            if getattr(self, name) < 1:
                message = f"{name} is {getattr(self, name)}; it must be 1 or more"
                raise UsageError(message, parameter=name)
        for kind in self.kinds:
            if kind not in KINDS:
                message = f"kinds has {kind!r}; choose from {', '.join(KINDS)}"
                raise UsageError(message, parameter="kinds")


class ControlsLog(LogIdentity):
    """What was read, and the rocks.

    `similarity`: how contexts were compared when rocks were looked for; None: they were given.
    """

    table: str
    step: int
    passes: int
    rocks: list[int]
    similarity: str | None


class ControlsOptions(TypedDict):
    """Every option."""

    table: str
    step: int | None
    kinds: tuple[str, ...]
    occurrences: int
    window: int
    seed: int


#: A type is an id; an occurrence is sequence_id, position, token_id.
Place = int | list[int]


class Matched(TypedDict):
    """Pairs of a rock and its control, what was left alone, and how alike they are."""

    pairs: list[list[Place]]
    unmatched: list[Place]
    balance: list[Balance]


class PairRow(TypedDict):
    """One pair; of types, sequence and position are None."""

    kind: str
    rock_sequence_id: int | None
    rock_position: int | None
    rock_token_id: int
    rock_token: str
    control_sequence_id: int | None
    control_position: int | None
    control_token_id: int
    control_token: str


@dataclass(frozen=True)
class ControlsResult(Result):
    """Matched sets.

    Attributes:
        log: identity of the log, table, step, passes.
        params: every option.
        kinds: kind → pairs, those left alone, balance. Types are ids, occurrences (sequence_id,
            position, token_id).
        token_texts: token id, as text, → text of each type in the above.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.controls/1"

    log: ControlsLog
    params: ControlsOptions
    kinds: dict[str, Matched]
    token_texts: dict[str, str]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The pairs as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[PairRow]:
        """One mapping per pair; of types, sequence and position are None."""
        rows = []
        for kind, matched in self.kinds.items():
            for pair in matched["pairs"]:
                row: dict[str, int | str | None] = {"kind": kind}
                for side, place in zip(("rock", "control"), pair, strict=True):
                    where = (None, None, place) if isinstance(place, int) else tuple(place)
                    names = ("sequence_id", "position", "token_id")
                    row |= {f"{side}_{n}": v for n, v in zip(names, where, strict=True)}
                    row[f"{side}_token"] = self.text(token_of(place))
                rows.append(cast(PairRow, row))
        return rows

    def text(self, token_id: int) -> str:
        """Of one of the types."""
        return self.token_texts[str(token_id)]

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The pairs."""
        return "", self.table


def token_of(place: Place) -> int:
    """Token id of a type or of an occurrence."""
    return place if isinstance(place, int) else place[-1]
