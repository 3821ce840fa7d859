"""Columns of all types, as the figures of a report take them."""

from __future__ import annotations

from rocktok._types import Array
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.report.result import TypeColumns
from rocktok.stats.arrays import padded
from rocktok.stats.sums import TypeSums


def type_columns(types: TypeTable, sums: TypeSums) -> TypeColumns:
    """Losses, and shares of the gradient norm; `sums`: of all types that `types` has."""
    size = int(types.token_T[-1]) + 1
    sum_T = {name: padded(sum_V, size)[types.token_T] for name, sum_V in sums.sum_V.items()}
    columns: TypeColumns = {
        "token_id": types.token_T.tolist(),
        "frequency": types.frequency_T.tolist(),
        "loss_post": (types.loss_T / types.frequency_T).tolist(),
        "loss_pre": [None] * len(types.token_T),
    }
    if "loss_pre" in sum_T:
        columns["loss_pre"] = (sum_T["loss_pre"] / types.frequency_T).tolist()
    if "grad_norm" in sum_T:
        columns["grad_share"] = _shares(sum_T["grad_norm"])
    return columns


def _shares(sum_T: Array) -> list[float | None]:
    total = float(sum_T.sum())
    return [value / total if total else None for value in sum_T.tolist()]
