"""The rows of a step until it is finished: whole in the log, or not there at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import rocktok.schema as schema
from rocktok.hooks.background import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rocktok.hooks.rollouts import Rollout

#: Keys of the table "alternatives", and what it has of each row.
_KEYS = ("sequence_id", "position")
_ALTERNATIVES = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")


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
        self._append(step, batch, len(batch["loss"]))
        if self.dropped is None:
            self.dropped = _fault(batch, statistics, self.exact)

    def add_sums(self, step: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows of gradient sums, which nobody else holds."""
        self._append(step, columns, len(columns["count"]))

    def add_beside(self, step: int, columns: Mapping[str, Any]) -> None:
        """Add rows with more about those of another table, copied to host memory."""
        batch = {name: _to_numpy(value) for name, value in columns.items()}
        self._append(step, batch, len(batch["sequence_id"]))
        if self.dropped is None:
            self.dropped = _not_finite(batch)

    def _append(self, step: int, columns: Mapping[str, NDArray[Any]], rows: int) -> None:
        self.rows += rows
        if self.dropped is None:
            self.batches.append({"step": np.full(rows, step, np.int32), **columns})

    def drop(self, reason: str, rows: int = 0) -> None:
        """Give the step up; the first reason stays."""
        self.rows += rows
        self.dropped = self.dropped or reason
        self.batches.clear()


class PendingSteps(dict[tuple[str, int], PendingStep]):
    """The steps that are being recorded, by table and step. `exact`: losses are exact."""

    exact = True

    def at(self, table: str, step: int) -> PendingStep:
        """What is there of a step, which begins with this if nothing is."""
        return self.setdefault((table, step), PendingStep(exact=self.exact))

    def add(
        self,
        table: str,
        step: int,
        columns: Mapping[str, Any],
        statistics: Sequence[str],
        rollouts: Sequence[Rollout],
    ) -> None:
        """Add rows; what goes wrong drops the step. Alternatives go to a table of their own."""
        pending = self.at(table, step)
        try:
            if table in schema.BESIDE_FIXED:
                pending.add_beside(step, columns)
                return
            beside = [name for name in _ALTERNATIVES if table == "fixed" and name in columns]
            mine = {name: values for name, values in columns.items() if name not in beside}
            pending.add(step, mine, statistics, rollouts)
        except Exception as error:
            pending.drop(describe(error))
        else:
            if beside:
                wanted = (*_KEYS, *beside)
                self.add("alternatives", step, {n: columns[n] for n in wanted}, (), ())

    def take(self, table: str, step: int) -> tuple[PendingStep, dict[str, PendingStep]]:
        """A step that is finished, and what there is beside it, by table."""
        names = schema.BESIDE_FIXED if table == "fixed" else ()
        beside = {name: self.pop((name, step)) for name in names if (name, step) in self}
        return self.pop((table, step), None) or PendingStep(exact=self.exact), beside


def _fault(batch: Mapping[str, NDArray[Any]], statistics: Sequence[str], exact: bool) -> str | None:
    """Why the log may not hold these rows, if so."""
    fault = _not_finite({name: batch[name] for name in ("loss", *statistics)})
    if fault is not None and fault.startswith("forward_kl"):
        return (
            f"{fault}, as where the student excludes a token that the teacher does not; record "
            "other columns, such as columns='lenses'"
        )
    if fault is not None:
        return fault
    least = batch["loss"].min(initial=0.0)
    if exact and least < schema.EXACT_LOSS_FLOOR:
        return f"loss is negative ({least:.3g}), which a reverse KL cannot be"
    return None


def _not_finite(batch: Mapping[str, NDArray[Any]]) -> str | None:
    for name, values in batch.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"{name} is NaN or infinite"
    return None


def _to_numpy(value: Any) -> NDArray[Any]:
    """A copy in host memory: the caller may reuse its arrays."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.array(value)
