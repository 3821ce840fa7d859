"""What `summary` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypedDict

from rocktok.analyses.result import Result

if TYPE_CHECKING:
    import pandas as pd


class RunRow(TypedDict):
    """One run. Losses are means over positions, in nats; shares are from 0 to 1.

    `steps`: steps at which text was scored; `similarity`: how contexts were compared (None: they
    were not); `replication`: of the rocks of half of the prompts, the share that is hard in the
    other half; `verdict`: of the adjusted contrast of rocks against other types; `check`: the worst
    severity that `check` finds, `findings`: what it finds, by name; `error`: why the run could not
    be read, and then all else is None.
    """

    name: str
    run_id: str | None
    table: str | None
    steps: int | None
    pre: int | None
    post: int | None
    positions: int | None
    loss_pre: float | None
    loss_post: float | None
    tested: int | None
    similarity: str | None
    rocks: int | None
    rocks_loss_share: float | None
    replication: float | None
    verdict: str | None
    check: str | None
    findings: list[str] | None
    error: str | None


class SummaryOptions(TypedDict):
    """Every option."""

    fdr: float
    seed: int


@dataclass(frozen=True)
class SummaryResult(Result):
    """Runs, one row each.

    Attributes:
        params: every option.
        runs: one row per run, in the order given.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.summary/1"

    params: SummaryOptions
    runs: tuple[RunRow, ...]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The runs as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self.runs), columns=list(RunRow.__annotations__))

    @property
    def failed(self) -> tuple[RunRow, ...]:
        """Runs that could not be read."""
        return tuple(row for row in self.runs if row["error"] is not None)

    def shown(self) -> tuple[str, tuple[RunRow, ...]]:
        """The runs."""
        return "", self.runs
