"""Options of `stagnation`, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.stats.bootstrap import REPLICATES

Row = dict[str, Any]

DESCRIPTIVE = "descriptive: conditioned on the outcome"


GIVEN = "rocks given: descriptive, unless they were chosen on other prompts"


@dataclass(frozen=True)
class StagnationParams:
    """Options of `stagnation`. `first`, `last`: steps; None: of those complete, the outermost.

    `top`: types by loss, beside those of the groups, that are drawn again; `all_types`: the others,
    too, with linearised intervals.
    """

    table: str = "auto"
    first: int | None = None
    last: int | None = None
    select_at: str = "first"
    top_k: int = 100
    group_size: int | None = None
    top: int = 100
    all_types: bool = False
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"top_k": 1, "top": 0, "replicates": 100}
        if self.group_size is not None:
            least["group_size"] = 1
        for name, floor in least.items():
            value = getattr(self, name)
            if value < floor:
                raise UsageError(f"{name} is {value}; it must be {floor} or more", parameter=name)
        if self.select_at not in ("first", "last"):
            message = f"select_at is {self.select_at!r}; it must be first or last"
            raise UsageError(message, parameter="select_at")


@dataclass(frozen=True)
class StagnationResult(Result):
    """Losses over the steps of a log.

    Attributes:
        log: identity of the log, table, steps, passes, and on what prompts all was measured.
        params: every option.
        corpus: mean loss of all positions: steps, stagnation, ΔKL, intervals.
        tokens: one mapping per type, with its curve (None where it is absent) and the kind of its
            intervals: "bootstrap", "linearised" or None.
        groups: one mapping per group.
        curves: one mapping per step and group.
        members: token ids of each group, pairs of rocks and controls, balance of the matching.
        tests: rocks against each other group.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.stagnation/1"

    log: Row
    params: Row
    corpus: Row
    tokens: tuple[Row, ...]
    groups: tuple[Row, ...]
    curves: tuple[Row, ...]
    members: Row
    tests: tuple[Row, ...]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> Any:
        """The tokens as a pandas DataFrame, a list in each cell of a curve."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens))
        frame["groups"] = [",".join(row["groups"]) for row in self.tokens]
        return frame

    def shown(self) -> tuple[str, Any]:
        """The groups."""
        return "", self.groups
