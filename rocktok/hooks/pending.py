"""The rows of a step until it is finished: whole in the log, or not there at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import rocktok.schema as schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rocktok.hooks.rollouts import Rollout


@dataclass
class PendingStep:
    """What has been recorded of one step of one table.

    `dropped` says why the step cannot be recorded; `rows` counts its rows all the same; `exact`:
    losses are exact, so none may be negative.
    """

    batches: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    rows: int = 0
    dropped: str | None = None
    exact: bool = True

    def add(
        self,
        step: int,
        columns: Mapping[str, Any],
        statistics: Sequence[str],
        rollouts: Sequence[Rollout],
    ) -> None:
        """Add rows, copied to host memory, unless the log may not hold them."""
        self.rollouts += rollouts
        batch = {name: _to_numpy(value) for name, value in columns.items()}
        rows = len(batch["loss"])
        self.rows += rows
        if self.dropped is None:
            self.dropped = _fault(batch, statistics, self.exact)
            self.batches.append({"step": np.full(rows, step, np.int32), **batch})

    def add_sums(self, step: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows of gradient sums, which nobody else holds."""
        rows = len(columns["count"])
        self.rows += rows
        if self.dropped is None:
            self.batches.append({"step": np.full(rows, step, np.int32), **columns})

    def drop(self, reason: str, rows: int = 0) -> None:
        """Give the step up; the first reason stays."""
        self.rows += rows
        self.dropped = self.dropped or reason
        self.batches.clear()


def _fault(batch: Mapping[str, NDArray[Any]], statistics: Sequence[str], exact: bool) -> str | None:
    """Why the log may not hold these rows, if so."""
    for name in ("loss", *statistics):
        if not np.isfinite(batch[name]).all():
            return f"{name} is NaN or infinite"
    least = batch["loss"].min(initial=0.0)
    if exact and least < schema.EXACT_LOSS_FLOOR:
        return f"loss is negative ({least:.3g}), which a reverse KL cannot be"
    return None


def _to_numpy(value: Any) -> NDArray[Any]:
    """A copy in host memory: the caller may reuse its arrays."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.array(value)
