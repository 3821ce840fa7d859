"""What `weights` returns: the content of a weights file, and how the selection came about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.weighting import SCHEMA as FILE_SCHEMA
from rocktok.weighting import Budget, Weights

if TYPE_CHECKING:
    import pandas as pd


class WeightRow(TypedDict):
    """One selected type, with its shares of the loss at post and of the positions."""

    token_id: int
    token: str
    rock: bool
    loss_share: float
    token_share: float


class MaskCounts(TypedDict):
    """Positions in a mask, those that are weighted, and of these those by the radius alone.

    `unpaired_sequences`: of only one of the two steps, whose text is not in the mask.
    """

    positions: int
    weighted: int
    by_radius: int
    unpaired_sequences: int


@dataclass(frozen=True)
class WeightsResult(Result):
    """Selected types, their weight, and what they carry.

    Attributes:
        weights: what a weights file holds.
        rocks: number of rocks. target: what these carry, which other selections match.
        tokens: one row per selected type, in the order of the selection.
        mask: what the mask holds, where one was written.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = FILE_SCHEMA

    weights: Weights
    rocks: int
    target: Budget
    tokens: tuple[WeightRow, ...]
    mask: MaskCounts | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The weights file's keys."""
        return dict(self.weights.to_dict())

    def to_json(self) -> str:
        """The text of the weights file, which `rocktok.hooks` reads."""
        return self.weights.to_json()

    def to_kdflow(self) -> str:
        """JSON of the ids alone, ascending: a list of tokens that KDFlow skips.

        Raises `UsageError` for what such a list cannot say.
        """
        if self.weights.weight != 0:
            raise UsageError(
                f"weight is {self.weights.weight:g}, but a KDFlow list skips its tokens; give "
                "weight 0, or another format",
                parameter="weight",
            )
        if self.weights.radius:
            raise UsageError(
                f"radius is {self.weights.radius}, but a KDFlow list holds token ids alone; leave "
                "it out, or take another format",
                parameter="radius",
            )
        ids = sorted(self.weights.token_ids)
        return f"[{', '.join(map(str, ids))}]\n"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The selected types as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.tokens), columns=list(WeightRow.__annotations__))

    def shown(self) -> tuple[str, pd.DataFrame]:
        """The selected types."""
        frame = self.table.assign(token=[repr(row["token"]) for row in self.tokens])
        return f"{len(self.tokens)} token types with weight {self.weights.weight:g}", frame
