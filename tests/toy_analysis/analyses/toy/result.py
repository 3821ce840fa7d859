"""What `toy` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

from rocktok.analyses.result import Result


class TypeLoss(TypedDict):
    """One token type."""

    token_id: int
    token: str
    frequency: int
    mean_loss: float
    above_mean: bool


@dataclass(frozen=True)
class ToyResult(Result):
    """Types by mean loss, the largest first."""

    SCHEMA: ClassVar[str] = "rocktok.toy/1"

    log: dict[str, Any]
    tokens: tuple[TypeLoss, ...]
    notes: tuple[str, ...]

    def shown(self) -> tuple[str, Any]:
        """The types."""
        return "", self.tokens
